"""The verbs that make the stack, show it, prove it and take it away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragops import image as images
from ragops import model as models
from ragops import quantize, verbs
from ragops.checks import host
from ragops.cli.parts import FAILED, OK, PENDING, Verb, option, show, tell
from ragops.engine import connect
from ragops.errors import EngineError
from ragops.host import read_host
from ragops.stack import home, load

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _doctor(options: Options) -> int:
    report = host.check(load(options.stack))
    show(options, report)
    return OK if report.ok else FAILED


def _image(options: Options) -> int:
    name = load(options.stack).reranker.image
    engine = connect()
    if options.build:
        images.build(engine, home(), tell, name)
    found = images.ensure(engine, name, home(), tell)
    show(options, found, f"{name}  {found.size / 1e9:.2f} GB  {(found.digests or (found.id,))[0]}")
    return OK


def _int8(options: Options) -> int:
    stack = load(options.stack)
    engine = connect()
    image = images.ensure(engine, stack.reranker.image, home(), tell)
    folder = models.resolve(stack, home()).folder
    made = quantize.int8(folder, engine=engine, image=image.id, target=options.target)
    if wrong := quantize.unfit(read_host()):
        tell(f"not for this machine: {wrong}")
    show(options, {"folder": str(made)}, str(made))
    return OK


def _plan(options: Options) -> int:
    found = verbs.plan(load(options.stack))
    commands = "\n".join(found.commands())
    show(options, found, f"{found}\n\n{commands}" if commands else str(found))
    return OK if found.empty else PENDING


def _up(options: Options) -> int:
    show(options, verbs.up(load(options.stack), told=tell))
    return OK


def _status(options: Options) -> int:
    found = verbs.status(load(options.stack))
    show(options, found)
    return OK if found.ok else PENDING


def _connect(options: Options) -> int:
    done = verbs.connect(load(options.stack), options.container)
    show(options, done, str(done) if done.actions else f"{options.container} is connected already")
    return OK


def _disconnect(options: Options) -> int:
    done = verbs.disconnect(load(options.stack), options.container)
    show(options, done, str(done) if done.actions else f"{options.container} is not connected")
    return OK


def _verify(options: Options) -> int:
    report = verbs.verify(load(options.stack), full=options.full, budget=options.budget, told=tell)
    show(options, report)
    return OK if report.ok else FAILED


def _down(options: Options) -> int:
    if options.all:
        return _purge(options)
    show(options, verbs.down(load(options.stack)))
    return OK


def _purge(options: Options) -> int:
    try:
        engine = connect()
    except EngineError as error:
        tell(f"{error.message}: nothing of ours can run")
        return OK
    show(options, verbs.purge(engine))
    return OK


_CONTAINER = option("container", help="its name")

VERBS = {
    "doctor": Verb(_doctor, "check whether this machine can do it, before anything is changed"),
    "image": Verb(
        _image,
        "make the vLLM CPU image available: find, pull or build it",
        (
            option(
                "--build", action="store_true", help="build it from package registries, even if it is there"
            ),
        ),
    ),
    "int8": Verb(
        _int8,
        "make an int8 copy of the model folder, and print where it is; name it under [reranker] to serve it",
        (option("--target", type=Path, metavar="FOLDER", help="folder to make; else beside the model"),),
    ),
    "plan": Verb(_plan, "show what up would change, as docker commands too; exit code 3 if anything"),
    "up": Verb(_up, "make it so: network, reranker, attachment of RAGFlow; a second time changes nothing"),
    "status": Verb(_status, "show what is, and what differs from the declaration; exit code 3 if anything"),
    "connect": Verb(
        _connect, "join a container to the network now (lost when compose recreates it)", (_CONTAINER,)
    ),
    "disconnect": Verb(_disconnect, "take a container out of the network", (_CONTAINER,)),
    "verify": Verb(
        _verify,
        "prove connection, scores and time from inside each RAGFlow container",
        (
            option(
                "--full",
                action="store_true",
                help="ask the whole golden set and make all calls, however long it takes",
            ),
            option(
                "--no-budget",
                dest="budget",
                action="store_false",
                help="leave out RAGFlow's timed calls, which take less than a minute",
            ),
        ),
    ),
    "down": Verb(
        _down,
        "remove the reranker and its network; RAGFlow's containers stay as they are",
        (option("--all", action="store_true", help="everything of ours: demo client and images too"),),
    ),
}
"""By name."""
