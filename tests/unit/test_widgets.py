"""Widgets and their plain twins say the same; no stored output needs a frontend."""

import asyncio
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from ragops import Plan, RagopsError, Stack, planning, site, widgets
from ragops.actions import CreateNetwork
from ragops.container import LABEL
from ragops.ragflow.discovery import DEMO
from ragops.stack import Ragflow
from ragops.state import ContainerState

PLAN = Plan((CreateNetwork(planning.network_spec(Stack().network)),))


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv(widgets.WIDGETS, "0")


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    found = []
    for place in ("parts", "choose"):
        monkeypatch.setattr(f"ragops.widgets.{place}.display", lambda one, **_: found.append(one))
    return found


def container(name, service="ragflow-cpu", role="", image="infiniflow/ragflow:v0.27.0"):
    labels = {"com.docker.compose.service": service} | ({LABEL: role} if role else {})
    return ContainerState(
        id=name, name=name, image=image, image_id="i", status="running", exit_code=0, oom_killed=False,
        error="", started_at="", restart_count=0, health="", network_mode="docker_ragflow", endpoints=(),
        published=(), labels=labels, command=(),
    )  # fmt: skip


def engine(*containers):
    return SimpleNamespace(containers=lambda: containers)


def step(done, errors=0):
    return SimpleNamespace(done=done, total=4, errors=errors, level="closed-1", folder=Path("results/a-run"))


