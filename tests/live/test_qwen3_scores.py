"""What the product serves is what the model card computes, and the score gate sees any other launch.

The checkpoint is random, so no score means anything; but it is Qwen3-Reranker in all that
decides a number: architecture, tokenizer, prompt, how the answer is read. The released
weights go the same way. Each launch is started once, and all requests are sent to it.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx
import pytest

from benchmarks import free_port, side_by_side
from benchmarks.peer import peer, spec
from ragops.bench import agreement
from ragops.bench.workload import Workload
from ragops.checks import ready, rules
from ragops.checks.questions import Expected
from ragops.checks.traffic import Request
from ragops.configuration import Network, Reranker, Stack
from ragops.docker.engine import sidecar
from ragops.docker.objects import ContainerSpec, Mount, NetworkSpec
from ragops.ragflow import discovery
from ragops.reranker import options
from ragops.reranker.host import read_host
from ragops.reranker.model import describe
from ragops.reranker.sizing import size
from tests.support.names import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragops.checks import Check
    from ragops.docker.engine import Engine

TOLERANCE = 0.02
"""Of a score. bfloat16 against float32 gives up to 0.01 on these weights."""

NAME = f"{PROJECT}-qwen3"
SERVED = "qwen3-reranker-random"
PROOF = Path(__file__).parent / "qwen3"
INSTRUCTION = "Find the sentence that is about birds"
"""Of a request."""
CONFIGURED = 'Retrieve "facts", not {{ templates }} {%- or -%} C:\\names \N{BIRD}'
"""Of the configuration: all that Jinja could misread."""

QUERIES = (
    "What is the capital of France?",
    "How do I join a container to a Docker network?",
    "Warum ist der Himmel blau?",
    "When do swallows fly south?",
    "How long may a rerank request take?",
)
DOCUMENTS = (
    "Paris is the capital of France.",
    "docker network connect NETWORK CONTAINER joins a running container.",
    "Short waves of light are scattered more by air than long ones.",
    "Schwalben ziehen im September nach Afrika und kehren im April zurück. 燕子南飞。",
    "  A list with\n\n* blank lines,\n* trailing spaces  \n* and <b>marks</b> {{ like }} these.\n",
    "RAGFlow waits thirty seconds for its reranker. " * 40,
)
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]
ONE_NEWLINE = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"


@dataclass(frozen=True)
class Launched:
    """A launch that runs: what it scores, and what the gate says of it."""

    plain: list[float]
    """Scores of all pairs."""
    instructed: list[float]
    judge: Callable[[Expected], list[Check]]


@pytest.fixture(scope="module")
def reference(engine, image, qwen3, byte_code):
    """Scores by the model card's recipe; all ways are computed at once."""
    ways = (
        {},
        {"instruction": INSTRUCTION},
        {"instruction": CONFIGURED},
        {"suffix": ONE_NEWLINE},
    )
    mounts = (
        Mount(str(PROOF), "/proof", read_only=True),
        Mount(str(qwen3.parent), "/work", read_only=True),
        byte_code.mount,
    )
    argv = (*byte_code.argv, "python3", "/proof/reference.py", f"/work/{qwen3.name}")
    with sidecar(engine, "none", image.id, mounts=mounts, memory=4 << 30) as container:
        done = engine.execute(container, argv, stdin=json.dumps({"pairs": PAIRS, "ways": ways}), timeout=900)
    assert done.exit_code == 0, done.stderr
    known = json.loads(done.stdout)

    def scores(**way: str) -> list[float]:
        return known[ways.index(way)]

    return scores


@pytest.fixture(scope="module")
def network(engine, client) -> Iterator[str]:
    """A network that RAGFlow's container has joined."""
    engine.create_network(NetworkSpec(f"{NAME}-net"))
    engine.connect(f"{NAME}-net", client)
    yield f"{NAME}-net"
    engine.disconnect(f"{NAME}-net", client)
    engine.remove_network(f"{NAME}-net")


@pytest.fixture(scope="module")
def launch(engine, image, network, qwen3, share_cache) -> Iterator[ContainerSpec]:
    """The product's own launch."""
    own = Stack(network=Network(name=network), reranker=Reranker(name=NAME))
    model = describe(qwen3)
    assert model.kind == "qwen3-reranker"
    assert model.substitute
    share_cache(NAME)
    yield options.container_spec(own, model, size(own, model, read_host()), image=image.id)
    engine.remove_volume(f"{NAME}-compiled")


@pytest.fixture(scope="module", params=["whole", "newline", "template", "overrides"])
def launched(request, engine, image, declared, client, launch, qwen3) -> Iterator[tuple[str, Launched]]:
    """A launch by what is wrong with it; ``whole`` is the product's."""
    spec = {
        "whole": lambda: with_instruction(launch, qwen3),
        "newline": lambda: with_one_newline(launch, qwen3.parent),
        "template": lambda: without(launch, "--chat-template"),
        "overrides": lambda: without(launch, "--hf-overrides"),
    }[request.param]()
    if request.param != "whole":  # what is wrong does not depend on compiled code
        spec = dataclasses.replace(spec, command=(*spec.command, "--enforce-eager"))
    result = next(
        item for item in discovery.find(engine.containers(), declared.ragflow) if item.name == client
    )

    def judge(expected: Expected) -> list[Check]:
        url = f"http://{NAME}:{options.PORT}/v1"
        return rules.check_scores(expected, rules.collect(engine, result.name, image.id, url, expected))

    with started(engine, spec):
        ready.wait(engine, NAME, SERVED, 600)
        yield request.param, Launched(rerank(engine), rerank(engine, instruction=INSTRUCTION), judge)


