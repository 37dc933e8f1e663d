"""The requests that register a model in RAGFlow, and the settings that RAGFlow reports; pure.

:class:`RegistrationSpec` is the entry that RAGFlow should have, :class:`RagflowState` its current settings,
:func:`changes` the requests between them. The routes depend on the release: :class:`LlmApi` is v0.24 to
v0.25, :class:`ProviderApi` v0.26 and later. Recorded on RAGFlow's own servers for v0.25.6 and v0.27.0; read
in the source for the others. ``ragops.stack.registration`` sends the requests.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from ragops.errors import RagflowError, StackError
from ragops.ragflow import releases
from ragops.ragflow.api import Request, Response, Secret, rerank_base
from ragops.ragflow.releases import Release
from ragops.ragflow.request import MAX_NAME_LENGTH, SUFFIX, name_problem

PROVIDER = "VLLM"

INSTANCE = "ragops"
"""Name of the provider instance that ragops creates, from v0.26 on."""

DEFAULT_KEY = Secret("ragops-rerank")
"""Sent where the reranker checks no key: RAGFlow needs one, and v0.26.0 accepts no key twice."""

DEFAULT = ""
"""Key of the default rerank model among the user's settings; the other keys are ids of chats."""

_MODELS = "/v1/llm/my_llms?include_details=true"
_ADD_LLM = "/v1/llm/add_llm"
_TENANT = ("tenant_id", "asr_id", "embd_id", "img2txt_id", "llm_id")
_PROVIDERS = "/api/v1/providers"
_INSTANCES = f"{_PROVIDERS}/{PROVIDER}/instances"
_USER = "/api/v1/users/me/models"
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")
_MAX_KEY_LENGTH = 512  # characters in RAGFlow's table of instances


@dataclass(frozen=True)
class RegistrationSpec:
    """The model entry to register in RAGFlow, and the settings that should use it."""

    model: str
    base_url: str
    """The reranker's address where RAGFlow runs; a missing ``/v1`` is appended."""
    max_tokens: int
    key: Secret = DEFAULT_KEY
    instance: str = INSTANCE
    default: bool = False
    """Whether to set the model as the user's default rerank model."""
    chats: tuple[str, ...] = ()
    dataset: str = ""
    """Id of a dataset for a test query after the registration; empty for none."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Keys of the settings that should use it."""
        return (*self.chats, DEFAULT) if self.default else self.chats

    def rows(self) -> tuple[tuple[str, str], ...]:
        """The values for RAGFlow's page of model providers; a key of the reranker's own is masked."""
        key = DEFAULT_KEY.get_secret_value() if self.key == DEFAULT_KEY else str(self.key)
        return (
            *(("provider", PROVIDER), ("model type", "rerank"), ("model name", self.model)),
            *(("base URL", self.base_url), ("API key", key), ("max tokens", str(self.max_tokens))),
        )

    def checked(self) -> "RegistrationSpec":
        """The spec with RAGFlow's spelling of the address; an id or a key that can't be sent is an error."""
        ids = (self.instance, *self.chats, *([self.dataset] if self.dataset else []))
        if wrong := [text for text in ids if not _ID.fullmatch(text)] or ["default"] * (
            self.instance == "default"
        ):
            raise StackError(
                f"{wrong[0]!r} can't be the id of an instance, a chat or a dataset",
                code="id-refused",
                evidence=f"an id has ASCII letters, digits and . _ -, at most {MAX_NAME_LENGTH}; "
                "RAGFlow reserves the instance default",
                hint="an id is in the address of the chat's or dataset's page in RAGFlow",
            )
        if not self.key.sendable or len(self.key) > _MAX_KEY_LENGTH:
            message = f"the reranker's key is empty, not ASCII, or longer than {_MAX_KEY_LENGTH} characters"
            raise StackError(message, code="secret-refused", hint="use another key")
        return replace(self, base_url=rerank_base(self.base_url))


@dataclass(frozen=True)
class ModelEntry:
    """Model entry in RAGFlow; values that the release does not report are None."""

    base_url: str
    max_tokens: int | None
    same_key: bool | None
    others: tuple[str, ...] = ()
    """Other models in the same instance."""
    model: bool = True
    """Whether the instance contains the model."""
    types: tuple[str, ...] = ("rerank",)
    status: str = "active"
    """v0.26 and later refuse any other; v0.25 does not, so it is not read there."""

    def differences(self, spec: RegistrationSpec) -> list[str]:
        """Values that the release reports and that differ from the spec."""
        rows = (
            ("address", self.base_url or "none", spec.base_url),
            ("model", spec.model if self.model else "none", spec.model),
            ("max tokens", self.max_tokens or spec.max_tokens, spec.max_tokens),
            ("key", "another" if self.same_key is False else "the given one", "the given one"),
            ("type", "rerank" if "rerank" in self.types else ", ".join(self.types), "rerank"),
            ("status", self.status, "active"),
        )
        return [f"{name}: {now} instead of {expected}" for name, now, expected in rows if now != expected]


