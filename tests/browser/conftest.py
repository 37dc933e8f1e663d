"""A real browser on the built site, with notebooks that have outputs of every kind.

Nothing here skips: without Chromium these tests fail. ``make test`` installs Debian's.
"""

import functools
import http.server
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import sync_playwright

from ragops import bench, site
from ragops.bench import plots
from ragops.checks import Check, Report

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
REMEDY = "docker network connect ragflow-rerank docker-ragflow-cpu-1, then ask again from inside"
REPORT = Report(
    "verify http://ragflow-vllm-reranker:8000/v1",
    (
        Check("name resolves", "ok", "172.20.0.2", "", "docker-ragflow-cpu-1"),
        Check("published on this host only", "warn", "other machines reach 0.0.0.0:8123", REMEDY),
        Check("port answers", "fail", "Connection refused", REMEDY, "docker-ragflow-cpu-1"),
        Check("server is healthy", "skip", "a layer below failed", "", "docker-ragflow-cpu-1"),
    ),
    ("docker-ragflow-cpu-1 is the demo client, a stand-in",),
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(pytest.mark.browser)


def table(made):
    return nbformat.v4.new_output(
        "execute_result", {"text/html": made._repr_html_(), "text/plain": str(made)}
    )


def figure(made, folder):
    made.savefig(folder / "figure.svg")
    return nbformat.v4.new_output("display_data", {"image/svg+xml": (folder / "figure.svg").read_text()})


def text(words, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=words)


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory, recorded):
    """The notebooks with what such cells show when they run; the words are made up, the forms are real."""
    folder = tmp_path_factory.mktemp("notebooks")
    run = bench.load_run(recorded)
    outputs = {
        "doctor": table(REPORT),
        "up": text("ragops up\n   0.1 s  nothing to change\n"),
        "break": table(REPORT),
        "load-workload": text(f"{run.info.workload.description}\n"),
        "load-figure": figure(plots.throughput(run), folder),
        "load-table": table(bench.summary(run)),
        "curve-figure": figure(plots.percentile_curve(run), folder),
        "verdict": text("a warning of some library, of one long line " * 6, name="stderr"),
    }
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells:
            if cell.id in outputs:
                cell.outputs = [outputs.pop(cell.id)]
                cell.execution_count = 1
        nbformat.write(notebook, folder / source.name)
    assert outputs == {}, "cells that are in no notebook any more"
    return folder


@pytest.fixture(scope="session")
def pages(tmp_path_factory, notebooks, recorded):
    """The folder of the site, as ``make run`` builds it."""
    out = tmp_path_factory.mktemp("pages") / "html"
    return site.build(ROOT / "docs", out, notebooks, run=recorded)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(pages):
    """Where the site is served; ends in a slash."""
    handler = functools.partial(Quiet, directory=str(pages))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="package")
def chromium(address):  # the site is built before: while a browser is open, no other event loop may run
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.fail("there is no Chromium: apt-get install chromium, or run make test as root on Debian")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def open_tab(chromium, address):
    """Opens a page that lets nothing through but the site.

    ``away`` has the addresses that were refused, ``broken`` missing files and errors of scripts.
    """

    @contextmanager
    def opened():
        size = {"width": 1440, "height": 900}
        context = chromium.new_context(base_url=address, color_scheme="light", viewport=size)
        tab = context.new_page()
        tab.away, tab.broken = [], []

        def refuse(route):
            tab.away.append(route.request.url)
            route.abort()

        context.route(re.compile(f"^(?!{re.escape(address)}|data:|blob:)"), refuse)
        tab.on("pageerror", lambda error: tab.broken.append(str(error)))
        tab.on("response", lambda answer: tab.broken.append(answer.url) if answer.status >= 400 else None)
        yield tab
        context.close()

    return opened
