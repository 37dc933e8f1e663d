"""JupyterLab in a real browser, against the real stack: pick, approve, watch, stop, read the result.

Nothing here skips: without Chromium these tests fail. ``make test`` installs Debian's.
"""

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from benchmarks import free_port
from ragops.bench.records import load_run
from ragops.docker.engine import observe
from tests.support.chromium import LIMIT, open_chromium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A working folder with the notebooks; the benchmark is set to run until it is stopped."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    file = folder / "notebooks" / "03_benchmark.ipynb"
    notebook = json.loads(file.read_text())
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    source = "".join(first["source"])
    long = {"EACH": 1, "REQUESTS": 900, "SECONDS": 3600, "DOCUMENTS": (2, 4), "WORDS": (8, 16)}
    for name, value in long.items():
        source = re.sub(rf"^{name} = .*?  #", f"{name} = {value}  #", source, flags=re.MULTILINE)
    first["source"] = source
    file.write_text(json.dumps(notebook))
    return folder


@pytest.fixture(scope="module")
def lab(desk, running, stack_file):
    """JupyterLab as ``ragops lab`` starts it; gives a function from a notebook to its address."""
    port = free_port()
    argv = [sys.executable, "-m", "ragops", "lab", "--no-browser"]
    server = subprocess.Popen(
        [*argv, "--port", str(port), "--stack", str(stack_file)],
        cwd=desk, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    message = ""
    while not (result := re.search(rf"http://127\.0\.0\.1:{port}/lab\?token=(\w+)", message)):
        line = server.stderr.readline()
        assert line, message
        message += line
    yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}.ipynb?reset&token={result[1]}"
    server.terminate()
    server.communicate(timeout=300)


@pytest.fixture(scope="module")
def chromium(lab):
    del lab
    with open_chromium() as browser:
        yield browser


class Notebook:
    """A notebook in the browser, as a person drives it."""

    def __init__(self, tab):
        self.tab = tab
        self.cells = tab.locator(".jp-Notebook .jp-CodeCell")

    def idle(self):
        status = self.tab.locator(".jp-Notebook-ExecutionIndicator").first
        expect(status).to_have_attribute("data-status", "idle")

    def run(self, name, *, wait=True):
        """Run the code cell that begins with some words, and give its output back."""
        code = self.tab.locator(".cm-content", has_text=re.compile(rf"^{re.escape(name)}"))
        cell = self.cells.filter(has=code).first
        prompt = cell.locator(".jp-InputPrompt").first
        before = prompt.text_content()
        cell.locator(".cm-content").first.click()
        self.tab.keyboard.press("Control+Enter")
        expect(prompt).not_to_have_text(before)  # [*]: while it runs, then its number
        if wait:
            expect(prompt).to_have_text(re.compile(r"\[\d+\]:"))
            self.idle()
        return cell.locator(".jp-OutputArea").first


@contextmanager
def opened(chromium, address):
    context = chromium.new_context(viewport={"width": 1300, "height": 9000})  # every cell is drawn
    context.set_default_timeout(LIMIT)
    tab = context.new_page()
    tab.goto(address)
    expect(tab.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible()
    expect(tab.locator(".jp-Toolbar-kernelName").first).to_contain_text("Python 3")
    notebook = Notebook(tab)
    notebook.idle()
    try:
        yield notebook
    finally:
        context.close()


def test_setup_is_picked_and_approved_before_anything_changes(
    chromium, lab, engine, declared, running, client
):
    network = declared.network.name
    engine.disconnect(network, client)
    with opened(chromium, lab("01_setup")) as notebook:
        for words in ("STACK =", "import ragops"):
            notebook.run(words)
        picker = notebook.run("picker =")
        option = picker.locator("option", has_text=client)
        expect(option).to_have_count(1)
        picker.locator("select").select_option(label=option.text_content())
        expect(notebook.run("stack = picker.stack")).to_contain_text("not connected")
        approval = notebook.run("approval = notebook")
        expect(approval).to_contain_text(f"connect {client} to {network}")
        refused = notebook.run("approval.require()")
        expect(refused).to_contain_text("RagopsError")
        assert engine.container(client).endpoint(network) is None
        approval.get_by_role("button", name="Approve").click()
        done = notebook.run("approval.require()")
        expect(done).to_contain_text("done")
        expect(notebook.run("notebook.network(status)")).to_contain_text("──── connected ────")
        expect(notebook.run("status")).to_contain_text("demo client, connected")
        expect(notebook.run("notebook.ragflow_settings")).to_contain_text(declared.internal_url)
    assert engine.container(client).endpoint(network) is not None
    assert observe(engine).container(declared.reranker.name).id == running.reranker.id


def test_a_benchmark_is_watched_and_stopped_and_its_result_is_read(chromium, lab, desk, running):
    with opened(chromium, lab("03_benchmark")) as notebook:
        for words in ("STACK =", "%matplotlib inline", "config = bench"):
            notebook.run(words)
        expect(notebook.run("plots.latency_by_size").locator("svg, img").first).to_be_visible()
        watched = notebook.run("count =", wait=False)
        expect(watched.locator("img").first).to_be_visible()  # the figure that grows
        counted = re.compile(r"(?<!\d)([6-9]|\d\d+)/\d+ requests")  # three of them warm up
        expect(watched).to_contain_text(counted)
        watched.get_by_role("button", name="Stop").click()
        notebook.idle()
        expect(watched).to_contain_text(re.compile(r"load: \d+/\d+ requests, 0 errors · .* saved in"))
        notebook.run("load = ragops.load_run")
        expect(notebook.run("plots.percentile_curve").locator("svg, img").first).to_be_visible()
        expect(notebook.run("print(bench.judge")).to_contain_text(running.substitute)
    run = load_run(max((desk / "results").glob("*-load")))
    assert (run.info.complete, run.info.reason) == (False, "stopped by the user")
    assert len(run.requests) > 3
