"""The architectures that vLLM serves as rerankers, and those that are refused; pure.

:data:`SERVED` has one row for each architecture and use, :data:`REFUSED` the others with a reason and the
nearest alternative. Several fine-tuned models of one architecture differ in the tokens and the prompt that
make their score: :func:`recognize` distinguishes them by their files, never by the folder's name.

*Read* are the installed vLLM 0.32 (``models/registry.py``, ``models/adapters.py``, ``models/config.py``,
``layers/pooler/activations.py``, ``entrypoints/pooling/scoring/io_processor.py``), the score templates of
``vllm-project/vllm``, ``mixedbread-ai/mxbai-rerank``, ``LogitScore`` of sentence-transformers, and the cards
that a row names. *From memory* are the published ``config.json`` files: no model hub was reachable.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ragops.configuration import Kind

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
    """Repositories on the model hub."""
    source: str
    named: str
    """Regular expression for repository and file names in lower case, used where there is no folder."""
    scores: str = "sigmoid of the one label"
    """How a score is computed."""
    lowest: float = 0.0
    highest: float = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Value of ``--hf-overrides``."""
    pooler: Mapping[str, Any] = field(default_factory=dict)
    """Value of ``--pooler-config``."""
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
    def truncation(self) -> str:
        """What a client's truncation does; without it vLLM refuses a request with a long document (400)."""
        if not self.splits:
            return "all documents of a request share max_model_len; max_tokens_per_doc cuts each"
        if self.template:
            return "truncate_prompt_tokens cuts the prompt's end: wrong scores; max_tokens_per_doc does not"
        return "a request's truncate_prompt_tokens cuts the document's end"

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
    """Regular expression for ``architectures[0]``."""
    named: str
    """As in :class:`Architecture`."""
    examples: tuple[str, ...]
    reason: str
    alternative: str
    """The nearest repository that is served."""


def _from_tokens(architecture: str, *answers: str, **more: object) -> dict[str, Any]:
    method = {"method": "from_2_way_softmax" if len(answers) == 2 else "no_post_processing"}
    return {"architectures": [architecture], "classifier_from_token": list(answers), **(more or method)}


_QWEN3_PROMPT = (
    r"Judge whether the Document meets the requirements|base_model:[\s-]*\S*qwen3-reranker|"
    r"form of Qwen3-Reranker"  # ragops' own checkpoints with random weights
)
_QWEN3_NAME = r"qwen-?3-?(\d+(\.\d+)?b-?)?rerank|rerank(er)?-?qwen-?3"
_CONVERTED = "(seq-?cls|sequence-classification)"
_YES = "probability of 'yes' against 'no'"

