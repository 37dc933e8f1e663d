"""The text of compose files: values with their lines, compose's variables, and vLLM's options; pure.

:func:`parse` reads the YAML into a :class:`YamlNode`, :func:`resolve` substitutes variables, and
:func:`read_command` reads the options of ``command`` and ``entrypoint``: each is a list or a string, the
string often folded over many lines, and either may start the server with ``sh -c``.

:func:`merge_files` merges files and extended services by the rules of Docker Compose, which were read in
compose-go (``override/merge.go`` and ``uncity.go``): maps are united, scalars and commands replaced, lists
concatenated, and of entries that are the same thing the last one stays.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from typing import Any, Literal, NoReturn

import yaml

from ragops.errors import ComposeError

Entry = Literal["serve", "module", "image", "other"]
"""``vllm serve``, the API server's module, the image's own entry point, or an unknown program."""

MAX_BYTES = 5 << 20
MAX_VALUES, MAX_DEPTH = 100_000, 100
"""Most values in a compose file, as in Docker Compose (compose-go, loader/reset.go), and most maps and lists
in each other."""
MAX_TEXT = 128 << 10
"""Bytes of the longest value; Linux allows no longer argument."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser takes a twentieth of the time
_NULLS = {"", "~", "null", "Null", "NULL"}
_SHELLS = {"sh", "bash", "dash", "ash"}
_SHELL_OPERATORS = {"&&", "||", ";", "|", "&", ">", ">>", "2>&1", "<"}
_INNER = r"[^{}]*"
for _ in range(20):  # depth of variables in the defaults of variables
    _INNER = rf"(?:[^{{}}]|\{{{_INNER}\}})*"
_BRACED = re.compile(rf"\$\{{{_INNER}\}}")
_VARIABLE = re.compile(
    r"\$(?:\$|(?P<plain>[A-Za-z_]\w*)"
    rf"|\{{(?P<braced>[A-Za-z_]\w*)(?:(?P<operator>:?[-+?])(?P<word>{_INNER})|{_INNER})(?:\}}|\Z))"
)
_BRACED_OR_IPV6 = re.compile(rf"{_BRACED.pattern}|\[[^\]]*\]")
_PLACEHOLDER = "\ue000"
# vLLM options with several values, and prefixes of options without a value.
_MULTIPLE = {"--served-model-name", "--api-key", "--lora-modules", "--allowed-media-domains"}
_SWITCHES = re.compile(
    r"--((enable|disable(?!-access-log-for)|no|trust|return|skip)-|log-error-stack|enforce-eager|headless"
    r"|async-scheduling|language-model-only|numa-bind)"
)
_MAX_EXTENDS = 10  # longest chain of extends that is followed
# Keys of a service; * is any name.
_REPLACED = {"command", "entrypoint", "healthcheck.test", "ulimits.*"}
_NAMED = {"environment", "labels", "annotations", "sysctls", "build.args", "build.labels", "deploy.labels"}
_AS_MAP = {"networks", "depends_on", "models"} | _NAMED
_BY_TARGET = {"volumes", "devices", "configs", "secrets"}
_BY_NAME = {"cap_add", "cap_drop", "dns", "dns_opt", "dns_search", "env_file", "expose", "extra_hosts"}
_BY_NAME |= {"links", "profiles", "tmpfs", "networks.*.aliases"}


@dataclass(frozen=True)
class Source:
    """A file of a compose project, and the variables that compose substitutes in it."""

    name: str
    lines: tuple[str, ...]
    variables: Mapping[str, str]
    first: int = 1
    """Number of the first line; lines of several files are numbered on, so that a number names its file."""


