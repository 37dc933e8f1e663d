"""The table of the site: every fault is caught by its layer, named, and fixed; no healthy stack has one.

The stub reranker plays those that answer; containers and networks are really misconfigured. Each row
is asked for from inside the demo client, a substitute for RAGFlow's container.
"""

from __future__ import annotations

import json
import platform
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from benchmarks import free_port
from ragops import configuration
from ragops.docker import engine as engines
from ragops.docker.objects import NetworkSpec
from ragops.reranker.host import read_host
from ragops.session import Deployment
from ragops.stack import demo, verbs
from tests.support import faulty_scorers
from tests.support.container import StubContainer, stub_container
from tests.support.names import PROJECT
from tests.support.stub import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ragops.checks import Check
    from ragops.docker.engine import Engine
    from tests.support.faults import Fault

ROOT = Path(__file__).parents[2]
SEEN = ROOT / "build" / "faults.json"
RECORDED = ROOT / "docs" / "faults.json"
NAME = f"{PROJECT}-faults"
NETWORK = NAME
LAUNCHED = "started by ragops up"
STOP = 120
"""Seconds until SIGKILL, with which a container's exit code would be another one."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    layer: str
    """The check that failed or warned; empty for a healthy stack, of which none did."""
    cause: str
    remedy: str
    applied: str
    """What the test did about it."""
    passes: bool
    """Whether all checks passed after that."""


@dataclass(frozen=True)
class Case:
    """A stub's behaviour, and what has to be said of it; a healthy one has no layer."""

    fault: str
    behaviour: Behaviour
    layer: str = ""
    words: str = ""
    model: str = "embedding"
    applied: str = LAUNCHED


SAID = {
    "lexical": (
        "only shared words count",
        "right documents come first",
        "hardly better",
    ),
    "constant": ("every document gets 0.5", "scores are well formed", "constant scores"),
    "shuffled": ("scores go to other documents", "scores stay the same", "shuffled"),
    "random": ("the scoring head is random", "right documents come first", "no better than chance"),
    "noise": ("another score at every call", "scores stay the same", "the same request gives"),
    "logits": ("scores before their sigmoid", "scores are in range", "outside the range"),
    "input-order": ("documents come back as they went out", "scores stay the same", "input order"),
    "truncated": ("the end of a document is cut off", "documents are read whole", "tokens were read"),
    "truncated-quietly": (
        "the end is cut off, but counted as read",
        "documents are read whole",
        "last sentence",
    ),
    "top-n": ("top_n is ignored", "scores are well formed", "top_n ignored"),
    "indices": ("indices count from one", "RAGFlow's call", "scores for [1, 2, 3] came back"),
    "duplicates": ("an index comes twice", "RAGFlow's call", "came back"),
    "nan": ("a score is not a number", "RAGFlow's call", "nan"),
    "generative": ("hidden states of a chat model", "right documents come first", "cosine of a generative"),
    "inverted": ("yes and no are swapped", "right documents come first", "upside down"),
    "neighbours": ("a score depends on its neighbours", "scores stay the same", "its neighbours"),
    "rescaled": ("scores are stretched in each call", "scores stay the same", "rescaled in each call"),
    "softmax": ("scores of a call sum to one", "scores stay the same", "they always sum to 1"),
    "beheaded": ("the beginning of a document is cut off", "documents are read whole", "tokens were read"),
    "ascii": ("umlauts and Chinese get lost", "documents are read whole", "characters are lost"),
    "ranks": ("the index is the place in the answer", "scores stay the same", "input order"),
    "capped": ("ten documents come back at most", "scores are well formed", "documents lost"),
    "deduplicated": (
        "of equal documents one comes back",
        "scores are well formed",
        "equal documents are merged",
    ),
    "batched": ("a second batch gets mixed up", "scores stay the same", "a long call goes wrong"),
    "partly": ("a second batch is not scored", "scores stay the same", "a long call goes wrong"),
    "rounded": ("scores have one decimal", "scores are well formed", "rounded"),
    "blind": ("the query is not read", "right documents come first", "the query is not read"),
    "cached": ("a cache knows documents, not questions", "the query counts", "the query is not read"),
    "swapped": ("question and document are swapped", "right documents come first", "hardly better"),
    "foreign": ("the model knows another language", "right documents come first", "no better than chance"),
}
"""Of each scorer: what it does, the layer that has to catch it, and words of the cause."""

