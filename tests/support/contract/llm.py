"""The contract server's routes by which v0.24 and v0.25 take models; v0.26 has them too, and ignores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.contract import upstream
from tests.support.contract.state import Llm, done, failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.routing import Route

    from tests.support.contract.state import Call, ServerState

_SUFFIX = "___VLLM"
_NEEDED = ("asr_id", "embd_id", "img2txt_id", "llm_id")
_TAGS = "LLM,TEXT EMBEDDING,SPEECH2TEXT,MODERATION"


def routes(state: ServerState) -> Iterator[Route]:
    """Models; the defaults up to v0.25."""

    async def add(call: Call) -> Any:
        return await _add(state, call.body or {})

    async def mine(call: Call) -> Any:
        return done(_listed(state, details=call.parts.get("include_details") == "true"), message="success")

    async def delete(call: Call) -> Any:
        state.llms.pop(call.body["llm_name"], None)
        return done(data=True, message="success")

    async def factories(_: Call) -> Any:
        return done([{"name": "VLLM"}], message="success")

    yield state.route("POST", "/v1/llm/add_llm", add)
    yield state.route("GET", "/v1/llm/my_llms", mine)
    yield state.route("POST", "/v1/llm/delete_llm", delete)
    yield state.route("GET", "/v1/llm/factories", factories)


def tenant_routes(state: ServerState) -> Iterator[Route]:
    """The user's defaults: all of them are set at once."""

    async def read(_: Call) -> Any:
        return done({**state.tenant, "name": "ops's Kingdom", "role": "owner"}, message="success")

    async def write(call: Call) -> Any:
        if missing := [name for name in _NEEDED if name not in call.body]:
            content = f"required argument are missing: {','.join(missing)}; "
            return failed(content, 101, data=None)
        state.tenant |= call.body
        return done(data=True, message="success")

    if state.before("v0.25.1"):
        yield state.route("GET", "/v1/user/tenant_info", read)
        yield state.route("POST", "/v1/user/set_tenant_info", write)
    else:
        yield state.route("GET", "/api/v1/users/me/models", read)
        yield state.route("PATCH", "/api/v1/users/me/models", write)


async def _add(state: ServerState, body: dict[str, Any]) -> Any:
    name = body["llm_name"] + _SUFFIX
    saved = state.llms.get(name)
    key = body.get("api_key", saved.key if saved else "x")
    wrong = await _wrong(state, body, key)
    if body.get("verify"):
        return done({"message": wrong, "success": not wrong}, message="success")
    if wrong:
        return failed(wrong)
    number = saved.id if saved else len(state.llms) + 1
    state.llms[name] = Llm(number, body["model_type"], key, body["api_base"], body["max_tokens"])
    return done(data=True, message="success")


async def _wrong(state: ServerState, body: dict[str, Any], key: str) -> str:
    shown = f"VLLM/{body['llm_name']}"
    try:
        wrong = await upstream.tested(state, body["api_base"], key, body["llm_name"])
    except TimeoutError:
        return f"\nFail to access model({shown})."  # the reason of its limit is an empty text
    return f"\nFail to access model({shown}).{wrong}" if wrong else ""


def _listed(state: ServerState, *, details: bool) -> dict[str, Any]:
    rows = []
    for name, item in state.llms.items():
        row = {"id": item.id, "name": name, "status": "1", "type": item.type, "used_token": 0}
        if details:
            row |= {"api_base": item.url, "is_tools": False, "max_tokens": item.max_tokens}
        rows.append(row)
    return {"VLLM": {"llm": rows, "tags": _TAGS}} if rows else {}
