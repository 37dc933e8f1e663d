"""The folder with the weights: what it is, whether it can rerank, and its fingerprint.

:func:`resolve` finds the folder, :func:`describe` reads it; ``vllm.py`` turns the
:class:`Model` into a launch. Nothing here runs code from a model folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragops.errors import ModelError, file_errors
from ragops.reranker import files as weights
from ragops.reranker.files import bundled_minilm

if TYPE_CHECKING:
    from ragops.configuration import Stack


Kind = Literal["qwen3-reranker", "qwen3-reranker-seq-cls", "cross-encoder", "embedding"]

STAND_IN_FILE = "ragops-stand-in.txt"
"""A file of this name marks weights that aren't a trained reranker; its text says what they are."""

RERANKS = (
    "Qwen3ForCausalLM (Qwen3-Reranker), Qwen3ForSequenceClassification, any "
    "*ForSequenceClassification with one label, or a sentence-transformers encoder"
)

_ENCODERS = {"BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel", "ModernBertModel"}
_DECODERS = ("Qwen2", "Qwen3", "Llama", "Mistral", "Gemma")
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """Sizes from ``config.json`` that decide how much memory and time a token takes."""

    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class Model:
    """A folder that vLLM can serve as a reranker."""

    folder: Path
    name: str
    """The folder's name; for a Hugging Face cache, the repository's."""
    architecture: str
    kind: Kind
    max_tokens: int
    """Longest input in tokens that the folder's files allow."""
    causal: bool
    """Whether tokens only see those before them, which makes prefixes reusable."""
    shape: Shape
    weight_bytes: int
    """Size of the safetensors files."""
    dtype: str
    """Arithmetic that the files are stored in, such as ``bfloat16``."""
    quantized: str = ""
    """How the weights are quantized, such as ``compressed-tensors``; empty when they are not."""
    int8_bytes: int = 0
    """Of the weights, what stays int8 in whatever arithmetic the rest is served."""
    stand_in: str = ""
    """Why scores aren't those of a trained reranker; empty when they are."""
    note: str = ""
    """What was guessed about the folder; empty when its files were plain."""

    def weights_as(self, dtype: str) -> int:
        """Bytes of the weights once loaded as ``dtype``."""
        rest = self.weight_bytes - self.int8_bytes
        return self.int8_bytes + rest * _DTYPE_BYTES.get(dtype, 4) // _DTYPE_BYTES.get(self.dtype, 4)

    def kv_bytes(self, dtype: str) -> int:
        """Key-value cache per token in bytes; encoders keep none."""
        shape = self.shape
        per_layer = 2 * shape.kv_heads * shape.head_dim * _DTYPE_BYTES.get(dtype, 4)
        return shape.layers * per_layer if self.causal else 0


def resolve(stack: Stack, home: Path) -> Model:
    """Find and describe the model: ``RAGOPS_MODEL_DIR``, else the stack's, else all-MiniLM-L6-v2.

    Args:
        stack: The declaration.
        home: Folder that ragops keeps its things in; the bundled model goes below it.

    Raises:
        ModelError: The folder can't be served, or the bundled model can't be fetched.
    """
    return describe(named_folder(stack) or bundled_minilm(home))


def named_folder(stack: Stack) -> Path | None:
    """The model folder that the user named, if any; fetches nothing."""
    if named := os.environ.get("RAGOPS_MODEL_DIR"):
        return Path(named).expanduser().resolve()
    return stack.reranker.model