@dataclass(frozen=True, slots=True)
class YamlNode:
    """A value of a document with its line. Anchors and merged maps are already expanded."""

    value: "str | dict[str, YamlNode] | list[YamlNode] | None"
    """A scalar as written, before substitution; None for null."""
    line: int
    """Line of its key, or of the element of a list; numbered as :attr:`Source.first`."""
    source: Source
    tag: str = ""
    """``!reset`` removes the value of an earlier file, ``!override`` replaces it instead of being merged."""

    @property
    def text(self) -> str | None:
        """The scalar after substitution; None if it is no scalar or has an undefined variable."""
        return resolve(self.value, self.source.variables) if isinstance(self.value, str) else None

    @property
    def written(self) -> str:
        """The scalar before substitution; empty for a map, a list or null."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def mapping(self) -> "dict[str, YamlNode]":
        """Keys and values of a map; empty for another type."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def elements(self) -> "list[YamlNode]":
        """Elements of a list; empty for another type."""
        return self.value if isinstance(self.value, list) else []

    @property
    def listed(self) -> "list[YamlNode]":
        """Elements of a list, or a single value as the only one; empty for null."""
        return self.elements or ([] if self.value is None else [self])

    def get(self, *keys: str) -> "YamlNode | None":
        """The value below these keys; None if there is no such key or it is null."""
        node = self.at(*keys)
        return None if node.value is None else node

    def at(self, *keys: str) -> "YamlNode":
        """The value below these keys; null if there is no such key."""
        node, null = self, YamlNode(None, self.line, self.source)
        for key in keys:
            node = node.mapping.get(key, null)
        return node

    def scalar(self, *keys: str) -> str | None:
        """The text of the scalar below these keys; None as for :attr:`text` and :meth:`get`."""
        return self.at(*keys).text

    def flag(self, *keys: str) -> bool:
        """Whether the scalar below these keys is true."""
        return (self.scalar(*keys) or "").lower() in {"true", "yes", "on", "y"}


@dataclass(frozen=True)
class Word:
    """One word of a command line."""

    text: str | None  # after substitution; None if it has an undefined variable
    written: str  # before substitution, without quotes
    line: int


@dataclass(frozen=True)
class Option:
    """An option of vLLM with its value; a positional argument has an empty name."""

    name: str  # with dashes, also if the file has underscores: --max-model-len
    value: str | None  # empty for a switch, None if it has an undefined variable
    line: int


@dataclass(frozen=True)
class CommandLine:
    """How a service starts its program."""

    entry: Entry
    options: tuple[Option, ...]
    complete: bool
    """Whether the list of options is complete: no config file, no undefined variable."""
    words: tuple[Word, ...] = ()
    """The options as compose passes them, unparsed; without comments of a shell's script."""

    def get(self, name: str) -> Option | None:
        """The last option of that name; vLLM uses the last one."""
        return next((option for option in reversed(self.options) if option.name == name), None)

    def value(self, name: str) -> str:
        """The value of the last option of that name; empty if there is none."""
        option = self.get(name)
        return (option.value or "") if option else ""


def parse(text: str, name: str, variables: Mapping[str, str], first: int = 1) -> YamlNode:
    """Read a document; ``variables`` are the values for ``${NAME}``, ``name`` is the file's, for errors.

    ``first`` is the number of its first line, as in :class:`Source`.
    """
    source = Source(name, tuple(text.splitlines()), variables, first)
    try:
        root = _Composer(text, source).compose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem, context = getattr(error, "problem", None) or error, getattr(error, "context", None)
        line = first + (mark.line if mark else 0)
        raise _invalid(source, line, f"{problem}", f"{context or ''}") from error
    if root is None or not isinstance(root.value, dict):
        raise ComposeError(
            f"{name}:1: invalid compose file: the top level is not a mapping",
            hint="add the top-level key services:",
        )
    return root


def _invalid(source: Source, line: int, problem: str, context: str = "") -> ComposeError:
    hint = "correct the YAML: one document, no duplicate key, indented with spaces only"
    place = f"{source.name}:{line - source.first + 1}"
    return ComposeError(f"{place}: invalid YAML: {problem}", evidence=context, hint=hint)


