"""A second folder with the model's weights in int8, for processors that multiply int8 faster than bfloat16.

W8A8: each row of a linear layer's weight has a scale of its own, tokens are rounded as they come. Embedding,
norms and the head that makes the score stay as they are. The work is done by ``data/int8.py`` in a container
of the reranker's own image, with the library that vLLM reads such folders with; nothing is downloaded.

Rounding moves scores: compare the order of both before one takes the other's place.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from ragops.configuration import home
from ragops.docker.objects import Mount
from ragops.docker.temporary import sidecar
from ragops.errors import ImageError, ModelError, file_errors
from ragops.reranker import files
from ragops.reranker import model as models

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.reranker.host import Host
    from ragops.reranker.model import Model

RECORD = "ragops-int8.json"
"""In each folder that is made; its presence says that the folder is whole."""

KNOWN = ("Qwen2", "Qwen3", "Llama", "Mistral", "Bert", "Roberta", "XLMRoberta")
"""Beginnings of architectures whose linear layers vLLM serves in int8 on a CPU."""

_SECONDS, _SECONDS_PER_GB = 300.0, 60.0
"""Patience; a second or two for each GB is usual, a slow disk takes longer."""

_MODEL, _MADE = "/model", "/made"
_MARGIN = 64 << 20


@dataclass(frozen=True)
class Record:
    """What :data:`RECORD` holds."""

    source: str
    """Name of the model."""
    source_sha256: str
    """:func:`ragops.reranker.model.fingerprint` of its folder."""
    linear: int
    """Layers that are int8."""
    compressed_tensors: str
    """Version of the library that rounded."""
    ragops: str


def unfit(host: Host) -> str:
    """Why int8 must not be served on a processor; empty where it may.

    Without instructions that sum int8 products in 32 bits (VNNI, AMX, Arm's dot product) vLLM's kernel
    adds two products in 16 bits, which overflow. On such a machine single sums were off by more than their
    mean size, and scores of a small model by 0.14; ``tests/live/test_int8.py`` holds both halves of this.
    """
    if host.has_int8:
        return ""
    return f"{host.cpu_model} has no VNNI or AMX: int8 sums overflow there, and scores come out wrong"


def int8(folder: Path, *, engine: Engine, image: str, target: Path | None = None) -> Path:
    """Make an int8 copy of a model folder, or find the one that was made before.

    Args:
        folder: The model; it is only read.
        engine: Where the container runs that does it.
        image: The reranker's image: it has compressed-tensors.
        target: The folder to make. When left out ``<name>-int8`` beside the model, or below ragops' own
            folder where nobody may write beside it.

    Returns:
        The folder. It belongs to the caller, and is there only when it is whole.

    Raises:
        ModelError: The model is of a kind that isn't known, or int8 already; the target is something else,
            or has too little space.
        ImageError: The image lacks compressed-tensors.
        EngineError: The container could not be started, or took too long.
    """
    model = models.describe(folder.resolve())
    _refuse(model)
    place = (target or _beside(model)).resolve()
    sha256 = files.fingerprint(model.folder)
    before = _before(place)
    if before and before.source_sha256 == sha256:
        return models.describe(place).folder
    _make_room(place.parent, model)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as text:
        made = Path(text) / "made"
        made.mkdir()
        said = _convert(engine, image, model, made)
        record = Record(model.name, sha256, said.linear, said.compressed_tensors, version("ragops-rerank"))
        (made / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        models.describe(made)
        if before:
            place.rename(Path(text) / "before")
        made.rename(place)
    return place


@dataclass(frozen=True)
class _Said:
    linear: int
    compressed_tensors: str


def _refuse(model: Model) -> None:
    hint = "name the folder of a Qwen3-Reranker or of a BERT-like model as its publisher made it"
    if model.quantized:
        raise ModelError(
            f"{model.name} can't be made int8: its weights are quantized already",
            code="model-not-int",
            evidence=f"config.json: quantization_config, quant_method {model.quantized}",
            hint=hint,
            file=model.folder,
        )
    if not model.architecture.startswith(KNOWN):
        raise ModelError(
            f"{model.name} can't be made int8: its architecture is {model.architecture}",
            code="model-not-int",
            evidence=f"known are {', '.join(KNOWN)}",
            hint=hint,
            file=model.folder,
        )


def _beside(model: Model) -> Path:
    name = f"{model.name}-int8"
    if os.access(model.folder.parent, os.W_OK | os.X_OK):
        return model.folder.parent / name
    return home() / "models" / name


def _before(place: Path) -> Record | None:
    """The record of what is there.

    Raises:
        ModelError: Something is there that ragops did not make.
    """
    if not place.exists():
        return None
    what, hint = (
        f"{place} is not an int8 folder that ragops created",
        "name another folder, or move that one away",
    )
    with file_errors(ModelError, what, place, code="model-not-int", hint=hint):
        return TypeAdapter(Record).validate_json((place / RECORD).read_bytes())


def _make_room(parent: Path, model: Model) -> None:
    """Make the parent folder, and see that it can take the result: never more than the model itself."""
    what = f"{parent} can't take an int8 folder"
    with file_errors(ModelError, what, parent, code="model-not-int", hint=_OTHER):
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
    need = model.weight_bytes + _MARGIN
    if free < need:
        raise ModelError(
            f"{parent} has no space for an int8 folder of {model.name}",
            code="model-not-int",
            evidence=f"{free / 1e9:.2f} GB are free, up to {need / 1e9:.2f} GB are needed",
            hint=_OTHER,
            file=parent,
        )


_OTHER = "free some, or name another folder"


def _convert(engine: Engine, image: str, model: Model, made: Path) -> _Said:
    program = (resources.files("ragops.data") / "int8.py").read_text()
    mounts = (Mount(str(model.folder), _MODEL, read_only=True), Mount(str(made), _MADE))
    patience = _SECONDS + _SECONDS_PER_GB * model.weight_bytes / 1e9
    with sidecar(engine, "none", image, mounts=mounts, seconds=patience) as box:
        done = engine.execute(box, ("python3", "-c", program), timeout=patience)
    try:
        said = _Said(**json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as error:
        raise _failed(image, model, (done.stderr or done.stdout).strip()) from error
    if not said.linear:
        raise ModelError(
            f"{model.name} can't be made int8: no linear layer was found in its files",
            code="model-not-int",
            hint="the layers of known models are named layers.0, layers.1 and so on",
            file=model.folder,
        )
    return said


def _failed(image: str, model: Model, text: str) -> ModelError | ImageError:
    if "No module named" in text:
        return ImageError(
            f"{image} can't make int8 weights: a library is missing in it",
            code="image-lacks-library",
            evidence=text.splitlines()[-1],
            hint="ragops image --build makes an image that has it",
        )
    return ModelError(
        f"{model.name} could not be made int8",
        code="model-not-int",
        evidence="\n".join(text.splitlines()[-6:]),
        hint="ragops doctor looks at the files of the model and at the disk",
        file=model.folder,
    )
