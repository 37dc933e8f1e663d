"""The requests that register a model in RAGFlow, and the settings that RAGFlow reports; pure.

:class:`RegistrationSpec` is the entry that RAGFlow should have, :class:`RagflowState` its current settings,
:func:`changes` the requests between them. The routes depend on the release: :class:`LlmApi` is v0.24 to
v0.25, :class:`ProviderApi` v0.26 and later. Recorded on RAGFlow's own servers for v0.25.6 and v0.27.0; read
in the source for the others. ``ragops.stack.registration`` sends the requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.api import Request, Response, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ragops.ragflow.releases import Release

PROVIDER = "VLLM"

INSTANCE = "ragops"
"""Name of the provider instance that ragops creates, from v0.26 on."""

DEFAULT_KEY = Secret("ragops-rerank")
"""Sent where the reranker checks no key: RAGFlow needs one, and v0.26.0 accepts no key twice."""

_MODELS = "/v1/llm/my_llms?include_details=true"
_SUFFIX = f"___{PROVIDER}"
_TENANT = ("tenant_id", "asr_id", "embd_id", "img2txt_id", "llm_id")
_PROVIDERS = "/api/v1/providers"
_INSTANCES = f"{_PROVIDERS}/{PROVIDER}/instances"
_USER = "/api/v1/users/me/models"


@dataclass(frozen=True)
class RegistrationSpec:
    """The model entry to register in RAGFlow, and the settings that should use it."""

    model: str
    """Name under which vLLM serves the model."""
    base_url: str
    """The reranker's address inside the network, ending in ``/v1``."""
    max_tokens: int
    key: Secret = DEFAULT_KEY
    instance: str = INSTANCE
    default: bool = False
    """Whether to set the model as the user's default rerank model."""
    chats: tuple[str, ...] = ()
    """Ids of the chats that should use it."""
    dataset: str = ""
    """Id of a dataset for a test query after the registration; empty for none."""


@dataclass(frozen=True)
class ModelEntry:
    """Model entry in RAGFlow; values that the release does not report are None."""

    base_url: str
    max_tokens: int | None
    same_key: bool | None
    others: tuple[str, ...] = ()
    """Other models in the same instance, or entries of another type with the same name."""
    model: bool = True
    """Whether the instance contains the model."""

    def matches(self, spec: RegistrationSpec) -> bool:
        """Whether all values that the release reports equal those of the spec."""
        same_values = self.base_url == spec.base_url and self.max_tokens in {None, spec.max_tokens}
        return self.model and same_values and self.same_key is not False


@dataclass(frozen=True)
class RagflowState:
    """RAGFlow's current settings of one user."""

    entry: ModelEntry | None
    provider: bool
    default: str
    """Id of the default rerank model; empty when there is none."""
    chats: Mapping[str, str] = field(default_factory=dict)
    """Rerank id by chat; empty where a chat uses none."""
    siblings: tuple[str, ...] = ()
    """Other instances of the provider."""
    tenant: Mapping[str, str] = field(default_factory=dict)
    """``tenant_id``; up to v0.25 also the other defaults, which are sent back unchanged."""


