"""``python -m tools.terminal``: commands and their output on a terminal, recorded, and drawn as an SVG.

``record FILE ABOUT COMMAND ...`` runs commands on a pseudo-terminal and writes what they print. ``draw FILE
SVG`` draws a record; the SVG names its sha256, and needs no font and no file of another host.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import shlex
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS, ROWS = 110, 60
LONGEST = 600
"""Seconds that a recorded command may take."""
_COLOURS = (0x363E4A, 0xFF9A8F, 0x6FCE8A, 0xFFB070, 0x79B8FF, 0xD2A8FF, 0x6ED4DC, 0xF2F5F8)
THEME = TerminalTheme(
    (16, 21, 28), (242, 245, 248), [(value >> 16, value >> 8 & 255, value & 255) for value in _COLOURS]
)
_SPINNER = re.compile("(?:\x1b\\[\\d+m)?[\u2800-\u28ff]")
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def output_of(command: list[str]) -> tuple[str, int]:
    """What a command prints on a terminal of fixed size, with its colours; and its exit code."""
    child, terminal = pty.fork()
    if not child:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.environ.pop("NO_COLOR", None)
        os.execvp(command[0], command)  # noqa: S606 - the command of the caller, without a shell
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    data, end = b"", time.monotonic() + LONGEST
    while time.monotonic() < end:
        try:
            if select.select([terminal], [], [], 1)[0]:
                data += os.read(terminal, 1 << 16)
        except OSError:  # the command has ended
            break
    else:
        os.kill(child, 9)
    os.close(terminal)
    return settled(data.decode(errors="replace")), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def settled(text: str) -> str:
    """The text as it stays on the terminal: lines that a progress display replaced are gone."""
    lines: list[str] = []
    for raw in text.replace("\r\n", "\n").split("\n"):
        for _ in range(raw.count("\x1b[1A")):
            if lines:
                lines.pop()
        line = re.sub(r"\x1b\[(?:\?\d+[hl]|\d*[A-GJK])", "", raw.rpartition("\r")[2]).rstrip()
        if not _SPINNER.match(line):
            lines.append(line)
    return "\n".join(lines).strip("\n")


def record(file: Path, commands: list[str], about: str) -> None:
    """Run commands, and write what each printed."""
    rows: list[dict[str, Any]] = []
    for command in commands:
        output, code = output_of(shlex.split(command))
        rows.append({"command": command, "code": code, "output": output})
    text = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "about": about, "commands": rows}
    file.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(file: Path, svg: Path) -> None:
    """Draw a record."""
    raw = file.read_bytes()
    recorded = json.loads(raw)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    for row in recorded["commands"]:
        console.print(Text.assemble(("$ ", "bold green"), (row["command"], "bold")))
        console.print(Text.from_ansi(row["output"]), no_wrap=True, overflow="crop")
        console.print()
    title = f"recorded on {recorded['date']}, {recorded['about']}"
    text = console.export_svg(title=title, theme=THEME, unique_id="ragops")
    text = re.sub(r"@font-face \{.*?\}", "", text, flags=re.DOTALL).replace("Fira Code, monospace", _FONT)
    mark = f"<!-- source sha256: {hashlib.sha256(raw).hexdigest()} -->"
    text = re.sub(r"<!-- Generated with Rich.*?-->", mark, text)
    svg.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """``record FILE ABOUT COMMAND ...`` or ``draw FILE SVG``; returns the exit code."""
    verb, file, *rest = arguments
    if verb == "record":
        record(Path(file), rest[1:], rest[0])
    else:
        draw(Path(file), Path(rest[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