class _Composer:
    """Composes the parser's events: PyYAML's own composer takes five times the time and memory."""

    def __init__(self, text: str, source: Source) -> None:
        self._events, self._source = _LOADER(text), source
        self._anchors: dict[str, YamlNode] = {}
        self._values, self._line = 0, source.first

    def compose(self) -> YamlNode | None:
        """The node of the only document."""
        root = None
        while type(event := self._next()) is not yaml.StreamEndEvent:
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
            elif root and type(event) is yaml.DocumentStartEvent:
                self._refuse("a second document")
        return root

    def _next(self) -> Any:
        event = self._events.get_event()
        self._line = event.start_mark.line + self._source.first
        return event

    def _node(self, event: Any, depth: int) -> YamlNode:
        """The value that begins with an event, in ``depth`` maps and lists."""
        line = self._line
        if type(event) is yaml.AliasEvent:
            if event.anchor not in self._anchors:
                self._refuse(f"undefined alias {event.anchor}")
            anchored = self._anchors[event.anchor]
            return YamlNode(anchored.value, line, self._source, anchored.tag)
        if type(event) is yaml.ScalarEvent:
            if len(event.value) > MAX_TEXT:
                self._refuse(f"a value of more than {MAX_TEXT >> 10} KiB")
            value: Any = None if event.value in _NULLS and not event.style else event.value
        elif depth == MAX_DEPTH:
            self._refuse("nested too deeply")
        else:
            value = self._list(depth + 1) if type(event) is yaml.SequenceStartEvent else self._map(depth + 1)
        tag = event.tag if event.tag in {"!reset", "!override"} else ""
        node = YamlNode(value if tag != "!reset" or isinstance(value, str) else None, line, self._source, tag)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _list(self, depth: int) -> list[YamlNode]:
        elements = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            elements.append(self._node(event, depth))
            self._count(1)
        return elements

    def _map(self, depth: int) -> dict[str, YamlNode]:
        """Keys and values; its own ones go before those merged into it."""
        values: dict[str, YamlNode] = {}
        merged: tuple[YamlNode, ...] = ()
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._node(event, depth)
            if isinstance(key.value, (dict, list)):
                self._refuse("a key that is a map or a list")
            node = self._node(self._next(), depth)
            if key.written in values:
                self._line = key.line
                self._refuse(f"duplicate key {key.written}")
            if key.written == "<<":
                merged = (node, *node.elements)
            else:
                values[key.written] = YamlNode(node.value, key.line, self._source, node.tag)
            self._count(1)
        for node in merged:
            self._count(len(node.mapping))
            for name, value in node.mapping.items():
                values.setdefault(name, value)
        return values

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._refuse(f"more than {MAX_VALUES} values")

    def _refuse(self, problem: str) -> NoReturn:
        raise _invalid(self._source, self._line, problem)


def resolve(text: str, variables: Mapping[str, str]) -> str | None:
    """Substitute variables as compose does; None if one is undefined.

    Supports ``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME-default}``, ``${NAME:+other}``,
    ``${NAME:?message}``, variables in defaults, and ``$$`` for a dollar sign.
    """
    values = [_value(match, variables) for match in _VARIABLE.finditer(text)]
    if None in values:
        return None
    substitutes = iter(values)
    return _VARIABLE.sub(lambda _: next(substitutes) or "", text)


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str | None:
    name, operator = match["plain"] or match["braced"], match["operator"] or ""
    if not name:
        return "$"
    value = variables.get(name)
    is_set = value is not None and (value != "" or not operator.startswith(":"))
    if operator.endswith("+"):
        return resolve(match["word"], variables) if is_set else ""
    return resolve(match["word"], variables) if operator.endswith("-") and not is_set else value


