"""The model entry that RAGFlow should have, the settings it reports, and their differences; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.answers import Request, Response
from ragops.ragflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.ragflow.releases import Release

INSTANCE = "ragops"
"""Name of the provider instance that ragops creates, from v0.26 on."""

KEY = Secret("ragops-rerank")
"""Sent where the reranker checks no key: RAGFlow needs one, and v0.26.0 accepts no key twice."""

PROVIDER = "VLLM"


@dataclass(frozen=True)
class RegistrationSpec:
    """The model entry that RAGFlow should have, and what should use it."""

    model: str
    """Name that the reranker serves."""
    base_url: str
    """The reranker's address inside the network, ending in ``/v1``."""
    max_tokens: int
    key: Secret = KEY
    instance: str = INSTANCE
    default: bool = False
    """Whether to make it the user's default rerank model."""
    chats: tuple[str, ...] = ()
    """Ids of the chats that should use it."""
    dataset: str = ""
    """Id of a dataset in which one query is ranked at the end, as a check."""


@dataclass(frozen=True)
class ModelEntry:
    """RAGFlow's entry of the model; what a release doesn't report is None."""

    base_url: str
    max_tokens: int | None
    same_key: bool | None
    others: tuple[str, ...] = ()
    """Other models in the same instance, or an entry of another type with the model's name."""
    model: bool = True
    """Whether the model is in the instance; else the instance exists without it."""

    def matches(self, spec: RegistrationSpec) -> bool:
        """Whether the entry has the values of the spec, in all that the release reports."""
        return (
            self.model
            and self.base_url == spec.base_url
            and self.max_tokens in {None, spec.max_tokens}
            and self.same_key is not False
        )


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


def check_supported(release: Release, spec: RegistrationSpec) -> None:
    """Check that a release can use the reranker and takes an API token for its settings.

    Raises:
        RagflowError: It can't; an older release gets the values to enter by hand.
    """
    if release.obstacle:
        raise RagflowError(
            f"RAGFlow {release.name} can't use a vLLM reranker: {release.obstacle}",
            code="ragflow-release",
            hint="upgrade RAGFlow to v0.18.0 or later; nothing was changed",
        )
    if release.registration == "manual":
        raise RagflowError(
            f"RAGFlow {release.name} takes no API token for its model settings",
            code="registration-manual",
            evidence="\n".join(f"{name}: {value}" for name, value in manual_entry(spec)),
            hint="edit the entry by hand on RAGFlow's page of model providers, with these values",
        )


def manual_entry(spec: RegistrationSpec) -> tuple[tuple[str, str], ...]:
    """The fields of RAGFlow's form for a model, and their values; a key of the reranker's own is masked."""
    return (
        ("provider", PROVIDER),
        ("model type", "rerank"),
        ("model name", spec.model),
        ("base URL", spec.base_url),
        ("API key", KEY.reveal() if spec.key == KEY else str(spec.key)),
        ("max tokens", str(spec.max_tokens)),
    )


def model_id(release: Release, spec: RegistrationSpec) -> str:
    """The id by which the default setting, and chats from v0.25 on, name the model."""
    return releases.rerank_id(release, spec.model, spec.instance)


def chat_id(release: Release, spec: RegistrationSpec) -> str:
    """The id by which a chat names the model: up to v0.24 without the provider."""
    whole = model_id(release, spec)
    return whole if release.chats == "rerank_id" else whole.removesuffix(f"@{PROVIDER}")


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
    """Set the rerank model of a chat; an empty id is none."""
    purpose = f"let chat {chat} use {rerank_id or 'no rerank model'}"
    path = f"/api/v1/chats/{chat}"
    if release.chats == "rerank_id":
        return Request("PATCH", path, {"rerank_id": rerank_id}, purpose)
    return Request("PUT", path, {"prompt": {"rerank_model": rerank_id}}, purpose)


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


def differences(release: Release, spec: RegistrationSpec, state: RagflowState) -> tuple[str, ...]:
    """Where RAGFlow's settings differ from the spec."""
    whole, short = model_id(release, spec), chat_id(release, spec)
    entry = state.entry
    rows = [
        ("address", spec.base_url, entry.base_url if entry else "no entry"),
        ("model", spec.model, spec.model if entry and entry.model else "not entered"),
        ("max tokens", spec.max_tokens, (entry and entry.max_tokens) or spec.max_tokens),
        ("key", "as sent", "as sent" if not entry or entry.same_key is not False else "another"),
    ]
    if spec.default:
        rows.append(("default", whole, state.default))
    rows += [(f"chat {chat}", short, state.chats.get(chat, "")) for chat in spec.chats]
    return tuple(
        f"{name}: {current or 'none'} instead of {expected}"
        for name, expected, current in rows
        if expected != current
    )


def check_ownership(spec: RegistrationSpec, entry: ModelEntry | None, previous: str) -> None:
    """Check that an existing entry may be overwritten, or need not be.

    Args:
        spec: The entry that RAGFlow should have.
        entry: The entry that it has.
        previous: Name of the model that ragops entered before; empty when it did not.

    Raises:
        RagflowError: It belongs to the user, or contains models of the user.
    """
    if entry is None or entry.matches(spec):
        return
    others = tuple(name for name in entry.others if name != previous)
    if not previous or others:
        raise RagflowError(
            f"RAGFlow has an entry for {spec.model} that ragops did not create",
            code="entry-foreign",
            evidence=f"address {entry.base_url or '(none)'} instead of {spec.base_url}"
            + (f"; there is also {', '.join(others)}" if others else ""),
            hint="remove it in RAGFlow's model providers, or name another instance with --instance",
        )
