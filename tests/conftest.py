"""A machine without surprises: a fake engine, four cores, a small model, a home of its own."""

import json
import logging
import signal
import sys
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

from ragops import bench, progress
from ragops.bench import plots
from ragops.checks import Check, Report
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, ExecResult
from ragops.ragflow.request import RELEVANT
from ragops.reranker import host as hosts
from tests.support import stub as replies
from tests.support.fake_engine import FakeEngine
from tests.support.stub import Behaviour, StubReranker

GIB = 1 << 30
ROOT = Path(__file__).parents[1]
REMEDY = "docker network connect ragflow-rerank docker-ragflow-cpu-1, then ask again from inside"
REPORT = Report(
    "verify http://ragflow-vllm-reranker:8000/v1",
    (
        Check("name resolves", "ok", "172.20.0.2", "", "docker-ragflow-cpu-1"),
        Check("published on this host only", "warn", "other machines reach 0.0.0.0:8123", REMEDY),
        Check("port answers", "fail", "Connection refused", REMEDY, "docker-ragflow-cpu-1"),
        Check("server is healthy", "skip", "a layer below failed", "", "docker-ragflow-cpu-1"),
    ),
    ("docker-ragflow-cpu-1 is the demo client, a stand-in",),
)

# jsonschema's check of IRIs: no notebook has one, and it takes a second to load.
sys.modules["rfc3987_syntax"] = None

# A shell that starts a command in the background makes it deaf to Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("ragops", deadline=None, max_examples=50)  # no test depends on speed
hypothesis.settings.load_profile("ragops")


def pytest_collection_modifyitems(items):
    """Tests of the built site run with the browser tests, which build it."""
    for item in items:
        if {"built", "published"} & set(item.fixturenames):
            item.add_marker(pytest.mark.browser)


def pytest_report_header():
    host = hosts.read_host(Path("/"))
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    sets = " ".join(name for name in known if name in host.features)
    return f"processor: {host.cpu_model}, {len(host.cpus)} CPUs, {sets}"


@pytest.fixture
def fake():
    return FakeEngine()


class Steps(list):
    """The steps that an operation reports, and its last count."""

    done = total = 0
    step = list.append

    def advance(self, done, total, text=""):
        del text
        self.done, self.total = done, total


@pytest.fixture
def steps():
    """What is reported to ``ragops.progress`` during a test."""
    collected = Steps()
    with progress.receiver(collected):
        yield collected


