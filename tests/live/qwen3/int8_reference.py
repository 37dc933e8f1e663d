"""What an int8 folder should hold and answer, worked out with torch alone.

Runs inside the vLLM image; reads JSON on stdin, writes JSON on stdout::

    echo '{"pairs": [["query", "document"]]}' | python3 int8_reference.py FOLDER INT8_FOLDER

``plain`` are the scores of the folder, ``rounded`` those with the int8 weights and tokens rounded likewise,
summed in float32, where nothing overflows. ``worst`` is the largest error of a weight in steps of its scale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from reference import scores
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def rounded(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    """The tokens as int8 steps of a scale of each, and back."""
    tokens = arguments[0]
    scale = tokens.abs().amax(-1, keepdim=True) / 127.5
    return ((tokens / scale).round().clamp(-128, 127) * scale,)


def main(folder: str, int8: str) -> None:
    """Compare files, then scores."""
    pairs = json.load(sys.stdin)["pairs"]
    before = load_file(Path(folder) / "model.safetensors")
    after = load_file(Path(int8) / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain, worst, untouched = list(scores(model, tokenizer, pairs)), 0.0, []
    for name, tensor in before.items():
        scale = after.get(f"{name}_scale")
        if scale is None:
            untouched.append(torch.equal(tensor, after[name]))
            continue
        whole = after[name].float() * scale
        worst = max(worst, float(((tensor.float() - whole) / scale).abs().max()))
        model.get_parameter(name).data.copy_(whole)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(rounded)
    after_rounding = list(scores(model, tokenizer, pairs))
    found = {"plain": plain, "rounded": after_rounding, "worst": worst}
    json.dump({**found, "untouched": all(untouched), "kept": len(untouched), "all": len(before)}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
