"""The requests that register a model in RAGFlow, and the settings that RAGFlow reports; pure.

:class:`RegistrationSpec` is the entry that RAGFlow should have, :class:`RagflowState` its current settings,
:func:`changes` the requests between them. The routes depend on the release: :class:`LlmApi` is v0.24 to
v0.25, :class:`ProviderApi` v0.26 and later. Recorded on RAGFlow's own servers for v0.25.6 and v0.27.0; read
in the source for the others. ``ragops.stack.registration`` sends the requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ragops.errors import RagflowError, StackError
from ragops.ragflow import releases
from ragops.ragflow.api import Request, Response, Secret, split_address
from ragops.ragflow.request import MAX_NAME_LENGTH, SUFFIX, name_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ragops.ragflow.releases import Release

PROVIDER = "VLLM"

INSTANCE = "ragops"
"""Name of the provider instance that ragops creates, from v0.26 on."""

DEFAULT_KEY = Secret("ragops-rerank")
"""Sent where the reranker checks no key: RAGFlow needs one, and v0.26.0 accepts no key twice."""

CHATS_PER_PAGE = 100
"""The most that v0.26 and later return at once."""

_MODELS = "/v1/llm/my_llms?include_details=true"
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
    """Name under which vLLM serves the model."""
    base_url: str
    """The reranker's address where RAGFlow runs; a missing ``/v1`` is appended."""
    max_tokens: int
    key: Secret = DEFAULT_KEY
    instance: str = INSTANCE
    default: bool = False
    """Whether to set the model as the user's default rerank model."""
    chats: tuple[str, ...] = ()
    """Ids of the chats that should use it."""
    dataset: str = ""
    """Id of a dataset for a test query after the registration; empty for none."""

    def checked(self) -> RegistrationSpec:
        """The spec with RAGFlow's spelling of the address.

        Raises:
            StackError: An id, the key or the address can't be sent.
        """
        ids = [("instance", self.instance), *(("chat", chat) for chat in self.chats)]
        ids += [("dataset", self.dataset)] if self.dataset else []
        for kind, text in ids:
            if not _ID.fullmatch(text) or (kind, text) == ("instance", "default"):
                raise StackError(
                    f"{text!r} can't be the id of RAGFlow's {kind}",
                    code="id-refused",
                    evidence=f"letters, digits and . _ - are allowed, at most {MAX_NAME_LENGTH} characters; "
                    "RAGFlow reserves the instance default",
                    hint="an id is in the address of the chat's or dataset's page in RAGFlow",
                )
        if not self.key.sendable or len(self.key) > _MAX_KEY_LENGTH:
            message = f"the reranker's key is empty, longer than {_MAX_KEY_LENGTH} characters, or not ASCII"
            raise StackError(message, code="secret-refused", hint="use another key")
        parts = split_address(self.base_url)
        path = parts.path.rstrip("/")
        path += "" if path.endswith("/v1") else "/v1"
        return replace(self, base_url=f"{parts.scheme}://{parts.netloc}{path}")


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
    active: bool = True
    """Whether the model is enabled: v0.26 and later refuse a disabled one."""

    def differences(self, spec: RegistrationSpec) -> tuple[str, ...]:
        """Values that the release reports and that differ from the spec."""
        rows = (
            ("address", self.base_url or "none", spec.base_url),
            ("model", spec.model if self.model else "none", spec.model),
            ("max tokens", self.max_tokens or spec.max_tokens, spec.max_tokens),
            ("key", "another" if self.same_key is False else "the given one", "the given one"),
            ("type", "rerank" if "rerank" in self.types else ", ".join(self.types), "rerank"),
            ("status", "active" if self.active else "inactive", "active"),
        )
        return tuple(
            f"{name}: {now} instead of {expected}" for name, now, expected in rows if now != expected
        )


@dataclass(frozen=True)
class Chat:
    """A chat of the user."""

    rerank_id: str
    """Empty when it uses no rerank model."""
    datasets: tuple[str, ...] = ()
    """Up to v0.24, where an update removes the datasets that it does not repeat."""


@dataclass(frozen=True)
class RagflowState:
    """RAGFlow's current settings of one user."""

    entry: ModelEntry | None
    provider: bool
    default: str
    """Id of the default rerank model, also of a removed one; empty when there is none."""
    chats: Mapping[str, Chat] = field(default_factory=dict)
    """The user's chats by id."""
    siblings: tuple[str, ...] = ()
    """Other instances of the provider."""
    tenant: Mapping[str, str] = field(default_factory=dict)
    """``tenant_id``; up to v0.25 also the other defaults, which are sent back unchanged."""
    models: frozenset[str] | None = None
    """Ids of the user's models, up to v0.25, where RAGFlow accepts any default."""


