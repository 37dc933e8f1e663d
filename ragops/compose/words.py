"""The command line of a compose service: words with their lines, and vLLM's options among them; pure.

``command`` and ``entrypoint`` are a list or a string, the string often folded over many lines; either
may start the server with ``sh -c``. :func:`read_command` reads all of these forms.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragops.compose.yaml import YamlNode, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Entry = Literal["serve", "module", "image", "other"]
"""``vllm serve``, the API server's module, the image's own entry point, or an unknown program."""

_SHELLS = {"sh", "bash", "dash", "ash"}
_OPERATORS = {"&&", "||", ";", "|", "&", ">", ">>", "2>&1", "<"}
_BRACED = re.compile(r"\$\{(?:[^{}]|\{[^{}]*\})*\}")
_BRACED_OR_IPV6 = re.compile(rf"{_BRACED.pattern}|\[[^\]]*\]")
_PLACEHOLDER = "\ue000"

_MULTIPLE = {"--served-model-name", "--api-key", "--lora-modules", "--allowed-media-domains"}
"""Options that take several values."""

_SWITCHES = (
    *("--enable-", "--disable-", "--no-", "--trust-", "--return-", "--skip-", "--log-error-stack"),
    *("--enforce-eager", "--headless", "--async-scheduling", "--language-model-only", "--numa-bind"),
)
"""Beginnings of options that take no value."""


@dataclass(frozen=True)
class Word:
    """One word of a command line."""

    text: str | None
    """After substitution; None if it has an undefined variable."""
    written: str
    """Before substitution, without quotes."""
    line: int


@dataclass(frozen=True)
class Option:
    """An option of vLLM with its value; a positional argument has an empty name."""

    name: str
    """With dashes, also if the file has underscores: ``--max-model-len``."""
    value: str | None
    """Empty for a switch, None if it has an undefined variable."""
    line: int


@dataclass(frozen=True)
class CommandLine:
    """How a service starts its program."""

    entry: Entry
    options: tuple[Option, ...]
    complete: bool
    """Whether an option that is not listed is not set: no config file, no undefined variable."""

    def get(self, name: str) -> Option | None:
        """The last option of that name, which is the one that vLLM uses."""
        for option in reversed(self.options):
            if option.name == name:
                return option
        return None

    def value(self, name: str) -> str:
        """The value of the last option of that name; empty if there is none."""
        option = self.get(name)
        return (option.value or "") if option else ""


def split_words(node: YamlNode | None) -> tuple[Word, ...]:
    """Words of a ``command`` or ``entrypoint``, from a list or a string."""
    if node is None:
        return ()
    if isinstance(node.raw, list):
        return tuple(Word(item.text, item.written or "", item.line) for item in node.elements())
    written = _shell_words(node.written or "")
    resolved = resolve(node.written or "", node.source.variables)
    if resolved is None:
        texts = [resolve(word, node.source.variables) for word in written]
    else:
        texts = list[str | None](_shell_words(resolved))
        if len(texts) != len(written):  # a variable holds several words
            return tuple(Word(text, text or "", node.line) for text in texts)
    return tuple(map(Word, texts, written, _word_lines(written, node)))


def read_command(entrypoint: YamlNode | None, command: YamlNode | None) -> CommandLine:
    """The program that ``entrypoint`` and ``command`` start, and its options if it is vLLM's server."""
    words = _in_shell((*split_words(entrypoint), *split_words(command)))
    start = 0
    entry: Entry = "image" if entrypoint is None else "other"
    for at, word in enumerate(words):
        text, before = word.text or "", words[at - 1].text or "" if at else "vllm"
        if text == "serve" and before.rsplit("/", 1)[-1] == "vllm":
            start, entry = at + 1, "serve"
            break
        if text.startswith("vllm.entrypoints.") or text.endswith("openai/api_server.py"):
            start, entry = at + 1, "module"
            break
    arguments: list[Word] = []
    for word in words[start:]:
        if word.written in _OPERATORS:
            break
        arguments.append(word)
    options = parse_options(arguments)
    undefined = any(word.text is None and not word.written.startswith("-") for word in arguments)
    hidden = any(option.name == "--config" for option in options) or _hides_options(arguments)
    complete = entry != "other" and not hidden and not (undefined and not options)
    return CommandLine(entry, options, complete)


