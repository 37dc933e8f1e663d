"""Registers the reranker in RAGFlow through its API, and unregisters it.

Read the settings, record them, send what is missing, read back and compare; a second
:func:`register` changes nothing. Addresses, names and ids are logged; secrets are not.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops import sizing, verbs
from ragops.engine import connect as connect_engine
from ragops.errors import RagflowError
from ragops.lock import held
from ragops.ragflow import discovery
from ragops.ragflow.api import Api, base_url
from ragops.ragflow.detect import detect
from ragops.ragflow.entering import Registrar, remaining
from ragops.ragflow.register import (
    RegistrationSpec,
    chat_id,
    check_ownership,
    check_supported,
    differences,
    model_id,
    rank_dataset,
)
from ragops.stack import home
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.register import RagflowState
    from ragops.ragflow.secret import Secret
    from ragops.stack import Stack

GO_SERVER = "RAGFlow's Go server is on (API_PROXY_SCHEME): it ignores failures of the reranker"

__all__ = ["Registration", "RegistrationSpec", "register", "registration_spec", "unregister"]


@dataclass(frozen=True, repr=False)
class Registration(Shown):
    """RAGFlow's settings as read back, and the changes that were made."""

    url: str
    release: str
    source: str
    """Where the release was read."""
    model: str
    """The model's name; empty when RAGFlow does not have it."""
    base_url: str
    """The reranker's address."""
    rerank_id: str
    """The id by which a chat or a retrieval names the model."""
    default: str
    """Id of the user's default rerank model."""
    chats: tuple[str, ...]
    """The named chats that use the model."""
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """RAGFlow's settings of the reranker, then the changes."""
        rows = (
            ("RAGFlow", f"{self.release} at {self.url}, by {self.source}"),
            ("model", self.model or "not entered"),
            ("address", self.base_url or "none"),
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
    token: Secret,
    *,
    url: str = "",
    spec: RegistrationSpec | None = None,
    engine: Engine | None = None,
) -> Registration:
    """Enter the reranker into RAGFlow v0.24 or later, and read it back. Idempotent.

    Args:
        stack: The configuration.
        token: An API token of RAGFlow.
        url: RAGFlow's address; that of its container by default.
        spec: The entry that RAGFlow should have; :func:`registration_spec` of the stack by default.
        engine: The Docker engine; connected when needed by default.

    Raises:
        RagflowError: RAGFlow is not found, of an unknown or older release, refuses, or has an entry
            of the user; an unfinished entry is removed, and nothing of the user's is lost. For an
            older release the evidence has the values to enter by hand.
        StackError: The address can't be used.
    """
    with _connected(stack, token, url, spec, engine) as opened:
        registrar, source, notes = opened
        state = registrar.read()
        record = registrar.load_record(state)
        if record is not None:
            registrar, state = registrar.with_earlier(record)
        record = record or registrar.new_record(state)
        spec = registrar.spec
        check_ownership(spec, state.entry, record.model if record.entered else "")
        if sent := registrar.enter(state, record):
            state = registrar.read()
        if wrong := differences(registrar.release, spec, state):
            raise RagflowError(
                "RAGFlow took the model, but returns another entry than the one that was sent",
                code="entry-differs",
                evidence="\n".join(wrong),
                hint="ragops unregister undoes it",
                url=registrar.api.url,
            )
        if spec.dataset:
            registrar.api.call(rank_dataset(spec.dataset, model_id(registrar.release, spec)))
            notes = (*notes, f"dataset {spec.dataset} was ranked with it")
        return _result(registrar, source, state, sent, notes)


def unregister(
    stack: Stack,
    token: Secret,
    *,
    url: str = "",
    spec: RegistrationSpec | None = None,
    engine: Engine | None = None,
) -> Registration:
    """Restore RAGFlow's settings from before :func:`register`: chats, default, then the model.

    Settings that the user has changed since stay. Arguments and errors as of :func:`register`.
    """
    with _connected(stack, token, url, spec, engine) as opened:
        registrar, source, _ = opened
        state = registrar.read()
        record = registrar.load_record(state)
        if record is None:
            notes = ("ragops has changed nothing there: nothing to undo",)
            return _result(registrar, source, state, (), notes)
        spec = replace(registrar.spec, model=record.model, chats=tuple(record.chats))
        registrar = replace(registrar, spec=spec)
        sent = registrar.undo(record)
        state = registrar.read(chats_may_be_missing=True)
        return _result(registrar, source, state, sent, remaining(record, state))


def registration_spec(stack: Stack) -> RegistrationSpec:
    """The entry that RAGFlow should have for a configuration; the model is resolved as by ``up``."""
    desired = verbs.desired(stack)
    return RegistrationSpec(desired.served, stack.internal_url, sizing.max_model_len(stack, desired.model))


@contextmanager
def _connected(
    stack: Stack,
    token: Secret,
    url: str,
    spec: RegistrationSpec | None,
    engine: Engine | None,
) -> Iterator[tuple[Registrar, str, tuple[str, ...]]]:
    """The registrar of one RAGFlow, where its release was read, and notes; locked against a second ragops."""
    container = None
    if not url:
        engine = engine or connect_engine()
        container = _container(stack, engine)
        url = discovery.url_of(container)
    url = base_url(url)
    detected = detect(stack.ragflow.release, url=url, container=container, engine=engine)
    spec = spec or registration_spec(stack)
    check_supported(detected.release, spec)
    if not token:
        raise RagflowError(
            f"RAGFlow {detected.release.name} needs an API token, and none was given",
            code="ragflow-access",
            hint="create one on RAGFlow's API page; give it in RAGOPS_RAGFLOW_TOKEN or with --token-file",
            url=url,
        )
    notes = (GO_SERVER,) if container is not None and container.speaks_go else ()
    with held(home(), url, spec.instance), Api(url, token) as api:
        yield Registrar(api, detected.release, spec, home()), detected.source, notes


def _container(stack: Stack, engine: Engine) -> RagflowContainer:
    containers = discovery.find(engine.containers(), stack.ragflow)
    if not containers:
        raise RagflowError(
            "no RAGFlow container to register in",
            code="ragflow-missing",
            hint="start RAGFlow, or give --url",
        )
    if containers[0].demo:
        raise RagflowError(
            f"{containers[0].name} is the demo client: it has no model settings",
            code="ragflow-demo",
            container=containers[0].name,
            hint="start RAGFlow, or give --url",
        )
    return containers[0]


def _result(
    registrar: Registrar, source: str, state: RagflowState, changes: tuple[str, ...], notes: tuple[str, ...]
) -> Registration:
    release, spec = registrar.release, registrar.spec
    entry = state.entry if state.entry and state.entry.model else None
    used = chat_id(release, spec)
    return Registration(
        url=registrar.api.url,
        release=release.name,
        source=source,
        model=spec.model if entry else "",
        base_url=entry.base_url if entry else "",
        rerank_id=model_id(release, spec),
        default=state.default,
        chats=tuple(chat for chat, model in state.chats.items() if model == used),
        changes=changes,
        notes=notes,
    )
