"""The verbs that set up the stack, show it, verify it, register it in RAGFlow, watch it and remove it."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import ragops
from ragops.cli.output import FAILED, KEEP, OK, PENDING, REMOVE, SETUP, START, Call, flag, option, verb

app = typer.Typer()
Container = Annotated[str, typer.Argument(metavar="CONTAINER", help="Name of the container.")]
Url = Annotated[str, option("URL", "RAGFlow's address; default: found from its container.")]
Instance = Annotated[str, option("NAME", "Name of the provider's instance in RAGFlow.")]
TokenFile = Annotated[Path | None, option("FILE", "File with RAGFlow's API token (or RAGOPS_RAGFLOW_TOKEN).")]
Address = Annotated[str, option("URL", "The reranker's address where RAGFlow runs, if not on this engine.")]
KeyFile = Annotated[
    Path | None,
    option("FILE", "File with the reranker's key (or RAGOPS_RERANKER_KEY), if not the gateway's."),
]


@verb(app, START)
def doctor(call: Call) -> int:
    """Check whether this machine can run the reranker; changes nothing."""
    return _checked(call, lambda: ragops.doctor(call.stack()))


@verb(app, START, "RAGOPS_MODEL_DIR=Qwen/Qwen3-Reranker-0.6B ragops estimate")
def estimate(
    call: Call,
    no_probe: Annotated[
        bool, flag("--no-probe", "Do not measure matrix multiplication in the image (ten seconds).")
    ] = False,
) -> None:
    """Estimate how long RAGFlow's requests take on this machine; nothing has to be installed."""
    engine = None
    with suppress(ragops.EngineError):
        engine = None if no_probe else call.engine()
    call.show(ragops.estimate(call.stack(), engine))


@verb(app, START, "ragops plan --json")
def plan(call: Call) -> int:
    """Show what up would change, also as docker commands; exit code 3 if there are changes."""
    changes = ragops.plan(call.stack())
    call.show(changes)
    if changes.actions and not call.json:
        call.show("\n".join(("", *changes.commands())))
    return OK if changes.empty else PENDING


@verb(app, START, "RAGOPS_MODEL_DIR=/srv/models/Qwen3-Reranker-0.6B ragops up")
def up(call: Call) -> None:
    """Create the network, start the reranker and connect RAGFlow (idempotent)."""
    call.show(ragops.up(call.stack()))


@verb(app, START)
def status(call: Call) -> int:
    """Show the stack and how it differs from the configuration; exit code 3 if it differs."""
    state = ragops.status(call.stack())
    call.show(state)
    return OK if state.ok else PENDING


@verb(app, START, "ragops verify --full")
def verify(
    call: Call,
    full: Annotated[
        bool, flag("--full", "Run the whole golden set, all timed calls; no time limit.")
    ] = False,
    no_budget: Annotated[bool, flag("--no-budget", "Skip RAGFlow's timed calls (under a minute).")] = False,
    address: Address = "",
) -> int:
    """Verify connection, scores and response time from inside each RAGFlow container."""
    stack = call.stack()
    return _checked(call, lambda: ragops.verify(stack, full=full, budget=not no_budget, address=address))


def _checked(call: Call, run: Callable[[], ragops.Report]) -> int:
    """Show a report, its summary and how long it took."""
    begin = time.monotonic()
    report = run()
    call.show(report)
    call.message(f"{report.summary} in {time.monotonic() - begin:.0f} s")
    return OK if report.ok else FAILED


@verb(app, START, "RAGOPS_RAGFLOW_TOKEN=ragflow-... ragops register --default")
def register(
    call: Call,
    url: Url = "",
    instance: Instance = "ragops",
    token_file: TokenFile = None,
    default: Annotated[bool, flag("--default", "Set it as the user's default rerank model.")] = False,
    chat: Annotated[list[str] | None, option("ID", "Use it in this chat; may be repeated.")] = None,
    dataset: Annotated[str, option("ID", "Run one test retrieval on this dataset afterwards.")] = "",
    key_file: KeyFile = None,
    address: Address = "",
) -> None:
    """Add the reranker to RAGFlow's models through its API and read the entry back."""
    from ragops.ragflow.api import KEY_VARIABLE, TOKEN_VARIABLE, read_secret
    from ragops.stack.registration import registration_spec

    stack = call.stack()
    spec = registration_spec(stack, address)
    spec = replace(
        spec,
        key=read_secret(KEY_VARIABLE, key_file) or spec.key,
        instance=instance,
        default=default,
        chats=tuple(chat or ()),
        dataset=dataset,
    )
    call.show(ragops.register(stack, read_secret(TOKEN_VARIABLE, token_file), url=url, spec=spec))


@verb(app, KEEP, "ragops watch --print systemd > /etc/systemd/system/ragops.service")
def watch(
    call: Call,
    probe: Annotated[
        float, option("SECONDS", "Pause between one-document reranks, to detect a hang.")
    ] = 30.0,
    unit: Annotated[
        Literal["systemd"] | None,
        option("systemd", "Print a systemd unit that runs ragops watch.", "--print"),
    ] = None,
) -> None:
    """Watch Docker events and reconnect or restart when something breaks."""
    from ragops.stack.watch import Pace, Watcher, systemd_unit

    if unit:
        text = systemd_unit(call.stack_file)
        call.show({"text": text}, text.rstrip("\n"))
        return
    watcher = Watcher(call.stack, Pace(probe=probe))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    call.show({"repairs": watcher.run()}, f"stopped after {watcher.repairs} repairs")


