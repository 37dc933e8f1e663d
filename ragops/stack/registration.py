"""Register the reranker in RAGFlow through its API, and restore the earlier settings.

:func:`register` reads the settings, saves them in an undo record, sends what is missing, reads back and
compares; a second call changes nothing. :func:`unregister` restores chats and the default first, since later
releases refuse to remove a model in use. Addresses, names and ids are logged; secrets are not. The requests
of each release are in :mod:`ragops.ragflow.providers`.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from ragops.configuration import home
from ragops.docker import engine as docker_engine
from ragops.errors import RagflowError
from ragops.progress import step
from ragops.ragflow import discovery, releases
from ragops.ragflow.api import Api, base_url, refusal
from ragops.ragflow.providers import (
    RegistrationSpec,
    changes,
    chat_id,
    check_ownership,
    check_supported,
    differences,
    model_id,
    rank_dataset,
    registration_api,
    set_chat,
)
from ragops.session import Deployment, lock
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ragops.configuration import Stack
    from ragops.docker.engine import Engine
    from ragops.ragflow.api import Request, Secret
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.providers import RagflowState, RegistrationApi
    from ragops.ragflow.releases import Release

GO_SERVER = "RAGFlow's Go server is on (API_PROXY_SCHEME): it ignores failures of the reranker"


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
    rerank_id: str
    """The id by which a chat or a retrieval names the model."""
    default: str
    """Id of the user's default rerank model."""
    chats: tuple[str, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """RAGFlow's settings of the reranker, then the changes."""
        rows = (
            ("RAGFlow", f"{self.release} at {self.url}, by {self.source}"),
            ("model", self.model or "not registered"),
            ("address", self.base_url or "none"),
            ("rerank id", self.rerank_id),
            ("default", self.default or "none"),
            *(("chat", chat) for chat in self.chats),
        )
        changes = tuple(f"~ {change}" for change in self.changes) or ("nothing to change",)
        below = Table(notes=(*changes, *(f"note: {note}" for note in self.notes)))
        return Table((Column("setting"), Column("value")), rows, below=(below,))


def register(
    stack: Stack,
    token: Secret,
    *,
    url: str = "",
    spec: RegistrationSpec | None = None,
    engine: Engine | None = None,
) -> Registration:
    """Add the reranker to the models of RAGFlow v0.24 or later, and read it back. Idempotent.

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
    with _connected(stack, token, url, spec, engine) as registrar:
        state = registrar.read()
        record = UndoRecord.load(registrar.home, registrar.new_record(state))
        if record is None:
            record = registrar.new_record(state)
        else:
            state = registrar.add_earlier(record)
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
        notes = registrar.notes
        if spec.dataset:
            registrar.api.call(rank_dataset(spec.dataset, model_id(registrar.release, spec)))
            notes = (*notes, f"dataset {spec.dataset} was ranked with it")
        return registrar.registration(state, sent, notes)


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
    with _connected(stack, token, url, spec, engine) as registrar:
        state = registrar.read()
        record = UndoRecord.load(registrar.home, registrar.new_record(state))
        if record is None:
            notes = ("ragops has changed nothing there: nothing to undo",)
            return registrar.registration(state, (), notes)
        registrar.spec = replace(registrar.spec, model=record.model, chats=tuple(record.chats))
        sent = registrar.undo(record)
        state = registrar.read(chats_may_be_missing=True)
        return registrar.registration(state, sent, record.remaining(state))


def registration_spec(stack: Stack) -> RegistrationSpec:
    """The entry that RAGFlow should have for a configuration; the model is resolved as by ``up``."""
    deployment = Deployment.resolve(stack)
    return RegistrationSpec(deployment.served_name, stack.internal_url, deployment.sizing.max_model_len)


@dataclass(frozen=True)
class UndoRecord:
    """What ``register`` changed in one RAGFlow for one of its users, and the settings before that.

    A small file below ``RAGOPS_HOME/ragflow``, readable by its owner only, without keys and tokens.
    """

    url: str
    user: str
    instance: str
    release: str
    model: str
    entered: bool = False
    """Whether ragops entered the model; else it existed before."""
    provider: bool = False
    """Whether ragops added the provider."""
    default: str | None = None
    """The default rerank model before ragops set one, empty for none; None when it never did."""
    chats: Mapping[str, str] = field(default_factory=dict)
    """Each chat's rerank id before ragops set one."""

    def file(self, home: Path) -> Path:
        """Where the record is stored below ``RAGOPS_HOME``."""
        owner = self.user or self.url  # a user's id lasts, an address changes with the container
        digest = hashlib.sha256(f"{owner}\n{self.instance}".encode()).hexdigest()[:12]
        return home / "ragflow" / f"{digest}.json"

    @classmethod
    def load(cls, home: Path, new: UndoRecord) -> UndoRecord | None:
        """The stored record of the user and instance of a new one; None without a file.

        Raises:
            RagflowError: The file can't be read.
        """
        file = new.file(home)
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RagflowError(
                f"can't read the record of RAGFlow's previous settings, {file}",
                code="undo-unreadable",
                evidence=str(error),
                hint="repair the file, or move it away and restore the default and the chats by hand",
                file=file,
            ) from None

    def save(self, home: Path) -> None:
        """Write the record atomically, readable by its owner only."""
        file = self.file(home)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = file.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(asdict(self), out, indent=2, ensure_ascii=False)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)

    def remaining(self, state: RagflowState) -> tuple[str, ...]:
        """The settings that differ from those before registration, and why."""
        notes = []
        if not self.entered:
            notes.append(f"{self.model} existed before ragops register, and stays")
        if self.default is not None and state.default != self.default:
            notes.append(f"the default is {state.default or 'none'} and was {self.default or 'none'}")
        return tuple(notes)


