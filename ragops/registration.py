"""Registers the reranker in RAGFlow and takes it out again: what the command and notebooks call.

Read what is there, keep it, send what is missing, read it back. ``ragflow/register.py`` says what
to send; a second :func:`register` sends nothing. Addresses, names and ids are told, keys never.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops import sizing, verbs
from ragops.engine import connect as connect_engine
from ragops.errors import RagflowError
from ragops.lock import held
from ragops.ragflow import access as ways
from ragops.ragflow import discovery, entering
from ragops.ragflow import register as rules
from ragops.ragflow.access import Access
from ragops.ragflow.api import address
from ragops.ragflow.detect import detect
from ragops.ragflow.entering import Target
from ragops.ragflow.register import Wanted
from ragops.stack import home
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.register import Seen
    from ragops.stack import Stack

GO = "RAGFlow's Go server is on (API_PROXY_SCHEME): it ranks by words when the reranker fails, silently"

__all__ = ["Access", "Registered", "Wanted", "register", "unregister", "wanted_of"]


@dataclass(frozen=True, repr=False)
class Registered(Shown):
    """What RAGFlow has, read back, and what was changed for it."""

    url: str
    release: str
    source: str
    """What told the release."""
    model: str
    """The model's name; empty when RAGFlow does not have it."""
    address: str
    rerank_id: str
    """The id by which a chat or a retrieval names the model."""
    default: str
    """The user's default rerank model."""
    chats: tuple[str, ...]
    """Chats that use it, of those that were named."""
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """RAGFlow's settings of the reranker, then the changes."""
        rows = (
            ("RAGFlow", f"{self.release} at {self.url}, by {self.source}"),
            ("model", self.model or "not entered"),
            ("address", self.address or "none"),
            ("rerank id", self.rerank_id),
            ("default", self.default or "none"),
            *(("chat", chat) for chat in self.chats),
        )
        changes = tuple(f"~ {change}" for change in self.changes) or ("nothing to change",)
        notes = tuple(f"note: {note}" for note in self.notes)
        below = Table(notes=(*changes, *notes))
        return Table((Column("setting"), Column("value")), rows, below=(below,))


def register(
    stack: Stack,
    access: Access,
    *,
    url: str = "",
    wanted: Wanted | None = None,
    engine: Engine | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Registered:
    """Enter the reranker into RAGFlow, and read it back. Idempotent.

    Args:
        stack: The declaration.
        access: How RAGFlow lets ragops in.
        url: RAGFlow's address; found from its container when left out.
        wanted: What it is to have; :func:`wanted_of` makes it from the stack when left out.
        engine: The engine; connected when left out and needed.
        told: Gets a line for each thing that is changed.

    Raises:
        RagflowError: RAGFlow is not found or of an unknown release, refuses, or has an entry of
            somebody else; nothing half made stays, and nothing of the user's is lost.
        StackError: Something that must be given is missing.
    """
    target, source, notes = _target(stack, url, wanted, engine)
    dataset = target.wanted.dataset
    ways.check(access, target.release, chats=bool(target.wanted.chats or dataset))
    with (
        held(target.home, target.url, target.wanted.instance),
        ways.opened(target.url, access, target.release, told) as api,
    ):
        target, seen = entering.renewed(api, target)
        was = entering.before(target, seen)
        if error := rules.foreign(target.wanted, seen, was.model if was.entered else ""):
            raise error
        done = entering.enter(api, target, seen, was, told)
        now = entering.look(api, target) if done else seen
        if wrong := rules.differences(target.release, target.wanted, now):
            raise RagflowError(
                "RAGFlow took the model, but reads back something else",
                evidence="\n".join(wrong),
                hint="ragops unregister undoes it",
            )
        if dataset:
            api.do(rules.question(dataset, target.model_id))
    proof = (f"dataset {dataset} was ranked with it",) if dataset else ()
    return _record(target, source, now, done, (*notes, *proof))


def unregister(
    stack: Stack,
    access: Access,
    *,
    url: str = "",
    wanted: Wanted | None = None,
    engine: Engine | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Registered:
    """Put back what was in RAGFlow before: chats, default, then take the model out.

    What somebody has changed since is left as it is. Arguments and errors as of :func:`register`.
    """
    target, source, _ = _target(stack, url, wanted, engine)
    ways.check(access, target.release, chats=False)
    with (
        held(target.home, target.url, target.wanted.instance),
        ways.opened(target.url, access, target.release, told) as api,
    ):
        seen = entering.look(api, target)
        was = entering.recall(target, seen)
        if was is None:
            return _record(target, source, seen, (), ("ragops has changed nothing there: nothing to undo",))
        entered = replace(target.wanted, model=was.model, chats=tuple(was.chats))
        target = replace(target, wanted=entered)
        ways.check(access, target.release, chats=bool(was.chats))
        done = entering.leave(api, target, was, told)
        now = entering.look(api, target, gone=True)
    return _record(target, source, now, done, entering.left(was, now))


def wanted_of(stack: Stack) -> Wanted:
    """What RAGFlow is to have, from the declaration; the model is found as ``up`` finds it."""
    desired = verbs.desired(stack)
    return Wanted(desired.served, stack.internal_url, sizing.max_model_len(stack, desired.model))


def _target(
    stack: Stack, url: str, wanted: Wanted | None, engine: Engine | None
) -> tuple[Target, str, tuple[str, ...]]:
    """The RAGFlow, what told its release, notes; its container is looked for only without an address."""
    found = None
    if not url:
        engine = engine or connect_engine()
        found = _container(stack, engine)
        url = discovery.url_of(found)
    told = detect(stack.ragflow.release, url=address(url), found=found, engine=engine)
    release = rules.usable(told.release)
    notes = (GO,) if found is not None and found.speaks_go else ()
    return Target(address(url), release, wanted or wanted_of(stack), home()), told.source, notes


def _container(stack: Stack, engine: Engine) -> RagflowContainer:
    found = discovery.find(engine.containers(), stack.ragflow)
    if not found:
        raise RagflowError("no RAGFlow container to register in", hint="start RAGFlow, or give --url")
    if found[0].demo:
        raise RagflowError(
            f"{found[0].name} is the demo client, a stand-in: it has no settings to register in",
            hint="start RAGFlow, or give --url",
        )
    return found[0]


def _record(
    target: Target, source: str, now: Seen, done: tuple[str, ...], notes: tuple[str, ...]
) -> Registered:
    short = rules.chat_id(target.release, target.wanted)
    there = now.entry is not None and now.entry.model
    return Registered(
        url=target.url,
        release=target.release.name,
        source=source,
        model=target.wanted.model if there else "",
        address=now.entry.address if now.entry and there else "",
        rerank_id=target.model_id,
        default=now.default,
        chats=tuple(one for one, has in now.chats.items() if has == short),
        changes=done,
        notes=notes,
    )
