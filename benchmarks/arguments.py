"""Passes the arguments of each launch to the parser of another release of vLLM, from its wheel on PyPI.

::

    python -m benchmarks.arguments 0.33.0 docs/_data/arguments.json

downloads 340 MB and takes two minutes. Only the wheel's Python files are used, with the libraries of the
serving image: for 0.33 there is no wheel for CPUs yet, so that its engine can't run. ``data/arguments.py``
runs in the container.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import write
from ragops.configuration import Reranker, Stack
from ragops.docker import engine as engines
from ragops.docker.engine import sidecar
from ragops.docker.objects import Mount
from ragops.errors import ImageError
from ragops.reranker import architectures, files, options
from ragops.reranker.host import Core, Host, Node
from ragops.reranker.model import Model, Shape
from ragops.reranker.sizing import size

if TYPE_CHECKING:
    from ragops.docker.engine import Engine

HOST = Host(
    cpu_model="an example",
    features=frozenset({"avx512f", "avx512_bf16", "amx_bf16"}),
    cpus=tuple(Core(cpu=number, core=number) for number in range(8)),
    nodes=(Node(0, 64 << 30),),
    memory=64 << 30,
)
MODEL = Model(
    folder=Path("/srv/models/example"),
    name="example",
    architecture="Qwen3ForCausalLM",
    kind="qwen3-reranker",
    max_tokens=8192,
    causal=True,
    shape=Shape(layers=28, hidden=1024, intermediate=3072, kv_heads=8, head_dim=128, vocabulary=151669),
    weight_bytes=1191586416,
    dtype="bfloat16",
)


@dataclass(frozen=True)
class Accepted:
    """Arguments of one architecture and kind that the parser accepted, in both forms of the launch."""

    architecture: str
    kind: str
    arguments: str
    """As one would type them in a shell."""


@dataclass(frozen=True)
class Record:
    """What was tried."""

    date: str
    vllm: str
    sha256: str
    """Of the wheel."""
    rows: tuple[Accepted, ...]


def launches() -> tuple[Accepted, ...]:
    """The launch of each row of the table of architectures, on one example machine."""
    return tuple(Accepted(row.name, row.kind, _arguments(row)) for row in architectures.SERVED)


def _arguments(row: architectures.Architecture) -> str:
    model = dataclasses.replace(MODEL, architecture=row.name, kind=row.kind, causal=row.causal)
    if row.kind == "cross-encoder":
        model = dataclasses.replace(model, overrides=json.dumps(architectures.SIGMOID))
    stack = Stack(reranker=Reranker(max_num_batched_tokens=8192, max_num_seqs=64, eager=True))
    settings = options.arguments(stack, model, size(stack, model, HOST))
    return shlex.join(part for setting in settings for part in (setting.name, setting.value) if part)


def unpack(wheel: Path, folder: Path, version: str) -> None:
    """The Python files of a wheel, with metadata by which vLLM takes the CPU as its platform."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("vllm/") and name.endswith(".py"):
                archive.extract(name, folder)
    metadata = folder / f"vllm-{version}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def parse(engine: Engine, image: str, version: str) -> Record:
    """Download a release and pass the arguments of all launches to its parser.

    Raises:
        RagopsError: pip can't download the wheel.
        ImageError: The parser refused arguments; its message is the evidence.
    """
    rows = launches()
    program = str(resources.files("benchmarks.data") / "arguments.py")
    with tempfile.TemporaryDirectory(prefix="ragops-arguments-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        files.download(folder, f"vllm=={version}")
        wheel = next(folder.glob("*.whl"))
        unpack(wheel, folder / "tree", version)
        mounts = (
            Mount(str(folder / "tree"), "/tree", read_only=True),
            Mount(str(options.TEMPLATES), "/templates", read_only=True),
            Mount(program, "/program.py", read_only=True),
        )
        with sidecar(engine, "none", image, mounts=mounts, memory=4 << 30) as container:
            order = json.dumps({"version": version, "launches": [shlex.split(row.arguments) for row in rows]})
            argv = ("env", "PYTHONPATH=/tree", "HOME=/var/tmp", "python3", "/program.py")
            result = engine.execute(container, argv, stdin=order, timeout=280)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if result.exit_code:
        raise ImageError(f"vLLM {version} refused arguments", evidence=result.stderr[-900:])
    return Record(f"{datetime.now(UTC):%Y-%m-%d}", version, sha256, rows)


def main(version: str, file: str) -> None:
    """Parse and write the record."""
    engine = engines.connect()
    write(parse(engine, Reranker().image, version), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
