"""What the stub reranker answers, in the shapes of vLLM 0.32; a token is a word between spaces."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Literal

from ragops import vllm
from ragops.checks.texts import prompt
from ragops.testing import impostors
from ragops.testing.impostors import Row, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragops.testing.stub import Behaviour

Prompt = Literal["none", "bare", "card", "longer", "newline", "apart"]
"""What becomes of a pair: nothing but its words, in a server of embeddings; the same in one that
classifies; Qwen3-Reranker's prompt from the model card; a longer one; one of the same length that
scores otherwise; or texts that are read apart."""

_PAIR = re.compile(r"<Query>: (.*)\n<Document>: (.*)<\|im_end\|>", re.DOTALL)


def pair_tokens(query: str, document: str) -> int:
    """Tokens that the stub counts for one pair."""
    return len(query.split()) + len(document.split())


def tokens(behaviour: Behaviour, query: str, documents: Sequence[str]) -> int:
    """Tokens that it reports for a request."""
    if behaviour.impostor and behaviour.impostor != "truncated-quietly":
        documents = [impostors.received(behaviour.impostor, document) for document in documents]
    plain = sum(pair_tokens(query, document) for document in documents)
    if behaviour.prompt in {"none", "bare"}:
        return plain
    if behaviour.prompt == "apart":
        return plain - (len(documents) - 1) * len(query.split())
    longer = 3 * len(documents) if behaviour.prompt == "longer" else 0
    return longer + sum(len(prompt(_template(), query, document).split()) for document in documents)


def ranking(behaviour: Behaviour, body: dict[str, Any], used: int, number: int) -> dict[str, Any]:
    """The answer to a rerank call.

    Args:
        behaviour: How the stub behaves.
        body: The request.
        used: Tokens to report.
        number: Of the call, from 1 on.
    """
    documents: list[str] = body["documents"]
    top = body.get("top_n") or len(documents)
    kept = _rows(behaviour, body["query"], documents, top, number)[: len(documents) - behaviour.missing]
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "model": behaviour.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
        "results": [_result(row, documents) for row in kept],
    }


def models(behaviour: Behaviour) -> dict[str, Any]:
    """The one model that is served."""
    card = {
        "id": behaviour.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "vllm",
        "root": behaviour.model,
        "parent": None,
        "max_model_len": behaviour.max_tokens or 8192,
    }
    return {"object": "list", "data": [card]}


def count(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``/tokenize``."""
    words = body["prompt"].split()
    return {"count": len(words), "max_model_len": 8192, "tokens": list(range(len(words))), "token_strs": None}


def classes(behaviour: Behaviour, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``/classify``: the scores of prompts as they are, by the same model."""
    who = behaviour.impostor or "healthy"
    who = "healthy" if who in impostors.BESIDE else who
    pairs = [found.groups() for text in body["input"] if (found := _PAIR.search(text))]
    scores = (impostors.scored(who, query, [text], seed=behaviour.seed)[0] for query, text in pairs)
    rows = [{"index": place, "label": "LABEL_0", "probs": [one]} for place, one in enumerate(scores)]
    return {"object": "list", "data": rows}


def _rows(behaviour: Behaviour, query: str, documents: list[str], top: int, number: int) -> list[Row]:
    if who := behaviour.impostor:
        found = impostors.scored(who, query, documents, call=number, seed=behaviour.seed)
        scores = [one * 0.7 for one in found] if behaviour.prompt == "newline" else found
        return impostors.rows(who, scores, documents, top)
    told = [_told(behaviour, number, query, document) for document in documents]
    return impostors.rows("healthy", told, documents, top)


def _told(behaviour: Behaviour, number: int, query: str, document: str) -> float:
    is_wrong = behaviour.order == "wrong" or 0 < behaviour.wrong_after < number
    if behaviour.order == "constant":
        return 0.5
    return 1.0 - score(query, document) if is_wrong else score(query, document)


def _result(row: Row, documents: list[str]) -> dict[str, Any]:
    text = documents[row.index] if row.index < len(documents) else ""
    return {
        "index": row.index,
        "document": {"text": text, "multi_modal": None},
        "relevance_score": row.score,
    }


def _template() -> str:
    return (vllm.TEMPLATES / "qwen3_reranker.jinja").read_text(encoding="utf-8")