@dataclass(frozen=True)
class LlmApi:
    """``/v1/llm/add_llm``: sending a model again updates it; RAGFlow tests it before writing."""

    release: Release

    @property
    def _defaults(self) -> str:
        return self.release.default.replace("set_tenant_info", "tenant_info")

    def reads(self, spec: RegistrationSpec) -> tuple[Request, ...]:
        """The requests that read the settings, except the chats."""
        del spec
        models = Request("GET", _MODELS, purpose="read the models")
        return (models, Request("GET", self._defaults, purpose="read the defaults"))

    def parse(self, spec: RegistrationSpec, responses: Mapping[str, Response]) -> RagflowState:
        """Parse the settings from the responses by path. Model names have a suffix; keys are not reported."""
        providers = responses[_MODELS].data or {}
        tenant = responses[self._defaults].data or {}
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
            models=frozenset(id_ for name, row in rows for id_ in (row["name"], f"{row['name']}@{name}")),
        )

    def _body(self, spec: RegistrationSpec) -> dict[str, Any]:
        body = {"llm_factory": PROVIDER, "model_type": "rerank", "llm_name": spec.model}
        return {**body, "api_base": spec.base_url, "api_key": spec.key, "max_tokens": spec.max_tokens}

    def test(self, spec: RegistrationSpec, state: RagflowState) -> Request:
        """Let RAGFlow send one rerank, and write nothing; without a key it uses the one that it has."""
        body = self._body(spec)
        if state.entry and spec.key == DEFAULT_KEY:
            del body["api_key"]
        return Request("POST", "/v1/llm/add_llm", {**body, "verify": True}, f"test {spec.base_url}")

    def enter(self, spec: RegistrationSpec, state: RagflowState) -> Iterator[Request]:
        """The requests that add or update the model."""
        del state
        yield Request("POST", "/v1/llm/add_llm", self._body(spec), f"enter {spec.model} at {spec.base_url}")

    def set_default(self, state: RagflowState, rerank_id: str) -> Request:
        """Set the default, or clear it with an empty id; RAGFlow requires the other defaults too."""
        body = {**state.tenant, "rerank_id": rerank_id}
        method = "PATCH" if self.release.default == self._defaults else "POST"
        return Request(method, self.release.default, body, f"make {rerank_id or 'no model'} the default")

    def replace(self, previous: str) -> tuple[Request, ...]:
        """Remove the entry of the model under its previous name."""
        body = {"llm_factory": PROVIDER, "llm_name": previous + SUFFIX}
        return (Request("POST", "/v1/llm/delete_llm", body, f"remove {previous}"),)

    def remove(self, spec: RegistrationSpec, state: RagflowState, *, provider: bool) -> tuple[Request, ...]:
        """Remove the model; a provider without models does not exist."""
        del provider
        return self.replace(spec.model) if state.entry else ()


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
        return (
            Request("GET", _PROVIDERS, purpose="read the providers"),
            Request("GET", _INSTANCES, purpose="read the instances"),
            Request("GET", _instance(spec), purpose="read the instance"),
            Request("GET", f"{_instance(spec)}/models", purpose="read its models"),
            Request("GET", _USER, purpose="read the user"),
        )

    def parse(self, spec: RegistrationSpec, responses: Mapping[str, Response]) -> RagflowState:
        """Parse the settings from the responses by path. The key of an instance is only compared."""
        entry, instance = None, responses[_instance(spec)].data
        if instance:
            models = {row["name"]: row for row in responses[f"{_instance(spec)}/models"].data or []}
            model, key = models.get(spec.model, {}), instance.get("api_key")
            entry = ModelEntry(
                base_url=instance.get("base_url") or "",
                max_tokens=model.get("max_tokens"),
                same_key=None if key is None else key == spec.key.get_secret_value(),
                others=tuple(name for name in models if name != spec.model),
                model=bool(model),
                types=tuple(model.get("model_type", ("rerank",))),
                active=model.get("status", "active") == "active",
            )
        names = [row["instance_name"] for row in responses[_INSTANCES].data or []]
        user = responses[_USER].data or {}
        return RagflowState(
            entry=entry,
            provider=any(row["name"] == PROVIDER for row in responses[_PROVIDERS].data or []),
            default=user.get("rerank_id") or "",
            siblings=tuple(name for name in names if name != spec.instance),
            tenant={"tenant_id": user.get("tenant_id") or ""},
        )

    def _connection(self, spec: RegistrationSpec, **more: Any) -> dict[str, Any]:
        """The type must be a list: RAGFlow reads a string as a list of letters."""
        info = {"model_name": spec.model, "model_type": ["rerank"], "max_tokens": spec.max_tokens, **more}
        return {"api_key": spec.key, "base_url": spec.base_url, "model_info": [info]}

    def test(self, spec: RegistrationSpec, state: RagflowState) -> Request:
        """Let RAGFlow send one rerank, and write nothing."""
        del state
        path = f"{_PROVIDERS}/{PROVIDER}/connection"
        return Request("POST", path, self._connection(spec), f"test {spec.base_url}")

    def enter(self, spec: RegistrationSpec, state: RagflowState) -> Iterator[Request]:
        """The requests that add or update the model.

        POST of an existing instance creates an empty second one, so it is never sent for one. PUT needs
        ``extra``, and leaves a model disabled.
        """
        target, named = f"{spec.model} at {spec.base_url}", {"instance_name": spec.instance, "region": ""}
        if not state.provider:
            yield Request("PUT", _PROVIDERS, {"provider_name": PROVIDER}, f"add the provider {PROVIDER}")
        if state.entry and self._updates:
            body = {**named, **self._connection(spec, extra={})}
            yield Request("PUT", _instance(spec), body, f"update {target}")
            if not state.entry.active:
                path = f"{_instance(spec)}/models/{quote(spec.model)}"
                yield Request("PATCH", path, {"status": "active"}, f"enable {spec.model}")
            return
        if state.entry:
            yield Request("DELETE", _INSTANCES, {"instances": [spec.instance]}, "remove the old instance")
        yield Request("POST", _INSTANCES, {**named, **self._connection(spec)}, f"enter {target}")

    def set_default(self, state: RagflowState, rerank_id: str) -> Request:
        """Set the default, or clear it with an empty id."""
        del state
        name, instance, provider = (*rerank_id.rsplit("@", 2), "", "")[:3]
        model = {"model_provider": provider, "model_instance": instance, "model_name": name}
        body, purpose = {"model_type": "rerank", **model}, f"make {rerank_id or 'no model'} the default"
        return Request("PATCH", self.release.default, body, purpose)

    def replace(self, previous: str) -> tuple[Request, ...]:
        """No request: adding another model replaces the models of the instance."""
        del previous
        return ()

    def remove(self, spec: RegistrationSpec, state: RagflowState, *, provider: bool) -> Iterator[Request]:
        """Remove the instance, and the provider when ragops added it and no other instance uses it.

        Models that the user added to the instance stay; v0.26 can't remove one of several. One unknown name
        in the list of instances makes RAGFlow delete nothing, so that each request names one.
        """
        entry = state.entry
        if entry and entry.others:
            if entry.model and self._updates:
                models = {"model_name": [spec.model]}
                yield Request("DELETE", f"{_instance(spec)}/models", models, f"remove {spec.model}")
            return
        if entry:
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
        RagflowError: It can't; for an older release the evidence has the values to enter by hand, in which
            a key of the reranker's own is masked.
    """
    if release.obstacle:
        raise RagflowError(
            f"RAGFlow {release.name} can't use a vLLM reranker: {release.obstacle}",
            code="ragflow-release",
            hint="upgrade RAGFlow to v0.18.0 or later; nothing was changed",
        )
    if release.registration == "manual":
        key = DEFAULT_KEY.get_secret_value() if spec.key == DEFAULT_KEY else spec.key
        rows = [f"provider: {PROVIDER}", "model type: rerank", f"model name: {spec.model}"]
        rows += [f"base URL: {spec.base_url}", f"API key: {key}", f"max tokens: {spec.max_tokens}"]
        raise RagflowError(
            f"RAGFlow {release.name} accepts no API token for its model settings",
            code="registration-manual",
            evidence="\n".join(rows) if spec.model else "",
            hint="edit the entry by hand on RAGFlow's page of model providers, with these values",
        )
    problem = name_problem(spec.model, release)
    if not problem and len(rerank_id := model_id(release, spec)) > MAX_NAME_LENGTH:
        problem = f"RAGFlow keeps {MAX_NAME_LENGTH} characters of the id {rerank_id}"
    if problem:
        hint = "choose another served_name under [reranker], or a shorter --instance"
        raise RagflowError(problem, code="id-refused", hint=hint)


def check_ownership(
    release: Release, spec: RegistrationSpec, entry: ModelEntry | None, previous: str
) -> None:
    """Check that an existing entry may be overwritten, or needs no change.

    ``previous`` is the name of the model that ragops entered before; empty when it did not.

    Raises:
        RagflowError: It belongs to the user, or contains models of the user.
    """
    wrong = entry.differences(spec) if entry else ()
    others = [f"there is also {name}" for name in entry.others if name != previous] if entry else []
    if wrong and (not previous or others):
        instances = release.registration != "add_llm"
        raise RagflowError(
            f"RAGFlow has an entry for {spec.model} that ragops did not create",
            code="entry-foreign",
            evidence="\n".join((*wrong, *others)),
            hint="remove it in RAGFlow's model providers, or choose "
            + ("another instance with --instance" if instances else "another served_name under [reranker]"),
        )


def changes(api: RegistrationApi, spec: RegistrationSpec, state: RagflowState) -> tuple[Request, ...]:
    """The requests after which RAGFlow's settings match the spec; empty when they do.

    A given key that a release doesn't report is sent again. The default is set again for a new entry, which
    has another internal id.
    """
    release, entry = api.release, state.entry
    unknown_key = entry is not None and entry.same_key is None and spec.key != DEFAULT_KEY
    requests: list[Request] = []
    if entry is None or unknown_key or entry.differences(spec):
        requests += api.enter(spec, state)
    default, chat_default = model_id(release, spec), chat_id(release, spec)
    if spec.default and (state.default != default or entry is None):
        requests.append(api.set_default(state, default))
    changed = [chat for chat in spec.chats if state.chats[chat].rerank_id != chat_default]
    requests += [set_chat(release, state, chat, chat_default) for chat in changed]
    return tuple(requests)


def differences(release: Release, spec: RegistrationSpec, state: RagflowState) -> tuple[str, ...]:
    """Differences between RAGFlow's settings and the spec."""
    wrong = list(state.entry.differences(spec) if state.entry else ["there is no entry"])
    if spec.default and state.default != model_id(release, spec):
        wrong.append(f"default: {state.default or 'none'} instead of {model_id(release, spec)}")
    used = chat_id(release, spec)
    wrong += [f"chat {chat} does not use it" for chat in spec.chats if state.chats[chat].rerank_id != used]
    return tuple(wrong)


