"""Score pairs the way Qwen3-Reranker's model card does, with transformers alone.

Runs inside the vLLM image; reads JSON on stdin, writes JSON on stdout, a list of scores for each way::

    echo '{"pairs": [["query", "document"]], "ways": [{}]}' | python3 reference.py FOLDER

The prompt is put together from token ids, prefix and suffix apart from the text between,
and knows nothing of ragops' score template: it can catch an error in it. Arithmetic is
float32. A way may have a ``suffix``, to see what a wrong one would do.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, with nothing added."""
    found: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return found


def scores(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    instruction: str = INSTRUCTION,
    suffix: str = SUFFIX,
) -> Iterator[float]:
    """The score of each pair of query and document."""
    begin, end = ids(tokenizer, PREFIX), ids(tokenizer, suffix)
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    for query, document in pairs:
        middle = ids(tokenizer, f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}")
        with torch.no_grad():
            logits = model(torch.tensor([[*begin, *middle, *end]])).logits[0, -1, answers]
        yield torch.softmax(logits, dim=0)[1].item()


def main(folder: str) -> None:
    """Read pairs, write scores."""
    order = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    json.dump([list(scores(model, tokenizer, order["pairs"], **way)) for way in order["ways"]], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