@dataclass
class Registrar:
    """One user's settings in one RAGFlow, and the entry that they should have."""

    api: Api
    release: Release
    source: str
    """Where the release was read."""
    spec: RegistrationSpec
    home: Path
    notes: tuple[str, ...]

    @property
    def routes(self) -> RegistrationApi:
        """The requests of the release."""
        return registration_api(self.release)

    def read(self, *, chats_may_be_missing: bool = False) -> RagflowState:
        """Read the settings.

        Raises:
            RagflowError: RAGFlow refuses the token, a chat does not exist, or a request failed: an
                object that could not be read is never taken for one that does not exist.
        """
        first, *others = self.routes.reads(self.spec)
        responses = {first.path: self.api.call(first)}
        for request in others:
            response = self.api.send(request)
            required = "/chats" in request.path and not chats_may_be_missing
            if not response.ok and (required or not response.is_absent):
                raise refusal(request, response)
            responses[request.path] = response
        return self.routes.parse(self.spec, responses)

    def new_record(self, state: RagflowState) -> UndoRecord:
        """An undo record without any change."""
        user = state.tenant.get("tenant_id", "")
        return UndoRecord(self.api.url, user, self.spec.instance, self.release.name, self.spec.model)

    def add_earlier(self, record: UndoRecord) -> RagflowState:
        """Add the default and the chats of earlier calls to the spec, as far as they still name the model."""
        requested, own = self.spec, self._own_ids(record)
        self.spec = replace(requested, chats=tuple(dict.fromkeys((*requested.chats, *record.chats))))
        state = self.read(chats_may_be_missing=True)
        chats = tuple(chat for chat, model in state.chats.items() if chat in requested.chats or model in own)
        self.spec = replace(requested, default=requested.default or state.default in own, chats=chats)
        return state

    def enter(self, state: RagflowState, record: UndoRecord) -> tuple[str, ...]:
        """Send the missing changes, and return them.

        Raises:
            RagflowError: RAGFlow refused; what was created by then is removed again.
        """
        requests = list(changes(self.routes, self.spec, state))
        if record.entered and record.model != self.spec.model:
            requests += self.routes.replace(record.model)
        if not requests:
            return ()
        created = state.entry is None and not record.entered
        own, default = self._own_ids(record), record.default  # a later choice of the user replaces them
        if self.spec.default and state.default not in own:
            default = state.default
        chats = {chat: state.chats[chat] for chat in self.spec.chats if state.chats[chat] not in own}
        record = replace(
            record,
            default=default,
            chats={**record.chats, **chats},
            release=self.release.name,
            model=self.spec.model,
            entered=record.entered or created,
            provider=record.provider or not state.provider,
        )
        record.save(self.home)
        try:
            return self._send(requests)
        except RagflowError:
            if created:
                self._clean_up(record, provider=not state.provider)
            raise

    def undo(self, record: UndoRecord) -> tuple[str, ...]:
        """Restore the previous settings, and return the changes. A refused request does not stop the others.

        Settings that the user has changed since stay.

        Raises:
            RagflowError: A request was refused; the undo record stays, so that it can be repeated.
        """
        state, own = self.read(chats_may_be_missing=True), self._own_ids(record)
        requests: list[Request] = []
        for chat, previous in record.chats.items():
            if state.chats.get(chat) in own:
                requests.append(set_chat(self.release, chat, previous))
        if record.default is not None and state.default in own:
            requests += self.routes.restore_default(record.default, state)
        if record.entered:
            requests += self.routes.remove(self.spec, state, provider=record.provider)
        sent, errors = list[str](), list[RagflowError]()
        for request in requests:
            try:
                sent += self._send((request,))
            except RagflowError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        record.file(self.home).unlink(missing_ok=True)
        return tuple(sent)

    def registration(
        self, state: RagflowState, changes: tuple[str, ...], notes: tuple[str, ...]
    ) -> Registration:
        """The settings that were read, with the changes that were made."""
        entry = state.entry if state.entry and state.entry.model else None
        used = chat_id(self.release, self.spec)
        return Registration(
            url=self.api.url,
            release=self.release.name,
            source=self.source,
            model=self.spec.model if entry else "",
            base_url=entry.base_url if entry else "",
            rerank_id=model_id(self.release, self.spec),
            default=state.default,
            chats=tuple(chat for chat, model in state.chats.items() if model == used),
            changes=changes,
            notes=notes,
        )

    def _own_ids(self, record: UndoRecord) -> frozenset[str]:
        """Every id by which any release names the model, also the one from before an upgrade."""
        return frozenset(
            form.format(name=name, instance=self.spec.instance)
            for name in (self.spec.model, record.model)
            for fact in releases.IDS
            for form in fact.value
        )

    def _clean_up(self, record: UndoRecord, *, provider: bool) -> None:
        """After a failure: remove what was created and the record, unless RAGFlow has the model."""
        try:
            state = self.read()
            if state.entry is not None and state.entry.model:
                return
            for request in self.routes.remove(self.spec, state, provider=provider):
                self.api.send(request)
        except RagflowError:
            return  # RAGFlow is unreachable: unregister can repeat it with the record
        record.file(self.home).unlink(missing_ok=True)

    def _send(self, requests: Iterable[Request]) -> tuple[str, ...]:
        sent = []
        for request in requests:
            self.api.call(request)
            step(request.purpose)
            sent.append(request.purpose)
        return tuple(sent)


