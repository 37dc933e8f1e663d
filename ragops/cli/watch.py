"""The verb that stays: it keeps what is declared."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ragops import service
from ragops.cli.parts import OK, Verb, option, show, tell
from ragops.engine import connect
from ragops.stack import load
from ragops.watcher import Watcher
from ragops.watching import Pace

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _watch(options: Options) -> int:
    if options.print:
        made = {"systemd": service.systemd, "compose": service.compose}[options.print]
        text = made(service.here(options.stack, connect().state().address))
        show(options, {"text": text}, text.rstrip("\n"))
        return OK
    watcher = Watcher(lambda: load(options.stack), tell, Pace(probe=options.probe))
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: watcher.stop())
    show(options, {"repairs": watcher.run()}, f"ended; {watcher.repairs} changes made")
    return OK


VERBS = {
    "watch": Verb(
        _watch,
        "keep it so until stopped: follow the engine's events and repair what they break",
        (
            option(
                "--probe",
                type=float,
                default=Pace.probe,
                metavar="SECONDS",
                help="pause between two reranks of one document, which show a hang (%(default)s)",
            ),
            option(
                "--print",
                choices=("systemd", "compose"),
                help="print what keeps it running instead: a systemd unit or a compose file",
            ),
        ),
    ),
}
"""By name."""