def read_command(entrypoint: YamlNode | None, command: YamlNode | None) -> CommandLine:
    """The program that ``entrypoint`` and ``command`` start, and its options if it is vLLM's server."""
    words = _unwrap_shell((*split_words(entrypoint), *split_words(command)))
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
    passed = tuple(takewhile(lambda word: word.written not in _SHELL_OPERATORS, words[start:]))
    arguments = tuple(_without_comments(passed))
    options = parse_options(arguments)
    undefined = any(word.text is None and not word.written.startswith("-") for word in arguments)
    # An undefined variable may hold options where it is a whole word, and no value is expected.
    hidden = any(option.name == "--config" for option in options) or any(
        word.text is None and _VARIABLE.fullmatch(word.written) and not takes_value(before)
        for before, word in zip(["", *(word.written for word in arguments)], arguments, strict=False)
    )
    complete = entry != "other" and not hidden and not (undefined and not options)
    return CommandLine(entry, options, complete, passed)


def _without_comments(words: Iterable[Word]) -> Iterator[Word]:
    """The words that are meant as arguments: compose passes ``#`` and the rest of its line, too."""
    line, before = 0, ""
    for word in words:
        if (word.text or "").startswith("#") and not takes_value(before):
            line = word.line
        before = word.text or ""
        if word.line != line:
            yield word


def parse_options(words: Sequence[Word]) -> tuple[Option, ...]:
    """Options with their values, and positional arguments, by vLLM's rules."""
    options: list[Option] = []
    at = 0
    while at < len(words):
        text, line, stop = words[at].text, words[at].line, at + 1
        if text is None or not text.startswith("-"):
            options.append(Option("", text, line))
        elif not text.startswith("--"):  # -tp and the like take one value; no rule is about them
            options.append(Option(text, text, line))
            stop += int("=" not in text)
        elif "=" in text:
            name, _, value = text.partition("=")
            options.append(Option(name.replace("_", "-"), value, line))
        else:
            name = text.replace("_", "-")
            most = (len(words) if name in _MULTIPLE else stop + 1) if takes_value(name) else stop
            values = list(takewhile(lambda word: not (word.text or "").startswith("--"), words[stop:most]))
            options.append(Option(name, values[0].text if values else "", line))
            stop += len(values)
        at = stop
    return tuple(options)


def takes_value(word: str) -> bool:
    """Whether the next word is the value of this option; true for options that are not known."""
    return word.startswith("--") and "=" not in word and not _SWITCHES.match(word)


def unset_variable(text: str, variables: Mapping[str, str]) -> str:
    """The first variable that compose substitutes with nothing: no value, no default, not required."""
    for match in _VARIABLE.finditer(text):
        name = match["plain"] or match["braced"]
        if name and not match["operator"] and name not in variables:
            return str(name)
        if unset := unset_variable(match["word"] or "", variables):
            return unset
    return ""


def split_words(node: YamlNode | None) -> tuple[Word, ...]:
    """Words of a ``command`` or ``entrypoint``, from a list or a string."""
    if node is None:
        return ()
    if isinstance(node.value, list):
        return tuple(Word(item.text, item.written, item.line) for item in node.elements)
    written = _split_shell(node.written)
    lines, resolved = _word_lines(written, node), resolve(node.written, node.source.variables)
    texts = _split_shell(resolved) if resolved is not None else []
    if len(texts) == len(written):
        return tuple(map(Word, texts, written, lines))
    words: list[Word] = []  # a variable is undefined, or holds several words or none
    for word, line in zip(written, lines, strict=True):
        text = resolve(word, node.source.variables)
        if text is not None and _BRACED.fullmatch(word):
            words += [Word(part, part, line) for part in _split_shell(text)]
        else:
            words.append(Word(text, word, line))
    return tuple(words)


def split_colons(text: str) -> list[str]:
    """Parts of a port in the short form; colons within ``${...}`` and ``[...]`` do not split."""
    return _split_around(_BRACED_OR_IPV6, text, lambda masked: masked.split(":"))


