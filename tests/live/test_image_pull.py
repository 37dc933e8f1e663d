"""Pulling: from a real image registry on this host, with a small image in the official one's place."""

import io
import shutil
import subprocess
import tarfile
import time

import httpx
import pytest

from benchmarks import free_port
from ragops.docker.objects import ContainerSpec
from ragops.reranker import image
from tests.support.names import PROJECT

REPOSITORY = "vllm/vllm-openai-cpu"
PULLED = f"{PROJECT}-pulled:latest"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Debian's docker-registry, unpacked and not installed; gives host and port."""
    folder = tmp_path_factory.mktemp("registry")
    program = shutil.which("docker-registry") or _unpacked(folder)
    address = f"127.0.0.1:{free_port()}"
    settings = folder / "config.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}"
    settings.write_text(f"version: 0.1\nlog: {{level: error}}\n{storage}\nhttp: {{addr: {address}}}\n")
    server = subprocess.Popen(
        [program, "serve", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(address)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=120)


def _unpacked(folder):
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    subprocess.run(
        ["apt-get", "download", "-q", "docker-registry"], cwd=folder, check=True, capture_output=True
    )
    package = next(folder.glob("docker-registry_*.deb"))
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder / "usr/bin/docker-registry"


def _wait(address):
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"http://{address}/v2/").raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the registry did not start"
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def published(engine, registry, tmp_path, monkeypatch):
    """An image in the registry, known to ragops as the official one; gives its reference by digest."""
    tar = tmp_path / "root.tar"
    with tarfile.open(tar, "w") as archive:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    tagged = f"{registry}/{REPOSITORY}:{image.OFFICIAL_VERSION}"
    engine.import_image(tar, tagged, role="elsewhere")
    engine._client.images.push(tagged)
    digest = next(item for item in engine.image(tagged).digests if item.startswith(registry))
    engine.remove_image(engine.image(tagged).id)
    monkeypatch.setattr(image, "OFFICIAL", digest)
    monkeypatch.setattr(image, "DEFAULT", PULLED)
    yield digest
    for name in (PULLED, digest):
        if engine.image(name) is not None:
            engine.remove_image(name)


def test_the_official_image_is_pulled_by_digest_and_named(engine, published, tmp_path, steps):
    result = image.ensure(engine, PULLED, tmp_path)
    assert PULLED in result.tags
    assert published in result.digests
    assert steps == [f"pulling the official image {image.OFFICIAL_VERSION}"]
    assert image.ensure(engine, PULLED, tmp_path).id == result.id
    assert len(steps) == 1


def test_an_image_that_was_pulled_is_removed_with_both_names(engine, published, tmp_path):
    number = image.ensure(engine, PULLED, tmp_path).id
    assert image.remove_recorded(engine, tmp_path) == ()
    assert engine.image(number) is None


def test_an_image_that_is_used_stays_until_it_is_free(engine, published, tmp_path):
    """By a container, and by an image that is built from it, as the engine's classic builder does."""
    number, child = image.ensure(engine, PULLED, tmp_path).id, f"{PROJECT}-child:1"
    user = engine.create_container(ContainerSpec(f"{PROJECT}-user", PULLED, command=("none",), role="test"))
    assert f"{PROJECT}-user" in "".join(image.remove_recorded(engine, tmp_path))
    engine.remove_container(user)
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "Dockerfile").write_text(f"FROM {PULLED}\nENV A=b\n")
    list(engine.build(tmp_path / "child", child, arguments={}))
    assert child in "".join(image.remove_recorded(engine, tmp_path))
    assert {PULLED, published} <= set(engine.image(number).names)
    engine.remove_image(child)
    assert image.remove_recorded(engine, tmp_path) == ()
    assert engine.image(number) is None


def test_a_digest_that_the_registry_lacks_is_no_image(engine, published, tmp_path, monkeypatch, messages):
    absent = published.partition("@")[0] + "@sha256:" + "0" * 64
    monkeypatch.setattr(image, "OFFICIAL", absent)
    assert image.pull_official(engine, tmp_path) is False
    assert "manifest unknown" in messages[-1]
    assert engine.image(PULLED) is None
    assert (tmp_path / "images.txt").read_text() == ""
