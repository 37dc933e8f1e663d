"""Which flags were missing when a server has no rerank route, judged from the routes that it has; pure.

vLLM 0.32 adds routes by what the model was loaded as (``entrypoints/pooling/factories.py``): rerank
stands beside ``/classify`` for a head with one label, and beside ``/v1/embeddings`` as a cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops.checks import Check
from ragops.checks.layers import TITLES

if TYPE_CHECKING:
    from collections.abc import Collection

    from ragops.vllm import Known

_GENERATES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_TITLE = TITLES["routes"]


def judge(paths: Collection[str], wanted: str, known: Known, where: str) -> Check:
    """Whether the server ranks, and ranks as this kind of model does.

    Args:
        paths: Routes that the server lists in ``/openapi.json``.
        wanted: The route that RAGFlow calls, such as ``/v1/rerank``.
        known: What the model needs from vLLM.
        where: RAGFlow's container.
    """
    ranks = sorted(path for path in paths if path.endswith("/rerank"))
    if wanted not in paths:
        return Check(_TITLE, "fail", *(_elsewhere(wanted, ranks) if ranks else _missing(paths, known)), where)
    if known.kind != "embedding" and "/v1/embeddings" in paths and "/classify" not in paths:
        detail = f"{wanted} is there, but as a cosine: this model is served as one of embeddings"
        return Check(_TITLE, "fail", detail, f"missing: {_flags(known, '')}; ragops up gives them", where)
    return Check(_TITLE, "ok", f"{wanted} is one of {len(paths)} routes", "", where)


def unknown(detail: str, where: str) -> Check:
    """When there is no list of routes: RAGFlow's call tells by itself."""
    return Check(_TITLE, "skip", f"the server lists no routes ({detail})", "", where)


def _elsewhere(wanted: str, ranks: list[str]) -> tuple[str, str]:
    detail = f"wrong path: RAGFlow would call {wanted}, the server has {', '.join(ranks)}"
    return detail, "the base URL in RAGFlow ends in /v1 and nothing behind it"


def _missing(paths: Collection[str], known: Known) -> tuple[str, str]:
    give = "; ragops up gives them"
    if _GENERATES & set(paths):
        detail = f"no rerank route: the server writes text ({_shown(paths, '/v1/chat/completions')})"
        return detail, f"missing: {_flags(known, '--runner pooling')}{give}"
    if "/classify" in paths:
        detail = "no rerank route: the model is loaded as a classifier, and not of one label (/classify)"
        return detail, f"missing: {_flags(known, '--convert classify')}{give}"
    if "/v1/embeddings" in paths or "/embed" in paths:
        detail = "no rerank route: the server gives embeddings only (/v1/embeddings)"
        return detail, f"missing: {_flags(known, '--runner pooling')}{give}"
    if "/pooling" in paths:
        detail = "no rerank route: the model gives a vector for each token (/pooling)"
        return detail, f"missing: {_flags(known, '--convert classify')}{give}"
    detail = f"no rerank route: another kind of server, with {', '.join(sorted(paths)[:5]) or 'no routes'}"
    return detail, "is this the reranker's address? ragops status shows it"


def _flags(known: Known, first: str) -> str:
    """The flags that this kind of model needs; those of the model replace a bare ``--convert``."""
    overrides = f"--hf-overrides '{known.overrides}'" if known.overrides else ""
    template = f"--chat-template {known.template}" if known.template else ""
    own = [one for one in (overrides, template) if one]
    if first == "--convert classify" and own:
        first = ""
    return " ".join(one for one in (first, *own) if one) or "--runner pooling"


def _shown(paths: Collection[str], usual: str) -> str:
    return usual if usual in paths else min(_GENERATES & set(paths))