@verb(app, KEEP, "ragops scale 3 --swarm")
def scale(
    call: Call,
    replicas: Annotated[int, typer.Argument(metavar="N", min=1, max=64, help="Number of replicas.")],
    swarm: Annotated[bool, flag("--swarm", "Place them on the nodes of this engine's Swarm.")] = False,
) -> None:
    """Change the number of vLLM's containers behind the gateway, in the configuration and where they run."""
    call.show(ragops.scale(replicas, call.stack_file, swarm=swarm))


@verb(app, KEEP, "ragops logs --tail 100")
def logs(
    call: Call,
    container: Annotated[
        str, typer.Argument(metavar="[CONTAINER]", help="One container of the stack; all without it.")
    ] = "",
    tail: Annotated[int, option("LINES", "Number of lines of each container.", between=(1, 100_000))] = 20,
) -> None:
    """Show the last lines of the stack's logs, each after its container's name."""
    from ragops.stack import verbs

    texts = verbs.logs(call.stack(), container, tail=tail)
    lines = (f"{name}: {line}" for name, text in texts.items() for line in text.splitlines())
    call.show(texts, "\n".join(lines))


@verb(app, KEEP)
def connect(call: Call, container: Container) -> None:
    """Connect a container to the network now (lost when Compose recreates the container)."""
    changes = ragops.connect(call.stack(), container)
    call.show(changes, changes if changes.actions else f"{container} is already connected")


@verb(app, KEEP)
def disconnect(call: Call, container: Container) -> None:
    """Disconnect a container from the network."""
    changes = ragops.disconnect(call.stack(), container)
    call.show(changes, changes if changes.actions else f"{container} is not connected")


@verb(app, REMOVE)
def unregister(
    call: Call, url: Url = "", instance: Instance = "ragops", token_file: TokenFile = None
) -> None:
    """Remove the reranker from RAGFlow's models and restore the earlier settings."""
    from ragops.ragflow.api import TOKEN_VARIABLE, read_secret

    token = read_secret(TOKEN_VARIABLE, token_file)
    call.show(ragops.unregister(call.stack(), token, url=url, instance=instance))


@verb(app, REMOVE)
def down(
    call: Call,
    all_: Annotated[bool, flag("--all", "Every stack, the demo client and ragops' images too.")] = False,
) -> None:
    """Remove the reranker and its network; RAGFlow's containers keep running."""
    from ragops.stack import verbs

    if not all_:
        call.show(ragops.down(call.stack()))
        return
    try:
        engine = call.engine()
    except ragops.EngineError as error:
        call.message(f"{error.message}: nothing to remove")
    else:
        call.show(verbs.purge(engine))


@verb(app, SETUP, "ragops image --build")
def image(
    call: Call,
    build: Annotated[bool, flag("--build", "Build it from package registries, even if it exists.")] = False,
) -> None:
    """Find, pull or build the vLLM CPU image; and build the gateway's, if the configuration uses it."""
    from dataclasses import asdict

    from ragops.configuration import home
    from ragops.reranker import gateway
    from ragops.reranker import image as images
    from ragops.session import lock

    stack, engine = call.stack(), call.engine()
    name = stack.reranker.image
    with lock(engine.state().id, name):
        if build:
            images.build(engine, home(), name)
        state = images.ensure(engine, name, home())
        shown = [(name, state)]
        if stack.gateway_used:
            second = (gateway.build if build else gateway.ensure)(engine, state.id, home())
            shown.append((gateway.tag(), second))
    lines = [f"{key}  {item.size / 1e9:.2f} GB  {(item.digests or (item.id,))[0]}" for key, item in shown]
    call.show({**asdict(state), "gateway": dict(shown).get(gateway.tag())}, "\n".join(lines))


@verb(app, SETUP, "ragops model pull", "RAGOPS_MODEL_DIR=substitute ragops model")
def model(
    call: Call,
    action: Annotated[
        Literal["pull"] | None,
        typer.Argument(metavar="[pull]", help="Fetch a model by name, at its branch's newest commit."),
    ] = None,
) -> None:
    """Show the model that is served; pull downloads it. The substitute model is downloaded in any case."""
    from ragops.reranker import hub
    from ragops.reranker import model as models
    from ragops.session import Session

    stack = call.stack()
    if action and (source := models.hub_source(stack)):
        found = hub.pull(*source)
        call.message(f'{found.name}: revision = "{found.commit}" under [reranker] pins these files')
    models.fetch(stack)
    folder = models.named_folder(stack)
    served = models.resolve(stack) if folder else Session(stack, call.engine()).deployment.model
    call.show(served, f"{served.name}  {served.kind}  {served.weight_bytes / 1e9:.2f} GB  {served.folder}")
