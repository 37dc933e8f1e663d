"""Command lines in a compose file: words with their lines, and vLLM's arguments among them; pure.

``command`` and ``entrypoint`` come as a list or as a string, the string often folded over many
lines; either may hide the server in ``sh -c``. :func:`launch` sees through all of them.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragops.compose.yaml import View, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

Entry = Literal["serve", "module", "image", "other"]
"""``vllm serve``, the API server's module, whatever the image has, or something unknown."""

MODULE = "vllm.entrypoints.openai.api_server"

_SHELLS = {"sh", "bash", "dash", "ash"}
_OPERATORS = {"&&", "||", ";", "|", "&", ">", ">>", "2>&1", "<"}
_BRACED = re.compile(r"\$\{(?:[^{}]|\{[^{}]*\})*\}")
_COLON_SAFE = re.compile(rf"{_BRACED.pattern}|\[[^\]]*\]")
MASK = "\ue000"
"""Stands for a variable where only the form of a text matters."""

_SPLITS = {"--served-model-name", "--api-key", "--lora-modules", "--allowed-media-domains"}
"""Flags that take several values."""

_SWITCHES = (
    *("--enable-", "--disable-", "--no-", "--trust-", "--return-", "--skip-", "--log-error-stack"),
    *("--enforce-eager", "--headless", "--async-scheduling", "--language-model-only", "--numa-bind"),
)
"""Beginnings of flags that take no value."""


@dataclass(frozen=True)
class Word:
    """One word of a command line."""

    text: str | None
    """As the container gets it; None when it has a variable that isn't known."""
    written: str
    """As the file has it, variables and all, without quotes."""
    line: int


@dataclass(frozen=True)
class Argument:
    """A flag with its value, or a value by position, whose name is empty."""

    name: str
    """With dashes, also where underscores were written: ``--max-model-len``."""
    value: str | None
    """Empty for a switch, None when it has a variable that isn't known."""
    line: int
    first: int
    """Index of its first word among the arguments; ``stop`` is one behind its last."""
    stop: int


@dataclass(frozen=True)
class Launch:
    """How a service starts its program."""

    entry: Entry
    prefix: tuple[Word, ...]
    """Words up to vLLM's own arguments."""
    script: bool
    """Whether the words stand in a script for a shell."""
    arguments: tuple[Argument, ...]
    words: tuple[Word, ...]
    """Words that the arguments are made of."""
    simple: bool
    """Whether the words can be written anew: no script around them, no variable that splits."""
    sure: bool
    """Whether a flag that isn't seen isn't there: no config file, no unknown variable."""

    def get(self, *names: str) -> Argument | None:
        """The last argument of that name, as vLLM takes it."""
        return next((one for one in reversed(self.arguments) if one.name in names), None)

    def value(self, *names: str) -> str:
        """The value of the last argument of that name; empty when there is none."""
        found = self.get(*names)
        return (found.value or "") if found else ""


def words(view: View | None) -> tuple[Word, ...]:
    """Words of a ``command`` or ``entrypoint``, in either form."""
    if view is None:
        return ()
    if isinstance(view.raw, list):
        return tuple(Word(item.text, item.written or "", item.line) for item in view.each())
    return _split(view.written or "", view)


def launch(entrypoint: View | None, command: View | None) -> Launch:
    """What ``entrypoint`` and ``command`` start, as far as it is vLLM's server."""
    whole = (*words(entrypoint), *words(command))
    script = _script(whole)
    if script is not None:
        whole = script
    start, entry = _server(whole, named=entrypoint is not None)
    stop = next((at for at in range(start, len(whole)) if whole[at].written in _OPERATORS), len(whole))
    own = whole[start:stop]
    made = arguments([word.text for word in own], [word.line for word in own])
    wild = any(word.text is None and not word.written.startswith("-") for word in own)
    hidden = any(one.name == "--config" for one in made) or _whole_variable(own)
    return Launch(
        entry=entry,
        prefix=whole[:start],
        script=script is not None,
        arguments=made,
        words=own,
        simple=stop == len(whole) and _bare(whole[:start]) and all(word.written for word in own),
        sure=entry != "other" and not hidden and not (wild and not made),
    )


def arguments(texts: Sequence[str | None], lines: Sequence[int]) -> tuple[Argument, ...]:
    """Sort words into flags with values and values by position, by vLLM's rules."""
    found: list[Argument] = []
    at = 0
    while at < len(texts):
        text, stop = texts[at], at + 1
        if text is None or not text.startswith("--"):
            # Short flags such as -tp take one value each; none matters here.
            short = text is not None and text.startswith("-") and "=" not in text
            stop += int(short and stop < len(texts))
            found.append(Argument(text if short and text else "", text, lines[at], at, stop))
        elif "=" in text:
            name, _, value = text.partition("=")
            found.append(Argument(_dashed(name), value, lines[at], at, stop))
        else:
            stop = _value_end(texts, at)
            value_words = texts[at + 1 : stop]
            value_of = value_words[0] if value_words else ""
            found.append(Argument(_dashed(text), value_of, lines[at], at, stop))
        at = stop
    return tuple(found)