def parse_options(words: Sequence[Word]) -> tuple[Option, ...]:
    """Options with their values, and positional arguments, by vLLM's rules."""
    options: list[Option] = []
    at = 0
    while at < len(words):
        text, line, stop = words[at].text, words[at].line, at + 1
        if text is None or not text.startswith("--"):
            # Short options such as -tp take one value each; no rule is about one of them.
            short = text is not None and text.startswith("-")
            options.append(Option(text if short and text else "", text, line))
            stop += int(short and "=" not in (text or ""))
        elif "=" in text:
            name, _, value = text.partition("=")
            options.append(Option(name.replace("_", "-"), value, line))
        else:
            name = text.replace("_", "-")
            stop = _value_end(name, words, stop)
            options.append(Option(name, words[at + 1].text if stop > at + 1 else "", line))
        at = stop
    return tuple(options)


def split_colons(text: str) -> list[str]:
    """Parts of a port in the short form; colons within ``${...}`` and ``[...]`` do not split."""
    return _split_around(_BRACED_OR_IPV6, text, lambda masked: masked.split(":"))


def _split_around(pattern: re.Pattern[str], text: str, split: Callable[[str], list[str]]) -> list[str]:
    """Split a text, but not within what ``pattern`` matches."""
    matches = iter(pattern.findall(text))
    parts = split(pattern.sub(_PLACEHOLDER, text))
    return [re.sub(_PLACEHOLDER, lambda _: next(matches, ""), part) for part in parts]


def _shell_words(text: str) -> list[str]:
    """Split as a shell does; unbalanced quotes split at blanks."""

    def split(masked: str) -> list[str]:
        try:
            return shlex.split(masked)
        except ValueError:
            return masked.split()

    return _split_around(_BRACED, text.replace("\\\n", " "), split)


def _value_end(name: str, words: Sequence[Word], at: int) -> int:
    """Index after the values of the option that stands before ``at``."""
    if name.startswith(_SWITCHES) and name != "--disable-access-log-for-endpoints":
        return at
    while at < len(words) and not (words[at].text or "").startswith("--"):
        at += 1
        if name not in _MULTIPLE:
            break
    return at


def _word_lines(words: Sequence[str], node: YamlNode) -> list[int]:
    """Line of each word: the next line within the scalar that contains its text."""
    lines, at = node.source.lines, node.line - 1
    stop = at + 1
    depth = len(lines[at]) - len(lines[at].lstrip()) if at < len(lines) else 0
    while stop < len(lines):
        if lines[stop].strip() and len(lines[stop]) - len(lines[stop].lstrip()) <= depth:
            break
        stop += 1
    numbers = []
    for word in words:
        first = word.splitlines()[0] if word else word
        at = next((line for line in range(at, stop) if first in lines[line]), at)
        numbers.append(at + 1)
    return numbers


def _in_shell(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Words of the script if a shell runs one with ``-c``, else the same words."""
    for shell, flag, script in zip(words, words[1:], words[2:], strict=False):
        name = (shell.text or "").rsplit("/", 1)[-1]
        if name in _SHELLS and re.fullmatch(r"-[a-z]*c", flag.text or ""):
            inner: list[Word] = []
            for word in _shell_words(script.text if script.text is not None else script.written):
                parts = [word[:-1], ";"] if len(word) > 1 and word.endswith(";") else [word]
                inner += [Word(part, part, script.line) for part in parts]
            return tuple(inner)
    return words


def _hides_options(words: Sequence[Word]) -> bool:
    """Whether an undefined variable may hold options: it is a whole word where no value is expected."""
    before = ""
    for word in words:
        whole = _BRACED.fullmatch(word.written) or re.fullmatch(r"\$\w+", word.written)
        value_expected = before.startswith("--") and "=" not in before and not before.startswith(_SWITCHES)
        if word.text is None and whole and not value_expected:
            return True
        before = word.written
    return False
