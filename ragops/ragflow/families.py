"""The routes by which each release of RAGFlow takes a model; pure.

:class:`AddLlm` is v0.18 to v0.25, :class:`Providers` v0.26 and later. Recorded on RAGFlow's own
servers for v0.25.6 and v0.27.0; read in the source for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragops.ragflow.answers import Reply, Request
from ragops.ragflow.register import PROVIDER, Entry, Family, Seen, Wanted, chat_reads, chats_seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ragops.ragflow.releases import Release

_MODELS = "/v1/llm/my_llms?include_details=true"
_SUFFIX = f"___{PROVIDER}"
_PROVIDERS = "/api/v1/providers"
_INSTANCES = f"{_PROVIDERS}/{PROVIDER}/instances"
_USER = "/api/v1/users/me/models"
_TENANT = ("tenant_id", "asr_id", "embd_id", "img2txt_id", "llm_id")


@dataclass(frozen=True)
class AddLlm(Family):
    """``/v1/llm/add_llm``: sending a model again updates it; its test call comes before it is written."""

    release: Release

    def reads(self, wanted: Wanted) -> tuple[Request, ...]:
        """The user's models, the defaults, the chats."""
        models = Request("GET", _MODELS, why="read the models")
        defaults = Request("GET", self._defaults, why="read the defaults")
        return (models, defaults, *chat_reads(self.release, wanted.chats))

    def seen(self, wanted: Wanted, replies: Mapping[str, Reply]) -> Seen:
        """Names carry a suffix here; the key is told nowhere."""
        models = ((replies[_MODELS].data or {}).get(PROVIDER) or {}).get("llm") or []
        tenant = replies[self._defaults].data or {}
        same = (one for one in models if one.get("name") in {wanted.model, wanted.model + _SUFFIX})
        return Seen(
            entry=next((_model_entry(one) for one in same), None),
            provider=bool(models),
            default=str(tenant.get("rerank_id") or ""),
            chats=chats_seen(self.release, wanted.chats, replies),
            tenant={name: str(tenant.get(name) or "") for name in _TENANT},
        )

    def enter(self, wanted: Wanted, seen: Seen) -> Iterator[Request]:
        """One call, which tests the model first."""
        del seen
        body = {
            "llm_factory": PROVIDER,
            "model_type": "rerank",
            "llm_name": wanted.model,
            "api_base": wanted.address,
            "api_key": wanted.key,
            "max_tokens": wanted.max_tokens,
        }
        yield Request("POST", "/v1/llm/add_llm", body, f"enter {wanted.model} at {wanted.address}")

    def default(self, model_id: str, seen: Seen) -> Request:
        """All the other defaults are sent back as they were read: RAGFlow refuses to keep them."""
        body = {**seen.tenant, "rerank_id": model_id}
        method = "PATCH" if self.release.default == self._defaults else "POST"
        return Request(method, self.release.default, body, f"make {model_id or 'no model'} the default")

    def restore(self, model_id: str, seen: Seen) -> tuple[Request, ...]:
        """As it is set; empty is none."""
        return (self.default(model_id, seen),)

    def replaced(self, model: str) -> tuple[Request, ...]:
        """A model of another name is another entry."""
        body = {"llm_factory": PROVIDER, "llm_name": model + _SUFFIX}
        return (Request("POST", "/v1/llm/delete_llm", body, f"remove {model}"),)

    def remove(self, wanted: Wanted, seen: Seen, *, provider: bool) -> Iterator[Request]:
        """One call; there is no provider apart from its models."""
        del provider
        if seen.entry is not None:
            yield from self.replaced(wanted.model)

    @property
    def _defaults(self) -> str:
        """Where the defaults are read."""
        return self.release.default.replace("set_tenant_info", "tenant_info")