CARD = Behaviour(scorer="healthy", prompt="card")
BARE = replace(CARD, prompt="bare")
HEALTHY = {"embedding": Behaviour(scorer="healthy"), "cross-encoder": BARE, "qwen3": CARD}
PROMPTS = (
    Case(
        "a Qwen3-Reranker without its score template",
        replace(CARD, prompt="bare"),
        "prompt is the model's",
        "template missing",
        "qwen3",
    ),
    Case(
        "a score template that is another model's",
        replace(CARD, prompt="longer"),
        "prompt is the model's",
        "template is not the model card's",
        "qwen3",
    ),
    Case(
        "a score template with one newline at its end",
        replace(CARD, prompt="newline"),
        "prompt is the model's",
        "as long, but scores are",
        "qwen3",
    ),
    Case(
        "a Qwen3-Reranker without --hf-overrides",
        replace(CARD, prompt="apart"),
        "prompt is the model's",
        "cosine of a generative model",
        "qwen3",
    ),
    Case(
        "a Qwen3-Reranker asked the wrong way round",
        replace(CARD, scorer="swapped"),
        "prompt is the model's",
        "query and document swapped",
        "qwen3",
    ),
    Case(
        "a Qwen3-Reranker that knows Chinese only",
        replace(CARD, scorer="foreign"),
        "right documents come first",
        "languages are lost",
        "qwen3",
    ),
    Case(
        "a cross-encoder served as an embedding model",
        replace(CARD, prompt="apart"),
        "prompt is the model's",
        "served as an embedding model",
        "cross-encoder",
    ),
)
ANSWERS = (
    Case(
        "another model's name is served",
        Behaviour(scorer="healthy", model="somebody-else"),
        "model is served",
        "is not among: somebody-else",
    ),
    Case(
        "a document gets lost in every answer",
        Behaviour(scorer="healthy", missing=1),
        "RAGFlow's call",
        "came back",
    ),
    Case(
        "the server takes shorter texts than was declared",
        Behaviour(scorer="healthy", max_tokens=60),
        "scores are well formed",
        "maximum context length",
    ),
)
HTTP: Mapping[Fault, tuple[str, str, str]] = {
    "html": ("a page of a proxy is in its place", "server is healthy", "HTML instead of JSON"),
    "html-502": ("a web server without its upstream", "server is healthy", "502 Bad Gateway"),
    "redirect-302": ("calls are sent elsewhere", "server is healthy", "a redirect"),
    "unauthorized": ("vLLM wants a key", "model is served", "vLLM wants the key"),
    "unauthorized-gateway": ("a gateway wants a key", "server is healthy", "wants a key of its own"),
    "generates": ("vLLM without --runner pooling", "rerank is served", "writes text"),
    "embeds": ("a server of embeddings", "rerank is served", "embeddings only"),
    "classifies": ("a head of two labels", "rerank is served", "not of one label"),
    "wrong-path": ("the rerank route leads nowhere", "RAGFlow's call", "wrong path"),
    "says-200": ("an old vLLM that answers 200 with an error", "RAGFlow's call", "an old vLLM"),
    "busy": ("the queue is full", "RAGFlow's call", "the queue is full"),
    "dead": ("the engine has died", "server is healthy", "engine has died"),
    "reset": ("the connection is cut", "RAGFlow's call", "cut before the response"),
    "no-results": ("an answer without results", "RAGFlow's call", "no ranking"),
}
"""The same of faults below the scores; those that are left out are slow, or much like another."""


def http_cases() -> Iterator[Case]:
    for fault, (said, layer, words) in HTTP.items():
        yield Case(said, Behaviour(scorer="healthy", fault=fault), layer, words)


BELIEVED = (
    Case("an embedding model", Behaviour(scorer="healthy")),
    Case("a cross-encoder", BARE, model="cross-encoder"),
    Case("a Qwen3-Reranker with its prompt", CARD, model="qwen3"),
    Case("random weights that say so", replace(CARD, scorer="random"), model="random"),
    Case("a server that takes many calls at a time", Behaviour(scorer="healthy", serial=False)),
    Case("a slow server", Behaviour(scorer="healthy", fixed_s=0.02)),
)