def model_id(release: Release, spec: RegistrationSpec) -> str:
    """Id of the model in the default setting and, from v0.25, in chats."""
    return releases.rerank_id(release, spec.model, spec.instance)


def chat_id(release: Release, spec: RegistrationSpec) -> str:
    """Id of the model in a chat; up to v0.24 without the provider."""
    rerank_id = model_id(release, spec)
    return rerank_id if release.chats == "rerank_id" else rerank_id.removesuffix(f"@{PROVIDER}")


def own_ids(names: Iterable[str], instance: str) -> frozenset[str]:
    """Every id by which any release names these models, also after RAGFlow's own migration to v0.26."""
    ids = {
        form.format(name=name, instance=instance)
        for name in names
        for fact in releases.IDS
        for form in fact.value
    }
    return frozenset(ids | {migrated_id(rerank_id) for rerank_id in ids})


def migrated_id(rerank_id: str) -> str:
    """An id after RAGFlow's migration to v0.26, which inserts the instance ``default``."""
    return rerank_id.replace("@", "@default@") if rerank_id.count("@") == 1 else rerank_id


def read_chats(page: int) -> Request:
    """Read a page of the user's chats; the first is 1."""
    path = f"/api/v1/chats?page={page}&page_size={CHATS_PER_PAGE}"
    return Request("GET", path, purpose="read the chats")