@dataclass(frozen=True)
class Providers(Family):
    """``/api/v1/providers``: a model is part of an instance of a provider."""

    release: Release

    def reads(self, wanted: Wanted) -> tuple[Request, ...]:
        """The providers, our instance and its models, the default, the chats."""
        instance = f"{_INSTANCES}/{wanted.instance}"
        return (
            Request("GET", _PROVIDERS, why="read the providers"),
            Request("GET", _INSTANCES, why="read the instances"),
            Request("GET", instance, why="read the instance"),
            Request("GET", f"{instance}/models", why="read its models"),
            Request("GET", self.release.default, why="read the default"),
            Request("GET", _USER, why="read whose models they are"),
            *chat_reads(self.release, wanted.chats),
        )

    def seen(self, wanted: Wanted, replies: Mapping[str, Reply]) -> Seen:
        """An instance by name shows its key, which is compared and forgotten."""
        instance = f"{_INSTANCES}/{wanted.instance}"
        listed = replies[_PROVIDERS].data or []
        defaults = (replies[self.release.default].data or {}).get("models") or []
        return Seen(
            entry=_instance_entry(wanted, replies[instance].data, replies[f"{instance}/models"].data),
            provider=any(one.get("name") == PROVIDER for one in listed),
            default=next((_composed(one) for one in defaults if one.get("model_type") == "rerank"), ""),
            chats=chats_seen(self.release, wanted.chats, replies),
            siblings=tuple(name for name in _names(replies[_INSTANCES].data) if name != wanted.instance),
            tenant={"tenant_id": str((replies[_USER].data or {}).get("tenant_id") or "")},
        )

    def enter(self, wanted: Wanted, seen: Seen) -> Iterator[Request]:
        """Add the provider, test the connection where that is offered, then make or update the instance.

        POST of an instance that is there makes an empty second one, so it is never sent for one.
        """
        where = f"{wanted.model} at {wanted.address}"
        if not seen.provider:
            yield Request("PUT", _PROVIDERS, {"provider_name": PROVIDER}, f"add the provider {PROVIDER}")
        tests = self.release.registration == "provider-with-connection-test"
        if tests:
            body = {**_connection(wanted), "model_info": [_info(wanted)]}
            yield Request("POST", f"{_PROVIDERS}/{PROVIDER}/connection", body, f"test {where}")
        whole = {
            "instance_name": wanted.instance,
            **_connection(wanted),
            "region": "",
            "model_info": [{**_info(wanted), "extra": {}} if tests and seen.entry else _info(wanted)],
        }
        if seen.entry is not None and tests:
            yield Request("PUT", f"{_INSTANCES}/{wanted.instance}", whole, f"update {where}")
            return
        if seen.entry is not None:
            yield Request("DELETE", _INSTANCES, {"instances": [wanted.instance]}, "remove the old instance")
        yield Request("POST", _INSTANCES, whole, f"enter {where}")

    def default(self, model_id: str, seen: Seen) -> Request:
        """By the parts of the id."""
        del seen
        name, instance, provider = model_id.rsplit("@", 2)
        body = {
            "model_type": "rerank",
            "model_provider": provider,
            "model_instance": instance,
            "model_name": name,
        }
        return Request("PATCH", self.release.default, body, f"make {model_id} the default")

    def restore(self, model_id: str, seen: Seen) -> tuple[Request, ...]:
        """None can't be set: the default goes with the model. An id of an old release names nothing."""
        return (self.default(model_id, seen),) if model_id.count("@") >= 2 else ()

    def replaced(self, model: str) -> tuple[Request, ...]:
        """Entering another model replaces what is in the instance."""
        del model
        return ()

    def remove(self, wanted: Wanted, seen: Seen, *, provider: bool) -> Iterator[Request]:
        """The instance by its name alone: one unknown name in the list and nothing is deleted.

        What the user has added to it stays, and so does a provider that has other instances.
        """
        entry = seen.entry
        if entry is not None and entry.others:
            models = {"model_name": [wanted.model]}
            where = f"{_INSTANCES}/{wanted.instance}/models"
            yield Request("DELETE", where, models, f"remove {wanted.model}")
            return
        if entry is not None:
            instances = {"instances": [wanted.instance]}
            yield Request("DELETE", _INSTANCES, instances, f"remove instance {wanted.instance}")
        if provider and seen.provider and not seen.siblings:
            yield Request("DELETE", f"{_PROVIDERS}/{PROVIDER}", None, f"remove the provider {PROVIDER}")


def family(release: Release) -> Family:
    """The routes of a release."""
    return AddLlm(release) if release.registration == "add_llm" else Providers(release)


def _model_entry(raw: Mapping[str, Any]) -> Entry:
    kind = raw.get("type")
    others = () if kind == "rerank" else (f"{raw.get('name')} as {kind}",)
    return Entry(str(raw.get("api_base") or ""), raw.get("max_tokens"), None, others, model=not others)


def _instance_entry(wanted: Wanted, instance: Any, models: Any) -> Entry | None:
    if not isinstance(instance, dict):
        return None
    listed = {one.get("name"): one for one in models or []}
    key = instance.get("api_key")
    return Entry(
        address=str(instance.get("base_url") or ""),
        max_tokens=(listed.get(wanted.model) or {}).get("max_tokens"),
        same_key=None if key is None else key == wanted.key.reveal(),
        others=tuple(str(name) for name in listed if name != wanted.model),
        model=wanted.model in listed,
    )


def _names(instances: Any) -> tuple[str, ...]:
    return tuple(str(one.get("instance_name")) for one in instances or [])


def _connection(wanted: Wanted) -> dict[str, Any]:
    return {"api_key": wanted.key, "base_url": wanted.address}


def _info(wanted: Wanted) -> dict[str, Any]:
    """The type must be a list: of a text RAGFlow takes every letter for a type."""
    return {"model_name": wanted.model, "model_type": ["rerank"], "max_tokens": wanted.max_tokens}


def _composed(raw: Mapping[str, Any]) -> str:
    return "@".join(str(raw.get(f"model_{part}") or "") for part in ("name", "instance", "provider"))
