"""Write a small checkpoint in the form of Qwen3-Reranker, with random weights.

Runs inside the vLLM image, which has torch and transformers::

    python3 make_checkpoint.py qwen.tiktoken FOLDER [LAYERS]

Two small layers, or so many of the released 0.6B model's width, but the released model's
vocabulary, tokenizer, tied embedding, bfloat16 and parameter names, so that vLLM takes the
same way through its code. The weights are random
with a seed, and large enough that scores lie all over 0 to 1 and depend on every part of
the prompt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AddedToken, Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.convert_slow_tokenizer import TikTokenConverter

SEED = 20
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


def config(vocabulary: int, layers: int = 0) -> Qwen3Config:
    """The released model's, but small; with ``layers`` as wide as that, for measuring speed."""
    hidden, inner, heads, shared = (1024, 3072, 16, 8) if layers else (256, 512, 4, 2)
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers or 2,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_theta=1_000_000,
        use_cache=True,
    )


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


def main(ranks: Path, folder: Path, layers: int = 0) -> None:
    """Write the checkpoint."""
    words = tokenizer(ranks)
    expected = {"no": 2152, "yes": 9693, "<|im_start|>": 151644, "<think>": 151667, "</think>": 151668}
    found = {token: words.convert_tokens_to_ids(token) for token in expected}
    if found != expected:
        sys.exit(f"not the tokenizer of Qwen3: {found}")
    model = Qwen3ForCausalLM(config(len(words), layers))
    weights(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    stand_in = "random weights in the form of Qwen3-Reranker"
    if layers:
        stand_in += f", {layers} of the 0.6B model's 28 layers"
    (folder / "ragops-stand-in.txt").write_text(stand_in + "\n")
    for file in (folder, *folder.iterdir()):
        file.chmod(0o755 if file.is_dir() else 0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