@contextmanager
def started(engine: Engine, spec: ContainerSpec) -> Iterator[None]:
    if engine.container(spec.name) is not None:  # else a run before this one was killed
        engine.remove_container(spec.name)
    engine.create_container(spec)
    try:
        engine.start(spec.name)
        yield
    finally:
        engine.remove_container(spec.name)


def rerank(engine: Engine, **fields: str) -> list[float]:
    url, result = engine.container(NAME).host_url(options.PORT), []
    for query in QUERIES:
        answer = httpx.post(
            f"{url}/v1/rerank",
            json={"model": SERVED, "query": query, "documents": DOCUMENTS, **fields},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        rows = sorted(answer.json()["results"], key=lambda row: row["index"])
        result += [row["relevance_score"] for row in rows]
    return result


def without(spec: ContainerSpec, flag: str) -> ContainerSpec:
    at = spec.command.index(flag)
    return dataclasses.replace(spec, command=(*spec.command[:at], *spec.command[at + 2 :]))


def with_instruction(spec: ContainerSpec, model: Path) -> ContainerSpec:
    """As a session renders and mounts the template for a configured instruction."""
    text = options.score_template(options.known(describe(model)), CONFIGURED)
    return with_template(spec, model.parent / "instruction.jinja", text)


def with_one_newline(spec: ContainerSpec, folder: Path) -> ContainerSpec:
    """As vLLM's own example file renders: Jinja drops the newline that ends it."""
    text = (options.TEMPLATES / "qwen3_reranker.jinja").read_text()
    two = r'{{ "\n\n" }}'
    assert two in text
    return with_template(spec, folder / "one.jinja", text.replace(two, r'{{ "\n" }}'))


def with_template(spec: ContainerSpec, file: Path, text: str) -> ContainerSpec:
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
    mounts = (
        dataclasses.replace(item, source=str(file)) if item.target.startswith("/templates/") else item
        for item in spec.mounts
    )
    return dataclasses.replace(spec, mounts=tuple(mounts))


def apart(item: list[float], other: list[float]) -> list[float]:
    assert len(item) == len(other) == len(PAIRS)
    return [abs(a - b) for a, b in zip(item, other, strict=True)]


def failure(checks: list[Check]) -> Check | None:
    return next((item for item in checks if item.status == "fail"), None)


def test_scores_are_the_model_cards_only_with_its_prompt_and_head(launched, reference):
    """The server's scores move as the reference's do, and by more than rounding."""
    fault, seen = launched
    expected, instructed = reference(), reference(instruction=INSTRUCTION)
    assert max(expected) - min(expected) > 0.5, "the checkpoint gives all pairs one score"
    assert median(apart(expected, instructed)) > TOLERANCE, "the instruction must change scores"
    if fault == "whole":
        assert max(apart(seen.plain, reference(instruction=CONFIGURED))) < TOLERANCE
        assert max(apart(seen.instructed, instructed)) < TOLERANCE
    elif fault == "newline":
        assert max(apart(seen.plain, reference(suffix=ONE_NEWLINE))) < TOLERANCE
        assert median(apart(seen.plain, expected)) > TOLERANCE
    else:
        assert median(apart(seen.plain, expected)) > 5 * TOLERANCE


def test_gate_names_what_is_wrong_without_trained_weights(launched):
    fault, seen = launched
    expected = Expected(SERVED, "qwen3-reranker", 4096, "random weights")
    checks = seen.judge(expected)
    prompt = next(item for item in checks if item.name == "prompt is the model's")
    if fault == "whole":
        assert failure(checks) is prompt, "this is another instruction than the default"
        checks = seen.judge(dataclasses.replace(expected, instruction=CONFIGURED))
        prompt = next(item for item in checks if item.name == "prompt is the model's")
        assert failure(checks) is None, checks
        assert prompt.status == "ok"
        assert "of the model card's prompt" in prompt.detail
        return
    cause = {
        "newline": "template is not the model card's: as long",
        "template": "template missing",
        "overrides": "cosine of a generative model",
    }[fault]
    assert failure(checks) is prompt
    assert cause in prompt.detail
    assert "ragops up" in prompt.remedy


@pytest.mark.parametrize("launched", ["whole"], indirect=True)
def test_same_weights_taken_for_trained_ones_are_a_random_head(launched):
    result = failure(launched[1].judge(Expected(SERVED, "qwen3-reranker", 4096, "", CONFIGURED)))
    assert result.name == "right documents come first"
    assert "random" in result.detail


def test_the_peer_over_plain_transformers_computes_the_same(engine, image, qwen3, reference):
    """Documents of unlike lengths share a batch in it, so that wrong padding would show."""
    texts = Workload("pairs", "own", "", None, tuple(Request(query, DOCUMENTS) for query in QUERIES))
    declared = spec(image.id, qwen3, SERVED, container=f"{NAME}-peer", port=free_port())
    with peer(engine, declared) as url:
        result = side_by_side.scores(url, SERVED, texts)
    assert engine.container(declared.name) is None
    expected, count = reference(), len(DOCUMENTS)
    alike = agreement(result, [expected[n : n + count] for n in range(0, len(expected), count)])
    side_by_side.require_agreement(alike)
    assert alike.max_difference < 1e-3
