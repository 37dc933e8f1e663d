"""The contract server's routes that use a model: chats, datasets, and a retrieval that it ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.contract import golang, upstream
from tests.support.contract.state import done, failed, unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.routing import Route

    from tests.support.contract.state import Call, ServerState

_MISSING = "doesn't exist"
_OF_OTHERS = [{"id": "of-another", "tenant_id": "another", "rerank_id": "qwen3-reranker-0.6b___VLLM@VLLM"}]
"""v0.25.6 lists the chats of the whole team."""


def routes(state: ServerState) -> Iterator[Route]:
    """The list of chats, an update and an answer of one; a retrieval."""
    old = state.before("v0.25.0")

    async def listed(call: Call) -> Any:
        page, size = int(call.parts.get("page", 1)), int(call.parts.get("page_size", 30))
        names = list(state.chats)[(page - 1) * size : page * size]
        rows = [_old_row(state, name) if old else _row(state, name) for name in names]
        if not old and page == 1:
            rows += _OF_OTHERS[: state.release.name == "v0.25.6"]
        return done(rows if old else {"chats": rows, "total": len(state.chats)})

    async def complete(call: Call) -> Any:
        """One that names a removed model fails each time."""
        body = {"question": call.body["question"], "dataset_ids": list(state.datasets)}
        return await _retrieve(state, {**body, "rerank_id": state.chats[call.parts["chat"]]})

    async def update(call: Call) -> Any:
        return _old_update(state, call) if old else _update(state, call)

    async def retrieve(call: Call) -> Any:
        return await _retrieve(state, call.body)

    yield state.route("GET", "/api/v1/chats", listed)
    yield state.route("PUT" if old else "PATCH", "/api/v1/chats/{chat}", update)
    yield state.route("POST", "/api/v1/chats/{chat}/completions", complete)
    yield state.route("POST", state.release.search, retrieve)


def _row(state: ServerState, name: str) -> dict[str, Any]:
    return {"id": name, "tenant_id": state.tenant["tenant_id"], "rerank_id": state.chats[name]}


def _old_row(state: ServerState, name: str) -> dict[str, Any]:
    datasets = [{"id": item} for item in state.chat_datasets.get(name, ())]
    return {"id": name, "prompt": {"rerank_model": state.chats[name]}, "datasets": datasets}


def _update(state: ServerState, call: Call) -> Any:
    name, rerank_id = call.parts["chat"], call.body["rerank_id"]
    if name not in state.chats:
        return failed("no authorization" if state.go else "No authorization.", 109, data=False)
    if rerank_id and isinstance(_model(state, rerank_id), str):
        return failed(f"`rerank_id` {rerank_id} {_MISSING}")
    state.chats[name] = rerank_id
    return done({"id": name, "rerank_id": rerank_id}, message="success")


def _old_update(state: ServerState, call: Call) -> Any:
    name, rerank_id = call.parts["chat"], call.body["prompt"]["rerank_model"]
    if name not in state.chats:
        return failed("You do not own the chat")
    state.chat_datasets[name] = call.body.get(
        "dataset_ids", []
    )  # v0.24.0 api/apps/sdk/chat.py: none are left
    if rerank_id and rerank_id not in state.llms:  # the name as it is kept, and no other form of it
        return failed(f"`rerank_model` {rerank_id} {_MISSING}")
    state.chats[name] = rerank_id
    return done()


async def _retrieve(state: ServerState, body: dict[str, Any]) -> Any:
    """Ordered by the reranker alone when it is named; a failure of it is RAGFlow's own."""
    texts = [text for name in body["dataset_ids"] for text in state.datasets.get(name, ())]
    if not any(name in state.datasets for name in body["dataset_ids"]):
        missing = body["dataset_ids"][0]
        only_owner = f"only owner of dataset {missing} is authorized for this operation"
        return failed(only_owner if state.go else f"You don't own the dataset {missing}")
    if not state.before("v0.27.1"):  # rag/nlp/search.py:744-748 on 2026-09-24
        count = body.get("rerank_candidates_count", 64)
        shown = body.get("page", 1) * body.get("page_size", 30)
        if shown > count:
            words = f"rerank_candidates_count({count}) must be greater than page * page_size({shown})"
            return failed(f"Exception('{words} to ensure correct pagination.')", 100, data=None)
        texts = texts[:count]
    if not texts or not body.get("rerank_id"):  # neither the reranker nor the user's default is asked
        return done({"chunks": [{"content": text} for text in texts], "total": len(texts)})
    ranked, target = golang.retrieve if state.go else _ranked, _model(state, body["rerank_id"])
    try:
        return ranked(state, target, body["question"], _fitted(state, target, body["question"], texts))
    except ValueError as error:
        return failed(repr(error), 100, data=None)