@dataclass(frozen=True)
class RagflowState:
    """RAGFlow's current settings of one user."""

    entry: ModelEntry | None
    provider: bool
    default: str
    """Id of the default rerank model, also of a removed one; empty when there is none."""
    chats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    siblings: tuple[str, ...] = ()
    """Other instances of the provider."""
    tenant: Mapping[str, str] = field(default_factory=dict)
    """``tenant_id``; up to v0.25 also the other defaults, which are sent back unchanged."""
    models: frozenset[str] | None = None
    """Ids of the user's models, up to v0.25, where RAGFlow accepts any default."""


class Setting(NamedTuple):
    """The default or a chat: its rerank id, the model's id there, and the request that sets an id or none."""

    now: str
    expected: str
    request: Callable[[str], Request]


@dataclass(frozen=True)
class LlmApi:
    """``/v1/llm/add_llm``: sending a model again updates it; RAGFlow tests it before writing."""

    release: Release

    @property
    def _defaults(self) -> str:
        return self.release.default.replace("set_tenant_info", "tenant_info")

    def reads(self, _spec: RegistrationSpec) -> tuple[Request, ...]:
        """The requests that read the settings, except the chats."""
        models = Request("GET", _MODELS, purpose="read the models")
        return (models, Request("GET", self._defaults, purpose="read the defaults"))

    def parse(self, spec: RegistrationSpec, responses: Mapping[str, Response]) -> RagflowState:
        """Parse the settings from the responses by path. Model names have a suffix; keys are not reported."""
        providers, tenant = responses[_MODELS].data or {}, responses[self._defaults].data or {}
        rows = [(name, row) for name, models in providers.items() for row in models["llm"]]
        names = {spec.model, spec.model + SUFFIX}
        entries = [
            ModelEntry(row.get("api_base") or "", row.get("max_tokens"), None, types=(row.get("type"),))
            for name, row in rows
            if name == PROVIDER and row["name"] in names
        ]
        return RagflowState(
            entry=entries[0] if entries else None,
            provider=PROVIDER in providers,
            default=tenant.get("rerank_id") or "",
            tenant={name: tenant.get(name) or "" for name in _TENANT},
            models=frozenset(form for name, row in rows for form in (row["name"], f"{row['name']}@{name}")),
        )

    def _body(self, spec: RegistrationSpec) -> dict[str, Any]:
        body = {"llm_factory": PROVIDER, "model_type": "rerank", "llm_name": spec.model}
        return {**body, "api_base": spec.base_url, "api_key": spec.key, "max_tokens": spec.max_tokens}

    def test(self, spec: RegistrationSpec, state: RagflowState) -> Request:
        """Let RAGFlow send one rerank, and write nothing; without a key it uses the one that it has."""
        body = self._body(spec)
        if state.entry and spec.key == DEFAULT_KEY:
            del body["api_key"]
        return Request("POST", _ADD_LLM, {**body, "verify": True}, f"test {spec.base_url}")

    def enter(self, spec: RegistrationSpec, _state: RagflowState) -> Iterator[Request]:
        """The requests that add or update the model."""
        yield Request("POST", _ADD_LLM, self._body(spec), f"enter {spec.model} at {spec.base_url}")

    def set_default(self, state: RagflowState, rerank_id: str) -> Request:
        """Set the default, or clear it with an empty id; RAGFlow requires the other defaults too."""
        body = {**state.tenant, "rerank_id": rerank_id}
        method = "PATCH" if self.release.default == self._defaults else "POST"
        return Request(method, self.release.default, body, f"make {rerank_id or 'no model'} the default")

    def remove(self, spec: RegistrationSpec, state: RagflowState, *, provider: bool) -> Iterator[Request]:
        """Remove the model; a provider without models does not exist."""
        del provider
        if (name := spec.model + SUFFIX) in (state.models or ()):
            body = {"llm_factory": PROVIDER, "llm_name": name}
            yield Request("POST", "/v1/llm/delete_llm", body, f"remove {spec.model}")


