"""int8 folders: made by the real library, held against arithmetic of our own, and served.

The checkpoint is random; what is shown is rounding, not whether a model still sorts well.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from ragops.bench.compare import agreement
from ragops.checks import ready
from ragops.configuration import Network, Reranker, Stack
from ragops.docker.engine import sidecar
from ragops.docker.objects import Mount, NetworkSpec
from ragops.errors import ImageError
from ragops.reranker import int8, options
from ragops.reranker.host import read_host
from ragops.reranker.model import SUBSTITUTE_FILE, describe
from ragops.reranker.sizing import size

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "ragops-test-int8"
PROOF = Path(__file__).parent / "qwen3"
QUERIES = ("What is the capital of France?", "Warum ist der Himmel blau?", "When do swallows fly south?")
DOCUMENTS = (
    "Paris is the capital of France.",
    "docker network connect NETWORK CONTAINER joins a running container.",
    "Short waves of light are scattered more by air than long ones.",
    "Schwalben ziehen im September nach Afrika und kehren im April zurück. 燕子南飞。",
    "RAGFlow waits thirty seconds for its reranker. " * 10,
)
ROUNDING = 0.05
"""Of a score: more than rounding does to this checkpoint, less than sums do that overflow."""


@pytest.fixture(scope="module")
def made(engine, image, qwen3) -> Path:
    return int8.int8(qwen3, engine=engine, image=image.id)


@pytest.fixture(scope="module")
def expected(engine, image, qwen3, made, byte_code):
    mounts = (
        Mount(str(PROOF), "/proof", read_only=True),
        Mount(str(qwen3.parent), "/work", read_only=True),
        byte_code.mount,
    )
    program = ("python3", "/proof/int8_reference.py")
    argv = (*byte_code.argv, *program, f"/work/{qwen3.name}", f"/work/{made.name}")
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    with sidecar(engine, "none", image.id, mounts=mounts, memory=4 << 30) as container:
        done = engine.execute(container, argv, stdin=json.dumps({"pairs": pairs}), timeout=900)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def served(engine, image, made, share_cache) -> Iterator[list[float]]:
    """Scores of the product's own launch; it compiles nothing, to be there sooner."""
    stack = Stack(network=Network(name=NAME), reranker=Reranker(name=NAME, served_name="int8"))
    model = describe(made)
    spec = options.container_spec(stack, model, size(stack, model, read_host()), image=image.id)
    spec = dataclasses.replace(spec, command=(*spec.command, "--enforce-eager"))
    if engine.network(NAME) is None:
        engine.create_network(NetworkSpec(NAME))
    share_cache(NAME)
    engine.create_container(spec)
    try:
        engine.start(NAME)
        ready.wait(engine, NAME, "int8", 600)
        url = engine.container(NAME).host_url(options.PORT)
        yield [score for query in QUERIES for score in rerank(url, query)]
    finally:
        engine.remove_container(NAME)
        engine.remove_network(NAME)
        engine.remove_volume(f"{NAME}-compiled")


def rerank(url: str, query: str) -> list[float]:
    body = {"model": "int8", "query": query, "documents": DOCUMENTS}
    answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    rows = sorted(answer.json()["results"], key=lambda row: row["index"])
    return [row["relevance_score"] for row in rows]


def apart(item: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(item, other, strict=True))


def each(scores: list[float]) -> list[list[float]]:
    size = len(DOCUMENTS)
    return [scores[at : at + size] for at in range(0, len(scores), size)]


def test_linear_layers_are_int8_and_all_else_is_as_it_was(made, expected):
    model = describe(made)
    assert (model.quantized, model.int8_bytes) == ("compressed-tensors", 1572864)
    assert (made / SUBSTITUTE_FILE).is_file()
    assert (expected["kept"], expected["all"]) == (10, 24)  # 14 of 2 layers: q, k, v, o, gate, up, down
    assert expected["untouched"]
    assert 0.4 < expected["worst"] < 0.51, "each weight is rounded to the nearest step"


def test_files_belong_to_the_user(qwen3, made):
    assert {path.stat().st_uid for path in (made, *made.iterdir())} == {qwen3.parent.stat().st_uid}
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o644}


def test_an_image_without_the_library_is_an_error(engine, client, qwen3, tmp_path):
    """The demo client's image has Python, and nothing that makes weights."""
    image = engine.container(client).image_id
    with pytest.raises(ImageError) as caught:
        int8.int8(qwen3, engine=engine, image=image, target=tmp_path / "never")
    assert caught.value.code == "image-lacks-library"
    assert list(tmp_path.iterdir()) == []


def test_its_scores_are_rounded_ones_where_the_processor_can(expected, served, record_property):
    """And where it can't, they are not: that is why doctor refuses it there."""
    alike = agreement(each(expected["plain"]), each(served))
    record_property("int8 against float32", str(alike))
    assert 0 < apart(expected["plain"], expected["rounded"]) < ROUNDING
    off = apart(served, expected["rounded"])
    assert (off < ROUNDING) == (int8.unfit(read_host()) == ""), f"{off:.3f} from rounding; {alike}"