@pytest.fixture
def messages():
    """Messages that ragops logs during a test, from any thread."""
    collected, handler, logger = [], logging.Handler(), logging.getLogger("ragops")
    handler.emit = lambda record: collected.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield collected
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def ragflow(fake):
    """A container as RAGFlow's compose file makes it; gives its name."""
    labels = {COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"}
    image = "infiniflow/ragflow:v0.25.3"
    fake.add_container("docker-ragflow-cpu-1", network="docker_ragflow", image=image, labels=labels)
    return "docker-ragflow-cpu-1"


@pytest.fixture
def machine():
    """Four cores with bfloat16 and 16 GiB."""
    return hosts.Host(
        cpu_model="Test CPU",
        features=frozenset({"avx2", "avx512f", "avx512_bf16"}),
        cpus=tuple(hosts.Core(cpu=number, core=number) for number in range(4)),
        nodes=(hosts.Node(0, 16 * GIB),),
        memory=16 * GIB,
    )


@pytest.fixture
def model_folder(tmp_path):
    """A folder that passes for a small sentence encoder."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **sizes}))
    for name in ("modules.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes((56).to_bytes(8, "little") + b"{}".ljust(56))
    return folder


@pytest.fixture
def safetensors():
    """Writes a safetensors file with byte tensors of the named sizes; gives it back."""

    def write(file, **sizes):
        entries, end = {"__metadata__": {"format": "pt"}}, 0
        for name, size in sizes.items():
            entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
            end += size
        header = json.dumps(entries).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * end)
        return file

    return write


@pytest.fixture
def here(tmp_path, monkeypatch, fake, machine, model_folder):
    """Everything that ragops asks of its surroundings comes from these fixtures; gives the home."""
    monkeypatch.setattr("ragops.docker.engine.connect", lambda *_, **__: fake)
    monkeypatch.setattr(hosts, "read_host", lambda: machine)
    monkeypatch.setattr("ragops.checks.doctor.read_host", lambda: machine)
    monkeypatch.setattr("ragops.checks.doctor._listens", lambda *_: False)
    monkeypatch.setattr("ragops.checks.ready._INTERVAL", 0.0)
    monkeypatch.setattr("ragops.session._lock_folder", lambda: tmp_path)
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(model_folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def probed():
    """An answer as ``data/probe.py`` writes it; layers may be changed, those that need one go."""

    def answer(order, **changed):
        body = json.loads(order["body"])
        count = len(body["documents"])
        scores = [[index, 0.9 if index == RELEVANT else 0.1] for index in range(count)]
        steps = {
            "dns": {"ok": True, "detail": "172.20.0.2"},
            "tcp": {"ok": True, "detail": "172.20.0.2:8000"},
            "health": {"ok": True, "detail": "HTTP 200"},
            "routes": {"ok": True, "detail": "listed", "names": ["/health", "/v1/rerank"]},
            "models": {"ok": True, "detail": "listed", "names": [body["model"]]},
            "rerank": {"ok": True, "detail": "scored", "scores": scores},
        }
        steps |= {name: {**steps[name], **change} for name, change in changed.items()}
        kept = {}
        for name, needs in order["layers"]:
            if all(need in kept and kept[need]["ok"] for need in needs):
                kept[name] = {"ms": 1.0, **steps[name]}
        return {"steps": kept, "client": "cohere 5.6.2"}

    return answer


def replies_to(posts):
    """The responses of a healthy embedding model to the requests of a batch."""
    return [{"place": place, **replied(*post)} for place, post in enumerate(posts)]


def replied(path, text):
    """The response of a healthy embedding model to one request of the score check."""
    behaviour, body = Behaviour(scorer="healthy", prompt="apart"), json.loads(text)
    if path.endswith("/tokenize"):
        said = replies.count(body)
    else:
        used = replies.count_tokens(behaviour, body["query"], body["documents"])
        said = replies.ranking(behaviour, body, used, number=1)
    return {"ok": True, "status": 200, "text": json.dumps(said), "ms": 1.0}


def gateway_state(containers):
    """The state of a gateway that has admitted every replica that runs."""
    rows = [
        {"address": f"{end.address}:8000", "state": "admitted"}
        for container in containers
        if container.running and container.role == "reranker"
        for end in container.endpoints
    ]
    counts = {"cache": {}, "hour": {}}
    return {"reference": "", "deadline": 27.0, "replicas": rows, **counts}


@pytest.fixture
def serving(fake, probed, monkeypatch):
    """The reranker starts at once, and answers those who share a network with it; few calls are timed."""
    monkeypatch.setattr("ragops.checks.budget.CALLS", 4)
    name = "ragflow-vllm-reranker"
    fake.output = defaultdict(lambda: "INFO Application startup complete.")

    def respond(box, argv, stdin):
        if box.role == "gateway" and argv[:2] == ("python3", "-ISc"):
            return ExecResult(0, json.dumps(gateway_state(fake.containers())), "")
        if argv[:2] != ("python3", "-c") or not stdin:
            return ExecResult(0, "0.0\n", "") if "num_requests" in argv[-1] else None
        order = json.loads(stdin)
        if "hosts" in order:  # from outside the network
            return ExecResult(0, "[]", "")
        told = {"responses": replies_to(order["posts"])} if "posts" in order else {}
        if "layers" not in order:
            return ExecResult(0, json.dumps(told), "")
        if box.role in {"reranker", "gateway"}:
            return ExecResult(0, json.dumps({**probed(order), **told}), "")
        reranker = fake.container(name)
        places = reranker.endpoints if reranker else ()
        shared = {end.network for end in box.endpoints} & {end.network for end in places}
        unknown = {"ok": False, "error": "gaierror", "detail": "Name or service not known"}
        said = {**probed(order), **told} if shared else probed(order, dns=unknown)
        return ExecResult(0, json.dumps(said), "")

    fake.respond = respond
    return fake


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """The folder of a short run against the stub reranker."""
    with StubReranker(Behaviour(fixed_s=0.002)) as stub:
        config = bench.BenchmarkConfig(
            workload=bench.ragflow(8),
            levels=(bench.LoadLevel.closed(1), bench.LoadLevel.closed(2)),
            name="pages",
            results=tmp_path_factory.mktemp("results"),
            with_limits=False,
        )
        provenance = bench.Provenance(model_is_stand_in="a stub")
        server = bench.Server(stub.base_url, "stub-reranker", provenance=provenance)
        return bench.record(server, config)


def table(made):
    import nbformat

    return nbformat.v4.new_output(
        "execute_result", {"text/html": made._repr_html_(), "text/plain": str(made)}
    )


def figure(made, folder):
    import nbformat

    made.savefig(folder / "figure.svg")
    return nbformat.v4.new_output("display_data", {"image/svg+xml": (folder / "figure.svg").read_text()})


def text(words, name="stdout"):
    import nbformat

    return nbformat.v4.new_output("stream", name=name, text=words)


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory, recorded):
    """The notebooks with what such cells show when they run; the words are made up, the forms are real."""
    import nbformat

    folder = tmp_path_factory.mktemp("notebooks")
    run = bench.load_run(recorded)
    outputs = {
        "doctor": table(REPORT),
        "up": text("ragops up\n   0.1 s  nothing to change\n"),
        "break": table(REPORT),
        "load-workload": text(f"{run.info.workload.description}\n"),
        "load-figure": figure(plots.throughput(run), folder),
        "load-table": table(bench.summary(run)),
        "curve-figure": figure(plots.percentile_curve(run), folder),
        "verdict": text("a warning of some library, of one long line " * 6, name="stderr"),
    }
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells:
            if cell.id in outputs:
                cell.outputs = [outputs.pop(cell.id)]
                cell.execution_count = 1
        nbformat.write(notebook, folder / source.name)
    assert outputs == {}, "cells that are in no notebook any more"
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory, notebooks, recorded):
    """The folder of the site, as ``make run`` builds it while the project has no public address."""
    from tools import addresses, site

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.REPOSITORY, "")
        patch.setenv(addresses.SITE, "")
        return site.build(ROOT / "docs", tmp_path_factory.mktemp("site") / "html", notebooks, run=recorded)
