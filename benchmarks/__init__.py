"""Programs that record comparisons: vLLM options, other servers, other clients. Not in the wheel."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any


def write(record: Any, file: Path | str, digits: int = 5) -> None:
    """Write a dataclass as JSON, its numbers with so many digits after the point."""
    rounded = json.loads(json.dumps(asdict(record)), parse_float=lambda text: round(float(text), digits))
    Path(file).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def free_port() -> int:
    """A port of this host that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
