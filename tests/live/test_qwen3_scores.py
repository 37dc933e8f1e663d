"""What the product serves is what the model card computes.

The checkpoint is random, so no score means anything; but it is Qwen3-Reranker in all that
decides a number: architecture, tokenizer, prompt, how the answer is read. The released
weights go the same way.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx
import pytest

from ragops import ready, vllm
from ragops.bench import Workload, agreement
from ragops.bench.workload import Request
from ragops.container import ContainerSpec, Mount, NetworkSpec
from ragops.host import read_host
from ragops.model import describe
from ragops.stack import Network, Reranker, Stack
from ragops.testing import side_by_side
from ragops.testing.peer import peer, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.engine import Engine

TOLERANCE = 0.02
"""Of a score. bfloat16 against float32 gives up to 0.01 on these weights."""

TOOL = "ragops-test-qwen3-tool"
NETWORK = Network(name="ragops-test-qwen3")
PROOF = Path(__file__).parent / "qwen3"

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


@pytest.fixture(scope="module")
def workspace(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    folder.chmod(0o755)
    (folder / "qwen.tiktoken").write_bytes(tokenizer)
    return folder


@pytest.fixture(scope="module")
def tool(engine, image, workspace) -> Iterator[str]:
    """A container of the serving image, to run transformers in."""
    spec = ContainerSpec(
        name=TOOL,
        image=Reranker().image,
        entrypoint=("sleep", "3600"),
        mounts=(Mount(str(PROOF), "/proof", read_only=True), Mount(str(workspace), "/work")),
        role="test",
    )
    with running(engine, spec):
        yield TOOL


@pytest.fixture(scope="module")
def checkpoint(engine, tool, workspace) -> Path:
    argv = ("python3", "/proof/make_checkpoint.py", "/work/qwen.tiktoken", "/work/Qwen3-Reranker-random")
    done = engine.execute(tool, argv, timeout=300)
    assert done.exit_code == 0, done.stderr
    return workspace / "Qwen3-Reranker-random"


@pytest.fixture(scope="module")
def reference(engine, tool, checkpoint):
    """Scores by the model card's recipe."""

    def scores(**order: str) -> list[float]:
        argv = ("python3", "/proof/reference.py", f"/work/{checkpoint.name}")
        done = engine.execute(tool, argv, stdin=json.dumps({"pairs": PAIRS, **order}), timeout=300)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return scores


@pytest.fixture(scope="module")
def launch(checkpoint) -> ContainerSpec:
    """The product's own launch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stack = Stack(network=NETWORK, reranker=Reranker(name="ragops-test-qwen3", port=port))
    model = describe(checkpoint)
    assert model.kind == "qwen3-reranker"
    assert model.stand_in
    return vllm.launch(stack, model, read_host(), image=stack.reranker.image)


@pytest.fixture(scope="module", autouse=True)
def network(engine) -> Iterator[None]:
    if engine.network(NETWORK.name) is None:  # else a run before this one was killed
        engine.create_network(NetworkSpec(NETWORK.name))
    engine.create_volume("ragops-test-qwen3-cache", role="test")
    yield
    engine.remove_network(NETWORK.name)
    engine.remove_volume("ragops-test-qwen3-cache")


@contextmanager
def running(engine: Engine, spec: ContainerSpec) -> Iterator[None]:
    if engine.container(spec.name) is not None:
        engine.remove_container(spec.name)
    engine.create_container(spec)
    try:
        engine.start(spec.name)
        yield
    finally:
        engine.remove_container(spec.name)


def served(engine: Engine, spec: ContainerSpec, **fields: str) -> list[float]:
    """Scores of all pairs from a server that runs for this only."""
    with running(engine, spec):
        ready.wait(engine, spec.name, "qwen3-reranker-random", 600)
        return rerank(spec, **fields)


def rerank(spec: ContainerSpec, **fields: str) -> list[float]:
    found = []
    for query in QUERIES:
        answer = httpx.post(
            f"http://127.0.0.1:{spec.publish[0][1]}/v1/rerank",
            json={"model": "qwen3-reranker-random", "query": query, "documents": DOCUMENTS, **fields},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        rows = sorted(answer.json()["results"], key=lambda row: row["index"])
        found += [row["relevance_score"] for row in rows]
    return found


def without(spec: ContainerSpec, flag: str) -> ContainerSpec:
    at = spec.command.index(flag)
    return dataclasses.replace(spec, command=(*spec.command[:at], *spec.command[at + 2 :]))


def with_template(spec: ContainerSpec, folder: Path, old: str, new: str) -> ContainerSpec:
    """The same launch with a score template that differs in one place."""
    text = (vllm.TEMPLATES / "qwen3_reranker.jinja").read_text()
    assert old in text
    file = folder / "changed.jinja"
    file.write_text(text.replace(old, new))
    mounts = (
        dataclasses.replace(one, source=str(file)) if one.target.startswith("/templates/") else one
        for one in spec.mounts
    )
    return dataclasses.replace(spec, mounts=tuple(mounts))


def apart(one: list[float], other: list[float]) -> list[float]:
    assert len(one) == len(other) == len(PAIRS)
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def test_scores_are_the_model_cards(engine, launch, reference):
    instruction = "Find the sentence that is about birds"
    expected, told = reference(), reference(instruction=instruction)
    with running(engine, launch):
        ready.wait(engine, launch.name, "qwen3-reranker-random", 600)
        plain, instructed = rerank(launch), rerank(launch, instruction=instruction)
    assert max(expected) - min(expected) > 0.5, "the checkpoint tells nothing apart"
    assert max(apart(plain, expected)) < TOLERANCE
    assert max(apart(instructed, told)) < TOLERANCE
    assert median(apart(expected, told)) > TOLERANCE, "the instruction must matter, or it proves nothing"


def test_one_newline_at_the_end_is_seen(engine, launch, reference, tmp_path):
    """The server's scores move as the reference's do, and by more than rounding."""
    tmp_path.chmod(0o755)
    one = served(engine, with_template(launch, tmp_path, '{{ "\\n\\n" }}', '{{ "\\n" }}'))
    assert max(apart(one, reference(suffix=ONE_NEWLINE))) < TOLERANCE
    assert median(apart(one, reference())) > TOLERANCE


@pytest.mark.parametrize("flag", ["--chat-template", "--hf-overrides"])
def test_a_launch_without_it_scores_otherwise(engine, launch, reference, flag):
    assert median(apart(served(engine, without(launch, flag)), reference())) > 5 * TOLERANCE


def test_the_peer_over_plain_transformers_computes_the_same(engine, image, checkpoint, reference):
    """Documents of unlike lengths share a batch in it, so that wrong padding would show."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    texts = Workload("pairs", "own", "", None, tuple(Request(query, DOCUMENTS) for query in QUERIES))
    name, count = "qwen3-reranker-random", len(DOCUMENTS)
    declared = spec(image.id, checkpoint, name, container="ragops-test-qwen3-peer", port=port)
    with peer(engine, declared) as url:
        found = side_by_side.scores(url, name, texts)
    assert engine.container(declared.name) is None
    expected = reference()
    alike = agreement(found, [expected[n : n + count] for n in range(0, len(expected), count)])
    side_by_side.gate(alike)
    assert alike.max_difference < 1e-3