@contextmanager
def _connected(
    stack: Stack, token: Secret, url: str, spec: RegistrationSpec | None, engine: Engine | None
) -> Iterator[Registrar]:
    """The registrar of one RAGFlow, locked for other ragops processes."""
    container = None
    if not url:
        engine = engine or docker_engine.connect()
        container = _container(stack, engine)
        url = discovery.api_url(container)
    url = base_url(url)
    detected = discovery.detect(stack.ragflow.release, url=url, container=container, engine=engine)
    spec = spec or registration_spec(stack)
    check_supported(detected.release, spec)
    if not token:
        raise RagflowError(
            f"RAGFlow {detected.release.name} needs an API token, and none was given",
            code="ragflow-access",
            hint="create one on RAGFlow's API page; give it in RAGOPS_RAGFLOW_TOKEN or with --token-file",
            url=url,
        )
    notes = (GO_SERVER,) if container is not None and container.has_go_server else ()
    with lock(url, spec.instance), Api(url, token) as api:
        yield Registrar(api, detected.release, detected.source, spec, home(), notes)


def _container(stack: Stack, engine: Engine) -> RagflowContainer:
    containers, hint = discovery.find(engine.containers(), stack.ragflow), "start RAGFlow, or set --url"
    if not containers:
        raise RagflowError("no RAGFlow container was found", code="ragflow-missing", hint=hint)
    name = containers[0].name
    if containers[0].demo:
        message = f"{name} is the demo client: it has no model settings"
        raise RagflowError(message, code="ragflow-demo", container=name, hint=hint)
    return containers[0]