def describe(folder: Path) -> Model:
    """Read a model folder.

    Raises:
        ModelError: A file is missing, would not be there inside the container, or the
            architecture gives no score for a query and a document.
    """
    _fetched(folder)
    config = _config(folder)
    _tokenizer(folder)
    files = _weights(folder)
    _inside(folder)
    _readable(folder)
    _whole(folder, files)
    architecture, kind, note = _kind(folder, config)
    return Model(
        folder=folder,
        name=_name(folder),
        architecture=architecture,
        kind=kind,
        max_tokens=_max_tokens(folder, config),
        causal=architecture.startswith(_DECODERS) and "Bidirectional" not in architecture,
        shape=_shape(config),
        weight_bytes=sum(file.stat().st_size for file in files),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        quantized=_quantized(config),
        int8_bytes=sum(map(weights.int8_bytes, files)),
        stand_in=_stand_in(folder, kind),
        note=note,
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    hint = "fetch the folder again"
    with file_errors(ModelError, f"can't read {file}", file, code="model-unreadable", hint=hint):
        found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _fetched(folder: Path) -> None:
    if names := weights.pointers(folder):
        raise ModelError(
            f"{_name(folder)} has git-lfs pointers where its files should be",
            code="model-pointers",
            evidence=", ".join(names),
            hint=f"git -C {folder} lfs pull",
            file=folder,
        )


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder {folder}",
            code="model-missing",
            hint="see reranker.model or RAGOPS_MODEL_DIR",
            file=folder,
        )
    config = _json(folder / "config.json")
    if not config:
        raise _incomplete(folder, "it has no config.json")
    if "auto_map" in config:
        raise ModelError(
            f"{folder.name} asks to run Python code of its own",
            code="model-runs-code",
            evidence=f"config.json: auto_map = {config['auto_map']}",
            hint="ragops never runs code from a model folder; take a model that vLLM knows itself",
            file=folder,
        )
    return config


def _tokenizer(folder: Path) -> None:
    names = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")
    if not any((folder / name).is_file() for name in names):
        raise _incomplete(folder, "it has no tokenizer.json")
    if (file := folder / names[0]).is_file() and not weights.ends(file):
        raise _incomplete(folder, f"{file.name} ends after {file.stat().st_size} bytes, in its middle")


def _weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files: all that the index names, and at least one."""
    index: dict[str, str] = _json(folder / "model.safetensors.index.json").get("weight_map", {})
    missing = [name for name in sorted(set(index.values())) if not (folder / name).is_file()]
    if missing:
        raise _incomplete(folder, f"its index names shards that aren't there: {', '.join(missing)}")
    found = tuple(sorted(folder.glob("*.safetensors")))
    if not found and list(folder.glob("*.bin")):
        raise ModelError(
            f"{folder.name} has its weights only as pickle files",
            code="model-pickled",
            evidence=", ".join(sorted(file.name for file in folder.glob("*.bin"))),
            hint="a pickle runs code when it is read; fetch the safetensors files of the model",
            file=folder,
        )
    if not found:
        raise _incomplete(folder, "it has no .safetensors file")
    return found


def _whole(folder: Path, files: tuple[Path, ...]) -> None:
    for file in files:
        if reason := weights.cut(file):
            raise _incomplete(folder, f"{file.name}: {reason}")


def _inside(folder: Path) -> None:
    """Refuse links that lead out: only the folder itself is mounted into the container."""
    real = folder.resolve()
    out = [file for file in folder.iterdir() if not file.resolve().is_relative_to(real)]
    if out:
        raise ModelError(
            f"{_name(folder)} has links to files outside its folder",
            code="model-links",
            evidence=f"{out[0].name} -> {out[0].resolve()}; a container sees the folder only",
            hint=f"make a plain copy and name that: cp -rL {folder} {_name(folder)}",
            file=folder,
        )


def _readable(folder: Path) -> None:
    """Refuse files that only their owner may read: the container's root has no special rights."""
    for path in (folder, *folder.iterdir()):
        status = path.stat()
        if status.st_uid != 0 and not status.st_mode & 0o004:
            raise ModelError(
                f"the container could not read {_name(folder)}",
                code="model-unreadable",
                evidence=f"{path} has the mode {status.st_mode & 0o777:o}",
                hint=f"chmod -R a+rX {folder}",
                file=folder,
            )


def _incomplete(folder: Path, reason: str) -> ModelError:
    name = _name(folder)
    return ModelError(
        f"{folder} is not a complete model",
        code="model-incomplete",
        evidence=reason,
        hint=f"fetch all of it: hf download <owner>/{name} --local-dir {folder}",
        file=folder,
    )


