"""Runs inside the reranker's image: writes an int8 (W8A8) copy of a model folder.

``reranker/int8.py`` mounts the folder read-only at ``/model`` and an empty one at ``/made``, and reads the
JSON line that this prints last. Scheme, scales, rounding, file format and configuration are those of
compressed-tensors, the library that vLLM reads such folders with; no network is used and no model runs.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import compressed_tensors
from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
from compressed_tensors.entrypoints.convert.convert_file import (
    convert_file,
    write_checkpoint_quantization_config,
)
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams
from compressed_tensors.utils.safetensors_load import update_safetensors_index
from safetensors import safe_open

MODEL, OUTPUT = Path("/model"), Path("/made")

LAYER = re.compile(r"(?:^|\.)layers?\.\d+\.")
"""In the name of each tensor of a transformer's layers, and of no other: not of embedding, head or pooler."""


class Int8:
    """Converter for compressed-tensors: one int8 tensor and its scales for each linear layer."""

    def __init__(self):
        self.scheme = preset_name_to_scheme("W8A8", ["Linear"])
        self.linear, self.ignored = set(), {"lm_head"}
        """Names of modules; the head may be tied to the embedding, and then has no tensor."""

    def process(self, tensors):
        converted = {}
        for name in sorted(tensors):
            converted.update(self._convert(name, tensors.pop(name)))
        return converted

    def _convert(self, name, tensor):
        module, _, part = name.rpartition(".")
        if part != "weight" or tensor.dim() != 2:
            return {name: tensor}
        if not LAYER.search(name):
            self.ignored.add(module)
            return {name: tensor}
        self.linear.add(module)
        weight = tensor.float()
        least, most = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
        scale, zero = calculate_qparams(least, most, self.scheme.weights)
        whole = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        parts = IntQuantizationCompressor.compress(whole, self.scheme)
        return {f"{module}.{part}": value.contiguous() for part, value in parts.items()}

    def create_config(self):
        return QuantizationConfig(
            config_groups={"group_0": self.scheme},
            format="int-quantized",
            quantization_status=QuantizationStatus.COMPRESSED,
            ignore=sorted(self.ignored),
        )


def convert():
    converter, total, places = Int8(), 0, {}
    for file in sorted(path for path in MODEL.iterdir() if path.is_file()):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
            size, map_ = convert_file({str(file): names}, OUTPUT / file.name, converter)
            total, places = total + size, places | map_
        elif file.suffix not in {".bin", ".pt", ".pth", ".onnx", ".h5", ".msgpack"}:
            shutil.copyfile(file, OUTPUT / file.name)
    for folder in (path for path in MODEL.iterdir() if (path / "config.json").is_file()):
        shutil.copytree(folder, OUTPUT / folder.name)  # of sentence-transformers, such as 1_Pooling
    write_checkpoint_quantization_config(OUTPUT, converter)
    if (MODEL / "model.safetensors.index.json").is_file():
        update_safetensors_index(OUTPUT, total, places)
    return {"linear": len(converter.linear), "compressed_tensors": compressed_tensors.__version__}


def main():
    try:
        result = convert()
    finally:  # readable for the reranker's user
        for path in (OUTPUT, *OUTPUT.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
