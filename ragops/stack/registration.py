"""Register the reranker in RAGFlow through its API, and restore the earlier settings.

:func:`register` lets RAGFlow test the reranker, saves the earlier settings in an undo record, sends what is
missing, reads back and compares; a second call changes nothing. :func:`unregister` needs that record alone.
It restores chats and the default before it removes the model, since RAGFlow does not guard a model in use: a
chat that names a removed one fails. Addresses, names and ids are logged; secrets are not. The requests of
each release are in :mod:`ragops.ragflow.providers`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from ragops.checks.verify import is_local
from ragops.configuration import Stack, home
from ragops.docker import engine as docker_engine
from ragops.docker.engine import Engine
from ragops.errors import EngineError, RagflowError, StackError, file_errors
from ragops.progress import step
from ragops.ragflow import discovery, providers
from ragops.ragflow.api import Api, Request, Secret, base_url, refusal
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.providers import RagflowState, RegistrationSpec, Setting
from ragops.ragflow.releases import Release
from ragops.ragflow.request import DOCUMENTS, QUERY
from ragops.reranker import gateway
from ragops.reranker.model import named_folder
from ragops.reranker.options import known
from ragops.session import Deployment, Session, lock, replace_file
from ragops.table import Column, Shown, Table

GO_SERVER = (
    "RAGFlow's server in Go may only log a failure of the reranker (falling back to token-only similarity) "
    "and respond without it: ragops verify tests the reranker"
)

_MAX_CHATS, _CHATS_PER_PAGE = 10_000, 100  # the most that v0.26 and later return at once
_HOST_TIMEOUT = 10.0
"""Seconds; that of RAGFlow's own test."""


