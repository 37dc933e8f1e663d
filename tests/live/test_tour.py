"""The notebooks against the real stack, and the site that shows them as they ran."""

import json
import re
from pathlib import Path

import pytest

from ragops.bench.records import load_run
from tools import site

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def executed(running, stack_file, results, tmp_path_factory):
    """All notebooks, run in order; the sources stay as they are."""
    before = {file: file.read_bytes() for file in (ROOT / "notebooks").glob("*.ipynb")}
    into = tmp_path_factory.mktemp("executed")
    parameters = {"STACK": str(stack_file), "RESULTS": str(results), "REQUESTS": 8, "EACH": 1}
    site.execute_notebooks(ROOT / "notebooks", into, parameters=parameters, timeout=600)
    assert before == {file: file.read_bytes() for file in (ROOT / "notebooks").glob("*.ipynb")}
    return into


def outputs(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def shown(notebook, cell):
    """The text of a cell's output."""
    (found,) = [one for one in json.loads(notebook.read_text())["cells"] if one["id"] == cell]
    return "".join(found["outputs"][0]["data"]["text/plain"])


def test_all_ran_without_an_error_or_a_dead_widget(executed):
    notebooks = sorted(executed.glob("*.ipynb"))
    assert [file.stem for file in notebooks] == ["01_setup", "02_verify", "03_benchmark", "04_scale"]
    for notebook in notebooks:
        text = notebook.read_text()
        assert "application/vnd.jupyter.widget-view" not in text
        assert [one for one in outputs(notebook) if one["output_type"] == "error"] == []


def test_setup_shows_both_addresses_and_the_network(executed, declared, client):
    text = (executed / "01_setup.ipynb").read_text()
    assert declared.internal_url in text
    assert re.search(r"http://[\d.]+:\d+/v1", text)
    assert f"{client} ──── connected ────" in shown(executed / "01_setup.ipynb", "made")
    assert "100% of the pairs are in the right order" in shown(executed / "01_setup.ipynb", "ranking")


def test_verify_shows_a_failure_and_its_repair(executed, client):
    text = (executed / "02_verify.ipynb").read_text()
    assert f"ragops connect {client}" in text
    assert text.count("name resolves") >= 3
    right, wrong = (shown(executed / "02_verify.ipynb", cell) for cell in ("ranking", "template"))
    assert "100% of the pairs are in the right order" in right
    assert int(re.search(r"(\d+)% of the pairs", wrong)[1]) < 80


def test_the_benchmark_names_the_substitute_model(executed, results, running):
    text = (executed / "03_benchmark.ipynb").read_text()
    assert text.count("image/svg+xml") >= 4
    assert running.substitute in text
    run = load_run(site.newest_run(results))
    assert run.info.complete
    assert run.path.name in text


def test_the_second_page_comes_from_the_cache(executed):
    cells = {cell["id"]: cell for cell in json.loads((executed / "04_scale.ipynb").read_text())["cells"]}
    (page,) = cells["page"]["outputs"]
    text = "".join(page["data"]["text/plain"])
    assert re.search(r"page 2 +64/64 +64 ", text), text


def test_the_site_shows_them_without_another_host(executed, results, tmp_path):
    page = site.build(ROOT / "docs", tmp_path / "site", notebooks=executed, run=site.newest_run(results))
    pages = list(page.parent.rglob("*.html"))
    assert any("03_benchmark" in str(one) for one in pages)
    for one in pages:
        loads = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', one.read_text())
        assert [url for url in loads if "canonical" not in url] == [], one