def chat_rows(release: Release, response: Response) -> list[dict[str, Any]]:
    """The rows of a page of chats."""
    rows: list[dict[str, Any]] = (
        (response.data or {}).get("chats", ()) if release.chats == "rerank_id" else response.data
    )
    return rows or []


def parse_chat(release: Release, row: Mapping[str, Any]) -> Chat:
    """Parse a row of the list of chats."""
    if release.chats == "rerank_id":
        return Chat(row.get("rerank_id") or "")
    datasets = tuple(dataset["id"] for dataset in row.get("datasets", ()))
    return Chat((row.get("prompt") or {}).get("rerank_model") or "", datasets)


def set_chat(release: Release, state: RagflowState, chat: str, rerank_id: str) -> Request:
    """Set the rerank model of a chat; an empty id removes it."""
    path, purpose = (
        f"/api/v1/chats/{quote(chat, safe='')}",
        f"let chat {chat} use {rerank_id or 'no rerank model'}",
    )
    if release.chats == "rerank_id":
        return Request("PATCH", path, {"rerank_id": rerank_id}, purpose)
    body = {"prompt": {"rerank_model": rerank_id}, "dataset_ids": state.chats[chat].datasets}
    return Request("PUT", path, body, purpose)


def rank_dataset(dataset: str, rerank_id: str) -> Request:
    """Run one query in a dataset; with a rerank id ordered by the rerank score only."""
    body = {
        "question": "What is this about?",
        "dataset_ids": [dataset],
        "rerank_id": rerank_id,
        "page_size": 8,
        "top_k": 64,
        "similarity_threshold": 0,
        "vector_similarity_weight": 1.0,
    }
    return Request("POST", "/api/v1/retrieval", body, f"search dataset {dataset}")


def _instance(spec: RegistrationSpec) -> str:
    return f"{_INSTANCES}/{quote(spec.instance, safe='')}"
