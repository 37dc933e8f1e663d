"""What the notebooks call: select containers, approve a plan, follow progress, register in RAGFlow, pictures.

The only module that imports ipywidgets. With a live frontend a cell shows widgets, which are replaced by
plain text at the end; without one it shows the text only. So no stored output holds a widget.
"""

import asyncio
import io
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from IPython import display as ipython
from IPython import get_ipython

from ragops import progress as steps
from ragops.bench import measure
from ragops.bench.records import Run, load_run
from ragops.bench.run import BenchmarkConfig
from ragops.checks import golden
from ragops.checks.probe import STRICT, Batch, send_batch
from ragops.checks.questions import (
    Expected,
    RequestPlan,
    RerankCall,
    parse_responses,
    probe_requests,
    render_prompt,
)
from ragops.configuration import Ragflow, Stack
from ragops.docker.engine import Engine, connect
from ragops.errors import EngineError, NotFoundError, RagopsError
from ragops.ragflow.api import TOKEN_VARIABLE, read_secret
from ragops.ragflow.discovery import RagflowContainer, find, is_ragflow
from ragops.ragflow.request import PLACEHOLDER_KEY
from ragops.reranker import architectures, gateway, options
from ragops.session import Session
from ragops.stack import registration, verbs
from ragops.stack.plan import Plan
from ragops.stack.registration import Registration
from ragops.table import Column, Table

__all__ = [
    "WIDGETS",
    "Approval",
    "Picker",
    "Picture",
    "benchmark",
    "log",
    "network",
    "ragflow_settings",
    "ranking",
    "register",
    "widgets_shown",
]

WIDGETS = "RAGOPS_WIDGETS"
"""Environment variable: ``1`` shows widgets, ``0`` plain text; unset, the frontend decides."""

display: Any = ipython.display  # it has no types

_LAST_LINES = 8
_LOG_INTERVAL = 1.0
_CHART_INTERVAL = 5.0
"""Seconds between two charts: drawing one takes about a third of a second of one core."""


def widgets_shown() -> bool:
    """Whether cells show widgets: :data:`WIDGETS` if set, else whether a person runs the cell.

    JupyterLab, Notebook and VS Code send ``cellId`` with each request to run a cell; nbclient, nbconvert
    and papermill do not.
    """
    setting = os.environ.get(WIDGETS, "")
    if setting in {"0", "1"}:
        return setting == "1"
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel is not None else {}
    return "cellId" in request.get("metadata", {})


class Picker:
    """A list of RAGFlow's containers in which the user selects those to connect.

    Args:
        stack: The configuration; its containers or those of its project are selected at first, else all.
        engine: The Docker engine; connected when left out.
    """

    def __init__(self, stack: Stack, engine: Engine | None = None) -> None:
        self._stack = stack
        self._labels: dict[str, str] = {}
        configured: tuple[str, ...] = ()
        for container in filter(is_ragflow, (engine or connect()).containers()):
            ragflow = RagflowContainer(container)
            kind = "demo client" if ragflow.demo else ragflow.release or container.image
            self._labels[container.name] = f"{container.name} ({kind}, {container.status})"
            if container.name in stack.ragflow.containers or ragflow.project == stack.ragflow.project:
                configured += (container.name,)
        self._selected = configured or tuple(self._labels)
        self._list: Any = None

    @property
    def selected(self) -> tuple[str, ...]:
        """Names of the containers that are selected now."""
        return tuple(self._list.value) if self._list is not None else self._selected

    @property
    def stack(self) -> Stack:
        """The configuration with the selected containers."""
        return self._stack.model_copy(update={"ragflow": Ragflow(containers=self.selected)})

    def __repr__(self) -> str:
        """One line for each container; ``*`` marks those that are selected."""
        lines = [f"{'*' if name in self.selected else ' '} {label}" for name, label in self._labels.items()]
        return "\n".join(lines) or "no RAGFlow container found"

    def _ipython_display_(self) -> None:
        if not (widgets_shown() and self._labels):
            _display_text(str(self))
            return
        self._list = _ipywidgets().SelectMultiple(
            options=[(label, name) for name, label in self._labels.items()],
            value=self._selected,
            rows=max(2, len(self._labels)),
            description="Connect",
            layout=_ipywidgets().Layout(width="100%"),
        )
        display(self._list)


