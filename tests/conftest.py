"""A machine without surprises: a fake engine, four cores, a small model, a home of its own."""

import json

import pytest

from ragops import host as hosts
from ragops.checks.probe import LAYERS
from ragops.ragflow.request import RIGHT
from ragops.state import COMPOSE_PROJECT, COMPOSE_SERVICE, ExecResult
from ragops.testing import replies
from ragops.testing.fake_engine import FakeEngine
from ragops.testing.stub import Behaviour

CONNECTING = (
    "ragops.measure.connect_engine",
    "ragops.verbs.connect_engine",
    "ragops.cli.stack.connect",
    "ragops.cli.demo.connect",
    "ragops.checks.host.connect",
)
GIB = 1 << 30


@pytest.fixture
def fake():
    return FakeEngine()


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
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, fake, machine, model_folder):
    """Everything that ragops asks of its surroundings comes from these fixtures; gives the home."""
    for name in CONNECTING:
        monkeypatch.setattr(name, lambda *_, **__: fake)
    monkeypatch.setattr(hosts, "read_host", lambda: machine)
    monkeypatch.setattr("ragops.checks.host.read_host", lambda: machine)
    monkeypatch.setattr("ragops.checks.host._listens", lambda *_: False)
    monkeypatch.setattr("ragops.ready._INTERVAL", 0.0)
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(model_folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def probed():
    """An answer as ``data/probe.py`` writes it; layers may be changed, those after a failure are cut."""

    def answer(order, **changed):
        count = len(order["documents"])
        scores = [[index, 0.9 if index == RIGHT else 0.1] for index in range(count)]
        steps = {
            "dns": {"ok": True, "detail": "172.20.0.2"},
            "tcp": {"ok": True, "detail": "172.20.0.2:8000"},
            "health": {"ok": True, "detail": "HTTP 200"},
            "models": {"ok": True, "detail": "listed", "names": [order["model"]]},
            "rerank": {"ok": True, "detail": "scored", "client": "cohere 5.6.2", "scores": scores},
        }
        steps |= {name: {**steps[name], **change} for name, change in changed.items()}
        kept = {}
        for name in LAYERS[: order.get("depth", len(LAYERS))]:
            kept[name] = {"ms": 1.0, **steps[name]}
            if not steps[name]["ok"]:
                break
        return {"proxies": {}, "steps": kept}

    return answer


def replied(path, text):
    """What a healthy embedding model says to one of the score gate's questions."""
    behaviour, body = Behaviour(impostor="healthy", prompt="apart"), json.loads(text)
    if path.endswith("/tokenize"):
        said = replies.count(body)
    else:
        used = replies.tokens(behaviour, body["query"], body["documents"])
        said = replies.ranking(behaviour, body, used, number=1)
    return {"ok": True, "status": 200, "text": json.dumps(said), "ms": 1.0}


@pytest.fixture
def serving(fake, probed):
    """The reranker starts at once, and answers those who share a network with it."""
    name = "ragflow-vllm-reranker"
    fake.output[name] = "INFO Application startup complete."

    def respond(box, argv, stdin):
        if argv[:2] != ("python3", "-c") or not stdin:
            return None
        order = json.loads(stdin)
        if "posts" in order:
            return ExecResult(0, json.dumps({"replies": [replied(*post) for post in order["posts"]]}), "")
        reranker = fake.container(name)
        shared = {end.network for end in box.endpoints} & {end.network for end in reranker.endpoints}
        unknown = {"ok": False, "error": "gaierror", "detail": "Name or service not known"}
        said = probed(order) if shared or box.name == name else probed(order, dns=unknown)
        return ExecResult(0, json.dumps(said), "")

    fake.respond = respond
    return fake