def _name(folder: Path) -> str:
    """Name of the model; a snapshot in a Hugging Face cache is named by a hash."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rsplit("--", 1)[-1]
    return folder.name


def _kind(folder: Path, config: dict[str, Any]) -> tuple[str, Kind, str]:
    """Architecture, kind, and what was guessed."""
    architecture = next(iter(config.get("architectures") or []), "none named")
    if architecture == "Qwen3ForCausalLM":
        return architecture, *_qwen3(folder, config)
    if architecture.endswith("ForSequenceClassification"):
        _one_label(folder, config)
        qwen3 = architecture.startswith("Qwen3")
        return architecture, "qwen3-reranker-seq-cls" if qwen3 else "cross-encoder", ""
    if architecture in _ENCODERS and (folder / "modules.json").is_file():
        return architecture, "embedding", ""
    raise ModelError(
        f"{_name(folder)} can't rerank: its architecture is {architecture}",
        code="model-no-reranker",
        evidence=f"these can: {RERANKS}",
        hint="name another folder with reranker.model or RAGOPS_MODEL_DIR",
        file=folder,
    )


def _qwen3(folder: Path, config: dict[str, Any]) -> tuple[Kind, str]:
    """Tell apart the three that share an architecture: reranker, embedding, chat.

    The name and the model card's tag say it. A fine-tuned model may have neither; it is
    taken for a reranker when its tokenizer can answer "yes" or "no", with a note: a chat
    model passes that too, and only ``ragops verify`` shows that its scores mean nothing.
    """
    hints = f"{_name(folder)} {config.get('_name_or_path', '')} {_pipeline_tag(folder)}".lower()
    if "rerank" in hints or "text-ranking" in hints:
        _answers(folder)
        return "qwen3-reranker", ""
    if "embed" in hints or "1_Pooling" in {path.name for path in folder.iterdir()}:
        return "embedding", ""
    _answers(folder)
    return "qwen3-reranker", "nothing in the folder says that it is a reranker; taken for a Qwen3-Reranker"


def _pipeline_tag(folder: Path) -> str:
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    return next((line.split(":", 1)[1] for line in lines if line.startswith("pipeline_tag:")), "")


def _answers(folder: Path) -> None:
    if missing := weights.no_tokens(folder, ("yes", "no")):
        raise ModelError(
            f"{_name(folder)} can't be asked as a Qwen3-Reranker",
            code="model-no-reranker",
            evidence=f"its tokenizer has no single token for {' and '.join(missing)}",
            hint="a Qwen3-Reranker's score is the share of 'yes' against 'no'",
            file=folder,
        )


def _one_label(folder: Path, config: dict[str, Any]) -> None:
    # Without the key transformers assumes two, and vLLM then offers no rerank at all.
    labels = config.get("num_labels") or len(config.get("id2label") or "ab")
    if labels != 1:
        raise ModelError(
            f"{_name(folder)} sorts into {labels} classes; a reranker gives one score",
            code="model-no-reranker",
            evidence=f"config.json: {labels} labels",
            hint=f"these can rerank: {RERANKS}",
            file=folder,
        )


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    """What vLLM derives too: sentence-transformers' limit if there is one, else the smallest."""
    if limit := _json(folder / "sentence_bert_config.json").get("max_seq_length"):
        return int(limit)
    positions = int(config.get("max_position_embeddings") or 512)
    if config.get("model_type") in {"roberta", "xlm-roberta"}:
        positions -= int(config.get("pad_token_id") or 1) + 1  # positions count from after padding
    stated = _json(folder / "tokenizer_config.json").get("model_max_length") or positions
    return int(min(positions, stated))


def _shape(config: dict[str, Any]) -> Shape:
    hidden = int(config.get("hidden_size") or 0)
    heads = int(config.get("num_attention_heads") or 1)
    return Shape(
        layers=int(config.get("num_hidden_layers") or 0),
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 4 * hidden),
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config.get("vocab_size") or 0),
    )


def _quantized(config: dict[str, Any]) -> str:
    """The method, from where vLLM takes it too."""
    found = config.get("quantization_config")
    return str(found.get("quant_method") or "unnamed") if isinstance(found, dict) else ""


def _stand_in(folder: Path, kind: Kind) -> str:
    marker = folder / STAND_IN_FILE
    if marker.is_file():
        text = marker.read_text(encoding="utf-8").strip()
        return text.splitlines()[0] if text else "marked as a stand-in"
    if kind == "embedding":
        return "a real bi-encoder, not a cross-encoder: its scores are cosine similarities"
    return ""