def _split_shell(text: str) -> list[str]:
    """Split as a shell does, but not within ``${...}``; unbalanced quotes split at blanks."""

    def split(masked: str) -> list[str]:
        try:
            return shlex.split(masked)
        except ValueError:
            return masked.split()

    return _split_around(_BRACED, text.replace("\\\n", " "), split)


def _split_around(pattern: re.Pattern[str], text: str, split: Callable[[str], list[str]]) -> list[str]:
    matches = iter(pattern.findall(text))
    parts = split(pattern.sub(_PLACEHOLDER, text))
    return [re.sub(_PLACEHOLDER, lambda _: next(matches, ""), part) for part in parts]


def _word_lines(words: Sequence[str], node: YamlNode) -> list[int]:
    """Line of each word: the next line of the scalar that contains its text."""
    lines = node.source.lines[node.line - node.source.first :]
    deeper = " " * (len(lines[0]) - len(lines[0].lstrip()) + 1)
    stop = 1
    while stop < len(lines) and (not lines[stop].strip() or lines[stop].startswith(deeper)):
        stop += 1
    numbers, at = [], 0
    for word in words:
        first = word.splitlines()[0] if word else word
        for index in range(at, min(stop, at + 1000)):
            if first in lines[index]:
                at = index
                break
        numbers.append(node.line + at)
    return numbers


