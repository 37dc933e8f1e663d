"""Widgets and their plain text; no stored output needs a frontend."""

import asyncio
import dataclasses
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import pytest

from ragops import Plan, RagopsError, Stack, bench, notebook, progress
from ragops.checks import golden
from ragops.checks.questions import Expected
from ragops.configuration import Ragflow
from ragops.docker.objects import LABEL, ContainerSpec, ContainerState, ExecResult
from ragops.errors import NotFoundError
from ragops.ragflow.discovery import DEMO
from ragops.ragflow.providers import RegistrationSpec
from ragops.stack import plan as planning
from ragops.stack import verbs
from ragops.stack.plan import CreateNetwork
from tests.support.stub import Behaviour, StubReranker
from tools import site

PLAN = Plan((CreateNetwork(planning.network_spec(Stack().shared_network)),))


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv(notebook.WIDGETS, "0")


@pytest.fixture
def shown(monkeypatch):
    """What is displayed; text as a string."""
    outputs = []

    def display(output, *, raw=False, **_):
        outputs.append(output["text/plain"] if raw else output)

    monkeypatch.setattr("ragops.notebook.display", display)
    return outputs


def container(name, service="ragflow-cpu", role="", image="infiniflow/ragflow:v0.27.0"):
    labels = {"com.docker.compose.service": service} | ({LABEL: role} if role else {})
    return ContainerState(
        id=name, name=name, image=image, image_id="i", status="running", exit_code=0, oom_killed=False,
        error="", started_at="", restart_count=0, health="", network_mode="docker_ragflow", endpoints=(),
        published=(), labels=labels, command=(),
    )  # fmt: skip


def engine(*containers):
    return SimpleNamespace(containers=lambda: containers)


