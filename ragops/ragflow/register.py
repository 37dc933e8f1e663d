"""Enters the reranker into RAGFlow, reads it back, and undoes it: the requests alone; pure.

A :class:`Family` knows the routes of some releases. It says what to read (:meth:`Family.reads`),
what the answers tell (:meth:`Family.seen`), what to send so that RAGFlow has what is
:class:`Wanted`, and what to send to undo it. ``registration.py`` sends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.answers import Reply, Request
from ragops.ragflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ragops.ragflow.releases import Release

INSTANCE = "ragops"
"""Name of the provider's instance that ragops makes, from v0.26 on."""

KEY = Secret("ragops-rerank")
"""Entered where the reranker asks for none: it can't be empty, and v0.26.0 takes no key twice."""

PROVIDER = "VLLM"


@dataclass(frozen=True)
class Wanted:
    """What RAGFlow is to have."""

    model: str
    """As the reranker serves it."""
    address: str
    """Inside the network, ending in ``/v1``."""
    max_tokens: int
    key: Secret = KEY
    instance: str = INSTANCE
    default: bool = False
    """Whether to make it the user's default rerank model."""
    chats: tuple[str, ...] = ()
    """Ids of the chats that are to use it."""
    dataset: str = ""
    """Id of a dataset in which one question is ranked in the end, as a proof."""


@dataclass(frozen=True)
class Entry:
    """A model as RAGFlow has it entered; what a release doesn't tell is None."""

    address: str
    max_tokens: int | None
    same_key: bool | None
    others: tuple[str, ...] = ()
    """Other models in the same instance, or what else has the model's name."""
    model: bool = True
    """Whether the model is in it, or the instance alone is there."""


@dataclass(frozen=True)
class Seen:
    """What RAGFlow has."""

    entry: Entry | None
    provider: bool
    default: str
    """Id of the default rerank model; empty when there is none."""
    chats: Mapping[str, str] = field(default_factory=dict)
    """Rerank ids by chat; empty where a chat uses none."""
    siblings: tuple[str, ...] = ()
    """Other instances of the provider."""
    tenant: Mapping[str, str] = field(default_factory=dict)
    """What must be sent back unchanged when the default is set, up to v0.25; has the ``tenant_id``."""


class Family(Protocol):
    """The routes of some releases."""

    release: Release

    def reads(self, wanted: Wanted) -> tuple[Request, ...]:
        """What tells what RAGFlow has; the first must succeed, a later one may find nothing."""

    def seen(self, wanted: Wanted, replies: Mapping[str, Reply]) -> Seen:
        """What the answers tell, by the path that was asked."""

    def enter(self, wanted: Wanted, seen: Seen) -> Iterator[Request]:
        """Enter the model, or bring its entry up to date."""

    def default(self, model_id: str, seen: Seen) -> Request:
        """Make a model the default."""

    def restore(self, model_id: str, seen: Seen) -> tuple[Request, ...]:
        """Put an earlier default back; empty was none."""

    def replaced(self, model: str) -> tuple[Request, ...]:
        """Take out the model that ragops entered under an earlier name, where entering doesn't."""

    def remove(self, wanted: Wanted, seen: Seen, *, provider: bool) -> Iterator[Request]:
        """Take the model out, and the provider with it when ragops added it."""


def model_id(release: Release, wanted: Wanted) -> str:
    """The id by which the default setting, and chats from v0.25 on, name the model."""
    return releases.rerank_id(release, wanted.model, wanted.instance)


def chat_id(release: Release, wanted: Wanted) -> str:
    """The id by which a chat names it: up to v0.24 the name alone as RAGFlow keeps it."""
    whole = model_id(release, wanted)
    return whole if release.chats == "rerank_id" else whole.removesuffix(f"@{PROVIDER}")


def chat_reads(release: Release, chats: tuple[str, ...]) -> tuple[Request, ...]:
    """What tells the rerank models of chats."""
    return tuple(_chat_read(release, one) for one in chats)


def chats_seen(release: Release, chats: tuple[str, ...], replies: Mapping[str, Reply]) -> dict[str, str]:
    """The rerank id of each chat; empty where it has none."""
    found = {}
    for one in chats:
        data = replies[_chat_read(release, one).path].data
        if release.chats == "rerank_id":
            found[one] = str((data or {}).get("rerank_id") or "")
        else:
            found[one] = str(((data or [{}])[0].get("prompt") or {}).get("rerank_model") or "")
    return found


def chat_write(release: Release, chat: str, rerank_id: str) -> Request:
    """Let a chat use a rerank model; an empty id is none."""
    why = f"let chat {chat} use {rerank_id or 'no rerank model'}"
    if release.chats == "rerank_id":
        return Request("PATCH", f"/api/v1/chats/{chat}", {"rerank_id": rerank_id}, why)
    body = {"prompt": {"rerank_model": rerank_id}}
    return Request("PUT", f"/api/v1/chats/{chat}", body, why, token_only=True)