def _unwrap_shell(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Words of the script if a shell runs one with ``-c``, else the same words."""
    for shell, flag, script in zip(words, words[1:], words[2:], strict=False):
        name = (shell.text or "").rsplit("/", 1)[-1]
        if name in _SHELLS and re.fullmatch(r"-[a-z]*c", flag.text or ""):
            inner: list[Word] = []
            text = script.text if script.text is not None else script.written
            for word in _split_shell(re.sub(r"(?<!\S)#.*", "", text)):
                parts = [word[:-1], ";"] if len(word) > 1 and word.endswith(";") else [word]
                inner += [Word(part, part, script.line) for part in parts]
            return tuple(inner)
    return words


@dataclass(frozen=True)
class PublishedPort:
    """An entry of ``ports``; a part with an undefined variable is None."""

    address: str | None  # on the host; empty for all addresses
    published: str | None  # port on the host; empty if Docker chooses it
    target: str | None  # port in the container
    line: int


def merge_files(roots: Sequence[YamlNode]) -> YamlNode:
    """The project of several files, each merged into those before it; an error where their types differ."""
    extended = []
    for root in roots:
        services = root.at("services")
        values = {name: _extended(name, services) for name in services.mapping}
        extended.append(_like(root, root.mapping | {"services": _like(services, values)}) if values else root)
    return reduce(_merge, extended)


def as_map(node: YamlNode) -> YamlNode:
    """Values as a map, also where they are a list of ``NAME=VALUE``; null is a name without a value."""
    if not node.elements:
        return node
    rows = [(item.written.partition("="), item) for item in node.elements]
    values = {
        name: YamlNode(value if equals else None, item.line, item.source)
        for (name, equals, value), item in rows
        if name
    }
    return YamlNode(values, node.line, node.source)


def read_port(item: YamlNode) -> PublishedPort:
    """A port in the short form ``[[address:]published:]target[/protocol]`` or in the long form."""
    if item.mapping:
        address = item.scalar("host_ip") if item.get("host_ip") else ""
        published = item.scalar("published") if item.get("published") else ""
        return PublishedPort(address, published, item.scalar("target"), item.line)
    parts = [resolve(part, item.source.variables) for part in split_colons(item.written)]
    known = None not in parts[:-2]
    address = ":".join(part or "" for part in parts[:-2]).strip("[]") if known else None
    target = parts[-1].partition("/")[0] if parts[-1] is not None else None
    return PublishedPort(address, parts[-2] if len(parts) > 1 else "", target, item.line)


def _extended(name: str, services: YamlNode, depth: int = 0) -> YamlNode:
    """The service merged with what it extends; ``extends`` stays if that is in another file."""
    node = services.mapping[name]
    extends = node.get("extends")
    if extends is None or extends.get("file") or depth > _MAX_EXTENDS:
        return node
    base = extends.text or extends.scalar("service") or ""
    if not services.get(base):
        return node
    own = _like(node, {key: value for key, value in node.mapping.items() if key != "extends"})
    return _like(node, _merge(_extended(base, services, depth + 1), own, ("services", name)).mapping)


def _merge(base: YamlNode, own: YamlNode, path: tuple[str, ...] = ()) -> YamlNode:
    rule = _rule(path)
    if rule in _REPLACED or own.tag == "!override":
        return own
    if rule in _AS_MAP:
        base, own = as_map(base), as_map(own)
    if own.value is None or base.value is None:
        return base if own.value is None else own
    if rule == "logging" and len({base.scalar("driver"), own.scalar("driver")} - {None}) > 1:
        return own
    base, own = _in_one_form(rule, base), _in_one_form(rule, own)
    if isinstance(base.value, dict) and isinstance(own.value, dict):
        return _merge_maps(base, own, path)
    if isinstance(base.value, list) and isinstance(own.value, list):
        both = {_identity(rule, item) or f"#{at}": item for at, item in enumerate(base.value + own.value)}
        return _like(own, list(both.values()))
    if isinstance(base.value, str) and (isinstance(own.value, str) or "".join(path[:1]).startswith("x-")):
        return own
    place = f"{own.source.name}:{own.line - own.source.first + 1}"
    raise ComposeError(
        f"{place}: {'.'.join(path)} can't be merged with its value in {base.source.name}",
        evidence="Compose refuses a text for a list or a map, or a list for a map",
        hint="write both in the same form, or replace the earlier value: !override",
    )


def _in_one_form(rule: str, node: YamlNode) -> YamlNode:
    """A value in its long form where Compose merges both forms."""
    if rule == "build" and not node.mapping:  # a text is its context
        return _like(node, {"context": node})
    if rule == "gpus" and not node.elements:  # a text is their number
        return _like(node, [_like(node, {"count": node})])
    return node if rule not in _BY_NAME or node.elements else _like(node, [node])


def _merge_maps(base: YamlNode, own: YamlNode, path: tuple[str, ...]) -> YamlNode:
    merged = dict(base.mapping)
    for key, value in own.mapping.items():
        if value.tag == "!reset":
            merged.pop(key, None)
        elif key in merged and _rule(path) not in _NAMED:
            merged[key] = _merge(merged[key], value, (*path, key))
        else:
            merged[key] = value
    return _like(base, merged)


def _like(node: YamlNode, value: dict[str, YamlNode] | list[YamlNode]) -> YamlNode:
    return YamlNode(value, node.line, node.source)


def _rule(path: tuple[str, ...]) -> str:
    """The keys of a value below its service, network or volume, as the rules name them."""
    if path[:1] == ("services",):
        keys = list(path[2:])
        if len(keys) > 1 and keys[0] in {"networks", "ulimits"}:
            keys[1] = "*"
        return ".".join(keys)
    return "labels" if path[2:] == ("labels",) else ""


def _identity(rule: str, item: YamlNode) -> str:
    """What two entries of a list have in common if only the last of them counts; empty for any other list."""
    if rule == "ports":
        port = read_port(item)
        protocol = item.scalar("protocol") if item.mapping else item.written.partition("/")[2]
        return f"{port.address or '0.0.0.0'}:{port.published}:{port.target}/{protocol or 'tcp'}"
    if rule in _BY_TARGET:
        parts = split_colons(item.text or item.written)
        return (item.scalar("target") or item.scalar("source") or "") if item.mapping else parts[:2][-1]
    if rule in _BY_NAME:
        return item.scalar("path") or (item.text or item.written).partition("=")[0]
    return ""