class Approval:
    """A plan that the user approves with a button; approved at once without a frontend.

    Args:
        plan: The changes.
        approved: Whether it is approved already; shows no button.
    """

    def __init__(self, plan: Plan, *, approved: bool = False) -> None:
        self.plan = plan
        self._approved = approved or plan.empty
        self._button: Any = None

    @property
    def approved(self) -> bool:
        """Whether the plan may be applied now."""
        return self._approved or (self._button is not None and bool(self._button.value))

    def require(self) -> None:
        """Continue only with an approved plan.

        Raises:
            RagopsError: The button was not pressed.
        """
        if not self.approved:
            raise RagopsError(
                "the plan is not approved, so nothing was changed",
                evidence=str(self.plan),
                hint="press Approve below the plan, then run this cell again",
            )

    def _ipython_display_(self) -> None:
        if self._approved or not widgets_shown():
            self._approved = True
            display(self.plan)
            return
        library = _ipywidgets()
        self._button = library.ToggleButton(description="Approve", button_style="primary")
        display(library.VBox([library.HTML(self.plan._repr_html_()), self._button]))


def ragflow_settings(stack: Stack) -> Table:
    """Settings of the reranker for RAGFlow's page of model providers."""
    rows = registration.registration_spec(stack).rows()
    return Table((Column("setting"), Column("value", code=True)), rows)


def register(stack: Stack, *, confirmed: bool) -> Registration | Table:
    """Register the reranker in RAGFlow through its API, with the token in ``RAGOPS_RAGFLOW_TOKEN``.

    Args:
        stack: The configuration.
        confirmed: False changes nothing and shows how to do it.

    Raises:
        RagflowError: RAGFlow refuses, or its release is unknown; no partial change stays.
    """
    containers = find(connect().containers(), stack.ragflow)
    if any(container.demo for container in containers):
        return Table(title=f"{containers[0].name} is the demo client: it has no settings to register in")
    if not confirmed:
        return Table(title="not registered: set REGISTER = True, and the token in RAGOPS_RAGFLOW_TOKEN")
    return registration.register(stack, read_secret(TOKEN_VARIABLE))


