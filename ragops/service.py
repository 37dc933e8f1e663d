"""How ``ragops watch`` is kept running: a systemd unit, or a compose service; pure but for :func:`here`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml.scalarstring import LiteralScalarString, SingleQuotedScalarString

from ragops.compose.render import commented, literal, written
from ragops.stack import Stack, declaration, home, load

_SOCKET = Path("/var/run/docker.sock")
_PACKAGE = "ragops-rerank"


@dataclass(frozen=True)
class Surroundings:
    """Where it will run: as here, from the files that are used here."""

    python: Path
    declaration: Path | None
    home: Path
    socket: Path
    model: Path | None
    """The model folder, where one is named."""
    checkout: Path | None
    """The folder that ragops is installed from, where that is a checkout."""
    user: str
    """Numbers of the user and of the socket's group, as ``user:group``."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the interpreter."""
        named = ("--stack", str(self.declaration)) if self.declaration else ()
        return ("-m", "ragops", "watch", *named)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the declaration is read with."""
        model = {"RAGOPS_MODEL_DIR": str(self.model)} if self.model else {}
        return {"RAGOPS_HOME": str(self.home), "DOCKER_HOST": f"unix://{self.socket}", **model}


def here(file: Path | None, address: str) -> Surroundings:
    """What is used now.

    Args:
        file: The declaration that was named, if one was.
        address: The engine's.

    Raises:
        StackError: The declaration can't be read.
    """
    declared = declaration(file).resolve()
    stack: Stack = load(file)
    model = os.environ.get("RAGOPS_MODEL_DIR") or stack.reranker.model
    root = Path(__file__).resolve().parents[1]
    socket = Path(address.removeprefix("unix://")) if address.startswith("unix://") else _SOCKET
    group = socket.stat().st_gid if socket.exists() else 0
    return Surroundings(
        python=Path(sys.executable),
        declaration=declared if declared.exists() else None,
        home=home().resolve(),
        socket=socket,
        model=Path(model).expanduser().resolve() if model else None,
        checkout=root if (root / "pyproject.toml").exists() else None,
        user=f"{os.getuid()}:{group}",
    )


def systemd(where: Surroundings) -> str:
    """A unit that starts it with the machine; it waits by itself for an engine that restarts."""
    variables = [f"Environment={_quoted(f'{name}={value}')}" for name, value in where.environment.items()]
    lines = [
        "# /etc/systemd/system/ragops-watch.service; then: systemctl enable --now ragops-watch",
        "[Unit]",
        "Description=ragops watch: keeps RAGFlow and its reranker connected",
        "Wants=docker.service",
        "After=docker.service",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_quoted, (str(where.python), *where.arguments)))}",
        *variables,
        "Restart=on-failure",
        "RestartSec=5",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def compose(where: Surroundings) -> str:
    """A compose file whose one service watches; it is given the engine's socket, and no network."""
    paths = [where.declaration, where.model]
    service: dict[str, Any] = {
        "build": _build(where),
        "command": list(where.arguments),
        "environment": where.environment,
        "user": SingleQuotedScalarString(where.user),  # else older readers take it for a time
        "volumes": [f"{where.socket}:{where.socket}", f"{where.home}:{where.home}"]
        + [f"{path}:{path}:ro" for path in paths if path],
        "network_mode": "none",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "restart": "always",
    }
    header = [
        "ragops watch as a service; docker compose -f FILE up -d builds and starts it.",
        "Whoever has the engine's socket can do all that root can: so has this container.",
    ]
    return commented(header) + written({"name": "ragops-watch", "services": {"watch": literal(service)}})


def _build(where: Surroundings) -> dict[str, str]:
    """An image with ragops: the checkout that is used here, else the release."""
    wanted = "/src" if where.checkout else f"{_PACKAGE}=={version(_PACKAGE)}"
    copy = "COPY . /src\n" if where.checkout else ""
    recipe = f'FROM python:3.12-slim\n{copy}RUN pip install --no-cache-dir {wanted}\nENTRYPOINT ["python"]\n'
    return {"context": str(where.checkout or "."), "dockerfile_inline": LiteralScalarString(recipe)}


def _quoted(text: str) -> str:
    """A word as systemd takes it: its specifiers and variables are taken literally."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if any(mark in text for mark in " \"'\\;") else plain