def frontend(monkeypatch, metadata):
    kernel = SimpleNamespace(get_parent=lambda _: {"metadata": metadata})
    monkeypatch.setattr("ragops.widgets.parts.get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.delenv(widgets.WIDGETS)


def test_a_frontend_is_one_that_names_its_cells(monkeypatch):
    frontend(monkeypatch, {"cellId": "a", "deletedCells": []})
    assert widgets.live()
    frontend_less = {}
    monkeypatch.setenv(widgets.WIDGETS, "0")
    assert not widgets.live()
    frontend(monkeypatch, frontend_less)
    assert not widgets.live()


def test_outside_of_a_notebook_nobody_watches(monkeypatch):
    monkeypatch.delenv(widgets.WIDGETS)
    assert not widgets.live()
    monkeypatch.setenv(widgets.WIDGETS, "1")
    assert widgets.live()


def test_lines_that_are_told_are_shown_once_at_the_end(shown):
    with widgets.telling("up") as told:
        told("create network")
        told("load (3 s)")
        assert shown == []
    assert len(shown) == 1
    lines = str(shown[0]).splitlines()
    assert lines[0] == "up"
    assert [line.split("s  ")[1] for line in lines[1:]] == ["create network", "load (3 s)", "done"]


def test_a_failure_keeps_what_was_told(shown):
    def fail():
        with widgets.telling("up") as told:
            told("create network")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert "create network" in str(shown[0])
    assert str(shown[0]).endswith("failed")


def test_progress_ends_in_one_line_with_counts_and_the_folder(shown):
    with widgets.progress("load") as moved:
        moved(step(1))
        moved(step(4, errors=1))
    assert str(shown[0]).startswith("load: 4/4 requests · 1 errors · ")
    assert str(shown[0]).endswith("kept in a-run")


def test_progress_of_nothing_says_so(shown):
    with pytest.raises(KeyboardInterrupt), widgets.progress("load"):
        raise KeyboardInterrupt
    assert str(shown[0]).startswith("load: no request was made")


def test_picks_all_that_look_like_ragflow_at_first():
    picker = widgets.pick(Stack(), engine(container("a"), container("db", service="mysql", image="mysql:8")))
    assert picker.picked == ("a",)
    assert picker.stack.ragflow.containers == ("a",)
    assert str(picker) == "* a (v0.27.0, running)"


def test_picks_the_declared_ones_and_tells_stand_ins():
    declared = Stack(ragflow=Ragflow(containers=("b",)))
    picker = widgets.pick(declared, engine(container("a"), container("b", role=DEMO)))
    assert picker.stack.ragflow.containers == ("b",)
    assert str(picker) == "  a (v0.27.0, running)\n* b (demo client, a stand-in, running)"


def test_a_picker_without_frontend_is_text(shown):
    widgets.pick(Stack(), engine())._ipython_display_()
    assert str(shown[0]) == "no container here looks like RAGFlow"


def test_a_picker_with_frontend_offers_the_same_rows(monkeypatch, shown):
    monkeypatch.setenv(widgets.WIDGETS, "1")
    picker = widgets.pick(Stack(), engine(container("a"), container("b")))
    picker._ipython_display_()
    assert [label for label, _ in shown[0].options] == ["a (v0.27.0, running)", "b (v0.27.0, running)"]
    shown[0].value = ("b",)
    assert picker.stack.ragflow.containers == ("b",)


def test_a_plan_is_approved_by_nobody_where_nobody_watches(shown):
    approval = widgets.approve(PLAN)
    assert not approval.given
    approval._ipython_display_()
    assert shown == [PLAN]
    approval.require()


def test_a_plan_waits_for_its_button(monkeypatch, shown):
    monkeypatch.setenv(widgets.WIDGETS, "1")
    approval = widgets.approve(PLAN)
    approval._ipython_display_()
    with pytest.raises(RagopsError, match="not approved") as refused:
        approval.require()
    assert "create network ragflow-rerank" in refused.value.evidence
    page, button = shown[0].children
    assert page.value == PLAN._repr_html_()
    button.value = True
    approval.require()


@pytest.mark.parametrize(("plan", "given"), [(PLAN, True), (Plan(()), False)])
def test_no_button_for_what_is_approved_or_empty(monkeypatch, shown, plan, given):
    monkeypatch.setenv(widgets.WIDGETS, "1")
    approval = widgets.approve(plan, given=given)
    approval._ipython_display_()
    approval.require()
    assert shown == [plan]


def test_an_approval_reads_as_the_plan_and_its_commands():
    assert str(widgets.approve(PLAN)) == f"{PLAN}\n\n{PLAN.commands()[0]}"


def run_until_stopped(*, progress, stop, folder):
    """A benchmark of many requests."""
    for done in range(1, 5):
        progress(SimpleNamespace(done=done, total=4, errors=0, level="closed-1", folder=folder))
        if stop.wait(0.01 if done < 3 else 5):
            break
    return folder


def test_a_watched_run_gives_its_folder(shown):
    folder = asyncio.run(
        widgets.watch("load", lambda progress, stop: (progress(step(4)), Path("results/a-run"))[1])
    )
    assert folder == Path("results/a-run")
    assert str(shown[0]).startswith("load: 4/4 requests · 0 errors · ")


def test_the_stop_button_ends_a_run_that_keeps_its_folder(monkeypatch, shown, tmp_path):
    monkeypatch.setenv(widgets.WIDGETS, "1")
    ended = []
    monkeypatch.setattr("ragops.widgets.parts.Box.end", lambda _, text: ended.append(text))

    async def person():
        run = asyncio.create_task(widgets.watch("load", partial(run_until_stopped, folder=tmp_path)))
        await asyncio.sleep(0.05)
        head, *_ = shown[0].children
        _, button = head.children
        button.click()
        return await run

    assert asyncio.run(person()) == tmp_path
    assert re.match(r"load: [123]/4 requests", ended[0])


def test_an_interrupted_cell_ends_the_run_too(shown, tmp_path):
    async def person():
        run = asyncio.create_task(widgets.watch("load", partial(run_until_stopped, folder=tmp_path)))
        await asyncio.sleep(0.05)
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(person())
    assert "kept in" in str(shown[0])


@pytest.mark.parametrize(
    ("role", "words"), [(DEMO, "a stand-in: it has no settings"), ("", "REGISTER = True")]
)
def test_nothing_is_entered_into_a_stand_in_nor_unasked(monkeypatch, role, words):
    monkeypatch.setattr("ragops.widgets.choose.connect", lambda: engine(container("a", role=role)))
    assert words in str(widgets.enter(Stack(), wanted=False))


def test_it_is_entered_when_asked(monkeypatch):
    calls = []
    monkeypatch.setattr("ragops.widgets.choose.connect", lambda: engine(container("a")))
    monkeypatch.setattr("ragops.widgets.choose.register", lambda *given: calls.append(given) or "entered")
    monkeypatch.setenv("RAGOPS_RAGFLOW_TOKEN", "ragflow-secret")
    assert widgets.enter(Stack(), wanted=True) == "entered"
    (stack, access) = calls[0]
    assert (stack, access.token.reveal(), access.login) == (Stack(), "ragflow-secret", False)


def test_the_address_table_is_the_same_as_text_and_as_table():
    table = widgets.address_table(Stack(), "qwen3-reranker-0.6b")
    for cell in (
        "http://ragflow-vllm-reranker:8000/v1",
        "qwen3-reranker-0.6b",
        "http://127.0.0.1:8123/v1",
        "VLLM",
    ):
        assert cell in str(table)
        assert cell in table._repr_html_()


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_outputs_that_are_stored_hold_no_widget(wanted, monkeypatch, tmp_path):
    monkeypatch.setenv(widgets.WIDGETS, wanted)
    source = """from types import SimpleNamespace as S
from ragops import widgets
with widgets.progress("load") as moved:
    moved(S(done=1, total=1, errors=0, level="closed-1", folder=S(name="a-run")))
with widgets.telling("up") as told:
    told("ready")
"""
    (tmp_path / "in").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "in" / "a.ipynb")
    (copy,) = site.execute_notebooks(tmp_path / "in", tmp_path / "out")
    (cell,) = nbformat.read(copy, as_version=4).cells
    stored = [out.data for out in cell.outputs]
    assert all(list(data) == ["text/plain"] for data in stored)
    assert [data["text/plain"].split()[0] for data in stored] == ["load:", "up"]