@dataclass(frozen=True, repr=False)
class Picture:
    """A drawing of boxes, and the same as text."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def network(status: verbs.Status) -> Picture:
    """RAGFlow's containers on the left, the reranker's network on the right, and what connects them."""
    name, front = status.stack.shared_network.name, status.reranker
    title = f"network {name}" if status.network else f"no network {name}"
    inside = [f"{one.role} {one.name}" for one in (front, *status.replicas) if one]
    text, clients = [], []
    for ragflow in status.ragflow:
        connected = status.connected(ragflow)
        state, line = ("ok", "──── connected ────") if connected else ("fail", "┄┄ not connected")
        text.append(f"{ragflow.name} {line}")
        clients.append(f'{_box(ragflow.name)} <span class="ragops-{state}">{line}</span>')
    boxes = " → ".join(map(_box, inside)) or "no reranker"
    frame = f"border: 2px {'solid' if status.network else 'dashed'}; border-radius: 6px; padding: 0.5em"
    right = f'<div style="{frame}"><b>{escape(title)}</b><div style="margin-top: 0.7em">{boxes}</div></div>'
    left = "".join(f'<div style="margin: 0.7em 0">{client}</div>' for client in clients)
    row = "display: flex; flex-wrap: wrap; align-items: center; gap: 0.5em 1em; line-height: 2.4"
    lines = [*text, f"{title}: {' → '.join(inside) or 'no reranker'}"]
    return Picture("\n".join(lines), f'<div style="{row}"><div>{left}</div>{right}</div>')


def _box(text: str) -> str:
    style = "border: 1px solid; border-radius: 4px; padding: 0.2em 0.5em; overflow-wrap: anywhere"
    return f'<span style="{style}">{escape(text)}</span>'


def ranking(stack: Stack, item: str, *, broken: bool = False) -> Table:
    """The documents of a query of the evaluation set in the order of their scores, which are drawn as bars.

    The request is sent from inside RAGFlow's container, if there is one.

    Args:
        stack: The configuration.
        item: Id of the query, such as ``en-05``.
        broken: Score what the model would read with a wrong template: its texts alone where it needs one, as
            without ``--chat-template``; else the documents in Qwen3-Reranker's prompt.

    Raises:
        RagopsError: There is no such query, or no response.
    """
    items = {known.id: known for known in golden.load()}
    if item not in items:
        message, hint = f"the evaluation set has no query {item}", f"known: {', '.join(items)}"
        raise RagopsError(message, code="notebook-refused", hint=hint)
    session, chosen = Session.open(stack), items[item]
    expected, query, texts = Expected.of(session.deployment), chosen.query, chosen.texts()
    prompts: tuple[str, ...] = ()
    note = "as served"
    if broken and expected.template:
        prompts, note = tuple(query + text for text in texts), "without its template"
    elif broken:
        template = options.score_template(architectures.by_kind("qwen3-reranker"))
        texts = tuple(render_prompt(template, query, text) for text in texts)
        note = "in the prompt of Qwen3-Reranker, which this model was not trained with"
    calls = () if prompts else (RerankCall("golden", query, texts, len(texts)),)
    scores = _scores(session, expected, RequestPlan((), prompts, calls, 1))
    order = sorted(zip(scores, chosen.documents, strict=True), key=lambda pair: -pair[0])
    rows = tuple((f"{score:.3f}", "yes" if one.right else "", one.title) for score, one in order)
    columns = (Column("score", bar=True), Column("relevant"), Column("document"))
    share = golden.accuracy([golden.ScoredItem(chosen, scores)])
    note = f"{expected.model}, {note}: {share:.0%} of the pairs are in the right order"
    return Table(columns, rows, query, (note,), header=True)


def _scores(session: Session, expected: Expected, plan: RequestPlan) -> tuple[float, ...]:
    """Scores of the plan's prompts as they are, else of the documents of its only call."""
    stack, engine, name = session.stack, session.engine, session.stack.reranker.name
    front, ragflow = engine.container(name), find(engine.containers(), stack.ragflow)
    if front is None:
        raise NotFoundError(f"no reranker {name}", code="reranker-missing", hint="ragops up", container=name)
    key = gateway.read_key(stack).get_secret_value() or PLACEHOLDER_KEY
    batch = Batch(probe_requests(expected, plan, "/v1"), post_headers=STRICT)
    sender = ragflow[0].name if ragflow else name
    responses = send_batch(engine, sender, front.image_id, stack.internal_url, batch, key=key)
    results = parse_responses(plan, responses)
    scores = results.direct or tuple(score for result in results.results for score in result.scores)
    if len(scores) != len(plan.prompts or plan.calls[0].documents):
        evidence = "; ".join(result.error for result in results.results) or str(responses)
        message = f"{name} returned no ranking"
        raise EngineError(message, code="probe-silent", evidence=evidence, hint="ragops verify")
    return scores


@contextmanager
def log(title: str, *, stack: Stack | None = None) -> Iterator[None]:
    """Show the progress of a verb as lines with their times; they stay, also when the verb fails.

    Use it as ``with log("ragops up"): ragops.up(stack)``.

    Args:
        title: First line.
        stack: With a live frontend, the ends of the logs of its containers are shown meanwhile.
    """
    output, ended = _Output(title), threading.Event()

    def follow() -> None:
        while not ended.wait(_LOG_INTERVAL):
            output.show()
            with suppress(RagopsError):  # no container exists yet
                texts = verbs.logs(stack, tail=_LAST_LINES) if stack else {}
                lines = "\n\n".join(f"{name}:\n{text}" for name, text in texts.items())
                output.log.value = f"<pre>{escape(lines)}</pre>"

    if output.live:
        threading.Thread(target=follow, daemon=True).start()
    result = "failed"
    try:
        with steps.receiver(output):
            yield
        result = "done"
    finally:
        ended.set()
        output.step(result)
        output.end("\n".join([title, *output.lines]))