SERVED: tuple[Architecture, ...] = (
    Architecture(
        kind="qwen3-reranker",
        name="Qwen3ForCausalLM",
        model_type="qwen3",
        examples=("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-4B", "Qwen/Qwen3-Reranker-8B"),
        scores=_YES,
        overrides=_from_tokens(
            "Qwen3ForSequenceClassification", "no", "yes", is_original_qwen3_reranker=True
        ),
        template="qwen3_reranker.jinja",
        template_tokens=80,
        marks=_QWEN3_PROMPT,
        multilingual=True,
        named=rf"^(?!.*{_CONVERTED}).*({_QWEN3_NAME})",
        source="vLLM examples/pooling/score/using_template_offline.py, models/config.py; model card",
    ),
    Architecture(
        kind="qwen3-reranker-seq-cls",
        name="Qwen3ForSequenceClassification",
        model_type="qwen3",
        examples=("tomaarsen/Qwen3-Reranker-0.6B-seq-cls",),
        scores=_YES,
        template="qwen3_reranker.jinja",
        template_tokens=80,
        marks=_QWEN3_PROMPT,
        multilingual=True,
        named=rf"({_QWEN3_NAME}).*{_CONVERTED}",
        source="vLLM examples/pooling/score/using_template_offline.py",
    ),
    Architecture(
        kind="zerank",
        name="Qwen3ForCausalLM",
        model_type="qwen3",
        examples=("zeroentropy/zerank-2", "zeroentropy/zerank-1", "zeroentropy/zerank-1-small"),
        scores="sigmoid of a fifth of the logit of 'Yes'",
        overrides=_from_tokens("Qwen3ForSequenceClassification", "Yes"),
        pooler={"logit_sigma": 5.0},
        template="zerank.jinja",
        template_tokens=16,
        marks=r"zeroentropy/zerank|base_model:[\s-]*\S*zerank",
        named=r"zerank",
        source="zerank-2: card (sigmoid(logit / 5)), 1_LogitScore/config.json; vLLM zerank2.jinja",
    ),
    Architecture(
        kind="ctxl-rerank",
        name="Qwen3ForCausalLM",
        model_type="qwen3",
        examples=("ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b",),
        scores="sigmoid of the logit of the first token of the vocabulary",
        overrides=_from_tokens("Qwen3ForSequenceClassification", "!"),
        template="ctxl_rerank.jinja",
        template_tokens=28,
        marks=r"ctxl-rerank|Check whether a given document contains information helpful",
        multilingual=True,
        named=r"ctxl-rerank",
        source="model card (next_logits[:, 0], and the prompt); the first token of Qwen's vocabulary is '!'",
    ),
    Architecture(
        kind="mxbai-rerank-v2",
        name="Qwen2ForCausalLM",
        model_type="qwen2",
        examples=("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2"),
        scores="sigmoid of the logit of '1' less that of '0' and 4.5, as the package's sigmoid_normalize",
        overrides=_from_tokens("Qwen2ForSequenceClassification", "0", "1"),
        pooler={"logit_mean": 4.5},  # without it all scores are above 0.5
        template="mxbai_rerank_v2.jinja",
        template_tokens=96,
        marks=r"mxbai-rerank-\w+-v2|MxbaiRerankV2|search relevance expert who evaluates how well",
        multilingual=True,
        named=r"mxbai-rerank.*v2",
        source="mxbai_rerank_v2.py; vLLM score/template/mxbai_rerank_v2.jinja, #24031 (large model: 6.0)",
    ),
    Architecture(
        kind="bge-reranker-v2-gemma",
        name="GemmaForCausalLM",
        model_type="gemma",
        examples=("BAAI/bge-reranker-v2-gemma",),
        scores="sigmoid of the logit of 'Yes'",
        overrides=_from_tokens("GemmaForSequenceClassification", "Yes"),
        template="bge_reranker_v2_gemma.jinja",
        template_tokens=52,
        marks=r"bge-reranker-v2-gemma|Given a query A and a passage B, determine whether",
        multilingual=True,
        named=r"bge-reranker-v2-gemma",
        source="vLLM score/template/bge-reranker-v2-gemma.jinja; model card",
    ),
    Architecture(
        kind="jina-reranker-v3",
        name="JinaForRanking",
        model_type="qwen3",
        examples=("jinaai/jina-reranker-v3",),
        scores="cosine similarity of query and document, read together with all documents of the request",
        lowest=-1.0,
        splits=False,
        multilingual=True,
        named=r"jina-reranker-v3",
        source="vLLM models/jina.py, scoring/io_processor.py JinaRankingIOProcessor: it has its own prompt",
    ),
    Architecture(
        kind="cross-encoder",
        name="XLMRobertaForSequenceClassification",
        model_type="xlm-roberta",
        examples=(
            *("BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-base", "BAAI/bge-reranker-large"),
            *("maidalun1020/bce-reranker-base_v1", "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1"),
            "jinaai/jina-reranker-v2-base-multilingual",
        ),
        named=r"bge-reranker-(base|large|v2-m3)|bce-reranker|mmarco|jina-reranker-v2",
        source="vLLM models/roberta.py, which maps Jina's names of weights too; its code is not run",
    ),
    Architecture(
        kind="cross-encoder",
        name="BertForSequenceClassification",
        model_type="bert",
        examples=("cross-encoder/ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-TinyBERT-L2-v2"),
        named=r"ms-marco-(minilm|tinybert)",
        source="vLLM models/bert.py; config.json names Identity, so that the launch overrides it",
    ),
    Architecture(
        kind="cross-encoder",
        name="ModernBertForSequenceClassification",
        model_type="modernbert",
        examples=("Alibaba-NLP/gte-reranker-modernbert-base", "cross-encoder/ettin-reranker-150m-v1"),
        named=r"gte-reranker-modernbert|ettin-reranker",
        source="vLLM models/modernbert.py",
    ),
    Architecture(
        kind="cross-encoder",
        name="RobertaForSequenceClassification",
        model_type="roberta",
        examples=("cross-encoder/stsb-roberta-base",),
        named=r"cross-encoder",
        source="vLLM models/roberta.py",
    ),
    Architecture(
        kind="embedding",
        name="sentence-transformers",
        model_type="",
        examples=("sentence-transformers/all-MiniLM-L6-v2", "Qwen/Qwen3-Embedding-0.6B"),
        scores="cosine similarity of two separate embeddings",
        lowest=-1.0,
        named=r"minilm|embed|/e5-|/gte-|bge-(m3|small|base|large)|mpnet",
        source="vLLM entrypoints/pooling/scoring/io_processor.py BiEncoderIOProcessor",
    ),
)
"""What is served; several rows of one architecture differ in kind, and rows of one kind in architecture."""

_TABLE = files("ragops").joinpath("data/refused_models.tsv").read_text(encoding="utf-8").splitlines()[1:]

REFUSED: tuple[Refused, ...] = tuple(
    Refused(name, named, tuple(examples.split()), reason, alternative)
    for name, named, examples, reason, alternative in (row.split("\t") for row in _TABLE)
)
"""What is refused; any other architecture is too, without an alternative of its own."""


def by_kind(kind: str) -> Architecture:
    """The first row of a kind, which has all that its rows share."""
    return next(row for row in SERVED if row.kind == kind)


def by_architecture(name: str) -> tuple[Architecture, ...]:
    """The rows of an architecture; several where fine-tuned models of it differ, none if it is not served."""
    return tuple(row for row in SERVED if row.name == name)


def by_repository_name(name: str) -> Architecture | Refused | None:
    """The row that the name of a repository, a folder or a path suggests; None if it suggests none.

    For reports about files of others, where the model's own files are not at hand: names can mislead.
    """
    plain = name.lower().replace("_", "-")
    rows: Iterable[Architecture | Refused] = (*REFUSED, *SERVED)
    row = next((row for row in rows if re.search(row.named, plain)), None)
    return None if isinstance(row, Architecture) and row.kind == "embedding" and "rerank" in plain else row


def refused(name: str) -> Refused | None:
    """Why an architecture is refused, if it has a row of its own."""
    return next((row for row in REFUSED if re.fullmatch(row.name, name)), None)


def recognize(
    rows: Iterable[Architecture], text: str, answers: tuple[str, ...] | None = None
) -> tuple[Architecture, ...]:
    """The rows that fit a folder's files; one row if they say what the model is.

    Args:
        rows: Those of the architecture.
        text: The model card and the chat templates.
        answers: The tokens that sentence-transformers' module ``LogitScore`` names, if the folder has it.
    """
    return tuple(
        row for row in rows if answers in (None, row.answers) and re.search(row.marks, text, re.IGNORECASE)
    )
