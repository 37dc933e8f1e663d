"""Score pairs the way Qwen3-Reranker's model card does, with transformers alone.

Runs inside the vLLM image; reads JSON on stdin, writes JSON on stdout::

    echo '{"pairs": [["query", "document"]], "instruction": null}' | python3 reference.py FOLDER

The prompt is put together from token ids, prefix and suffix apart from the text between,
and knows nothing of ragops' score template: it can catch an error in it. Arithmetic is
float32. ``suffix`` may be given, to see what a wrong one would do.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

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


def main(folder: str) -> None:
    """Read pairs, write scores."""
    order = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prefix, suffix = ids(tokenizer, PREFIX), ids(tokenizer, order.get("suffix") or SUFFIX)
    instruction = order.get("instruction") or INSTRUCTION
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    scores = []
    for query, document in order["pairs"]:
        middle = ids(tokenizer, f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}")
        with torch.no_grad():
            logits = model(torch.tensor([[*prefix, *middle, *suffix]])).logits[0, -1, answers]
        scores.append(torch.softmax(logits, dim=0)[1].item())
    json.dump(scores, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