@dataclass(frozen=True)
class LlmApi:
    """``/v1/llm/add_llm``: sending a model again updates it; RAGFlow tests it before writing."""

    release: Release

    @property
    def _defaults(self) -> str:
        return self.release.default.replace("set_tenant_info", "tenant_info")

    def reads(self, spec: RegistrationSpec) -> tuple[Request, ...]:
        """The requests that read the settings; the first must succeed, later ones may return "not found"."""
        return (
            Request("GET", _MODELS, purpose="read the models"),
            Request("GET", self._defaults, purpose="read the defaults"),
            *(read_chat(self.release, chat) for chat in spec.chats),
        )

    def parse(self, spec: RegistrationSpec, responses: Mapping[str, Response]) -> RagflowState:
        """Parse the settings from the responses by path. Model names have a suffix; keys are not reported."""
        models = ((responses[_MODELS].data or {}).get(PROVIDER) or {}).get("llm") or []
        tenant = responses[self._defaults].data or {}
        entry = None
        for row in models:
            if entry is None and row.get("name") in {spec.model, spec.model + _SUFFIX}:
                kind = row.get("type")
                others = () if kind == "rerank" else (f"{row.get('name')} as {kind}",)
                url = str(row.get("api_base") or "")
                entry = ModelEntry(url, row.get("max_tokens"), None, others, model=not others)
        return RagflowState(
            entry=entry,
            provider=bool(models),
            default=str(tenant.get("rerank_id") or ""),
            chats=chat_models(self.release, spec.chats, responses),
            tenant={name: str(tenant.get(name) or "") for name in _TENANT},
        )

    def enter(self, spec: RegistrationSpec, state: RagflowState) -> Iterator[Request]:
        """The requests that add or update the model."""
        del state
        body = {
            "llm_factory": PROVIDER,
            "model_type": "rerank",
            "llm_name": spec.model,
            "api_base": spec.base_url,
            "api_key": spec.key,
            "max_tokens": spec.max_tokens,
        }
        yield Request("POST", "/v1/llm/add_llm", body, f"enter {spec.model} at {spec.base_url}")

    def set_default(self, rerank_id: str, state: RagflowState) -> Request:
        """Set the default; RAGFlow requires the other defaults in the same request."""
        body = {**state.tenant, "rerank_id": rerank_id}
        method = "PATCH" if self.release.default == self._defaults else "POST"
        return Request(method, self.release.default, body, f"make {rerank_id or 'no model'} the default")

    def restore_default(self, rerank_id: str, state: RagflowState) -> tuple[Request, ...]:
        """Restore the previous default; an empty id removes it."""
        return (self.set_default(rerank_id, state),)

    def replace(self, previous: str) -> tuple[Request, ...]:
        """Remove the entry of the model under its previous name."""
        body = {"llm_factory": PROVIDER, "llm_name": previous + _SUFFIX}
        return (Request("POST", "/v1/llm/delete_llm", body, f"remove {previous}"),)

    def remove(self, spec: RegistrationSpec, state: RagflowState, *, provider: bool) -> tuple[Request, ...]:
        """Remove the model; a provider without models does not exist."""
        del provider
        return self.replace(spec.model) if state.entry else ()


@dataclass(frozen=True)
class ProviderApi:
    """``/api/v1/providers``: a model is part of an instance of a provider."""

    release: Release

    def reads(self, spec: RegistrationSpec) -> tuple[Request, ...]:
        """The requests that read the settings; the first must succeed, later ones may return "not found"."""
        instance = f"{_INSTANCES}/{spec.instance}"
        return (
            Request("GET", _PROVIDERS, purpose="read the providers"),
            Request("GET", _INSTANCES, purpose="read the instances"),
            Request("GET", instance, purpose="read the instance"),
            Request("GET", f"{instance}/models", purpose="read its models"),
            Request("GET", self.release.default, purpose="read the default"),
            Request("GET", _USER, purpose="read the user"),
            *(read_chat(self.release, chat) for chat in spec.chats),
        )

    def parse(self, spec: RegistrationSpec, responses: Mapping[str, Response]) -> RagflowState:
        """Parse the settings from the responses by path. The key of an instance is only compared."""
        instance = responses[f"{_INSTANCES}/{spec.instance}"].data
        entry = None
        if isinstance(instance, dict):
            rows = responses[f"{_INSTANCES}/{spec.instance}/models"].data or []
            models = {row.get("name"): row for row in rows}
            key = instance.get("api_key")
            entry = ModelEntry(
                base_url=str(instance.get("base_url") or ""),
                max_tokens=(models.get(spec.model) or {}).get("max_tokens"),
                same_key=None if key is None else key == spec.key.get_secret_value(),
                others=tuple(str(name) for name in models if name != spec.model),
                model=spec.model in models,
            )
        default = ""
        for row in (responses[self.release.default].data or {}).get("models") or []:
            if row.get("model_type") == "rerank":
                parts = (row.get(f"model_{part}") for part in ("name", "instance", "provider"))
                default = "@".join(str(part or "") for part in parts)
        names = [str(row.get("instance_name")) for row in responses[_INSTANCES].data or []]
        return RagflowState(
            entry=entry,
            provider=any(row.get("name") == PROVIDER for row in responses[_PROVIDERS].data or []),
            default=default,
            chats=chat_models(self.release, spec.chats, responses),
            siblings=tuple(name for name in names if name != spec.instance),
            tenant={"tenant_id": str((responses[_USER].data or {}).get("tenant_id") or "")},
        )

    def enter(self, spec: RegistrationSpec, state: RagflowState) -> Iterator[Request]:
        """The requests that add or update the model, after a connection test if the release has one.

        POST of an existing instance creates an empty second one, so it is never sent for one. The type must
        be a list: RAGFlow reads a string as a list of letters.
        """
        target = f"{spec.model} at {spec.base_url}"
        if not state.provider:
            yield Request("PUT", _PROVIDERS, {"provider_name": PROVIDER}, f"add the provider {PROVIDER}")
        info = {"model_name": spec.model, "model_type": ["rerank"], "max_tokens": spec.max_tokens}
        connection = {"api_key": spec.key, "base_url": spec.base_url}
        instance = {"instance_name": spec.instance, **connection, "region": "", "model_info": [info]}
        if self.release.registration == "provider-with-connection-test":
            body = {**connection, "model_info": [info]}
            yield Request("POST", f"{_PROVIDERS}/{PROVIDER}/connection", body, f"test {target}")
            if state.entry is not None:
                body = {**instance, "model_info": [{**info, "extra": {}}]}
                yield Request("PUT", f"{_INSTANCES}/{spec.instance}", body, f"update {target}")
                return
        elif state.entry is not None:
            yield Request("DELETE", _INSTANCES, {"instances": [spec.instance]}, "remove the old instance")
        yield Request("POST", _INSTANCES, instance, f"enter {target}")

    def set_default(self, rerank_id: str, state: RagflowState) -> Request:
        """Set the default."""
        del state
        name, instance, provider = rerank_id.rsplit("@", 2)
        model = {"model_provider": provider, "model_instance": instance, "model_name": name}
        body = {"model_type": "rerank", **model}
        return Request("PATCH", self.release.default, body, f"make {rerank_id} the default")

    def restore_default(self, rerank_id: str, state: RagflowState) -> tuple[Request, ...]:
        """Restore the previous default; none, or an id of an older release, needs no request."""
        return (self.set_default(rerank_id, state),) if rerank_id.count("@") >= 2 else ()

    def replace(self, previous: str) -> tuple[Request, ...]:
        """No request: adding another model replaces the models of the instance."""
        del previous
        return ()

    def remove(self, spec: RegistrationSpec, state: RagflowState, *, provider: bool) -> Iterator[Request]:
        """Remove the instance, and the provider when ragops added it and no other instance uses it.

        Models that the user added to the instance stay. One unknown name in the list of instances
        makes RAGFlow delete nothing, so that each request names one.
        """
        if state.entry is not None and state.entry.others:
            models = {"model_name": [spec.model]}
            yield Request("DELETE", f"{_INSTANCES}/{spec.instance}/models", models, f"remove {spec.model}")
            return
        if state.entry is not None:
            instances = {"instances": [spec.instance]}
            yield Request("DELETE", _INSTANCES, instances, f"remove instance {spec.instance}")
        if provider and state.provider and not state.siblings:
            yield Request("DELETE", f"{_PROVIDERS}/{PROVIDER}", None, f"remove the provider {PROVIDER}")