@dataclass(frozen=True)
class ProviderApi:
    """``/api/v1/providers``: a model is part of an instance of a provider."""

    release: Release

    @property
    def _updates(self) -> bool:
        return self.release.registration == "provider-with-update"

    def reads(self, spec: RegistrationSpec) -> tuple[Request, ...]:
        """The requests that read the settings, except the chats.

        The user's settings have the default, also of a removed model, which the default's own route hides.
        """
        instance = f"{_INSTANCES}/{spec.instance}"
        paths = {"the providers": _PROVIDERS, "the instances": _INSTANCES, "the instance": instance}
        paths |= {"its models": f"{instance}/models", "the user": _USER}
        return tuple(Request("GET", path, purpose=f"read {name}") for name, path in paths.items())

    def parse(self, spec: RegistrationSpec, responses: Mapping[str, Response]) -> RagflowState:
        """Parse the settings from the responses by path. The key of an instance is only compared."""
        paths = (request.path for request in self.reads(spec))
        providers, instances, instance, rows, user = (responses[path].data or {} for path in paths)
        names, entry = [row["instance_name"] for row in instances], None
        if instance or spec.instance in names:
            # v1.0 looks it up by the provider's name in lower case: on some databases it has no address
            models = {row["name"]: row for row in rows}
            model, key = models.get(spec.model, {}), instance.get("api_key")
            entry = ModelEntry(
                base_url=instance.get("base_url") or "",
                max_tokens=model.get("max_tokens"),
                same_key=None if key is None else key == spec.key.get_secret_value(),
                others=tuple(name for name in models if name != spec.model),
                model=bool(model),
                types=tuple(model.get("model_type", ("rerank",))),
                status=model.get("status", "active"),
            )
        return RagflowState(
            entry=entry,
            provider=any(row["name"] == PROVIDER for row in providers),
            default=user.get("rerank_id") or "",
            siblings=tuple(name for name in names if name != spec.instance),
            tenant={"tenant_id": user.get("tenant_id") or ""},
        )

    def _connection(self, spec: RegistrationSpec, **more: Any) -> dict[str, Any]:
        """The type must be a list: RAGFlow reads a string as a list of letters."""
        info = {"model_name": spec.model, "model_type": ["rerank"], "max_tokens": spec.max_tokens, **more}
        return {"api_key": spec.key, "base_url": spec.base_url, "model_info": [info]}

    def test(self, spec: RegistrationSpec, _state: RagflowState) -> Request:
        """Let RAGFlow send one rerank, and write nothing."""
        path = f"{_PROVIDERS}/{PROVIDER}/connection"
        return Request("POST", path, self._connection(spec), f"test {spec.base_url}")

    def enter(self, spec: RegistrationSpec, state: RagflowState) -> Iterator[Request]:
        """The requests that add or update the model.

        POST of an existing instance creates an empty second one, so it is never sent for one. PUT needs
        ``extra``, and leaves a model disabled.
        """
        target, named = f"{spec.model} at {spec.base_url}", {"instance_name": spec.instance, "region": ""}
        instance, entry = f"{_INSTANCES}/{spec.instance}", state.entry
        if not state.provider:
            yield Request("PUT", _PROVIDERS, {"provider_name": PROVIDER}, f"add the provider {PROVIDER}")
        if entry and self._updates:
            body = {**named, **self._connection(spec, extra={})}
            yield Request("PUT", instance, body, f"update {target}")
            if entry.status != "active":
                path = f"{instance}/models/{quote(spec.model)}"
                yield Request("PATCH", path, {"status": "active"}, f"enable {spec.model}")
            return
        if entry:
            yield Request("DELETE", _INSTANCES, {"instances": [spec.instance]}, "remove the old instance")
        yield Request("POST", _INSTANCES, {**named, **self._connection(spec)}, f"enter {target}")

    def set_default(self, _state: RagflowState, rerank_id: str) -> Request:
        """Set the default, or clear it with an empty id."""
        name, instance, provider = (*rerank_id.rsplit("@", 2), "", "")[:3]
        model = {"model_provider": provider, "model_instance": instance, "model_name": name}
        body, purpose = {"model_type": "rerank", **model}, f"make {rerank_id or 'no model'} the default"
        return Request("PATCH", self.release.default, body, purpose)

    def remove(self, spec: RegistrationSpec, state: RagflowState, *, provider: bool) -> Iterator[Request]:
        """Remove the instance, and the provider when ragops added it and no other instance uses it.

        Models that the user added to the instance stay; v0.26 can't remove one of several. One unknown name
        in the list of instances makes RAGFlow delete nothing, so that each request names one.
        """
        entry, name = state.entry, spec.instance
        if entry and entry.others:
            if entry.model and self._updates:
                models = {"model_name": [spec.model]}
                yield Request("DELETE", f"{_INSTANCES}/{name}/models", models, f"remove {spec.model}")
            return
        if entry:
            yield Request("DELETE", _INSTANCES, {"instances": [name]}, f"remove instance {name}")
        if provider and state.provider and not state.siblings:
            yield Request("DELETE", f"{_PROVIDERS}/{PROVIDER}", None, f"remove the provider {PROVIDER}")


