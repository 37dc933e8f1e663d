"""Executed notebooks that are kept as data, for a site that is built without Docker."""

import json
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from ragops import RagopsError
from ragops.bench import plots
from tools import executed, site

ROOT = Path(__file__).parents[2]
ORIGIN = {"date": "2026-11-30", "machine": "amd-epyc-2cpu", "model": "m", "substitute": True, "run": "r"}


def cell(name, source, text="", tags=()):
    made = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    made["id"] = name
    if text:
        made.outputs = [nbformat.v4.new_output("stream", text=text)]
        made.execution_count = 1
    return made


def write(folder, name, *cells):
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), folder / name)


@pytest.fixture
def run_notebooks(tmp_path):
    """A folder as ``make run`` leaves it."""
    folder = tmp_path / "executed"
    parameters = cell("parameters", "N = 1", tags=["parameters"])
    injected = cell("injected-parameters", "N = 2")
    write(folder, "01_a.ipynb", parameters, injected, cell("where", "show()", "/srv/mine/results\n"))
    (folder / site.ORIGIN).write_text(json.dumps(ORIGIN))
    return folder


def texts(folder):
    cells = nbformat.read(folder / "01_a.ipynb", as_version=4).cells
    return [(one.id, "".join(out.text for out in one.outputs)) for one in cells]


def test_paths_are_replaced_and_an_earlier_set_goes(run_notebooks, tmp_path):
    into = tmp_path / "kept"
    write(into, "00_old.ipynb")
    executed.keep(run_notebooks, into, {"/srv": "wrong", "/srv/mine": "~/ragops"})
    assert sorted(file.name for file in into.iterdir()) == ["01_a.ipynb", site.ORIGIN]
    assert texts(into)[-1] == ("where", "~/ragops/results\n")


@pytest.mark.parametrize("text", ["/root/.cache", "/home/me/x", "/Users/me"])
def test_a_path_that_is_left_is_refused(run_notebooks, tmp_path, text):
    write(run_notebooks, "02_b.ipynb", cell("b", "b()", text))
    with pytest.raises(RagopsError, match=text):
        executed.keep(run_notebooks, tmp_path / "kept", {})
    assert not (tmp_path / "kept").exists()


def test_a_set_that_is_not_complete_or_has_an_error_is_refused(run_notebooks, tmp_path):
    failing = cell("b", "1 / 0")
    failing.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    write(run_notebooks, "02_b.ipynb", failing)
    with pytest.raises(RagopsError, match="a cell failed"):
        executed.keep(run_notebooks, tmp_path / "kept", {})
    (run_notebooks / site.ORIGIN).unlink()
    with pytest.raises(RagopsError, match="no complete set"):
        executed.keep(run_notebooks, tmp_path / "kept", {})


def test_only_a_cell_with_the_same_code_has_its_kept_output(run_notebooks, tmp_path):
    write(run_notebooks, "01_a.ipynb", cell("same", "a()", "kept"), cell("changed", "b()", "stale"))
    write(tmp_path / "sources", "01_a.ipynb", cell("same", "a()"), cell("changed", "c()"), cell("new", "d()"))
    merged = site.merge_outputs(tmp_path / "sources", run_notebooks, tmp_path / "merged")
    assert texts(merged) == [("same", "kept"), ("changed", ""), ("new", "")]
    assert json.loads((merged / site.ORIGIN).read_text()) == ORIGIN


def test_values_that_replaced_parameters_are_shown(run_notebooks, tmp_path):
    parameters = cell("parameters", "N = 1", tags=["parameters"])
    write(tmp_path / "sources", "01_a.ipynb", parameters, cell("where", "show()"))
    merged = site.merge_outputs(tmp_path / "sources", run_notebooks, tmp_path / "merged")
    assert [name for name, _ in texts(merged)] == ["parameters", "injected-parameters", "where"]


def test_a_chart_has_the_colours_of_the_page(tmp_path):
    drawn = cell("chart", "draw()")
    drawing = plots.svg(Figure((1, 1), facecolor=plots.COLOURS["paper"]))
    assert plots.COLOURS["paper"] in drawing
    drawn.outputs = [nbformat.v4.new_output("execute_result", {"image/svg+xml": drawing, "text/plain": "a"})]
    write(tmp_path / "executed", "01_a.ipynb", drawn)
    shown = site.write_charts(tmp_path / "executed", tmp_path / "shown")
    (output,) = nbformat.read(shown / "01_a.ipynb", as_version=4).cells[0].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    assert "var(--paper)" in output.data["text/html"]
    assert plots.COLOURS["paper"] not in output.data["text/html"]


def test_without_a_kept_set_the_sources_remain(tmp_path):
    write(tmp_path / "sources", "01_a.ipynb", cell("a", "a()"))
    merged = site.merge_outputs(tmp_path / "sources", tmp_path / "missing", tmp_path / "merged")
    assert texts(merged) == [("a", "")]


def test_the_run_of_the_notebooks_is_named(recorded, tmp_path):
    site.write_origin(recorded, tmp_path)
    origin = json.loads((tmp_path / site.ORIGIN).read_text())
    assert origin["run"] == recorded.name
    assert origin["substitute"] is True
    assert set(origin) == set(ORIGIN)


def test_the_kept_set_has_outputs_and_nothing_of_one_machine(tmp_path):
    kept = ROOT / site.KEPT
    names = sorted(file.name for file in kept.glob("*.ipynb"))
    assert {"01_setup.ipynb", "02_verify.ipynb", "03_benchmark.ipynb"} <= set(names)
    assert set(json.loads((kept / site.ORIGIN).read_text())) == set(ORIGIN)
    again = executed.keep(kept, tmp_path / "again", {})  # which refuses a path of a machine
    merged = site.merge_outputs(ROOT / "notebooks", again, tmp_path / "merged")
    for name in names:
        cells = nbformat.read(merged / name, as_version=4).cells
        assert any(one.get("outputs") for one in cells), name