RegistrationApi = LlmApi | ProviderApi


def registration_api(release: Release) -> RegistrationApi:
    """The requests of a release."""
    return LlmApi(release) if release.registration == "add_llm" else ProviderApi(release)


def check_supported(release: Release, spec: RegistrationSpec) -> None:
    """Check that a release can use the reranker and accepts an API token for its settings.

    Raises:
        RagflowError: It can't; for an older release the evidence has the values to enter by hand.
    """
    if release.obstacle:
        raise RagflowError(
            f"RAGFlow {release.name} can't use a vLLM reranker: {release.obstacle}",
            code="ragflow-release",
            hint="upgrade RAGFlow to v0.18.0 or later; nothing was changed",
        )
    if release.registration == "manual":
        raise RagflowError(
            f"RAGFlow {release.name} accepts no API token for its model settings",
            code="registration-manual",
            evidence="\n".join(f"{name}: {value}" for name, value in manual_entry(spec)),
            hint="edit the entry by hand on RAGFlow's page of model providers, with these values",
        )


def check_ownership(spec: RegistrationSpec, entry: ModelEntry | None, previous: str) -> None:
    """Check that an existing entry may be overwritten, or needs no change.

    ``previous`` is the name of the model that ragops entered before; empty when it did not.

    Raises:
        RagflowError: It belongs to the user, or contains models of the user.
    """
    if entry is None or entry.matches(spec):
        return
    others = [name for name in entry.others if name != previous]
    if not previous or others:
        raise RagflowError(
            f"RAGFlow has an entry for {spec.model} that ragops did not create",
            code="entry-foreign",
            evidence=f"address {entry.base_url or '(none)'} instead of {spec.base_url}"
            + (f"; there is also {', '.join(others)}" if others else ""),
            hint="remove it in RAGFlow's model providers, or choose another instance with --instance",
        )


