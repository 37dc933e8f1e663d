"""Runs in the vLLM image: writes the checkpoints, and scores with transformers as each model's card says.

Reads JSON from standard input: the arguments of :func:`checkpoints.make`, and ``calls``, each a query and its
documents. Writes ``scores``, the list of each call by checkpoint, and the version of transformers. Arithmetic
is float32.

Prompts are assembled from token ids, part by part, and use nothing of ragops' score templates, so that an
error in one shows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import checkpoints
import torch
import transformers
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QWEN3 = (
    "<|im_start|>system\n",
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided.",
    ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n",
    "<Query>: {query}\n<Document>: {document}",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
"""Model card of Qwen3-Reranker."""
MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
    "<|im_start|>user\n",
    "query: {query}\ndocument: {document}\n"
    "You are a search relevance expert who evaluates how well documents match search queries. "
    "For each query-document pair, carefully analyze the semantic relationship between them, "
    "then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
    "<|im_end|>\n<|im_start|>assistant\n",
)
"""mxbai_rerank/mxbai_rerank_v2.py, which normalizes a logit of 4.5 to 0.5. It tokenizes query, newline,
document and task apart, so that a full stop and a newline are two tokens; no template of vLLM can do that."""
GEMMA = (
    *("<bos>", "A: {query}", "\n", "B: {document}", "\n"),
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
    "providing a prediction of either 'Yes' or 'No'.",
)
"""FlagEmbedding/inference/reranker/decoder_only/base.py, and the model card of bge-reranker-v2-gemma."""
ZERANK = (
    *("<|im_start|>system\n{query}<|im_end|>\n", "<|im_start|>user\n{document}<|im_end|>\n"),
    "<|im_start|>assistant\n",
)
"""Qwen3's chat template over a system and a user message, as the model card of zerank-2 applies it."""
CTXL = (
    "Check whether a given document contains information helpful to answer the query.\n",
    "<Document> {document}\n<Query> {query} ??",
)
"""Model card of ctxl-rerank-v2."""
PROMPTS = {
    "qwen3-reranker-random": (QWEN3, ("no", "yes"), 0.0, 1.0),
    "qwen3-reranker-random-seq-cls": (QWEN3, (), 0.0, 1.0),
    "mxbai-rerank-v2-random": (MXBAI, ("0", "1"), 4.5, 1.0),
    "bge-reranker-v2-gemma-random": (GEMMA, ("Yes",), 0.0, 1.0),
    "zerank-random": (ZERANK, ("Yes",), 0.0, 5.0),
    "ctxl-rerank-random": (CTXL, ("!",), 0.0, 1.0),
}
"""Parts of the prompt, the tokens whose logits make the score (none: a head of one label), what is subtracted
from the logit, and what divides it."""
PAIRS = {
    "bge-reranker-random": "bge-reranker-random",
    "jina-reranker-v2-random": "bge-reranker-random",
    "cross-encoder-roberta-random": "cross-encoder-roberta-random",
    "ms-marco-minilm-random": "ms-marco-minilm-random",
    "ms-marco-electra-random": "ms-marco-electra-random",
    "gte-reranker-modernbert-random": "gte-reranker-modernbert-random",
}
"""Cross-encoders, and the folder whose weights transformers reads: Jina's tensor names need Jina's code."""
LISTWISE = (
    "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages ",
    "based on how relevant they are to the query. If the query is a question, how relevant a passage is ",
    "depends on how well it answers the question. If not, try to analyze the intent of the query and ",
    "assess how well each passage satisfies the intent. If an instruction is provided, you should follow ",
    "the instruction when determining the ranking.<|im_end|>\n<|im_start|>user\n",
    "I will provide you with {count} passages, each indicated by a numerical identifier. ",
    "Rank the passages based on their relevance to query: {query}\n{passages}\n",
    "<query>\n{query}<|rerank_token|>\n</query>",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
"""Model card of jina-reranker-v3."""


class Decoder:
    """A model that reads a prompt; the logit is that of its last token."""

    def __init__(self, folder: Path) -> None:
        self.parts, self.answers, self.mean, self.divisor = PROMPTS[folder.name]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        name = "AutoModelForCausalLM" if self.answers else "AutoModelForSequenceClassification"
        self.model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()

    def score(self, query: str, document: str) -> float:
        """Sigmoid of the one logit, or of the difference of two."""
        tokens: list[int] = []
        for part in self.parts:
            text = part.format(query=query, document=document)
            tokens += self.tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logits = self.model(torch.tensor([tokens])).logits
        if not self.answers:
            return torch.sigmoid(logits[0, 0]).item()
        last = logits[0, -1, [self.tokenizer.convert_tokens_to_ids(answer) for answer in self.answers]]
        logit = last[1] - last[0] if len(self.answers) > 1 else last[0]
        return torch.sigmoid((logit - self.mean) / self.divisor).item()

    def __call__(self, query: str, documents: Sequence[str]) -> list[float]:
        return [self.score(query, document) for document in documents]


class CrossEncoder:
    """A model that reads query and document as a pair of texts."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        read = transformers.AutoModelForSequenceClassification.from_pretrained
        self.model = read(folder, dtype=torch.float32).eval()

    def __call__(self, query: str, documents: Sequence[str]) -> list[float]:
        scores = []
        for document in documents:
            pair = self.tokenizer(query, document, return_tensors="pt")
            with torch.no_grad():
                scores.append(torch.sigmoid(self.model(**pair).logits[0, 0]).item())
        return scores


class Listwise:
    """jina-reranker-v3: one prompt for all documents, and the cosine of two projected hidden states.

    The prompt and the projector are those of the model's card and weights; transformers has the layers below.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.Qwen3Model.from_pretrained(folder, dtype=torch.float32).eval()
        tensors = load_file(folder / "model.safetensors")
        self.layers = [tensors[f"projector.{place}.weight"].float() for place in (0, 2)]

    def __call__(self, query: str, documents: Sequence[str]) -> list[float]:
        passages = "\n".join(
            f'<passage id="{place}">\n{document}<|embed_token|>\n</passage>'
            for place, document in enumerate(documents)
        )
        prompt = "".join(LISTWISE).format(count=len(documents), query=query, passages=passages)
        ids = torch.tensor([self.tokenizer.encode(prompt, add_special_tokens=False)])
        with torch.no_grad():
            hidden = self.model(ids).last_hidden_state[0]
        first, second = self.layers

        def projected(token: str) -> torch.Tensor:
            places = ids[0] == self.tokenizer.convert_tokens_to_ids(token)
            return torch.relu(hidden[places] @ first.T) @ second.T

        query_state, states = projected("<|rerank_token|>"), projected("<|embed_token|>")
        scores: list[float] = torch.cosine_similarity(query_state, states).tolist()
        return scores


def main() -> None:
    """Write the checkpoints, then score."""
    order = json.load(sys.stdin)
    root, calls = Path(order["root"]), order["calls"]
    checkpoints.make(root, ranks=Path(order["ranks"]), bert=Path(order["bert"]), texts=order["texts"])
    scorers: dict[str, Callable[[str, Sequence[str]], list[float]]] = {
        **{name: Decoder(root / name) for name in PROMPTS},
        **{name: CrossEncoder(root / folder) for name, folder in PAIRS.items()},
        "jina-reranker-v3-random": Listwise(root / "jina-reranker-v3-random"),
    }
    scores = {name: [score(*call) for call in calls] for name, score in scorers.items()}
    json.dump({"scores": scores, "transformers": transformers.__version__}, sys.stdout)


if __name__ == "__main__":
    main()
