"""The architectures that vLLM serves as rerankers, and those that are refused; pure.

:data:`SERVED` has one row for each architecture and use, :data:`REFUSED` the others with a reason and the
nearest alternative; the tables are in ``ragops/data``. Fine-tuned models of one architecture differ in the
tokens and the prompt that make their score: ``model.py`` distinguishes them by their files, never by the
folder's name.

Sources: the installed vLLM 0.32 (``models/registry.py``, ``models/adapters.py``, ``models/config.py``,
``layers/pooler/activations.py``, ``entrypoints/pooling/scoring/io_processor.py``), the score templates of
``vllm-project/vllm``, ``mixedbread-ai/mxbai-rerank``, ``LogitScore`` of sentence-transformers, and the cards
that a row names. The published ``config.json`` files are from memory: no model hub was reachable.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

from ragops.configuration import Kind
from ragops.data import read_table

SIGMOID = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
"""Overrides that turn raw logits into 0 to 1: ``PoolerActivation.wraps`` makes a ``PoolerClassify`` of it, a
sigmoid for one label. vLLM sets the dictionary even where ``config.json`` has none."""


@dataclass(frozen=True)
class Architecture:
    """What a kind of model needs from vLLM, and what its scores are."""

    kind: Kind
    """Value of ``[reranker] kind``; rows of one kind differ in nothing but the architecture."""
    name: str
    """``architectures[0]`` of ``config.json``."""
    model_type: str
    """The ``model_type`` with which vLLM's own class reads ``config.json``; any other needs remote code."""
    examples: tuple[str, ...]
    source: str
    named: str
    """Regular expression for repository and file names in lower case, used where there is no folder."""
    scores: str = "sigmoid of the one label"
    lowest: float = 0.0
    highest: float = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    pooler: Mapping[str, Any] = field(default_factory=dict)
    """Value of ``--pooler-config``: the scale of the publisher, without which scores lie close together."""
    template: str = ""
    """Score template, a file in ``data/templates``."""
    template_tokens: int = 4
    """What it adds to a query and a document, rounded up; without one, special tokens such as RoBERTa's."""
    marks: str = ""
    """Regular expression for the model card or the chat template; empty if the architecture suffices."""
    splits: bool = True
    """Whether the documents of one request may be sent in several: no score depends on the others."""
    multilingual: bool = False
    """Whether all such models were trained in many languages."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Tokens of the vocabulary that make the score: for no and yes, or the one for yes."""
        return tuple(self.overrides.get("classifier_from_token", ()))

    @property
    def instruction(self) -> bool:
        """Whether the template has a place for an instruction."""
        return self.template == "qwen3_reranker.jinja"

    @property
    def hf_overrides(self) -> str:
        """:attr:`overrides` as JSON; empty if there are none."""
        return json.dumps(self.overrides) if self.overrides else ""

    @property
    def causal(self) -> bool:
        """Whether tokens attend only to earlier ones; such models have a key-value cache."""
        return self.model_type in {"qwen2", "qwen3", "gemma"}


@dataclass(frozen=True)
class Refused:
    """An architecture that is not served."""

    name: str
    named: str
    examples: tuple[str, ...]
    reason: str
    alternative: str
    """The nearest repository that is served."""


_LINES = files("ragops").joinpath("data/served_models.jsonl").read_text(encoding="utf-8").splitlines()

SERVED: tuple[Architecture, ...] = tuple(map(TypeAdapter(Architecture).validate_json, _LINES))
"""What is served; several rows of one architecture differ in kind, and rows of one kind in architecture."""

REFUSED: tuple[Refused, ...] = tuple(
    Refused(name, named, tuple(examples.split()), reason, alternative)
    for name, named, examples, reason, alternative in read_table("refused_models.tsv")
)
"""What is refused; any other architecture is too, without an alternative of its own."""


def by_kind(kind: str) -> Architecture:
    """The first row of a kind, which has all that its rows share."""
    return next(row for row in SERVED if row.kind == kind)


def by_repository_name(name: str) -> Architecture | Refused | None:
    """The row that the name of a repository, a folder or a path suggests; None if it suggests none.

    For reports about files of others, where the model's own files are not at hand: names can mislead.
    """
    plain = name.lower().replace("_", "-")
    rows: Iterable[Architecture | Refused] = (*REFUSED, *SERVED)
    row = next((row for row in rows if re.search(row.named, plain)), None)
    return None if isinstance(row, Architecture) and row.kind == "embedding" and "rerank" in plain else row