async def benchmark(
    stack: Stack, config: BenchmarkConfig, *, chart: Callable[[Run], Any] | None = None
) -> Path:
    """Run :func:`ragops.benchmark` in a thread and show its progress, with a button that stops it.

    A stopped run keeps the requests that it has sent, also when the kernel is interrupted.

    Args:
        stack: The configuration.
        config: What to measure.
        chart: Draws the recorded requests, in a separate process; only with a live frontend.

    Returns:
        The run's folder.
    """
    stop, start = threading.Event(), time.monotonic()
    output, earlier = _Output(config.name, stop=stop.set), _runs(config)

    def folder() -> Path | None:
        return min(_runs(config) - earlier, default=None)

    with steps.receiver(output):
        run = asyncio.create_task(asyncio.to_thread(measure.benchmark, stack, config, stop=stop))
    charts = asyncio.create_task(_update_chart(output, chart, folder)) if chart and output.live else None
    try:
        return await asyncio.shield(run)
    except asyncio.CancelledError:
        stop.set()
        await run
        raise
    finally:
        if charts is not None:
            charts.cancel()
        count = output.count.partition(" (")[0] or "no request was sent"
        saved = f" · saved in {path.name}" if (path := folder()) else ""
        output.end(f"{config.name}: {count} · {time.monotonic() - start:.1f} s{saved}")


def _runs(config: BenchmarkConfig) -> set[Path]:
    return {file.parent for file in Path(config.results).glob("*/run.json")}


class _Output(steps.Progress):
    """Updatable output of a cell that ends as plain text; without a live frontend only the end is shown."""

    def __init__(self, title: str, *, stop: Callable[[], None] | None = None) -> None:
        self.title, self.lines, self.count = title, list[str](), ""
        self.live, self._start, self._share = widgets_shown(), time.monotonic(), 0.0
        self._begin = self._start
        if not self.live:
            return
        library = _ipywidgets()
        self._bar = library.FloatProgress(max=1.0, layout=library.Layout(width="60%"))
        self._text, self.log = library.HTML(), library.HTML()
        self.chart = library.Image(format="png", layout=library.Layout(max_width="100%", display="none"))
        head = [self._bar]
        if stop is not None:
            button = library.Button(description="Stop", tooltip="ends the run and keeps its requests")
            button.on_click(lambda _: stop())
            head.append(button)
        parts = [library.HBox(head), self._text, self.chart, self.log]
        self._handle = display(library.VBox(parts), display_id=True)

    def step(self, text: str) -> None:
        self._begin, self._share = time.monotonic(), 0.0
        self.lines.append(f"{self._begin - self._start:6.1f} s  {text}")
        self.count = ""
        self.show()

    def advance(self, done: int, total: int, text: str = "") -> None:
        self.count, self._share = f"{done}/{total} {text}", done / max(1, total)
        self.show()

    def show(self) -> None:
        """The last lines, with the time of the step and, if it has a total, about how much remains."""
        if not self.live:
            return
        spent = time.monotonic() - self._begin
        left = f", about {spent / self._share - spent:.0f} s remain" if self._share else ""
        lines = "\n".join([self.title, *self.lines[-_LAST_LINES:], f"{self.count} ({spent:.0f} s{left})"])
        self._text.value, self._bar.value = f"<pre>{escape(lines)}</pre>", self._share

    def end(self, text: str) -> None:
        if self.live:
            self._handle.update({"text/plain": text}, raw=True)
        else:
            _display_text(text)


async def _update_chart(
    output: _Output, chart: Callable[[Run], Any], folder: Callable[[], Path | None]
) -> None:
    """Draw in another process: drawing in this one would delay the load generator."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            await asyncio.sleep(_CHART_INTERVAL)
            if path := folder():
                with suppress(RagopsError, ValueError):  # too few requests for a chart
                    output.chart.value = await loop.run_in_executor(pool, _png, chart, path)
                    output.chart.layout.display = "block"


def _png(chart: Callable[[Run], Any], folder: Path) -> bytes:
    out = io.BytesIO()
    chart(load_run(folder)).savefig(out, format="png", dpi=110)
    return out.getvalue()


def _display_text(text: str) -> None:
    display({"text/plain": text}, raw=True)


def _ipywidgets() -> Any:
    import ipywidgets  # noqa: PLC0415 - an extra, and only for a live frontend

    return ipywidgets
