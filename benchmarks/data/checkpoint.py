"""Runs in the vLLM image: writes a checkpoint of Qwen3-Reranker's shape with random weights.

Reads a JSON order from standard input: the file of the tokenizer's byte pairs, the folder to make, and sizes
that differ from the released model's. ``benchmarks/checkpoint.py`` sends it.

The released model's vocabulary, tokenizer, tied embedding, bfloat16 and parameter names, so that vLLM runs
the same code. The weights are random with a seed, and large enough that scores lie all over
0 to 1 and depend on every part of the prompt.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AddedToken, Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.convert_slow_tokenizer import TikTokenConverter

SEED = 20
LAYERS = 28
"""Of the released 0.6B model."""
SPREAD = 0.1
"""Standard deviation of the embedding, and so of the two answers' logits."""

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>"),
    *("</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
"""Special tokens of Qwen3 in the order of their ids, from 151643 on."""


def tokenizer(ranks: Path) -> Qwen2Tokenizer:
    """Qwen3's tokenizer from the file of its byte pairs."""
    vocabulary, merges = TikTokenConverter(str(ranks)).extract_vocab_merges_from_model(str(ranks))
    made = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def config(vocabulary: int, sizes: dict[str, int]) -> Qwen3Config:
    """The released 0.6B model's, with other sizes where the order names them."""
    released = {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
    }
    fixed = {"tie_word_embeddings": True, "rope_theta": 1_000_000, "use_cache": True}
    return Qwen3Config(vocab_size=vocabulary, **released | sizes, **fixed)


def weights(model: Qwen3ForCausalLM) -> None:
    """Overwrite all parameters with seeded random numbers."""
    random = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                scale = SPREAD if "embed" in name else parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)


def main() -> None:
    """Write the checkpoint."""
    order = json.load(sys.stdin)
    folder = Path(order["folder"])
    words = tokenizer(Path(order["ranks"]))
    expected = {"no": 2152, "yes": 9693, "<|im_start|>": 151644, "<think>": 151667, "</think>": 151668}
    found = {token: words.convert_tokens_to_ids(token) for token in expected}
    if found != expected:
        sys.exit(f"not the tokenizer of Qwen3: {found}")
    model = Qwen3ForCausalLM(config(len(words), order["sizes"])).to(torch.bfloat16)
    weights(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Reranker-0.6B\n---\n")
    substitute = "random weights in the form of Qwen3-Reranker"
    if layers := order["sizes"].get("num_hidden_layers"):
        substitute += f", {layers} of the 0.6B model's {LAYERS} layers"
    (folder / "ragops-substitute.txt").write_text(substitute + "\n")
    owner = folder.parent.stat()
    for file in (folder, *folder.iterdir()):
        os.chown(file, owner.st_uid, owner.st_gid)
        file.chmod(0o755 if file.is_dir() else 0o644)


if __name__ == "__main__":
    main()