def frontend(monkeypatch, metadata):
    kernel = SimpleNamespace(get_parent=lambda _: {"metadata": metadata})
    monkeypatch.setattr("ragops.notebook.get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.delenv(notebook.WIDGETS)


def test_a_frontend_is_one_that_names_its_cells(monkeypatch):
    frontend(monkeypatch, {"cellId": "a", "deletedCells": []})
    assert notebook.widgets_shown()
    monkeypatch.setenv(notebook.WIDGETS, "0")
    assert not notebook.widgets_shown()
    frontend(monkeypatch, {})
    assert not notebook.widgets_shown()


def test_outside_of_a_notebook_there_are_no_widgets(monkeypatch):
    monkeypatch.delenv(notebook.WIDGETS)
    assert not notebook.widgets_shown()
    monkeypatch.setenv(notebook.WIDGETS, "1")
    assert notebook.widgets_shown()


def test_log_lines_are_shown_once_at_the_end(shown):
    with notebook.log("up"):
        progress.step("create network")
        progress.step("load (3 s)")
        assert shown == []
    (text,) = shown
    first, *others = text.splitlines()
    assert first == "up"
    assert [line.split("s  ")[1] for line in others] == ["create network", "load (3 s)", "done"]


def test_a_failure_keeps_the_log(shown):
    def fail():
        with notebook.log("up"):
            progress.step("create network")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert "create network" in shown[0]
    assert shown[0].endswith("failed")


def test_logs_of_the_stack_are_shown_meanwhile(monkeypatch, shown):
    monkeypatch.setenv(notebook.WIDGETS, "1")
    monkeypatch.setattr("ragops.notebook._LOG_INTERVAL", 0.01)
    monkeypatch.setattr("ragops.notebook._Output.end", lambda *_: None)
    texts = {"reranker-1": "loading <weights>", "reranker-2": "started"}
    monkeypatch.setattr("ragops.stack.verbs.logs", lambda *_, **__: texts)
    with notebook.log("up", stack=Stack()):
        view, deadline = shown[0].children[-1], time.monotonic() + 120
        while not view.value and time.monotonic() < deadline:
            time.sleep(0.01)
    for text in ("reranker-1:", "loading &lt;weights&gt;", "reranker-2:"):
        assert text in view.value


def test_selects_all_of_ragflow_at_first():
    picker = notebook.Picker(
        Stack(), engine(container("a1"), container("db", service="mysql", image="mysql:8"))
    )
    assert picker.selected == ("a1",)
    assert picker.stack.ragflow.containers == ("a1",)
    assert str(picker) == "* a1 (v0.27.0, running)"


def test_selects_the_configured_ones_and_names_the_demo_client():
    declared = Stack(ragflow=Ragflow(containers=("b1",)))
    picker = notebook.Picker(declared, engine(container("a1"), container("b1", role=DEMO)))
    assert picker.stack.ragflow.containers == ("b1",)
    assert str(picker) == "  a1 (v0.27.0, running)\n* b1 (demo client, running)"


def test_picker_selects_those_of_the_configured_project_of_two():
    def of(project, name):
        labels = {"com.docker.compose.project": project} | container(name).labels
        return dataclasses.replace(container(name), labels=labels)

    offered = engine(of("docker", "a1"), of("other", "b1"))
    assert notebook.Picker(Stack(ragflow=Ragflow(project="other")), offered).selected == ("b1",)
    assert notebook.Picker(Stack(), offered).selected == ("a1", "b1")


def test_a_picker_without_frontend_is_text(shown):
    notebook.Picker(Stack(), engine())._ipython_display_()
    assert str(shown[0]) == "no RAGFlow container found"


def test_a_picker_with_frontend_offers_the_same_rows(monkeypatch, shown):
    monkeypatch.setenv(notebook.WIDGETS, "1")
    picker = notebook.Picker(Stack(), engine(container("a1"), container("b1")))
    picker._ipython_display_()
    assert [label for label, _ in shown[0].options] == ["a1 (v0.27.0, running)", "b1 (v0.27.0, running)"]
    shown[0].value = ("b1",)
    assert picker.stack.ragflow.containers == ("b1",)


def test_a_plan_is_approved_without_a_frontend(shown):
    approval = notebook.Approval(PLAN)
    assert not approval.approved
    approval._ipython_display_()
    assert shown == [PLAN]
    approval.require()


def test_a_plan_waits_for_its_button(monkeypatch, shown):
    monkeypatch.setenv(notebook.WIDGETS, "1")
    approval = notebook.Approval(PLAN)
    approval._ipython_display_()
    with pytest.raises(RagopsError, match="not approved") as refused:
        approval.require()
    assert "create network ragflow-rerank" in refused.value.evidence
    page, button = shown[0].children
    assert page.value == PLAN._repr_html_()
    button.value = True
    approval.require()


@pytest.mark.parametrize(("plan", "approved"), [(PLAN, True), (Plan(()), False)])
def test_no_button_for_what_is_approved_or_empty(monkeypatch, shown, plan, approved):
    monkeypatch.setenv(notebook.WIDGETS, "1")
    approval = notebook.Approval(plan, approved=approved)
    approval._ipython_display_()
    approval.require()
    assert shown == [plan]


@pytest.fixture
def config(tmp_path):
    return bench.BenchmarkConfig(
        workload=bench.ragflow(4), levels=(bench.LoadLevel.closed(1),), name="load", results=tmp_path
    )


@pytest.fixture
def benchmark(monkeypatch, request):
    """A benchmark of four requests; the last two take as long as the test says."""
    wait = getattr(request, "param", 60)

    def run(stack, config, *, stop):
        folder = config.results / "a-run"
        folder.mkdir()
        (folder / "run.json").touch()
        for done in range(1, 5):
            progress.advance(done, 4, "requests, 1 errors (closed-1, 0.31 s)")
            if stop.wait(0.01 if done < 3 else wait):
                break
        return folder

    monkeypatch.setattr("ragops.bench.measure.benchmark", run)


@pytest.mark.parametrize("benchmark", [0.01], indirect=True)
def test_a_benchmark_ends_in_one_line_with_counts_and_the_folder(benchmark, config, shown):
    folder = asyncio.run(notebook.benchmark(Stack(), config))
    assert folder == config.results / "a-run"
    assert re.fullmatch(r"load: 4/4 requests, 1 errors · [\d.]+ s · saved in a-run", shown[0])


def test_a_benchmark_that_fails_at_once_has_no_folder(monkeypatch, config, shown):
    def fail(*_, **__):
        raise RagopsError("not ready")

    monkeypatch.setattr("ragops.bench.measure.benchmark", fail)
    with pytest.raises(RagopsError, match="not ready"):
        asyncio.run(notebook.benchmark(Stack(), config))
    assert shown[0].startswith("load: no request was sent")


def test_the_stop_button_ends_a_run_that_keeps_its_folder(benchmark, config, monkeypatch, shown):
    monkeypatch.setenv(notebook.WIDGETS, "1")
    ended = []
    monkeypatch.setattr("ragops.notebook._Output.end", lambda _, text: ended.append(text))

    async def person():
        run = asyncio.create_task(notebook.benchmark(Stack(), config))
        while not shown:  # noqa: ASYNC110 - a list that another task fills
            await asyncio.sleep(0.01)
        head, *_ = shown[0].children
        _, button = head.children
        button.click()
        return await run

    assert asyncio.run(person()) == config.results / "a-run"
    assert re.match(r"load: [123]/4 requests", ended[0])


def test_an_interrupted_cell_ends_the_run_too(benchmark, config, shown):
    async def person():
        run = asyncio.create_task(notebook.benchmark(Stack(), config))
        while not list(config.results.glob("*/run.json")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(person())
    assert "saved in a-run" in shown[0]


@pytest.mark.parametrize("role", [DEMO, ""])
def test_nothing_is_registered_in_the_demo_client_nor_unconfirmed(monkeypatch, role):
    monkeypatch.setattr("ragops.notebook.connect", lambda: engine(container("a1", role=role)))
    monkeypatch.setattr("ragops.stack.registration.register", lambda *_: pytest.fail("registered"))
    assert ("REGISTER" in str(notebook.register(Stack(), confirmed=False))) == (not role)


def test_it_is_registered_when_confirmed(monkeypatch):
    calls = []
    monkeypatch.setattr("ragops.notebook.connect", lambda: engine(container("a1")))
    monkeypatch.setattr(
        "ragops.stack.registration.register", lambda *given: calls.append(given) or "registered"
    )
    monkeypatch.setenv("RAGOPS_RAGFLOW_TOKEN", "ragflow-secret")
    assert notebook.register(Stack(), confirmed=True) == "registered"
    (stack, token) = calls[0]
    assert (stack, token.get_secret_value()) == (Stack(), "ragflow-secret")


def test_the_settings_for_ragflow_are_the_same_as_text_and_as_html(monkeypatch):
    spec = RegistrationSpec("qwen3-reranker-0.6b", Stack().internal_url, 8112)
    monkeypatch.setattr("ragops.stack.registration.registration_spec", lambda _: spec)
    table = notebook.ragflow_settings(Stack())
    for cell in ("http://ragflow-vllm-reranker:8000/v1", "qwen3-reranker-0.6b", "VLLM", "8112"):
        assert cell in str(table)
        assert cell in table._repr_html_()


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_outputs_that_are_stored_hold_no_widget(wanted, monkeypatch, tmp_path):
    monkeypatch.setenv(notebook.WIDGETS, wanted)
    source = """from ragops import Stack, bench, notebook, progress
from ragops.bench import measure
def run(stack, config, stop):
    progress.advance(1, 1, "requests")
measure.benchmark = run
config = bench.BenchmarkConfig(workload=bench.ragflow(4), levels=(bench.LoadLevel.closed(1),), name="load")
await notebook.benchmark(Stack(), config)
from ragops.progress import step
with notebook.log("up"):
    step("ready")
"""
    (tmp_path / "in").mkdir()
    source_notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(source_notebook, tmp_path / "in" / "a.ipynb")
    (copy,) = site.execute_notebooks(tmp_path / "in", tmp_path / "out")
    (cell,) = nbformat.read(copy, as_version=4).cells
    stored = [out.data for out in cell.outputs]
    assert all(list(data) == ["text/plain"] for data in stored)
    assert [data["text/plain"].split()[0] for data in stored] == ["load:", "up"]


class TestNetwork:
    """The picture of the network."""

    def test_before_and_after(self, here, serving, ragflow):
        before = notebook.network(verbs.status(Stack(), serving))
        after = notebook.network(verbs.up(Stack(), serving))
        assert str(before).splitlines() == [
            f"{ragflow} ┄┄ not connected",
            "no network ragflow-rerank: no reranker",
        ]
        connection, inside = str(after).splitlines()
        assert connection == f"{ragflow} ──── connected ────"
        assert inside == (
            "network ragflow-rerank: gateway ragflow-vllm-reranker → reranker ragflow-vllm-reranker-1"
        )

    def test_html_names_the_state_and_has_no_tags_of_names(self, here, serving, ragflow):
        status = verbs.up(Stack(), serving)
        html = notebook.network(status)._repr_html_()
        assert html.count('class="ragops-ok"') == 1
        assert "dashed" not in html
        verbs.disconnect(Stack(), ragflow, serving)
        named = dataclasses.replace(verbs.status(Stack(), serving).ragflow[0].container, name="<b>")
        changed = dataclasses.replace(
            status, ragflow=(dataclasses.replace(status.ragflow[0], container=named),), network=None
        )
        html = notebook.network(changed)._repr_html_()
        assert "&lt;b&gt;" in html
        assert "dashed" in html


QWEN = Expected("stub-reranker", "qwen3-reranker", 8192)
MINILM = Expected("stub-reranker", "embedding", 256)


class TestRanking:
    """A ranking as served and with a wrong template, from a stub that is trained on the evaluation set."""

    @pytest.fixture
    def ranked(self, fake, monkeypatch):
        def rank(expected, item="en-05", *, broken=False, fail_every=0):
            prompt = "card" if expected.template else "none"
            behaviour = Behaviour(scorer="healthy", prompt=prompt, fail_every=fail_every)
            monkeypatch.setattr(Expected, "of", lambda _: expected)
            session = SimpleNamespace(stack=Stack(), engine=fake, deployment=None)
            monkeypatch.setattr("ragops.session.Session.open", lambda _: session)
            with StubReranker(behaviour) as stub:
                monkeypatch.setattr(Stack, "internal_url", stub.base_url)
                return notebook.ranking(Stack(), item, broken=broken), stub.calls

        def respond(_container, argv, stdin):
            command = [sys.executable, "-S", "-c", argv[2]]
            ended = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, env={})
            return ExecResult(ended.returncode, ended.stdout, ended.stderr)

        fake.create_container(ContainerSpec(Stack().reranker.name, "vllm-cpu:latest"))
        fake.start(Stack().reranker.name)
        fake.respond = respond
        return rank

    @pytest.mark.parametrize("expected", [QWEN, MINILM], ids=lambda row: row.kind)
    def test_as_served_the_relevant_document_is_first(self, ranked, expected):
        table, (call,) = ranked(expected)
        (item,) = [item for item in golden.load() if item.id == "en-05"]
        assert table.title == item.query
        assert tuple(call.body["documents"]) == item.texts()
        assert [row[1] for row in table.rows] == ["yes"] + [""] * 6
        scores = [float(row[0]) for row in table.rows]
        assert scores == sorted(scores, reverse=True)
        assert "100%" in table.notes[0]
        assert table._repr_html_().count("inline-block") == len(item.documents)

    def test_without_its_template_the_texts_are_scored_alone(self, ranked):
        right, _ = ranked(QWEN)
        wrong, calls = ranked(QWEN, broken=True)
        assert calls == []
        assert "without its template" in wrong.notes[0]
        assert {row[2] for row in wrong.rows} == {row[2] for row in right.rows}
        assert wrong.rows != right.rows

    def test_a_model_without_a_template_gets_the_prompt_of_another(self, ranked):
        table, (call,) = ranked(MINILM, broken=True)
        assert all("<Query>: " in text for text in call.body["documents"])
        assert "Qwen3-Reranker" in table.notes[0]

    def test_unknown_query_missing_reranker_and_failed_request(self, ranked, fake, monkeypatch):
        with pytest.raises(RagopsError) as caught:
            notebook.ranking(Stack(), "fr-01")
        assert caught.value.code == "notebook-refused"
        with pytest.raises(RagopsError) as caught:
            ranked(MINILM, fail_every=1)
        assert caught.value.code == "probe-silent"
        assert "HTTP 500" in caught.value.evidence
        fake.remove_container(Stack().reranker.name)
        with pytest.raises(NotFoundError) as caught:
            notebook.ranking(Stack(), "en-05")
        assert caught.value.code == "reranker-missing"


def test_a_step_with_a_total_shows_how_much_time_remains(monkeypatch, shown):
    monkeypatch.setenv(notebook.WIDGETS, "1")
    output = notebook._Output("verify")
    output.step("timed calls")
    output._begin -= 20
    output.advance(1, 4, "requests")
    _, text, *_ = shown[0].children
    spent, left = map(int, re.search(r"1/4 requests \((\d+) s, about (\d+) s remain\)", text.value).groups())
    assert left == pytest.approx(3 * spent, abs=2)
    output.step("access")
    assert "remain" not in text.value
