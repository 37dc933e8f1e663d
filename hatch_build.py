"""Hatch's build hook: writes the man page of the command into the wheel, from the command's own help."""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
HEAD = ".TH RAGOPS 1\n.SH NAME\nragops \\- {purpose}\n.SH SYNOPSIS\n.B ragops\nVERB [OPTIONS]\n"


class ManPage(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``share/man/man1/ragops.1`` to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the page, unless the checkout is installed as it is."""
        if version == "editable":
            return
        sys.path.insert(0, str(ROOT))
        file = Path(tempfile.mkdtemp()) / "ragops.1"
        file.write_text(man_page(), encoding="utf-8")
        build_data["shared_data"][str(file)] = "share/man/man1/ragops.1"


def man_page() -> str:
    """The man page: purpose, the verbs by group with their options, exit codes."""
    from ragops import cli  # noqa: PLC0415 - of the checkout that is built
    from ragops.cli.output import GROUPS  # noqa: PLC0415

    purpose = (cli.COMMAND.help or "").strip()
    lines = [HEAD.format(purpose=_roff(purpose))]
    for group in GROUPS:
        lines.append(f".SH {group.upper()}")
        for name, verb in cli.COMMAND.commands.items():
            if getattr(verb, "rich_help_panel", GROUPS[-1]) == group:
                lines += _verb(name, verb)
    lines += [".SH EXIT STATUS", _roff(cli.app.info.epilog or "")]
    return "\n".join([*lines, ""])


def _verb(name: str, verb: Any) -> list[str]:
    """A verb, or the verbs below it, with arguments and options."""
    nested = getattr(verb, "commands", {})
    if nested:
        return [line for key, value in nested.items() for line in _verb(f"{name} {key}", value)]
    arguments = [item.metavar or "" for item in verb.params if item.param_type_name == "argument"]
    lines = [f".SS ragops {_roff(' '.join([name, *arguments]))}", _roff(inspect.cleandoc(verb.help or ""))]
    for item in verb.params:
        label = ", ".join(item.opts) if item.param_type_name == "option" else ""
        text = _roff(item.help or "")
        lines += [".TP", rf"\fB{_roff(f'{label} {item.metavar or str()}'.strip())}\fR", text]
    for example in re.findall(r"Example: (.*)", verb.epilog or ""):
        lines += [".PP", rf"Example: \fB{_roff(example)}\fR"]
    return lines


def _roff(text: str) -> str:
    """Text with roff's marks escaped."""
    escaped = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)