@dataclass(frozen=True, repr=False)
class Registration(Shown):
    """RAGFlow's settings as read back, and the changes that were made."""

    url: str
    release: str
    model: str
    """The model's name; empty when RAGFlow does not have it."""
    base_url: str
    rerank_id: str
    """The id by which a chat or a retrieval names the model."""
    default: str
    chats: tuple[str, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """RAGFlow's settings of the reranker, then the changes."""
        rows = (
            ("RAGFlow", f"{self.release} at {self.url}"),
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

    Each call lets RAGFlow send one rerank, also when there is nothing to change: an entry alone does not
    prove that the reranker responds.

    Args:
        stack: The configuration.
        token: An API token of RAGFlow.
        url: RAGFlow's address; by default that of its container, else of the only undo record.
        spec: The entry that RAGFlow should have; :func:`registration_spec` of the stack by default.
        engine: The Docker engine; connected when needed by default.

    Raises:
        RagflowError: RAGFlow is not found, of an unknown or older release, refuses, does not reach the
            reranker, or has an entry of the user; what was changed by then is undone. For an older release
            the evidence has the values to enter by hand.
        StackError: An address, an id or a key can't be sent, or an address for other machines has no key.
    """
    spec = (spec or registration_spec(stack)).checked()
    if stack.gateway_used and spec.key == providers.DEFAULT_KEY and not _is_local(stack, spec, engine):
        raise StackError(
            f"the gateway has no key, and {spec.base_url} leads to it from other machines",
            code="gateway-open",
            hint="set key_file under [gateway], then: ragops up; or give the key of a proxy with --key-file",
        )
    with _connected(stack, token, url, spec, engine) as registrar:
        state = registrar.read()
        record = UndoRecord.load(registrar.new_record(state).file) or registrar.new_record(state)
        registrar.adapt(state, record)
        spec = registrar.spec
        registrar.check(state, record)
        notes = (*registrar.notes, *registrar.test(state, compare=spec.base_url != stack.internal_url))
        if sent := registrar.enter(state, record):
            state = registrar.read()
        if wrong := providers.differences(registrar.routes, spec, state):
            raise RagflowError(
                "RAGFlow took the model, but returns another entry than the one that was sent",
                code="entry-differs",
                evidence="\n".join(wrong),
                hint="ragops unregister undoes it",
            )
        if spec.dataset:
            count = registrar.search(providers.model_id(registrar.release, spec))
            notes = (*notes, f"dataset {spec.dataset}: {count} chunks were ranked with it")
        return registrar.registration(state, sent, notes)


def _is_local(stack: Stack, spec: RegistrationSpec, engine: Engine | None) -> bool:
    """Whether the address leads to the gateway from this host and its containers only."""
    host, name = urlsplit(spec.base_url).hostname or "", stack.reranker.name
    if host == name.lower() or is_local(host, None):
        return True
    with suppress(EngineError):
        return is_local(host, (engine or docker_engine.connect()).container(name))
    return False


def unregister(
    stack: Stack,
    token: Secret,
    *,
    url: str = "",
    instance: str = providers.INSTANCE,
    engine: Engine | None = None,
) -> Registration:
    """Restore RAGFlow's settings from before :func:`register`: chats, default, then the model.

    It needs the undo record, and neither the model folder nor, with ``url`` or one record, a Docker engine.
    Settings that the user has changed since stay. A chat or default that names the model, and whose earlier
    model is gone, gets none. Other arguments and errors as of :func:`register`.
    """
    spec = RegistrationSpec("", "http://none", 0, instance=instance)
    with _connected(stack, token, url, spec, engine) as registrar:
        state = registrar.read()
        file = registrar.new_record(state).file
        record = UndoRecord.load(file)
        if record is None:
            none = f"{file.parent} has no record of a registration there: nothing was undone"
            return registrar.registration(state, (), (none,))
        sent, notes = registrar.undo(record)
        return registrar.registration(registrar.read(), sent, notes)


def registration_spec(stack: Stack, address: str = "") -> RegistrationSpec:
    """The entry that RAGFlow should have for a configuration; the model is resolved as by ``up``.

    ``address`` replaces the reranker's address in its Docker network, for a RAGFlow outside of it. The key is
    the gateway's.
    """
    deployment = Deployment.resolve(stack) if named_folder(stack) else Session.open(stack).deployment
    base_url = address or stack.internal_url
    limit = deployment.sizing.max_model_len - deployment.pair_tokens  # RAGFlow counts query and document only
    if not known(deployment.model).splits:
        limit //= 64  # the documents of RAGFlow's usual call share it
    key = gateway.read_key(stack) or providers.DEFAULT_KEY
    return RegistrationSpec(deployment.spec.served_name, base_url, max(1, limit), key)


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
    default: str | None = None
    """The default rerank model before ragops set one, empty for none; None when it never did."""
    chats: Mapping[str, str] = field(default_factory=dict)

    @property
    def earlier(self) -> dict[str, str]:
        """The rerank ids before ragops set one, by the key of the setting."""
        return {**self.chats} if self.default is None else {**self.chats, providers.DEFAULT: self.default}

    @property
    def file(self) -> Path:
        """Where the record is stored below ``RAGOPS_HOME``."""
        owner = self.user or self.url  # a user's id lasts, an address changes with the container
        digest = hashlib.sha256(f"{owner}\n{self.instance}".encode()).hexdigest()[:12]
        return home() / "ragflow" / f"{digest}.json"

    @classmethod
    def load(cls, file: Path) -> "UndoRecord | None":
        """The record in a file; None without the file."""
        message = f"can't read the record of RAGFlow's previous settings, {file}"
        hint = "repair the file, or move it away and restore the default and the chats by hand"
        with file_errors(RagflowError, message, file, code="undo-unreadable", hint=hint):
            return TypeAdapter(cls).validate_json(file.read_bytes()) if file.exists() else None

    def save(self) -> None:
        """Write the record atomically, readable by its owner only."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self.file, TypeAdapter(UndoRecord).dump_json(self, indent=2), 0o600)


@dataclass
class Registrar:
    """One user's settings in one RAGFlow, and the entry that they should have."""

    api: Api
    release: Release
    spec: RegistrationSpec
    notes: tuple[str, ...]

    @property
    def routes(self) -> providers.RegistrationApi:
        """The requests of the release."""
        return providers.registration_api(self.release)

    @property
    def _is_old(self) -> bool:
        return self.release.registration == "add_llm"

    def read(self) -> RagflowState:
        """Read the settings; an object that could not be read is never taken for one that does not exist."""
        responses = {}
        for request in self.routes.reads(self.spec):
            responses[request.path] = response = self.api.send(request)
            if not response.ok and not response.is_absent:
                raise refusal(request, response)
        try:
            state = self.routes.parse(self.spec, responses)
            rows: list[Mapping[str, Any]] = []
            for page in range(1, _MAX_CHATS // _CHATS_PER_PAGE + 1):
                path = f"/api/v1/chats?page={page}&page_size={_CHATS_PER_PAGE}"
                data = self.api.call(Request("GET", path, purpose="read the chats")).data
                rows += (data["chats"] if self.release.chats == "rerank_id" else data) or []
                if len(rows) < page * _CHATS_PER_PAGE:
                    break
            owner = state.tenant["tenant_id"]  # rows of others in the same team are left out
            chats = {row["id"]: row for row in rows if row.get("tenant_id", owner) == owner}
            providers.settings(self.routes, self.spec, state := replace(state, chats=chats))
        except (AttributeError, KeyError, TypeError) as error:
            raise RagflowError(
                f"RAGFlow's settings have another form than those of {self.release.name}",
                code="ragflow-release",
                evidence=f"{type(error).__name__}: {error}",
                hint="set the release of this RAGFlow in ragops.toml; nothing was changed",
            ) from None
        return state

    def new_record(self, state: RagflowState) -> UndoRecord:
        """An undo record without any change."""
        user, spec = state.tenant["tenant_id"], self.spec
        return UndoRecord(self.api.url, user, spec.instance, self.release.name, spec.model)

    def using(self, state: RagflowState, record: UndoRecord) -> dict[str, Setting]:
        """The settings that name the model that ragops entered or set, under any id."""
        own = providers.own_ids((self.spec.model, record.model), record.instance)
        rows = providers.settings(self.routes, self.spec, state).items()
        return {key: row for key, row in rows if row.now in own and (record.entered or key in record.earlier)}

    def adapt(self, state: RagflowState, record: UndoRecord) -> None:
        """Add the settings that use the model under an id of an earlier call to the spec.

        A user's own entry keeps its token limit where RAGFlow does not use it.
        """
        using, spec = self.using(state, record), self.spec
        if state.entry and not record.entered and self.release.over_limit == "passthrough":
            spec = replace(spec, max_tokens=state.entry.max_tokens or spec.max_tokens)
        chats = dict.fromkeys((*spec.chats, *(key for key in using if key != providers.DEFAULT)))
        self.spec = replace(spec, default=spec.default or providers.DEFAULT in using, chats=tuple(chats))

    def check(self, state: RagflowState, record: UndoRecord) -> None:
        """Refuse a user's entry, an unknown chat, and an unknown or empty dataset."""
        spec, entry, previous = self.spec, state.entry, record.model if record.entered else ""
        wrong = entry.differences(spec) if entry else []
        others = [f"there is also {name}" for name in entry.others if name != previous] if entry else []
        if wrong and (others or not previous):
            name = "served_name under [reranker]" if self._is_old else "instance with --instance"
            raise RagflowError(
                f"RAGFlow has an entry for {spec.model} that ragops did not create",
                code="entry-foreign",
                evidence="\n".join(wrong + others),
                hint=f"remove it in RAGFlow's model providers, or choose another {name}",
            )
        for chat in spec.chats:
            if chat not in state.chats:
                hint = "the id is in the address of the chat's page in RAGFlow"
                message = f"RAGFlow has no chat {chat} of this user"
                raise RagflowError(message, code="ragflow-chat-unknown", hint=hint)
        if spec.dataset:
            self.search("")

    def search(self, rerank_id: str) -> int:
        """Search the dataset; returns the number of chunks, which were ranked if there is a rerank id.

        Without chunks RAGFlow does not call the reranker; with some it may rank without it
        (``RerankByModel`` of internal/service/nlp/reranker.go).
        """
        dataset = self.spec.dataset
        body: dict[str, Any] = {"question": "What is this about?", "dataset_ids": [dataset]}
        body |= {"rerank_id": rerank_id, "similarity_threshold": 0, "vector_similarity_weight": 1.0}
        body |= {"page_size": 8, "size": 8, "top_k": 64}  # v1.0 had another name of the page size at first
        request = Request("POST", self.release.search, body, f"search dataset {dataset}")
        chunks = (self.api.call(request).data or {}).get("chunks")
        if not chunks:
            raise RagflowError(
                f"dataset {dataset} has no chunks: nothing was ranked",
                code="dataset-empty",
                hint="let RAGFlow parse a file of it, or name another dataset",
            )
        scores = (chunk.get("vector_similarity") for chunk in chunks)
        if rerank_id and self.release.client.falls_back and not any(scores):
            raise RagflowError(
                f"RAGFlow ranked {len(chunks)} chunks of dataset {dataset} without the reranker",
                code="rerank-fell-back",
                evidence="vector_similarity, which is the rerank score, is 0 in all of them",
                hint="RAGFlow's log has the reason; ragops verify tests the reranker",
            )
        return len(chunks)

    def test(self, state: RagflowState, *, compare: bool) -> tuple[str, ...]:
        """Let RAGFlow send one rerank, and this host too if the results are to be compared."""
        problem = self._host_problem() if compare else ""
        here = f"this host does not reach {self.spec.base_url}: {problem}" if problem else ""
        try:
            request = self.routes.test(self.spec, state)
            step(f"{request.purpose}: RAGFlow sends a rerank")
            self.api.call(request)
        except RagflowError as error:
            if compare:
                error.evidence += f"\n{here or f'this host reaches {self.spec.base_url}'}"
            if compare and not here and error.code in {"ragflow-no-network", "ragflow-reranker-silent"}:
                error.hint = "name the reranker's address where RAGFlow runs: --address"
            raise
        return (f"RAGFlow reaches the reranker, {here}",) if here else ()

    def _host_problem(self) -> str:
        body = {"model": self.spec.model, "query": QUERY, "documents": DOCUMENTS[:1]}
        request = Request("POST", f"{urlsplit(self.spec.base_url).path}/rerank", body)
        try:
            with Api(self.spec.base_url, self.spec.key, timeout=_HOST_TIMEOUT) as reranker:
                response = reranker.send(request)
        except RagflowError as error:
            return error.evidence
        return "" if "results" in response.body else f"HTTP {response.status}: {response.message}"

    def enter(self, state: RagflowState, record: UndoRecord) -> tuple[str, ...]:
        """Save what is to be undone, send the missing changes, and return them.

        A new entry that RAGFlow refuses is removed again; without a response the record stays.
        """
        spec, created = self.spec, state.entry is None and not record.entered
        own, earlier = providers.own_ids((spec.model, record.model), spec.instance), dict(record.earlier)
        for key in spec.settings:
            now = providers.settings(self.routes, spec, state)[key].now
            if now not in own:
                earlier[key] = now  # a later choice of the user replaces the recorded one
            elif record.entered or created:
                earlier.setdefault(key, "")
        new = replace(
            record,
            url=self.api.url,
            release=self.release.name,
            model=spec.model,
            entered=record.entered or created,
            provider=record.provider or not state.provider,
            default=earlier.pop(providers.DEFAULT, None),
            chats=earlier,
        )
        requests = providers.changes(self.routes, spec, state)
        if record.entered and record.model != spec.model and self._is_old:
            requests += self.routes.remove(replace(spec, model=record.model), state, provider=False)
        if new != record:
            new.save()
        try:
            return self._send(requests)
        except RagflowError as error:
            if created and error.code != "ragflow-silent":
                with suppress(RagflowError):
                    self.undo(new)
            raise

    def undo(self, record: UndoRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Restore the previous settings; returns the changes and notes.

        A failure does not stop the other settings, and the record stays. The model is removed last,
        when no setting names it.
        """
        self.spec = replace(self.spec, model=record.model)
        state = self.read()
        sent, notes, errors = list[str](), list[str](), list[RagflowError]()
        for key, setting in self.using(state, record).items():
            try:
                change, note = self._restore(key, setting, record.earlier.get(key), state)
            except RagflowError as error:
                errors.append(error)
            else:
                sent.append(change)
                notes += [note] if note else []
        if errors:
            raise errors[0]
        if not record.entered:
            notes.append(f"{record.model} existed before ragops register, and stays")
        elif requests := tuple(self.routes.remove(self.spec, state, provider=record.provider)):
            sent += self._send(requests)
        elif state.entry and state.entry.model:
            reason = f"RAGFlow {self.release.name} can't remove one of several models"
            notes.append(f"{reason}: {record.model} stays")
        record.file.unlink(missing_ok=True)
        return tuple(sent), tuple(notes)

    def _restore(
        self, key: str, setting: Setting, earlier: str | None, state: RagflowState
    ) -> tuple[str, str]:
        """Set the earlier model, or none where RAGFlow no longer has it; returns the change and a note."""
        if earlier and (key != providers.DEFAULT or state.models is None or earlier in state.models):
            request = setting.request(earlier if self._is_old else providers.migrated_id(earlier))
            response = self.api.send(request)
            if response.ok:
                return request.purpose, ""
            if response.status >= 400:
                raise refusal(request, response)
        reason = f"RAGFlow no longer has {earlier}" if earlier else "it was selected in RAGFlow"
        note = f"{providers.setting_name(key)} uses no rerank model now: {reason}"
        return self._send((setting.request(""),))[0], note if earlier != "" else ""

    def registration(
        self, state: RagflowState, changes: tuple[str, ...], notes: tuple[str, ...]
    ) -> Registration:
        """The settings that were read, with the changes that were made."""
        entry = state.entry if state.entry and state.entry.model else None
        rows = providers.settings(self.routes, self.spec, state)
        return Registration(
            url=self.api.url,
            release=self.release.name,
            model=self.spec.model if entry else "",
            base_url=entry.base_url if entry else "",
            rerank_id=providers.model_id(self.release, self.spec),
            default=state.default,
            chats=tuple(chat for chat in state.chats if rows[chat].now == rows[chat].expected),
            changes=changes,
            notes=notes,
        )

    def _send(self, requests: Iterable[Request]) -> tuple[str, ...]:
        sent = []
        for request in requests:
            self.api.call(request)
            step(request.purpose)
            sent.append(request.purpose)
        return tuple(sent)


@contextmanager
def _connected(
    stack: Stack, token: Secret, url: str, spec: RegistrationSpec, engine: Engine | None
) -> Iterator[Registrar]:
    """The registrar of one RAGFlow, locked for other ragops processes; the token was sent nowhere yet."""
    spec, container = spec.checked(), None
    loaded = [UndoRecord.load(file) for file in sorted((home() / "ragflow").glob("*.json"))]
    records = [record for record in loaded if record and record.instance == spec.instance]
    if not url:
        try:
            engine = engine or docker_engine.connect()
            container = _container(stack, engine)
            url = discovery.api_url(container)
        except (EngineError, RagflowError):
            if len(records) != 1:
                raise
            url = records[0].url
    url = base_url(url)
    recorded = [record.release for record in records if record.url == url]
    release = discovery.detect(stack.ragflow.release, url, container, recorded)
    providers.check_supported(release, spec)
    if not token.sendable:
        raise RagflowError(
            f"RAGFlow {release.name} needs an API token, and none was given",
            code="ragflow-access",
            hint="create one on RAGFlow's API page; give it in RAGOPS_RAGFLOW_TOKEN or with --token-file",
            url=url,
        )
    in_go = release.client.falls_back or (container is not None and container.has_go_server)
    notes = tuple(note for note in (release.assumed, GO_SERVER if in_go else "") if note)
    with lock(url, spec.instance), Api(url, token) as api:
        try:
            yield Registrar(api, release, spec, notes)
        except RagflowError as error:
            error.url = error.url or url
            raise


def _container(stack: Stack, engine: Engine) -> RagflowContainer:
    containers, hint = discovery.find(engine.containers(), stack.ragflow), "start RAGFlow, or set --url"
    if not containers:
        raise RagflowError("no RAGFlow container was found", code="ragflow-missing", hint=hint)
    name = containers[0].name
    if containers[0].demo:
        message = f"{name} is the demo client: it has no model settings"
        raise RagflowError(message, code="ragflow-demo", container=name, hint=hint)
    return containers[0]