RegistrationApi = LlmApi | ProviderApi


def registration_api(release: Release) -> RegistrationApi:
    """The requests of a release."""
    return LlmApi(release) if release.registration == "add_llm" else ProviderApi(release)


def check_supported(release: Release, spec: RegistrationSpec) -> None:
    """Refuse a release that can't use the reranker or an API token, with the values to enter by hand."""
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
            evidence="\n".join(map(": ".join, spec.rows())) if spec.model else "",
            hint="edit the entry by hand on RAGFlow's page of model providers, with these values",
        )
    problem = name_problem(spec.model, release)
    if len(rerank_id := model_id(release, spec)) > MAX_NAME_LENGTH:
        problem = f"RAGFlow keeps {MAX_NAME_LENGTH} characters of the id {rerank_id}"
    if problem:
        hint = "choose another served_name under [reranker], or a shorter --instance"
        raise RagflowError(problem, code="id-refused", hint=hint)


def settings(api: RegistrationApi, spec: RegistrationSpec, state: RagflowState) -> dict[str, Setting]:
    """The settings that can use the model, by key; up to v0.24 a chat's id has no provider."""
    release, rerank_id = api.release, model_id(api.release, spec)
    rows = {DEFAULT: Setting(state.default, rerank_id, partial(api.set_default, state))}
    for chat, row in state.chats.items():
        now = row.get("rerank_id") if release.chats == "rerank_id" else row["prompt"].get("rerank_model")
        expected = rerank_id if release.chats == "rerank_id" else rerank_id.removesuffix(f"@{PROVIDER}")
        rows[chat] = Setting(now or "", expected, partial(set_chat, release, chat, row))
    return rows


def changes(api: RegistrationApi, spec: RegistrationSpec, state: RagflowState) -> list[Request]:
    """The requests after which RAGFlow's settings match the spec; empty when they do.

    A given key that a release doesn't report is sent again. Settings are set again for a new entry, which has
    another internal id.
    """
    entry = state.entry
    unknown_key = entry is not None and entry.same_key is None and spec.key != DEFAULT_KEY
    requests: list[Request] = []
    if entry is None or unknown_key or entry.differences(spec):
        requests += api.enter(spec, state)
    used = [settings(api, spec, state)[key] for key in spec.settings]
    changed = [setting for setting in used if entry is None or setting.now != setting.expected]
    return requests + [setting.request(setting.expected) for setting in changed]


def differences(api: RegistrationApi, spec: RegistrationSpec, state: RagflowState) -> list[str]:
    """Differences between RAGFlow's settings and the spec."""
    used = [(setting_name(key), *settings(api, spec, state)[key][:2]) for key in spec.settings]
    wrong = [
        f"{name}: {now or 'none'} instead of {expected}" for name, now, expected in used if now != expected
    ]
    return (state.entry.differences(spec) if state.entry else ["there is no entry"]) + wrong


def setting_name(key: str) -> str:
    """A setting in a message."""
    return "the default" if key == DEFAULT else f"chat {key}"


def model_id(release: Release, spec: RegistrationSpec) -> str:
    """Id of the model in the default setting and, from v0.25, in chats."""
    return releases.rerank_id(release, spec.model, spec.instance)


def own_ids(names: Iterable[str], instance: str) -> frozenset[str]:
    """Every id by which any release names these models, also after RAGFlow's own migration to v0.26."""
    forms = {form for fact in releases.FACTS["rerank_ids"] for form in fact.value}
    ids = {form.format(name=name, instance=instance) for name in names for form in forms}
    return frozenset(ids | {migrated_id(rerank_id) for rerank_id in ids})


def migrated_id(rerank_id: str) -> str:
    """An id after RAGFlow's migration to v0.26, which inserts the instance ``default``."""
    return rerank_id.replace("@", "@default@") if rerank_id.count("@") == 1 else rerank_id


def set_chat(release: Release, chat: str, row: Mapping[str, Any], rerank_id: str) -> Request:
    """Set the rerank model of a chat; an empty id removes it.

    Up to v0.24 an update removes the datasets that it does not repeat.
    """
    path = f"/api/v1/chats/{quote(chat, safe='')}"
    purpose = f"let chat {chat} use {rerank_id or 'no rerank model'}"
    if release.chats == "rerank_id":
        return Request("PATCH", path, {"rerank_id": rerank_id}, purpose)
    datasets = [dataset["id"] for dataset in row.get("datasets", ())]
    return Request("PUT", path, {"prompt": {"rerank_model": rerank_id}, "dataset_ids": datasets}, purpose)