def split_colons(text: str) -> list[str]:
    """Parts of a short port or volume; colons within ``${...}`` and ``[...]`` part nothing."""
    kept = _COLON_SAFE.findall(text)
    pieces = iter(kept)
    parts = _COLON_SAFE.sub(MASK, text).split(":")
    return [re.sub(MASK, lambda _: next(pieces, ""), part) for part in parts]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _value_end(texts: Sequence[str | None], at: int) -> int:
    """Index behind the values of the flag at ``at``."""
    name = _dashed(texts[at] or "")
    if name.startswith(_SWITCHES) and name != "--disable-access-log-for-endpoints":
        return at + 1
    stop = at + 1
    while stop < len(texts) and not (texts[stop] or "").startswith("--"):
        stop += 1
        if name not in _SPLITS:
            break
    return stop


def _split(text: str, view: View) -> tuple[Word, ...]:
    """Words of a string, each with its own line; variables stay whole."""
    written = _shell_words(text)
    whole = resolve(text, view.source.values)
    filled = _shell_words(whole) if whole is not None else []
    if whole is not None and len(filled) != len(written):
        return tuple(Word(word, "", view.line) for word in filled)
    lines = _lines_of(written, view)
    texts = filled if whole is not None else [resolve(word, view.source.values) for word in written]
    return tuple(Word(one, word, line) for one, word, line in zip(texts, written, lines, strict=True))


def _shell_words(text: str) -> list[str]:
    """Split as a shell does, with each ``${...}`` as one piece; broken quotes split at blanks."""
    kept = _BRACED.findall(text)
    plain = _BRACED.sub(MASK, text.replace("\\\n", " "))
    try:
        found = shlex.split(plain)
    except ValueError:
        found = plain.split()
    pieces = iter(kept)
    return [re.sub(MASK, lambda _: next(pieces, ""), word) for word in found]


def _lines_of(found: Sequence[str], view: View) -> list[int]:
    """Line of each word: the next one, within the scalar, that has its text."""
    lines, at = view.source.lines, view.line - 1
    stop = _block_end(lines, at)
    places = []
    for word in found:
        key = word.splitlines()[0] if word else word
        at = next((line for line in range(at, stop) if key in lines[line]), at)
        places.append(at + 1)
    return places


def _block_end(lines: Sequence[str], at: int) -> int:
    """Index behind the last line that belongs to the key or item on the line at ``at``."""
    depth = len(lines[at]) - len(lines[at].lstrip()) if at < len(lines) else 0
    stop = at + 1
    while stop < len(lines):
        line = lines[stop]
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        stop += 1
    return stop


def _script(whole: tuple[Word, ...]) -> tuple[Word, ...] | None:
    """Words of the script of a ``sh -c``; None when there is none."""
    for at, word in enumerate(whole[:-2]):
        flag, script = whole[at + 1], whole[at + 2]
        if (word.text or "").rsplit("/", 1)[-1] in _SHELLS and re.fullmatch(r"-[a-z]*c", flag.text or ""):
            found = _shell_words(script.text if script.text is not None else script.written)
            spaced = [part for one in found for part in _unglued(one)]
            return tuple(Word(part, part, script.line) for part in spaced)
    return None


def _unglued(word: str) -> list[str]:
    """``a;`` as ``a`` and ``;``."""
    return [word[:-1], ";"] if len(word) > 1 and word.endswith(";") else [word]


def _bare(prefix: tuple[Word, ...]) -> bool:
    """Whether nothing but the server's own words stand before its arguments."""
    first = prefix[0].written.rsplit("/", 1)[-1] if prefix else "vllm"
    return first in {"exec", "serve"} or first.startswith(("vllm", "python"))


def _server(whole: tuple[Word, ...], *, named: bool) -> tuple[int, Entry]:
    """Index of the first of the server's arguments, and what it was started with."""
    texts = [word.text or "" for word in whole]
    for at, text in enumerate(texts):
        if text == "serve" and (at == 0 or texts[at - 1].rsplit("/", 1)[-1] == "vllm"):
            return at + 1, "serve"
        if text.startswith("vllm.entrypoints.") or text.endswith("openai/api_server.py"):
            return at + 1, "module"
    return 0, "other" if named else "image"


def _whole_variable(own: tuple[Word, ...]) -> bool:
    """Whether a word may hide flags: a lone variable that isn't known, where no value is due."""
    for at, word in enumerate(own):
        before = own[at - 1].written if at else ""
        lone = word.text is None and _BRACED.fullmatch(word.written) is not None
        if (lone or (word.text is None and re.fullmatch(r"\$\w+", word.written))) and (
            not before.startswith("--") or "=" in before or before.startswith(_SWITCHES)
        ):
            return True
    return False
