"""What the contract server does otherwise as RAGFlow v1.0, whose server and client are in Go.

Read in the main branch's state of 2026-08-22, never recorded: lines are those of
internal/service/model_service.go where no other file is named. PR 19908 of 2026-09-20
(``ServerState.falls_back``) is known by its title alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from ragops.ragflow.request import RerankRequest
from tests.support.contract import upstream
from tests.support.contract.providers import CONNECTION, INSTANCES, ONE, Handlers, made_model
from tests.support.contract.state import Instance, done, failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.contract.state import Call, ServerState

_NO_MODELS = "no models found for provider"


class GoError(Exception):
    """An error of its client, in the words of Go."""


def scores(
    state: ServerState, url: str, key: str, model: str, query: str, texts: Sequence[str]
) -> list[float]:
    """Scores in the order of the texts (internal/entity/models/vllm.go:343-432).

    A response without results is no error: each score is 0 then.

    Raises:
        GoError: As its client fails.
    """
    request = RerankRequest(model, query, tuple(texts), state.release.client, key)
    where = f"{url.removesuffix('/')}/rerank"
    try:
        reply = httpx.post(
            where,
            content=request.body(),
            headers=request.headers(),
            timeout=state.release.timeout,
            trust_env=False,
            verify=upstream.PLAIN,
        )
    except httpx.TimeoutException:
        msg = f'failed to send request: Post "{where}": net/http: timeout awaiting response headers'
        raise GoError(msg) from None
    except httpx.UnsupportedProtocol:
        msg = f'failed to send request: Post "{where}": unsupported protocol scheme ""'
        raise GoError(msg) from None
    except httpx.HTTPError as error:
        address = f"{httpx.URL(where).host}:{httpx.URL(where).port}"
        why = f"dial tcp {address}: connect: connection refused"
        if "refused" not in str(error):
            why = f"dial tcp: lookup {httpx.URL(where).host} on 127.0.0.11:53: no such host"
        msg = f'failed to send request: Post "{where}": {why}'
        raise GoError(msg) from None
    if reply.status_code != httpx.codes.OK:
        msg = f"vLLM rerank API error: {reply.status_code} {reply.reason_phrase}, body: {reply.text}"
        raise GoError(msg)
    try:
        results = reply.json().get("results") or []
    except ValueError:
        msg = f"failed to parse response: invalid character {reply.text[:1]!r} looking for beginning of value"
        raise GoError(msg) from None
    scores = [0.0] * len(texts)
    for row in results:
        scores[row["index"]] = row["relevance_score"]
    return scores


def shown(error: GoError) -> str:
    """An error of the test of a registration; of a body, its ``message`` where it has one (:1181-1205)."""
    text = str(error)
    try:
        body = json.loads(text[text.rindex("{") : text.rindex("}") + 1])
        return str(body["message"])
    except (ValueError, KeyError):
        return text


def retrieve(state: ServerState, model: tuple[str, str, str] | str, question: str, texts: list[str]) -> Any:
    """A search in datasets (internal/service/dataset/search.go); after a failed rerank each score is 0.

    ``RerankByModel`` in internal/service/nlp/reranker.go: at weight 1 the rerank score is the similarity.
    """
    if isinstance(model, str):
        return failed(f"failed to get rerank model by rerank_id: {model}")
    try:
        ranks = upstream.normalised(scores(state, *model, question, texts))
    except GoError as error:
        if not state.falls_back:
            return failed(f"retrieval search failed: {error}")
        ranks = [0.0] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: -ranks[index])
    rows = [
        {"content": texts[item], "similarity": ranks[item], "vector_similarity": ranks[item]}
        for item in order
    ]
    return done({"chunks": rows, "doc_aggs": [], "labels": {}, "total": len(rows)})


async def _add_provider(state: ServerState, call: Call) -> Any:
    """A provider that exists is no error (:171-205)."""
    state.provider = call.body["provider_name"]
    return done(message="success")


async def _show(state: ServerState, call: Call) -> Any:
    """The key in clear; the provider is looked up in lower case (:802-865)."""
    item = state.instances.get(call.parts["instance"])
    if not state.provider or state.case_sensitive:
        return failed("no provider found for provider 'vllm'")
    if item is None:
        return failed(f"no instance found for provider 'vllm' and instance {_quoted(call)}")
    row = {"id": item.id, "instance_name": item.name, "region": "", "status": "active"}
    return done({**row, "base_url": item.url, "api_key": item.key}, message="success")


def _quoted(call: Call) -> str:
    return f"'{call.parts['instance']}'"


async def _models(state: ServerState, call: Call) -> Any:
    """The database's words for what it has not (:2209-2285, internal/handler/providers.go:655)."""
    item = state.instances.get(call.parts["instance"])
    if item is None:
        return failed("record not found", 404)
    rows = [
        {
            "name": model.name,
            "model_type": model.types,
            "max_tokens": model.max_tokens,
            "status": model.status,
            "verify": "unknown",
            "features": [],
        }
        for model in item.models.values()
    ]
    return done(rows, message="success")


