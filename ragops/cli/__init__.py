"""The command: parse, call the verb, show what comes back. The only package that prints.

One module holds the verbs of one field, as a table; ``parts.py`` is what they share.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import shtab

from ragops import guide
from ragops.cli import bench, compose, demo, ragflow, report, stack, tune, watch
from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.errors import RagopsError
from ragops.render import as_json
from ragops.stack import load

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; gives back the exit code."""
    options = parser().parse_args(argv)
    try:
        return int(options.run(options))
    except RagopsError as error:
        if options.json:
            print(as_json(error))
        tell(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        tell("stopped. What was done stays; ragops status shows it, ragops down removes it")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return FAILED


def parser() -> argparse.ArgumentParser:
    """The whole command line, from which the reference page is made too."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="data as JSON on standard output")
    common.add_argument(
        "--stack", metavar="FILE", help="the declaration (default: ragops.toml, if there is one)"
    )
    top = argparse.ArgumentParser(
        prog="ragops",
        description="A vLLM reranker beside RAGFlow: connected, verified and measured.",
        epilog="Exit codes: 0 well, 1 a check or action failed, 2 wrong usage, 3 changes pending.",
    )
    top.add_argument("--version", action="version", version=f"ragops {version('ragops-rerank')}")
    top.set_defaults(run=_next, json=False)
    _verbs(top.add_subparsers(title="verbs", metavar="VERB"), common, verbs())
    return top


def _next(options: argparse.Namespace) -> int:
    """``ragops`` alone: what is, and what comes next."""
    show(options, guide.look(load()))
    tell("ragops --help shows all verbs")
    return OK


def _completion(options: argparse.Namespace) -> int:
    show(options, {"script": (script := shtab.complete(parser(), options.shell))}, script)
    return OK


def _verbs(commands: Any, common: argparse.ArgumentParser, verbs: Mapping[str, Verb]) -> None:
    for name, verb in verbs.items():
        words = {"help": verb.text, "description": f"{verb.text[0].upper()}{verb.text[1:]}."}
        if isinstance(verb.run, Mapping):
            group = commands.add_parser(name, **words)
            nested = group.add_subparsers(title="actions", metavar="ACTION", required=True)
            _verbs(nested, common, verb.run)
        else:
            made = commands.add_parser(name, parents=[common], **words)
            made.set_defaults(run=verb.run)
            for flags, settings in verb.options:
                made.add_argument(*flags, **settings)


def verbs() -> Mapping[str, Verb]:
    """All, in the order in which help shows them."""
    shells = option("shell", choices=shtab.SUPPORTED_SHELLS, help="which one")
    completion = Verb(_completion, "print a script that completes words for a shell", (shells,))
    return {
        **stack.VERBS,
        **watch.VERBS,
        **compose.VERBS,
        **ragflow.VERBS,
        **bench.VERBS,
        **report.VERBS,
        **tune.VERBS,
        **demo.VERBS,
        "completion": completion,
    }
