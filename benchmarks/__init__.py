"""Programs that record comparisons: vLLM options, other servers, other clients. Not in the wheel."""

from __future__ import annotations

import json
import random
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any


def write(record: Any, file: Path | str, digits: int = 5) -> None:
    """Write a dataclass as JSON, its numbers with so many digits after the point."""
    rounded = json.loads(json.dumps(asdict(record)), parse_float=lambda text: round(float(text), digits))
    Path(file).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def free_port() -> int:
    """A port of this host that is free, and that no outgoing connection gets before it is used."""
    lowest, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    for port in random.sample(range(10_000, max(int(lowest), 20_000)), 100):
        with socket.socket() as free, suppress(OSError):
            free.bind(("", port))
            return port
    raise OSError("no port is free")