async def _create(state: ServerState, call: Call) -> Any:
    """Neither tested nor normalized, and a name that exists is not looked for (:546-641)."""
    body, name = call.body, call.body["instance_name"]
    if not state.provider:
        return failed("provider 'VLLM' does not exist", 500)
    if name in state.instances:
        where = f"provider 'VLLM' and instance '{name}'"
        return failed(f"model '{body['model_info'][0]['model_name']}' already exists for {where}", 500)
    item = Instance(state.number(), name, body.get("api_key") or "x", body["base_url"])
    item.models = {info["model_name"]: made_model(state, info) for info in body["model_info"]}
    state.instances[name] = item
    return done(message="success")


async def _update(state: ServerState, call: Call) -> Any:
    """Models that are not named are removed, a disabled one stays so; nothing is tested (:1915-2065)."""
    body, item = call.body, state.instances.get(call.parts["instance"])
    if item is None:
        return failed(f"no instance found for provider 'VLLM' and instance {_quoted(call)}", 404)
    item.key, item.url = body.get("api_key") or "x", body["base_url"] or item.url
    infos = {info["model_name"]: made_model(state, info) for info in body["model_info"]}
    for name in infos.keys() & item.models.keys():
        infos[name].id, infos[name].status = item.models[name].id, item.models[name].status
    item.models = infos
    return done(message="success")


async def _delete(state: ServerState, call: Call) -> Any:
    """One unknown name, and nothing is deleted (:2068-2138)."""
    names = call.body["instances"]
    if unknown := [name for name in names if name not in state.instances]:
        return failed(f'no instance found for provider "VLLM" and instances {unknown}', 404)
    for name in names:
        del state.instances[name]
    return done(message="success")


async def _connection(state: ServerState, call: Call) -> Any:
    """One rerank of "test" for each model, without a limit of its own (:922-976, 1033-1178)."""
    body = call.body
    if not body.get("base_url"):
        return failed("base_url is required for local provider VLLM")
    errors = []
    for info in body.get("model_info") or ():
        try:
            scores(state, body["base_url"], body.get("api_key") or "", info["model_name"], "test", ("test",))
        except GoError as error:
            errors.append(shown(error))
        else:
            return done(message="success")
    reasons = "\n".join(errors)
    return failed(f"model verification attempts failed: {reasons}" if errors else _NO_MODELS, 500)


HANDLERS: Handlers = {
    ("PUT", "/api/v1/providers"): _add_provider,
    ("GET", ONE): _show,
    ("GET", ONE + "/models"): _models,
    ("POST", INSTANCES): _create,
    ("PUT", ONE): _update,
    ("DELETE", INSTANCES): _delete,
    ("POST", CONNECTION): _connection,
}
"""What replaces the handlers of v0.27."""