def scorer_cases() -> Iterator[Case]:
    for who in faulty_scorers.FAULTY_SCORERS:
        fault, layer, words = SAID[who]
        yield Case(fault, Behaviour(scorer=who), layer, words)


def folder(home: Path, model: str) -> Path:
    """Files that say what kind of model is wanted; the stub needs no weights."""
    name = {"qwen3": "Qwen3-Reranker-0.6B", "random": "Qwen3-Reranker-random"}.get(model, model)
    architecture = {"embedding": "BertModel", "cross-encoder": "BertForSequenceClassification"}
    made = home / name
    made.mkdir(mode=0o755)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    config = {"architectures": [architecture.get(model, "Qwen3ForCausalLM")], "num_labels": 1, **sizes}
    (made / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (made / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"yes": 1, "no": 0}}}))
    (made / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Reranker-0.6B\n---\n")
    (made / "modules.json").write_text("{}")
    (made / "model.safetensors").write_bytes((56).to_bytes(8, "little") + b"{}".ljust(56))
    if model == "random":
        (made / "ragops-substitute.txt").write_text("random weights\n")
    return made


@dataclass
class Stage:
    """Where one stub plays, in a container of its own, and who asks it."""

    engine: Engine
    image: str
    client: str
    folders: dict[str, Path]
    name: str
    port: int = field(default_factory=free_port)

    def declared(self, model: str = "embedding") -> configuration.Stack:
        return configuration.Stack(
            network=configuration.Network(name=NETWORK),
            reranker=configuration.Reranker(name=self.name, model=self.folders[model], port=self.port),
            ragflow=configuration.Ragflow(containers=(self.client,)),
            gateway=False,
        )

    @contextmanager
    def container(self, address: str = "127.0.0.1", listen: str = "0.0.0.0") -> Iterator[StubContainer]:
        publish = (address, self.port)
        with stub_container(
            self.engine, self.image, name=self.name, network=NETWORK, publish=publish, listen=listen
        ) as made:
            if listen != "127.0.0.1":
                self.behave(made, HEALTHY["embedding"])
            yield made

    def behave(self, container: StubContainer, behaviour: Behaviour, model: str = "embedding") -> None:
        named = behaviour.model != Behaviour().model
        served = Deployment.resolve(self.declared(model)).spec.served_name
        container.behave(behaviour if named else replace(behaviour, model=served))

    def problem(self, model: str = "embedding") -> Check | None:
        """What verify says first that is no ok; failures before warnings."""
        report = verbs.verify(self.declared(model), self.engine, budget=False)
        checks = [check for check in report.checks if "by routing" not in check.detail]  # the stub's own port
        found = [check for status in ("fail", "warn") for check in checks if check.status == status]
        return found[0] if found else None

    def row(self, fault: str, found: Check | None, applied: str, after: Check | None) -> Row:
        assert after is None, f"{fault}: after the fix: {after}"
        name, detail, remedy = (found.name, found.detail, found.remedy) if found else ("", "", "")
        return Row(fault, self.plain(name), self.plain(detail), self.plain(remedy), applied, passes=True)

    def plain(self, text: str) -> str:
        """Without the names and addresses of this test."""
        text = text.replace(self.name, "ragflow-vllm-reranker").replace(self.client, "docker-ragflow-cpu-1")
        text = text.replace(str(self.port), "PORT")
        return re.sub(r"(?!127\.0\.0\.1|0\.0\.0\.0)\b\d+\.\d+\.\d+\.\d+", "ADDRESS", text)


def play(stage: Stage, cases: Sequence[Case]) -> list[Row]:
    """Rows of those that answer: one stub in one container plays them all.

    Their fix is the same for each model, the healthy stub, so that it is verified once, after all faults.
    """
    with stage.container() as container:

        def problem(behaviour: Behaviour, model: str) -> Check | None:
            stage.behave(container, behaviour, model)
            return stage.problem(model)

        found = [problem(case.behaviour, case.model) for case in cases]
        fixed = {case.model: None for case in cases if case.layer}
        fixed = {model: problem(HEALTHY[model], model) for model in fixed}
    return [
        stage.row(case.fault, check, case.applied, fixed[case.model])
        if case.layer
        else stage.row(case.fault, check, "", None)
        for case, check in zip(cases, found, strict=True)
    ]


@dataclass(frozen=True)
class Wrong:
    """Something about containers and networks that is not as it should be, while the stub is healthy."""

    fault: str
    layer: str
    words: str
    applied: str
    spoil: Callable[[Stage], None]
    fix: Callable[[Stage], None]


def api(stage: Stage):
    return stage.engine._client.api


def start_again(stage: Stage) -> None:
    """The server behaves as a new one; it takes a moment to listen."""
    stage.engine.start(stage.name)
    deadline = time.monotonic() + 120
    while True:
        try:
            return stage.behave(StubContainer(stage.name, stage.port), HEALTHY["embedding"])
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


WRONG = (
    Wrong(
        *("RAGFlow's container is not in the network", "name resolves", "not known", "ragops connect"),
        lambda stage: stage.engine.disconnect(NETWORK, stage.client),
        lambda stage: verbs.connect(stage.declared(), stage.client, stage.engine),
    ),
    Wrong(
        *("RAGFlow's container is paused", "container runs", "paused", "docker unpause"),
        lambda stage: api(stage).pause(stage.client),
        lambda stage: api(stage).unpause(stage.client),
    ),
    Wrong(
        *("RAGFlow's container is stopped", "container runs", "exited", "docker start"),
        lambda stage: stage.engine.stop(stage.client, timeout=STOP),
        lambda stage: stage.engine.start(stage.client),
    ),
    Wrong(
        *("the reranker is paused", "reranker runs", "is paused", "docker unpause"),
        lambda stage: api(stage).pause(stage.name),
        lambda stage: api(stage).unpause(stage.name),
    ),
    Wrong(
        *("the reranker was stopped", "reranker runs", "was stopped", "docker start"),
        lambda stage: stage.engine.stop(stage.name, timeout=STOP),
        start_again,
    ),
    Wrong(
        *("the reranker was killed", "reranker runs", "SIGKILL", "docker start"),
        lambda stage: api(stage).kill(stage.name),
        start_again,
    ),
    Wrong(
        "the reranker is in Docker's default network too",
        *("closed to other containers", "reaches", "docker network disconnect bridge"),
        lambda stage: stage.engine.connect("bridge", stage.name),
        lambda stage: stage.engine.disconnect("bridge", stage.name),
    ),
)
LAUNCHES = (
    (
        "the server listens on its own localhost",
        "port answers",
        "127.0.0.1 of its own container",
        {"listen": "127.0.0.1"},
    ),
    (
        "the port is published on all addresses",
        *("closed to other containers", "publish = ", {"address": "0.0.0.0"}),
    ),
)


def spoil(stage: Stage) -> list[Row]:
    """Rows of containers and networks."""
    rows = []
    with stage.container():
        for one in WRONG:
            one.spoil(stage)
            try:
                found = stage.problem()
            finally:
                one.fix(stage)
            rows.append(stage.row(one.fault, found, one.applied, stage.problem()))
    for fault, _, _, options in LAUNCHES:
        with stage.container(**options):
            found = stage.problem()
        with stage.container():
            rows.append(stage.row(fault, found, LAUNCHED, stage.problem()))
    return [*rows, behind_a_proxy(stage)]


PROXIED = (
    "RAGFlow's calls go to a proxy",
    *("RAGFlow's call", "a proxy is between", "container recreated with NO_PROXY"),
)


def behind_a_proxy(stage: Stage) -> Row:
    """RAGFlow's container with a proxy in its environment, then with the reranker excepted from it."""
    proxy = ("HTTP_PROXY", "http://127.0.0.1:9")
    other = replace(stage, client=f"{NAME}-ragflow")
    with other.container():
        with client_box(other, proxy):
            found = other.problem()
        with client_box(other, proxy, ("NO_PROXY", stage.name)):
            return other.row(PROXIED[0], found, PROXIED[3], other.problem())


@contextmanager
def client_box(stage: Stage, *environment: tuple[str, str]) -> Iterator[None]:
    """Another demo client, in both networks."""
    spec = replace(demo.spec(stage.client, PROJECT), environment=environment)
    made = stage.engine.create_container(spec)
    try:
        stage.engine.start(made)
        stage.engine.connect(NETWORK, made)
        yield
    finally:
        stage.engine.remove_container(made)


CASES = (*scorer_cases(), *PROMPTS, *http_cases(), *ANSWERS, *BELIEVED)
EXPECTED = {
    **{case.fault: (case.layer, case.words) for case in CASES},
    **{one.fault: (one.layer, one.words) for one in WRONG},
    **{fault: (layer, words) for fault, layer, words, _ in (*LAUNCHES, PROXIED)},
}


@pytest.fixture(scope="module")
def rows(engine, image, client, tmp_path_factory) -> Iterator[list[Row]]:
    """All rows, played once, on two stages at the same time."""
    home = tmp_path_factory.mktemp("faults")
    home.chmod(0o755)
    folders = {kind: folder(home, kind) for kind in ("embedding", "cross-encoder", "qwen3", "random")}
    with ExitStack() as undone:
        if engine.network(NETWORK) is None:  # else a run before this one was killed
            engine.create_network(NetworkSpec(NETWORK))
        undone.callback(engine.remove_network, NETWORK)
        engine.connect(NETWORK, client)
        undone.callback(engine.disconnect, NETWORK, client)
        engines_of_two = [undone.enter_context(closing(engines.connect())) for _ in range(2)]
        stages = [
            Stage(one, image.id, client, folders, f"{NAME}-{number}")
            for number, one in enumerate(engines_of_two)
        ]
        patched = undone.enter_context(pytest.MonkeyPatch.context())
        models = undone.enter_context(pytest.MonkeyPatch.context())
        models.delenv("RAGOPS_MODEL_DIR")  # each case has its own model
        patched.setattr("ragops.stack.verbs.check_exposure", lambda *_: [])  # it has rows of its own, below
        with ThreadPoolExecutor(2) as pool:
            played = list(pool.map(play, stages, (CASES[::2], CASES[1::2])))
        patched.undo()
        told = {row.fault: row for row in (*played[0], *played[1])}
        yield [*(told[case.fault] for case in CASES), *spoil(stages[0])]


@pytest.fixture(scope="module")
def found(engine, rows):
    """Rows by fault; written down too."""
    engine = engine.state()
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": read_host().cpu_model,
        "docker": engine.version,
        "kernel": engine.kernel,
        "python": platform.python_version(),
        "ragops": version("ragops-rerank"),
        "client": "the demo client, in place of RAGFlow",
        "server": "the fault-injection server, in place of vLLM",
    }
    SEEN.parent.mkdir(exist_ok=True)
    told = {"about": about, "rows": [asdict(row) for row in rows]}
    SEEN.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {row.fault: row for row in rows}