def _fitted(state: ServerState, target: Any, question: str, texts: list[str]) -> list[str]:
    """Documents within the registered limit, by words (rag/llm/rerank_model.py:80-89, PR 19404).

    Raises:
        ValueError: One is longer, in the mode that refuses it.
    """
    if isinstance(target, str):
        return texts
    models = [model for item in state.instances.values() for model in item.models.values()]
    mode = state.release.over_limit
    mode = mode if mode == "passthrough" else state.token_limit_mode or mode
    limit = next((model.max_tokens for model in models if model.name == target[2]), 8196)
    room = max(limit - len(question.split()), 0)
    if mode == "truncate":
        return [" ".join(text.split()[:room]) for text in texts]
    for index, text in enumerate(texts if mode == "raise_error" else ()):
        if (tokens := limit - room + len(text.split())) > limit:
            words = f"Rerank input at document index {index} has {tokens} tokens"
            raise ValueError(f"{words}, exceeding the configured maximum of {limit}")
    return texts


def _ranked(state: ServerState, target: tuple[str, str, str] | str, question: str, texts: list[str]) -> Any:
    if isinstance(target, str):
        return failed(f"LookupError('{target}')", 100, data=None)
    url, key, model = target
    try:
        # on the event loop, as RAGFlow does from v0.22.1 on (api/ragflow_server.py): other requests wait
        ranks = upstream.scores(state, url, key, model, question, texts)
    except upstream.ClientError as error:
        if error.status == 401:
            return unauthorized(
                "Unauthorized"
            )  # a reranker that refuses RAGFlow's key looks like a wrong token
        return failed(f"{error.kind}({str(error)!r})", 100, data=None)
    order = sorted(range(len(texts)), key=lambda index: -ranks[index])
    return done({"chunks": [{"content": texts[item], "similarity": ranks[item]} for item in order]})


def _model(state: ServerState, rerank_id: str) -> tuple[str, str, str] | str:
    """Address, key and name of a model; a text when the id names none."""
    return _by_name(state, rerank_id) if state.before("v0.26.0") else _by_parts(state, rerank_id)


def _by_name(state: ServerState, rerank_id: str) -> tuple[str, str, str] | str:
    name = rerank_id.removesuffix("@VLLM")
    if name + "___VLLM" in state.llms and rerank_id != name:
        name += "___VLLM"
    item = state.llms.get(name)
    if item is None or item.type != "rerank":
        if state.before("v0.25.0"):
            return f"Model({rerank_id}) not authorized"
        return f"Tenant Model with name {rerank_id} and type rerank not found"
    return item.url, item.key, name


def _by_parts(state: ServerState, rerank_id: str) -> tuple[str, str, str] | str:
    for item in state.instances.values():
        for model in item.models.values():
            if model.id == rerank_id and not state.before("v0.27.0"):
                return item.url, item.key, model.name
    name, *rest = rerank_id.split("@") if state.before("v0.26.4") else rerank_id.rsplit("@", 2)
    if not rest:
        return f"Provider  not found for model {rerank_id}."
    instance = rest[0] if len(rest) > 1 else _only(state)
    if instance not in state.instances:
        return f"Instance {instance} not found for model {rerank_id}."
    target = state.instances[instance]
    if name not in target.models or "rerank" not in target.models[name].types:
        return f"Model {rerank_id} not found for model rerank"
    if target.models[name].status != "active":
        return f"Model {rerank_id} is disabled."
    return target.url, target.key, name


def _only(state: ServerState) -> str:
    """The instance that an id without one means."""
    if state.before("v0.26.3") or len(state.instances) != 1:
        return "default"
    return next(iter(state.instances))
