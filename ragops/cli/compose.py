"""The verbs that read and write compose files."""

from __future__ import annotations

import shlex
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ragops
from ragops.cli.output import FAILED, KEEP, OK, Call, flag, plain, verb

if TYPE_CHECKING:
    from ragops.compose import CheckedFile

app = typer.Typer()
files = typer.Typer(help="Print compose files that create the same stack with Docker Compose.")
app.add_typer(files, name="compose", rich_help_panel=KEEP)


@verb(app, KEEP, "ragops check docker-compose.yml --fix")
def check(
    call: Call,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Compose files, merged in this order; without one, those that Compose takes in this folder.",
        ),
    ] = None,
    fix: Annotated[bool, flag("--fix", "Print its reranker as ragops starts it; changes no file.")] = False,
) -> int:
    """Find the faults of a compose file that starts a vLLM reranker."""
    checked = ragops.check_file(*(files or [Path()]))
    if not fix:
        call.show(checked)
        return OK if checked.ok else FAILED
    call.message(str(checked))
    text, left_out = _corrected(checked, call)
    for item in left_out:
        call.message(f"not taken over: {item}")
    call.show({**checked.to_json(), "text": text, "not_taken_over": left_out}, text.rstrip("\n"))
    return OK if checked.ok else FAILED


def _corrected(checked: CheckedFile, call: Call) -> tuple[str, list[str]]:
    """Rendered compose file of the first reranker of a compose file, and the omitted settings."""
    from ragops.compose import render
    from ragops.reranker import options
    from ragops.reranker.model import named_folder
    from ragops.session import Deployment
    from ragops.stack.plan import network_spec

    file, stack = checked.paths[0], call.stack()
    if not checked.rerankers:
        raise ragops.ComposeError(
            f"no service in {file} serves a reranker with vLLM",
            code="compose-no-reranker",
            hint="ragops compose reranker prints a compose file with one",
        )
    service, *others = checked.rerankers
    model = service.served.model
    if service.gpu:
        raise ragops.ComposeError(
            f"{service.name} uses a GPU; ragops renders rerankers on CPUs only",
            code="compose-gpu",
            hint="fix the faults that this command lists: ragops check FILE",
        )
    if service.inherits or not (service.node.get("command") or service.node.get("entrypoint")):
        raise ragops.ComposeError(
            f"{file} does not show how {service.name} starts vLLM",
            code="compose-incomplete",
            evidence="it has a base in another file" if service.inherits else "no command, no entrypoint",
            hint="give all files: ragops check --fix BASE OVERRIDE; or the output of: docker compose config",
        )
    if not (model or named_folder(stack)):
        raise ragops.ComposeError(
            f"the model folder of {service.name} is not on this machine",
            code="compose-model-missing",
            evidence=f"model: {service.served.path or 'not in the file'}",
            hint="set the model folder: RAGOPS_MODEL_DIR=FOLDER ragops check --fix FILE",
        )

    engine = None
    with suppress(ragops.EngineError), closing(call.engine()) as connected:
        engine = connected.state()  # decides whether a port is published
    stack = options.closed(render.take_over(service, stack), engine)
    desired = Deployment.resolve(stack, model, engine)
    desired.write_template()
    network = network_spec(desired.stack.shared_network)
    text, left_out = render.corrected(service, checked.root, desired.spec, network, checked.absent)
    return text, [*left_out, *(f"service {other.name}" for other in others)]


@verb(files, None, "ragops compose override --write")
def override(
    call: Call,
    write: Annotated[
        bool, flag("--write", "Write it beside RAGFlow's compose file; an existing file is backed up.")
    ] = False,
) -> None:
    """Print the override file that keeps RAGFlow connected when Compose recreates its container."""
    from ragops.stack.override import write as write_file

    result = ragops.override(call.stack())
    if write:
        file, backup = write_file(result)
        call.show({**plain(result), "backup": backup}, str(file))
        if backup:
            call.message(f"note: the earlier file is saved as {backup}")
    else:
        call.show(result)
    for note in result.notes:
        call.message(f"note: {note}")
    call.message(f"apply it with: {shlex.join(result.command)}")


@verb(files, None, "ragops compose reranker > reranker.yml")
def reranker(call: Call) -> None:
    """Print the compose file of the gateway and the replicas of vLLM that up starts on this machine."""
    from ragops.compose import render
    from ragops.reranker import options
    from ragops.session import TIMEOUT, Deployment, Session, create_folder
    from ragops.stack.plan import network_spec

    stack, engine, timeout = call.stack(), None, TIMEOUT
    with suppress(ragops.EngineError), closing(call.engine()) as connected:
        session = Session(stack, connected)
        engine, timeout = session.state, session.ragflow_timeout
    create_folder(stack, engine)
    desired = Deployment.resolve(options.closed(stack, engine), engine=engine, timeout=timeout)
    desired.write_template()
    specs = [*([desired.gateway] if desired.gateway else []), *desired.replicas]
    text = render.reranker(specs, network_spec(desired.stack.shared_network))
    call.show({"text": text}, text.rstrip("\n"))


@verb(files, None, "ragops compose stack > stack.yml")
def stack(call: Call) -> None:
    """Print the stack file of the services that scale --swarm creates, for docker stack deploy."""
    from ragops.stack import verbs

    text = verbs.stack_file(call.stack())
    call.show({"text": text}, text.rstrip("\n"))