def question(dataset: str, rerank_id: str) -> Request:
    """A retrieval in a dataset that the model ranks: the proof that RAGFlow finds it by its id."""
    body = {
        "question": "What is this about?",
        "dataset_ids": [dataset],
        "rerank_id": rerank_id,
        "page_size": 8,
        "top_k": 64,
        "similarity_threshold": 0,
        "vector_similarity_weight": 1.0,
    }
    return Request("POST", "/api/v1/retrieval", body, f"rank dataset {dataset}", token_only=True)


def is_same(wanted: Wanted, entry: Entry | None) -> bool:
    """Whether an entry is as wanted, in all that the release tells of it."""
    return (
        entry is not None
        and entry.model
        and entry.address == wanted.address
        and entry.max_tokens in {None, wanted.max_tokens}
        and entry.same_key is not False
    )


def changes(family: Family, wanted: Wanted, seen: Seen) -> tuple[Request, ...]:
    """What to send so that RAGFlow has what is wanted; nothing when it has it.

    A key that a release doesn't tell and that was given on purpose is sent again. A model that is
    made anew is no longer the default, and so is made it again.
    """
    release = family.release
    unknown = seen.entry is not None and seen.entry.same_key is None and wanted.key != KEY
    stale = unknown or not is_same(wanted, seen.entry)
    entering = tuple(family.enter(wanted, seen)) if stale else ()
    whole, short = model_id(release, wanted), chat_id(release, wanted)
    lost = seen.default == whole and any(one.method == "DELETE" for one in entering)
    named = lost or (wanted.default and seen.default != whole)
    chats = (chat_write(release, one, short) for one in wanted.chats if seen.chats[one] != short)
    return (*entering, *((family.default(whole, seen),) if named else ()), *chats)


def carried(wanted: Wanted, seen: Seen, mine: frozenset[str]) -> Wanted:
    """What is wanted, and that the default and the chats that ragops set go on to name the model.

    Args:
        wanted: What is wanted now.
        seen: What is there, of the chats of earlier calls too.
        mine: The ids by which RAGFlow has named the model that ragops entered.
    """
    chats = tuple(one for one, has in seen.chats.items() if one in wanted.chats or has in mine)
    return replace(wanted, default=wanted.default or seen.default in mine, chats=chats)


def differences(release: Release, wanted: Wanted, seen: Seen) -> tuple[str, ...]:
    """Where what RAGFlow has differs from what is wanted."""
    whole, short = model_id(release, wanted), chat_id(release, wanted)
    entry = seen.entry
    rows = [
        ("address", wanted.address, entry.address if entry else "no entry"),
        ("model", wanted.model, wanted.model if entry and entry.model else "not entered"),
        ("max tokens", wanted.max_tokens, (entry and entry.max_tokens) or wanted.max_tokens),
        ("key", "as sent", "as sent" if not entry or entry.same_key is not False else "another"),
        *([("default", whole, seen.default)] if wanted.default else []),
        *((f"chat {one}", short, seen.chats.get(one, "")) for one in wanted.chats),
    ]
    return tuple(f"{name}: {has or 'none'} instead of {want}" for name, want, has in rows if want != has)


def usable(release: Release) -> Release:
    """The release itself.

    Raises:
        RagflowError: It can't use a vLLM reranker at all.
    """
    if release.obstacle:
        raise RagflowError(
            f"RAGFlow {release.name} can't use a vLLM reranker: {release.obstacle}",
            hint="upgrade RAGFlow to v0.18.0 or later; nothing was changed",
        )
    return release


def foreign(wanted: Wanted, seen: Seen, entered: str) -> RagflowError | None:
    """Why an entry must not be written over; None when it may, or needn't be.

    Args:
        wanted: What is wanted.
        seen: What is there.
        entered: Name of the model that ragops has entered before; empty when it has not.
    """
    entry = seen.entry
    others = tuple(one for one in entry.others if one != entered) if entry else ()
    if entry is None or is_same(wanted, entry) or (entered and not others):
        return None
    return RagflowError(
        f"RAGFlow has an entry for {wanted.model} already, and not by ragops alone",
        evidence=f"address {entry.address or '(none)'}, wanted {wanted.address}"
        + (f"; there is also {', '.join(others)}" if others else ""),
        hint="remove it in RAGFlow's model providers, or name another instance with --instance",
    )


def _chat_read(release: Release, chat: str) -> Request:
    if release.chats == "rerank_id":
        return Request("GET", f"/api/v1/chats/{chat}", why=f"read chat {chat}")
    return Request("GET", f"/api/v1/chats?id={chat}", why=f"read chat {chat}", token_only=True)
