"""A real browser on the built site.

Nothing here skips: without Chromium these tests fail. ``make test`` installs Debian's.
"""

import functools
import http.server
import re
import threading
from contextlib import contextmanager

import pytest

from tests.support.chromium import LIMIT, open_chromium

LEFT = "net::ERR_ABORTED"
"""The reason of a request that was still running when its page was left."""


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(pytest.mark.browser)


class Server(http.server.ThreadingHTTPServer):
    """With room for all connections of a page: with the usual 5 a busy machine loses scripts."""

    request_queue_size = 128


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(built):
    """Where the site is served; ends in a slash."""
    handler = functools.partial(Quiet, directory=str(built))
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium(address):  # the site is built before
    del address
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def open_tab(chromium, address):
    """Opens a page that lets nothing through but the site.

    ``away`` has the addresses that were refused, ``broken`` missing files, failed requests and
    errors of scripts.
    """

    @contextmanager
    def opened():
        size = {"width": 1440, "height": 900}
        motion = {"color_scheme": "light", "reduced_motion": "reduce"}  # no colour is between two modes
        context = chromium.new_context(base_url=address, viewport=size, **motion)
        context.set_default_timeout(LIMIT)
        tab = context.new_page()
        tab.away, tab.broken = [], []

        def refuse(route):
            tab.away.append(route.request.url)
            route.abort()

        def note_failure(request):
            if request.url.startswith(address) and request.failure != LEFT:
                tab.broken.append(f"{request.url}: {request.failure}")

        context.route(re.compile(f"^(?!{re.escape(address)}|data:|blob:)"), refuse)
        tab.on("pageerror", lambda error: tab.broken.append(str(error)))
        tab.on("requestfailed", note_failure)
        tab.on("response", lambda answer: tab.broken.append(answer.url) if answer.status >= 400 else None)
        yield tab
        context.close()

    return opened