def test_every_fault_is_caught_by_its_layer_and_its_cause_named(found):
    faults = {fault: said for fault, said in EXPECTED.items() if said[0]}
    assert len(faults) >= 20
    missed = {
        fault: found[fault]
        for fault, (layer, words) in faults.items()
        if found[fault].layer != layer or words not in f"{found[fault].cause}; {found[fault].remedy}"
    }
    assert missed == {}


def test_no_healthy_stack_has_one(found):
    healthy = [fault for fault, said in EXPECTED.items() if not said[0]]
    assert len(healthy) >= 4
    assert {fault: found[fault] for fault in healthy if found[fault].layer} == {}


def test_every_fault_has_a_remedy_after_which_verify_passes(found):
    assert [
        row for row in found.values() if row.layer and not (row.remedy and row.applied and row.passes)
    ] == []


def test_no_traceback_is_shown(found):
    assert [row for row in found.values() if "Traceback" in f"{row.cause}{row.remedy}"] == []


def test_the_recorded_table_is_what_is_seen_now(found):
    """The page shows the record; numbers may differ from machine to machine."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]
    seen = json.loads(SEEN.read_text(encoding="utf-8"))["rows"]
    assert [essence(row) for row in recorded] == [essence(row) for row in seen]


def essence(row: dict[str, str]) -> tuple[str, ...]:
    """A row without its numbers."""
    texts = (row[key] for key in ("fault", "layer", "cause", "remedy"))
    return tuple(re.sub(r"\d+(\.\d+)?", "N", text) for text in texts)