def manual_entry(spec: RegistrationSpec) -> tuple[tuple[str, str], ...]:
    """The fields of RAGFlow's form for a model, and their values; a key of the reranker's own is masked."""
    return (
        ("provider", PROVIDER),
        ("model type", "rerank"),
        ("model name", spec.model),
        ("base URL", spec.base_url),
        ("API key", DEFAULT_KEY.get_secret_value() if spec.key == DEFAULT_KEY else str(spec.key)),
        ("max tokens", str(spec.max_tokens)),
    )


def changes(api: RegistrationApi, spec: RegistrationSpec, state: RagflowState) -> tuple[Request, ...]:
    """The requests after which RAGFlow's settings match the spec; empty when they do.

    A given key that a release doesn't report is sent again. A recreated instance is no longer the
    default, so the default is set again.
    """
    release, entry = api.release, state.entry
    unknown_key = entry is not None and entry.same_key is None and spec.key != DEFAULT_KEY
    requests: list[Request] = []
    if entry is None or unknown_key or not entry.matches(spec):
        requests += api.enter(spec, state)
    default, chat_default = model_id(release, spec), chat_id(release, spec)
    recreated = state.default == default and any(request.method == "DELETE" for request in requests)
    if recreated or (spec.default and state.default != default):
        requests.append(api.set_default(default, state))
    changed = [chat for chat in spec.chats if state.chats[chat] != chat_default]
    requests += [set_chat(release, chat, chat_default) for chat in changed]
    return tuple(requests)


def differences(release: Release, spec: RegistrationSpec, state: RagflowState) -> tuple[str, ...]:
    """Differences between RAGFlow's settings and the spec."""
    entry = state.entry
    rows = [
        ("address", spec.base_url, entry.base_url if entry else "no entry"),
        ("model", spec.model, spec.model if entry and entry.model else "not entered"),
        ("max tokens", spec.max_tokens, (entry and entry.max_tokens) or spec.max_tokens),
        ("key", "as sent", "another" if entry and entry.same_key is False else "as sent"),
    ]
    if spec.default:
        rows.append(("default", model_id(release, spec), state.default))
    rows += [(f"chat {chat}", chat_id(release, spec), state.chats.get(chat, "")) for chat in spec.chats]
    changed = [(name, expected, current) for name, expected, current in rows if expected != current]
    return tuple(f"{name}: {current or 'none'} instead of {expected}" for name, expected, current in changed)


def model_id(release: Release, spec: RegistrationSpec) -> str:
    """Id of the model in the default setting and, from v0.25, in chats."""
    return releases.rerank_id(release, spec.model, spec.instance)


def chat_id(release: Release, spec: RegistrationSpec) -> str:
    """Id of the model in a chat; up to v0.24 without the provider."""
    rerank_id = model_id(release, spec)
    return rerank_id if release.chats == "rerank_id" else rerank_id.removesuffix(f"@{PROVIDER}")


def read_chat(release: Release, chat: str) -> Request:
    """Read the settings of a chat."""
    path = f"/api/v1/chats/{chat}" if release.chats == "rerank_id" else f"/api/v1/chats?id={chat}"
    return Request("GET", path, purpose=f"read chat {chat}")


def chat_models(
    release: Release, chats: tuple[str, ...], responses: Mapping[str, Response]
) -> dict[str, str]:
    """The rerank id of each chat; empty where it has none."""
    models = {}
    for chat in chats:
        data = responses[read_chat(release, chat).path].data
        if release.chats == "rerank_id":
            models[chat] = str((data or {}).get("rerank_id") or "")
        else:
            models[chat] = str(((data or [{}])[0].get("prompt") or {}).get("rerank_model") or "")
    return models


def set_chat(release: Release, chat: str, rerank_id: str) -> Request:
    """Set the rerank model of a chat; an empty id removes it."""
    purpose = f"let chat {chat} use {rerank_id or 'no rerank model'}"
    if release.chats == "rerank_id":
        return Request("PATCH", f"/api/v1/chats/{chat}", {"rerank_id": rerank_id}, purpose)
    return Request("PUT", f"/api/v1/chats/{chat}", {"prompt": {"rerank_model": rerank_id}}, purpose)


def rank_dataset(dataset: str, rerank_id: str) -> Request:
    """Rank one query in a dataset, by the rerank score only."""
    body = {
        "question": "What is this about?",
        "dataset_ids": [dataset],
        "rerank_id": rerank_id,
        "page_size": 8,
        "top_k": 64,
        "similarity_threshold": 0,
        "vector_similarity_weight": 1.0,
    }
    return Request("POST", "/api/v1/retrieval", body, f"rank dataset {dataset}")
