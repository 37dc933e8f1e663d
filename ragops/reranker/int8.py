"""An int8 (W8A8) copy of a model folder, for processors that multiply int8 faster than bfloat16.

Each row of a linear layer's weight has its own scale; activations are quantized per token. Embedding, norms
and the score head are unchanged. ``data/int8.py`` does it in a container of the reranker's image, with the
library that vLLM loads such folders with; nothing is downloaded.

Quantization changes scores: compare the order of both models before the copy replaces the original.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from ragops.configuration import Kind, home
from ragops.data.task import fingerprint
from ragops.docker.engine import Engine, sidecar
from ragops.docker.objects import UNPRIVILEGED, Mount
from ragops.errors import ImageError, ModelError, file_errors
from ragops.reranker import model as models
from ragops.reranker.host import Host
from ragops.reranker.model import Model

RECORD = "ragops-int8.json"
"""File of each int8 folder that ragops creates; it is written last."""

KNOWN = ("Qwen2", "Qwen3", "Llama", "Mistral", "Bert", "Roberta", "XLMRoberta")
"""Prefixes of architectures whose linear layers vLLM serves in int8 on a CPU."""

_TIMEOUT, _TIMEOUT_PER_GB = 300.0, 60.0
"""Seconds; a second or two for each GB is usual, a slow disk takes longer."""

_SPACE_HINT = "free some disk space, or set another folder"


@dataclass(frozen=True)
class Record:
    """Content of :data:`RECORD`."""

    source: str
    source_sha256: str
    linear: int
    compressed_tensors: str
    ragops: str


def unfit(host: Host) -> str:
    """Why int8 must not be served on a processor; empty where it may.

    Without instructions that sum int8 products in 32 bits (VNNI, AMX, Arm's dot product) vLLM's kernel
    adds two products in 16 bits, which overflow. On such a machine single sums were off by more than their
    mean size, and scores of a small model by 0.14; ``tests/live/test_int8.py`` tests both cases.
    """
    if host.has_int8:
        return ""
    return f"{host.cpu_model} has no VNNI or AMX: int8 sums overflow there, and scores are wrong"


def int8(
    folder: Path, *, engine: Engine, image: str, target: Path | None = None, kind: Kind | None = None
) -> Path:
    """Create an int8 copy of a model folder, or return the existing one; it exists only when it is complete.

    It is made in a container of the reranker's ``image``. ``target`` is by default ``<name>-int8`` beside
    the model, or in ragops' data folder where the process may not write beside it; ``kind`` is the
    configured kind, for a folder whose files do not say it.
    """
    model = models.describe(folder.resolve(), kind)
    if model.quantized:
        evidence = f"config.json: quantization_config, quant_method {model.quantized}"
        raise _refusal(model, "its weights are already quantized", evidence)
    if not model.architecture.startswith(KNOWN):
        evidence = f"supported are {', '.join(KNOWN)}"
        raise _refusal(model, f"its architecture is {model.architecture}", evidence)
    beside = model.folder.parent
    default = beside if os.access(beside, os.W_OK | os.X_OK) else home() / "models"
    place = (target or default / f"{model.name}-int8").resolve()
    sha256 = fingerprint(model.folder)
    exists = os.path.exists(place)  # noqa: PTH110 - Path's raises an error for a name that is too long
    message = f"{place} is not an int8 folder that ragops created"
    hint = "set another folder, or move that one away"
    with file_errors(ModelError, message, place, code="model-not-int", hint=hint):
        if (
            exists
            and TypeAdapter(Record).validate_json((place / RECORD).read_bytes()).source_sha256 == sha256
        ):
            return models.describe(place, kind).folder
    _check_space(place.parent, model)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as temporary:
        copy = Path(temporary) / "copy"
        copy.mkdir()
        linear, library = _quantize(engine, image, model, copy)
        record = Record(model.name, sha256, linear, library, version("ragops-rerank"))
        (copy / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        models.describe(copy, kind)
        if exists:
            place.rename(Path(temporary) / "previous")
        copy.rename(place)
    return place


def _refusal(model: Model, reason: str, evidence: str) -> ModelError:
    message = f"{model.name} can't be quantized to int8: {reason}"
    hint = "set the folder of a Qwen3-Reranker or of a BERT-like model as published"
    return ModelError(message, code="model-not-int", evidence=evidence, hint=hint, file=model.folder)


def _check_space(parent: Path, model: Model) -> None:
    """Create the parent folder, and check its disk space: a copy is never larger than the model."""
    message = f"{parent} can't be used for an int8 folder"
    with file_errors(ModelError, message, parent, code="model-not-int", hint=_SPACE_HINT):
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
    need = model.weight_bytes + (64 << 20)
    if free < need:
        raise ModelError(
            f"{parent} has no space for an int8 folder of {model.name}",
            code="model-not-int",
            evidence=f"{free / 1e9:.2f} GB are free, up to {need / 1e9:.2f} GB are needed",
            hint=_SPACE_HINT,
            file=parent,
        )


def _quantize(engine: Engine, image: str, model: Model, copy: Path) -> tuple[int, str]:
    program = (resources.files("ragops.data") / "int8.py").read_text()
    mounts = (Mount(str(model.folder), "/model", read_only=True), Mount(str(copy), "/made"))
    timeout = _TIMEOUT + _TIMEOUT_PER_GB * model.weight_bytes / 1e9
    user = 0 if engine.state().isolated else os.getuid()  # rootless: 0 is the user who runs the engine
    if os.getuid() == 0 and model.uid != UNPRIVILEGED:  # root has no capabilities in the container
        os.chown(copy, model.uid, -1)
        user = model.uid
    memory = 2 * (model.weight_bytes + (1 << 30))
    running = sidecar(engine, "none", image, mounts=mounts, user=user, memory=memory, seconds=timeout)
    with running as container:
        result = engine.execute(container, ("python3", "-c", program), timeout=timeout)
    try:
        output = json.loads(result.stdout.strip().splitlines()[-1])
        linear, library = int(output["linear"]), str(output["compressed_tensors"])
    except (ValueError, TypeError, LookupError) as error:
        lines = (result.stderr or result.stdout).strip().splitlines()
        if any("No module named" in line for line in lines):
            message = f"{image} can't create int8 weights: it lacks a library"
            hint = "ragops image --build builds an image with the library"
            raise ImageError(message, code="image-lacks-library", evidence=lines[-1], hint=hint) from error
        message = f"{model.name} could not be quantized to int8"
        hint, file = "ragops doctor checks the files of the model and the disk", model.folder
        evidence = "\n".join(lines[-6:])
        raise ModelError(message, code="model-not-int", evidence=evidence, hint=hint, file=file) from error
    if not linear:
        evidence = "the layers of supported models are named layers.0, layers.1 and so on"
        raise _refusal(model, "its files have no linear layer", evidence)
    return linear, library
