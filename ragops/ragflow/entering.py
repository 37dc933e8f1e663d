"""Reads, changes and restores the settings of one RAGFlow user.

The previous settings are on disk before the first change. Chats and the default are restored before
the model is removed, since later releases refuse to remove a model in use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.progress import step
from ragops.ragflow import kept, releases
from ragops.ragflow.answers import refused
from ragops.ragflow.families import changes, registration_api
from ragops.ragflow.kept import UndoRecord
from ragops.ragflow.register import set_chat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ragops.ragflow.answers import Request
    from ragops.ragflow.api import Api
    from ragops.ragflow.families import RegistrationApi
    from ragops.ragflow.register import RagflowState, RegistrationSpec
    from ragops.ragflow.releases import Release


@dataclass(frozen=True)
class Registrar:
    """One user's settings in one RAGFlow, and the entry that they should have."""

    api: Api
    release: Release
    spec: RegistrationSpec
    home: Path

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
                raise refused(request, response)
            responses[request.path] = response
        return self.routes.parse(self.spec, responses)

    def new_record(self, state: RagflowState) -> UndoRecord:
        """An undo record without any change."""
        user = state.tenant.get("tenant_id", "")
        return UndoRecord(self.api.url, user, self.spec.instance, self.release.name, self.spec.model)

    def load_record(self, state: RagflowState) -> UndoRecord | None:
        """The undo record of earlier calls; None without any.

        Raises:
            RagflowError: The file can't be read.
        """
        return kept.load(self.home, self.new_record(state))

    def with_earlier(self, record: UndoRecord) -> tuple[Registrar, RagflowState]:
        """Add the default and the chats of earlier calls to the spec, as far as they still name the model."""
        spec = self.spec
        earlier = tuple(chat for chat in record.chats if chat not in spec.chats)
        everything = replace(spec, chats=(*spec.chats, *earlier))
        state = replace(self, spec=everything).read(chats_may_be_missing=True)
        own = self._own_ids(record)
        chats = tuple(chat for chat, model in state.chats.items() if chat in spec.chats or model in own)
        spec = replace(spec, default=spec.default or state.default in own, chats=chats)
        return replace(self, spec=spec), state

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
        record = replace(
            self._with_previous(state, record),
            release=self.release.name,
            model=self.spec.model,
            entered=record.entered or created,
            provider=record.provider or not state.provider,
        )
        kept.save(self.home, record)
        try:
            return self._send(requests)
        except RagflowError:
            if created:
                self._clean_up(record, provider=not state.provider)
            raise

    def undo(self, record: UndoRecord) -> tuple[str, ...]:
        """Restore the previous settings, and return the changes. A refused request does not stop the others.

        Raises:
            RagflowError: A request was refused; the undo record stays, so that it can be repeated.
        """
        sent: list[str] = []
        errors: list[RagflowError] = []
        for request in tuple(self._undo_requests(self.read(chats_may_be_missing=True), record)):
            try:
                sent += self._send((request,))
            except RagflowError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        kept.delete(self.home, record)
        return tuple(sent)

    def _undo_requests(self, state: RagflowState, record: UndoRecord) -> Iterator[Request]:
        """Settings that the user has changed since stay."""
        own = self._own_ids(record)
        for chat, previous in record.chats.items():
            if state.chats.get(chat) in own:
                yield set_chat(self.release, chat, previous)
        if record.default is not None and state.default in own:
            yield from self.routes.restore_default(record.default, state)
        if record.entered:
            yield from self.routes.remove(self.spec, state, provider=record.provider)

    def _with_previous(self, state: RagflowState, record: UndoRecord) -> UndoRecord:
        """The record with the settings that are about to change; a later choice of the user replaces it."""
        own = self._own_ids(record)
        default = record.default
        if self.spec.default and state.default not in own:
            default = state.default
        chats = {chat: state.chats[chat] for chat in self.spec.chats if state.chats[chat] not in own}
        return replace(record, default=default, chats={**record.chats, **chats})

    def _own_ids(self, record: UndoRecord) -> frozenset[str]:
        """Every id by which any release names the model: one from before an upgrade is still ours."""
        return frozenset(
            form.format(name=name, instance=self.spec.instance)
            for name in (self.spec.model, record.model)
            for fact in releases.IDS
            for form in fact.value
        )

    def _clean_up(self, record: UndoRecord, *, provider: bool) -> None:
        """After a failure: remove what was created, unless the model is in, and the record with it."""
        try:
            state = self.read()
            if state.entry is not None and state.entry.model:
                return
            for request in self.routes.remove(self.spec, state, provider=provider):
                self.api.send(request)
        except RagflowError:
            return  # no response any more: unregister can repeat it with the record
        kept.delete(self.home, record)

    def _send(self, requests: Iterable[Request]) -> tuple[str, ...]:
        sent = []
        for request in requests:
            self.api.call(request)
            step(request.purpose)
            sent.append(request.purpose)
        return tuple(sent)


def remaining(record: UndoRecord, state: RagflowState) -> tuple[str, ...]:
    """The settings that differ from those before registration, and why."""
    notes = []
    if not record.entered:
        notes.append(f"{record.model} was entered before ragops came, and stays")
    if record.default is not None and state.default != record.default:
        notes.append(f"the default is {state.default or 'none'} and was {record.default or 'none'}")
    return tuple(notes)
