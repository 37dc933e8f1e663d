"""Looks into one RAGFlow, keeps what is there, changes it, and puts it back.

Order matters: what was there is on disk before the first change; chats and the default are put
back before the model is taken out, since later releases refuse to remove a model in use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import kept, register, releases
from ragops.ragflow.answers import refused
from ragops.ragflow.families import family
from ragops.ragflow.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ragops.ragflow.answers import Request
    from ragops.ragflow.api import Api
    from ragops.ragflow.register import Family, Seen, Wanted
    from ragops.ragflow.releases import Release


@dataclass(frozen=True)
class Target:
    """One RAGFlow, and what it is to have."""

    url: str
    release: Release
    wanted: Wanted
    home: Path

    @property
    def family(self) -> Family:
        """Its routes."""
        return family(self.release)

    @property
    def model_id(self) -> str:
        """The model's id in RAGFlow."""
        return register.model_id(self.release, self.wanted)


def look(api: Api, target: Target, *, gone: bool = False) -> Seen:
    """What RAGFlow has; a chat may be ``gone`` when things are put back.

    Raises:
        RagflowError: It lets nobody in, a chat that is needed is not there, or it fails: what could
            not be read is never taken for what is not there.
    """
    first, *others = target.family.reads(target.wanted)
    replies = {first.path: api.do(first)}
    for request in others:
        reply = api.ask(request)
        may_miss = gone if "/chats" in request.path else True
        if not reply.ok and not (may_miss and reply.tells_absence):
            raise refused(request, reply)
        replies[request.path] = reply
    return target.family.seen(target.wanted, replies)


def before(target: Target, seen: Seen) -> Kept:
    """What was there before: as kept, else as seen now; what the user chose since goes before it.

    Raises:
        RagflowError: What was kept can't be read.
    """
    wanted, mine = target.wanted, ours(target, seen)
    old = recall(target, seen) or Kept(
        target.url, _user(seen), wanted.instance, target.release.name, wanted.model
    )
    default = seen.default if wanted.default and seen.default not in mine else old.default
    chats = {one: seen.chats[one] for one in wanted.chats if seen.chats[one] not in mine}
    return replace(old, default=default, chats={**old.chats, **chats})


def recall(target: Target, seen: Seen) -> Kept | None:
    """What was kept by an earlier call; None when there was none."""
    return kept.load(target.home, target.url, _user(seen), target.wanted.instance)


def ours(target: Target, seen: Seen) -> frozenset[str]:
    """Every id by which some release names the model: after an upgrade the old one is still ours."""
    old = recall(target, seen)
    names = {target.wanted.model, *([old.model] if old else [])}
    forms = {form for fact in releases.IDS for form in fact.value}
    return frozenset(
        form.format(name=name, instance=target.wanted.instance) for name in names for form in forms
    )


def renewed(api: Api, target: Target) -> tuple[Target, Seen]:
    """What to bring up to date, and what is there: a default and chats of earlier calls are part of it."""
    seen = look(api, target)
    old = recall(target, seen)
    if old is None:
        return target, seen
    earlier = (one for one in old.chats if one not in target.wanted.chats)
    whole = replace(target.wanted, chats=(*target.wanted.chats, *earlier))
    seen = look(api, replace(target, wanted=whole), gone=True)
    return replace(target, wanted=register.carried(target.wanted, seen, ours(target, seen))), seen


def enter(api: Api, target: Target, seen: Seen, was: Kept, told: Callable[[str], None]) -> tuple[str, ...]:
    """Send what is missing; gives back what was done.

    Raises:
        RagflowError: RAGFlow refused; what was made by then is taken out again.
    """
    todo = list(register.changes(target.family, target.wanted, seen))
    if was.entered and was.model != target.wanted.model:
        todo += target.family.replaced(was.model)
    if not todo:
        return ()
    fresh = seen.entry is None
    after = replace(
        was,
        release=target.release.name,
        model=target.wanted.model,
        entered=was.entered or fresh,
        provider=was.provider or not seen.provider,
    )
    kept.save(target.home, after)
    try:
        return _send(api, todo, told)
    except RagflowError:
        if fresh and not was.entered:
            _clean_up(api, target, seen, after)
        raise


def leave(api: Api, target: Target, was: Kept, told: Callable[[str], None]) -> tuple[str, ...]:
    """Put back what was there; gives back what was done. What fails doesn't stop the rest.

    Raises:
        RagflowError: Something was refused; what is kept stays, so that it can be tried again.
    """
    done: list[str] = []
    errors: list[RagflowError] = []
    for request in tuple(_undoing(target, look(api, target, gone=True), was)):
        try:
            done += _send(api, (request,), told)
        except RagflowError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    kept.forget(target.home, was)
    return tuple(done)


def left(was: Kept, now: Seen) -> tuple[str, ...]:
    """What is not as it was before, and why."""
    notes = []
    if not was.entered:
        notes.append(f"{was.model} was entered before ragops came, and stays")
    if was.default is not None and now.default != was.default:
        notes.append(f"the default is {now.default or 'none'} and was {was.default or 'none'}")
    return tuple(notes)


def _undoing(target: Target, seen: Seen, was: Kept) -> Iterator[Request]:
    """What somebody has changed since is left as it is."""
    mine = ours(target, seen)
    for chat, earlier in was.chats.items():
        if seen.chats.get(chat) in mine:
            yield register.chat_write(target.release, chat, earlier)
    if was.default is not None and seen.default in mine:
        yield from target.family.restore(was.default, seen)
    if was.entered:
        yield from target.family.remove(target.wanted, seen, provider=was.provider)


def _clean_up(api: Api, target: Target, seen: Seen, after: Kept) -> None:
    """After a failure: take out what was made, unless the model is in; then nothing is kept either."""
    try:
        now = look(api, target)
        if now.entry is not None and now.entry.model:
            return
        for request in target.family.remove(target.wanted, now, provider=not seen.provider):
            api.ask(request)
    except RagflowError:
        return  # it no longer answers; unregister can try again with what is kept
    kept.forget(target.home, after)


def _user(seen: Seen) -> str:
    return seen.tenant.get("tenant_id", "")


def _send(api: Api, todo: Iterable[Request], told: Callable[[str], None]) -> tuple[str, ...]:
    done = []
    for request in todo:
        api.do(request)
        told(request.why)
        done.append(request.why)
    return tuple(done)
