"""The contract server's routes by which v0.26 and later take models: providers, instances, models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.contract import upstream
from tests.support.contract.state import Instance, Model, done, failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.routing import Route

    from tests.support.contract.state import Call, ServerState

_BASE = "/api/v1/providers"
INSTANCES = _BASE + "/{provider}/instances"
ONE = INSTANCES + "/{instance}"
CONNECTION = _BASE + "/{provider}/connection"
_MODEL_KEYS = {"model_name", "model_type", "max_tokens", "extra"}
_BROKEN = "Internal server error"
_COLUMN = 128
"""Letters of a name that the database keeps."""


Handlers = dict[tuple[str, str], Any]


def handlers(state: ServerState) -> Handlers:
    """Those of the release, by method and path."""
    rows: Handlers = {
        ("GET", _BASE): _providers,
        ("PUT", _BASE): _add_provider,
        ("DELETE", _BASE + "/{provider}"): _delete_provider,
        ("GET", INSTANCES): _instances,
        ("POST", INSTANCES): _create,
        ("DELETE", INSTANCES): _delete,
        ("GET", ONE): _show,
        ("GET", ONE + "/models"): _models,
        ("POST", ONE + "/models"): _add_model,
        ("PATCH", ONE + "/models/{model:path}"): _change_model,
        ("POST", CONNECTION): _connection,
        ("GET", "/api/v1/models"): _all_models,
        ("GET", "/api/v1/models/default"): _default,
        ("PATCH", "/api/v1/models/default"): _set_default,
    }
    if not state.before("v0.27.0"):
        rows |= {("PUT", ONE): _update, ("DELETE", ONE + "/models"): _delete_models}
    return rows


def routes(state: ServerState, rows: Handlers) -> Iterator[Route]:
    """The routes with these handlers."""

    def bound(handler: Any) -> Any:
        async def answer(call: Call) -> Any:
            return await handler(state, call)

        return answer

    for (method, path), handler in rows.items():
        yield state.route(method, path, bound(handler))


async def _providers(state: ServerState, _: Call) -> Any:
    return done([{"has_instance": bool(state.instances), "name": "VLLM"}] if state.provider else [])


async def _add_provider(state: ServerState, call: Call) -> Any:
    name = (call.body or {}).get("provider_name")
    if not name:
        return failed("provider_name is required", 101)
    if name != "VLLM":
        return failed(f"Provider '{name}' is not allowed")
    if state.provider:
        return failed("Provider VLLM already exists")
    state.provider = name
    return done()


async def _delete_provider(state: ServerState, _: Call) -> Any:
    state.provider, state.instances = "", {}
    return done()


async def _instances(state: ServerState, _: Call) -> Any:
    if not state.provider:
        return failed("No provider found for provider 'VLLM'")
    return done([_row(item) for item in reversed(state.instances.values())])


async def _show(state: ServerState, call: Call) -> Any:
    item = state.instances.get(call.parts["instance"])
    if item is None:
        return _unknown(call.parts["instance"])
    return done({**_row(item), "api_key": item.key, "base_url": item.url})  # the key in clear


async def _create(state: ServerState, call: Call) -> Any:
    body, name = call.body, call.body["instance_name"]
    named_only = set(body) == {"instance_name"} and not state.before("v0.27.0")
    key, infos = body.get("api_key") or "x", body.get("model_info") or []
    if refusal := _refusal(state, name, key, infos, named_only=named_only):
        return failed(refusal)
    if not named_only and (wrong := await _wrong(state, key, body["base_url"], infos)):
        return failed(wrong)
    made = _free_name(state, name)[:_COLUMN]
    state.instances[made] = Instance(state.number(), made, key, _normalised(body.get("base_url", "")))
    return _filled(state, name, infos)


def _refusal(
    state: ServerState, name: str, key: str, infos: list[dict[str, Any]], *, named_only: bool
) -> str:
    if not state.provider:
        return "Provider 'VLLM' does not exist"
    if name == "default":
        return "Instance name cannot be 'default'"
    if not infos and not named_only:
        return "No models found for provider 'VLLM'"
    if state.release.name == "v0.26.0" and any(item.key == key for item in state.instances.values()):
        return "Already exist instance with the same api key"
    return ""


def _filled(state: ServerState, name: str, infos: list[dict[str, Any]]) -> Any:
    """Put the models into the instance that was named, which need not be the one just made."""
    if any(set(info) - _MODEL_KEYS for info in infos):
        return failed(_BROKEN)  # and the empty instance stays
    if name not in state.instances:
        return _unknown(name)  # it was cut, and the empty instance stays
    models = state.instances[name].models
    for info in infos:
        if info["model_name"] in models:
            where = f"provider 'VLLM' and instance '{name}'"
            return failed(f"Model '{info['model_name']}' already exists for {where}")
        models[info["model_name"]] = made_model(state, info, verify="success")
    return done()


async def _update(state: ServerState, call: Call) -> Any:
    body, old = call.body, call.parts["instance"]
    needed = ("instance_name", "api_key", "base_url", "model_info")
    if missing := [name for name in needed if name not in body]:
        return failed(f"Missing required fields: {', '.join(missing)}", 101)
    if old not in state.instances:
        return _unknown(old)
    verify, infos = body.get("verify", True), body["model_info"]
    key = body["api_key"] or "x"
    if verify and (wrong := await _wrong(state, key, body["base_url"], infos)):
        return failed(wrong)
    item = state.instances[old]
    item.name, item.key, item.url = body["instance_name"], key, _normalised(body["base_url"])
    state.instances = {each.name: each for each in state.instances.values()}
    if not verify and any(info["model_name"] in item.models and "extra" not in info for info in infos):
        return failed(_BROKEN)  # and the new address and key stay
    fresh = {
        info["model_name"]: made_model(state, info, verify="success" if verify else "unknown")
        for info in infos
    }
    for name in fresh.keys() & item.models.keys():
        fresh[name].id, fresh[name].status = item.models[name].id, item.models[name].status
    item.models = fresh
    return done()


async def _delete(state: ServerState, call: Call) -> Any:
    names = call.body["instances"]
    if unknown := [name for name in names if name not in state.instances]:
        return failed(f"No instance found for provider 'VLLM' and instance '{unknown}'")
    for name in names:
        del state.instances[name]  # also one that a chat or the default names
    return done()


async def _models(state: ServerState, call: Call) -> Any:
    item = state.instances.get(call.parts["instance"])
    if item is None:
        return _unknown(call.parts["instance"])
    return done([_model_row(model) for model in item.models.values()])


async def _add_model(state: ServerState, call: Call) -> Any:
    item, body = state.instances[call.parts["instance"]], call.body
    kind = body["model_type"]
    info = {**body, "model_type": [kind] if isinstance(kind, str) else kind}
    item.models[body["model_name"]] = made_model(state, info)  # never tested
    return done()


async def _delete_models(state: ServerState, call: Call) -> Any:
    item = state.instances[call.parts["instance"]]
    for name in call.body["model_name"]:
        del item.models[name]
    return done()


async def _change_model(state: ServerState, call: Call) -> Any:
    state.instances[call.parts["instance"]].models[call.parts["model"]].status = call.body["status"]
    return done()


async def _all_models(state: ServerState, call: Call) -> Any:
    kind = call.parts.get("type")
    rows = [
        {
            "instance_id": item.id,
            "instance_name": item.name,
            "model_id": model.id,
            "model_type": model.types,
            "name": model.name,
            "provider_name": "VLLM",
        }
        for item in reversed(state.instances.values())
        for model in item.models.values()
        if kind in {None, *model.types}
    ]
    return done(rows)


async def _default(state: ServerState, _: Call) -> Any:
    """The default, hidden while its model is gone or disabled: it comes back with the name."""
    name, instance, provider = (*(state.tenant.get("rerank_id") or "").rsplit("@", 2), "", "")[:3]
    item = state.instances.get(instance)
    if item is None or name not in item.models or item.models[name].status != "active":
        return done({"models": []})
    row = {"enable": True, "model_instance": instance, "model_name": name, "model_provider": provider}
    if not state.before("v0.27.0"):
        row["model_id"] = state.tenant.get("tenant_rerank_id")
    return done({"models": [{**row, "model_type": "rerank"}]})


async def _set_default(state: ServerState, call: Call) -> Any:
    body, by_id = call.body, call.body.get("model_id", "")
    names = [body.get(f"model_{part}", "") for part in ("name", "instance", "provider")]
    if not by_id and not all(names):
        if any(names) and state.before("v0.27.0"):
            return failed("model_provider, model_instance and model_name must be specified together")
        return _new_default(state, None, "")
    for instance, model in _pairs(state):
        if by_id == model.id or (not by_id and names[:2] == [model.name, instance.name]):
            unfit = "available" * (model.status != "active") or "a rerank model" * (
                "rerank" not in model.types
            )
            rerank_id = f"{model.name}@{instance.name}@VLLM"
            return (
                failed(f"Model '{model.name}' isn't {unfit}")
                if unfit
                else _new_default(state, model.id, rerank_id)
            )
    known = by_id or names[1] in state.instances
    return failed(_BROKEN if known else f"Instance '{names[1]}' not found for provider '{names[2]}'")


def _new_default(state: ServerState, model_id: str | None, rerank_id: str) -> Any:
    state.tenant |= {"rerank_id": rerank_id} | (
        {} if state.before("v0.27.0") else {"tenant_rerank_id": model_id}
    )
    return done()


async def _connection(state: ServerState, call: Call) -> Any:
    body = call.body
    infos = body.get("model_info") or await upstream.listed(body["base_url"], body.get("api_key", ""))
    wrong = await _wrong(state, body.get("api_key") or "x", body["base_url"], infos)
    return failed(wrong) if wrong else done()


async def _wrong(state: ServerState, key: str, url: str, infos: list[dict[str, Any]]) -> str:
    """What the test finds; it ends with the first model that passes."""
    content = ""
    for info in infos:
        for kind in info["model_type"]:  # of a text, each letter
            if kind not in {"rerank", "embedding"}:
                continue
            shown = f"VLLM/{info['model_name']}"
            try:
                wrong = await upstream.tested(state, _normalised(url), key, info["model_name"])
            except TimeoutError:
                content += f"\nTimeout accessing model({shown})."
                continue
            if not wrong:
                return ""
            content += f"\nFail to access model({shown}).{wrong}"
    return content or "No model passed verification"


def _normalised(url: str) -> str:
    plain = url.strip().rstrip("/")
    return plain if plain.endswith("/v1") else f"{plain}/v1"


def _free_name(state: ServerState, name: str) -> str:
    taken, number = name, 0
    while taken in state.instances:
        number += 1
        taken = f"{name}({number})"
    return taken


def made_model(state: ServerState, info: dict[str, Any], *, verify: str = "") -> Model:
    extra = {"max_tokens": info["max_tokens"], **({"verify": verify} if verify else {})}
    return Model(state.number(), info["model_name"], list(info["model_type"]), info["max_tokens"], extra)


def _model_row(model: Model) -> dict[str, Any]:
    return {
        "extra": model.extra,
        "features": [],
        "max_tokens": model.max_tokens,
        "model_type": model.types,
        "name": model.name,
        "rank": 500,
        "status": model.status,
        "verify": model.extra.get("verify", "unknown"),
    }


def _row(item: Instance) -> dict[str, Any]:
    return {"id": item.id, "instance_name": item.name, "region": "", "status": "active"}


def _pairs(state: ServerState) -> Iterator[tuple[Instance, Model]]:
    for item in state.instances.values():
        for model in item.models.values():
            yield item, model


def _unknown(name: str) -> dict[str, Any]:
    return failed(f"No instance found for provider 'VLLM' and instance '{name}'")
