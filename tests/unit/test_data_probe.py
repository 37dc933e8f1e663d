"""The program that runs inside containers, as a process of its own against servers of every kind."""

import ast
import contextlib
import dataclasses
import json
import math
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.checks import probe
from ragops.data import __file__ as data
from ragops.data import probe as program
from ragops.docker.objects import ExecResult
from ragops.errors import EngineError
from ragops.ragflow import releases
from ragops.ragflow.request import RerankRequest
from tests.support.stub import Behaviour, StubReranker

PROGRAM = Path(data).parent / "probe.py"
REQUEST = RerankRequest("stub-reranker")
LISTING = json.dumps({"data": [{"id": "stub-reranker"}]})


def run(url, *, timeout=30.0, environment=None, **changed):
    """Run the program; gives the answer that it wrote."""
    order = json.loads(probe.probe_input(url, REQUEST, timeout=timeout, **changed)) | {"get_timeout": timeout}
    done = subprocess.run(
        [sys.executable, "-S", str(PROGRAM)],  # -S: without site-packages, so without cohere
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=True,
        env=environment or {},
    )
    return json.loads(done.stdout)


def beside(timeout=30.0, rerank="q"):
    body = {"model": "stub-reranker", "query": rerank, "documents": ["a", "b"], "top_n": 2}
    count = probe.ProbeRequest("/tokenize", '{"prompt": "a b"}')
    return probe.Batch((count, probe.ProbeRequest("/v1/rerank", json.dumps(body))), timeout=timeout)


def first(url, **options):
    """Name and answer of the first layer that failed."""
    steps = run(url, **options)["steps"]
    return next((name, step) for name, step in steps.items() if not step["ok"])


@contextlib.contextmanager
def server(**answers):
    """A server that answers each route as told: (status, type, body), or None to hang."""
    over = threading.Event()
    told = {
        "health": (200, "", ""),
        "openapi.json": (200, "application/json", '{"paths": {}}'),
        "models": (200, "application/json", LISTING),
    } | answers

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            found = told.get(
                self.path.rpartition("/")[2], (404, "application/json", '{"detail":"Not Found"}')
            )
            if found is None:
                over.wait(30)
                return
            status, kind, body = found
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer  # noqa: N815 - names of the base class

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        finally:
            over.set()
            httpd.shutdown()
            thread.join()


def scored(*pairs):
    rows = ", ".join(f'{{"index": {index}, "relevance_score": {score}}}' for index, score in pairs)
    return 200, "application/json", f'{{"results": [{rows}]}}'


class TestProgram:
    def test_all_layers(self):
        with StubReranker(Behaviour(model="stub-reranker")) as stub:
            answer = run(stub.base_url)
            steps = answer["steps"]
            sent = stub.calls[-1]
        assert list(steps) == list(probe.LAYERS)
        assert all(step["ok"] and step["ms"] >= 0 for step in steps.values())
        assert steps["dns"]["detail"] == "127.0.0.1"
        assert steps["models"]["names"] == ["stub-reranker"]
        assert sorted(index for index, _ in steps["rerank"]["scores"]) == [0, 1, 2]
        assert "/v1/rerank" in steps["routes"]["names"]
        assert answer["client"] == "http.client"
        assert sent.path == "/v1/rerank"
        assert sent.headers["authorization"] == "Bearer x"

    def test_sends_what_ragflow_sends(self):
        with StubReranker() as stub:
            run(stub.base_url)
            sent = stub.calls[-1]
        assert sent.body == json.loads(REQUEST.body())
        wanted = {name.lower(): value for name, value in REQUEST.headers().items()}
        assert {name: sent.headers[name] for name in wanted} == wanted

    def test_depth_stops_early(self):
        with server() as url:
            assert list(run(url, depth=2)["steps"]) == ["dns", "tcp"]

    def test_name_that_does_not_resolve(self):
        name, step = first("http://nobody.invalid:8000/v1")
        assert (name, step["ok"], step["error"]) == ("dns", False, "gaierror")

    def test_port_that_refuses(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        name, step = first(f"http://127.0.0.1:{port}/v1")
        assert (name, step["error"]) == ("tcp", "ConnectionRefusedError")

    def test_server_that_is_not_healthy(self):
        with server(health=(503, "", "")) as url:
            steps = run(url)["steps"]
        assert (steps["health"]["ok"], steps["health"]["status"]) == (False, 503)
        assert steps["models"]["ok"], "a failure of health stops no other layer"

    def test_server_that_hangs(self):
        with server(rerank=None) as url:
            name, step = first(url, timeout=3.0)
        assert (name, step["error"]) == ("rerank", "TimeoutError")

    def test_missing_route(self):
        with server() as url:
            name, step = first(url)
        assert name == "rerank"
        assert step["detail"] == 'HTTP 404: {"detail":"Not Found"}'

    def test_key_that_is_wanted(self):
        with StubReranker(Behaviour(fault="unauthorized")) as stub:
            name, step = first(stub.base_url)
        assert name == "models"
        assert step["detail"].startswith("HTTP 401")

    def test_page_in_place_of_data(self):
        with server(models=(200, "text/html", "<html>a proxy</html>")) as url:
            name, step = first(url)
        assert name == "models"
        assert (step["status"], step["kind"], step["text"]) == (200, "text/html", "<html>a proxy</html>")

    def test_data_without_results(self):
        with server(rerank=(200, "application/json", "{}")) as url:
            assert first(url)[1]["text"] == "{}"

    def test_scores_are_passed_on_as_they_came(self):
        with server(rerank=scored((0, "NaN"), (7, 0.5))) as url:
            (index, nan), second = run(url)["steps"]["rerank"]["scores"]
        assert (index, second) == (0, [7, 0.5])
        assert math.isnan(nan)

    def test_nothing_is_asked_after_a_server_that_hangs(self):
        with server(**{"openapi.json": None}) as url:
            steps = run(url, timeout=2.0)["steps"]
        assert list(steps) == ["dns", "tcp", "health", "routes"]

    def test_more_questions_are_asked_before_ragflows_call(self):
        with StubReranker() as stub:
            found = run(stub.base_url, extra=beside(rerank="other"))
            sent = [call.body["query"] for call in stub.calls]
        assert sent == ["other", REQUEST.query]
        assert json.loads(found["responses"][0]["text"])["count"] == 2
        assert [one["status"] for one in found["responses"]] == [200, 200]
        assert found["steps"]["rerank"]["ok"]

    def test_they_stop_with_what_they_need(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        assert "responses" not in run(url, extra=beside())
        with server(**{"openapi.json": (200, "application/json", '{"paths": {"/v1/score": {}}}')}) as url:
            assert "responses" not in run(url, extra=beside())

    def test_their_headers_are_no_headers_of_ragflows_own_call(self):
        extra = dataclasses.replace(beside(), post_headers=probe.STRICT)
        with StubReranker() as stub:
            run(stub.base_url, extra=extra)
            sent = [call.headers.get("prefer") for call in stub.calls]
        assert sent == ["handling=strict", None]

    def test_counts_of_the_gateway_come_back(self):
        with StubReranker(Behaviour(headers=(("x-ranked", "1/2"), ("x-truncated", "1")))) as stub:
            output = ExecResult(0, json.dumps(run(stub.base_url, extra=beside())), "")
        responses = probe.parse_result(output, "python").responses.values()
        assert [(one.ranked, one.truncated) for one in responses] == [("", 0), ("1/2", 1)]

    def test_server_that_hangs_over_them_is_not_asked_again(self):
        with server(tokenize=(200, "", "{}"), rerank=None, **{"openapi.json": (404, "", "")}) as url:
            found = run(url, extra=beside(timeout=3.0), timeout=3.0)
        assert [one["ok"] for one in found["responses"]] == [True, False]
        assert found["steps"]["rerank"]["error"] == "TimeoutError"
        assert found["steps"]["rerank"] == found["responses"][1]

    def test_server_that_is_slow_over_a_long_one_still_gets_ragflows_call(self):
        """Three documents take it 0.9 s, thirty 9 s."""
        body = {"model": "stub-reranker", "query": "q", "documents": ["a"] * 30, "top_n": 30}
        asked = (*beside().posts, probe.ProbeRequest("/v1/rerank", json.dumps(body)))
        with StubReranker(Behaviour(per_document_s=0.3, serial=False)) as stub:
            found = run(stub.base_url, extra=probe.Batch(asked, timeout=5.0), timeout=5.0)
        assert [one["ok"] for one in found["responses"]] == [True, True, False]
        assert found["steps"]["rerank"]["ok"]

    def test_answer_that_leads_elsewhere_keeps_the_place(self):
        with StubReranker(Behaviour(fault="redirect-308")) as stub:
            _, step = first(stub.base_url)
        assert (step["status"], step["location"]) == (308, "https://ragflow.example/v1/rerank")

    def test_asks_directly_although_a_proxy_is_set(self):
        with StubReranker() as stub:
            found = run(stub.base_url, environment={"http_proxy": "http://127.0.0.1:1"})
        assert found["steps"]["rerank"]["ok"]

    def test_runs_on_python_3_8_with_nothing_installed(self):
        tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
        tops = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {getattr(node, "module", None) or node.names[0].name for node in tops}
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


class Played:
    """A fake engine's programs: results by the program's name, and what was asked."""

    def __init__(self, **results):
        self.results, self.asked = results, []

    def __call__(self, _box, argv, stdin):
        name = argv[0].rpartition("/")[2]
        self.asked.append((argv, stdin))
        found = self.results.get(name)
        return found(argv, stdin) if callable(found) else found


def ask(engine, request=REQUEST, **options):
    url = "http://reranker:8000/v1"
    return probe.run_probe(engine, "container", "vllm-cpu:latest", url, request, **options)


@pytest.fixture
def container(fake):
    fake.add_container("container")
    return fake


@pytest.fixture
def right(probed):
    def answer(_argv, stdin):
        return ExecResult(0, json.dumps(probed(json.loads(stdin))), "")

    return answer


class TestVehicles:
    def test_ragflows_own_python_comes_first(self, container, right):
        container.respond = Played(python=right)
        answer = ask(container)
        assert container.respond.asked[0][0][0] == "/ragflow/.venv/bin/python"
        assert (answer.transport, answer.client) == ("python", "cohere 5.6.2")
        assert answer.steps["models"].names == ["stub-reranker"]
        assert dict(answer.steps["rerank"].scores)[1] == pytest.approx(0.9)
        assert container.calls == []

    def test_then_any_python(self, container, right):
        container.respond = Played(python3=right)
        assert ask(container).transport == "python"

    def test_then_a_probe_container_that_goes_again(self, container, right):
        container.respond = lambda one, argv, stdin: right(argv, stdin) if one.name != "container" else None
        assert ask(container).transport == "probe container"
        assert [one.name for one in container.containers()] == ["container"]
        assert any(call.startswith("create container ragops-probe-") for call in container.calls)

    def test_python_that_is_broken_is_an_error(self, container):
        container.respond = Played(python3=ExecResult(1, "", "ImportError: no encodings"))
        with pytest.raises(EngineError, match="wrote no result") as caught:
            ask(container)
        assert "no encodings" in caught.value.evidence

    def test_container_that_stopped_is_an_error(self, container):
        container.stop("container")
        with pytest.raises(EngineError, match="is not running"):
            ask(container)

    def test_replies_to_more_questions_come_back(self, container):
        told = {"place": 1, "ok": True, "status": 200, "text": "{}", "ms": 1.0}
        said = ExecResult(0, json.dumps({"steps": {}, "client": "", "responses": [told]}), "")
        container.respond = Played(python=said)
        assert ask(container, extra=beside()).responses == {1: probe.ProbeResponse(200, "{}", 1.0)}
        order = json.loads(container.respond.asked[0][1])
        assert [path for path, _ in order["posts"]] == ["/tokenize", "/v1/rerank"]

    def test_order_is_ragflows_request(self, container, right):
        container.respond = Played(python=right)
        ask(container, depth=3)
        order = json.loads(container.respond.asked[0][1])
        assert [name for name, _ in order["layers"]] == ["dns", "tcp", "health"]
        assert (order["timeout"], order["body"]) == (30.0, REQUEST.body().decode())


class TestGo:
    """RAGFlow v1.0 has neither Python nor a client library; curl or wget sends its request from inside."""

    REQUEST = RerankRequest("stub-reranker", client=releases.of("v1.0.0-rc1").client)
    SCORES = ExecResult(0, '{"results": [{"index": 1, "relevance_score": 0.7}]}', "saving to STDOUT")

    @pytest.fixture
    def sent(self, container, right):
        """Ask where the container has these programs; gives the result and the arguments of the last one."""

        def ask_with(**programs):
            inside = Played(**programs)
            container.respond = lambda one, argv, stdin: (
                inside(one, argv, stdin) if one.name == "container" else right(argv, stdin)
            )
            result = ask(container, self.REQUEST)
            return result, next((argv for argv, _ in inside.asked if argv[0] in programs), ())

        return ask_with

    @pytest.mark.parametrize(
        ("program", "client"), [("curl", "curl"), ("busybox", "busybox wget"), ("wget", "wget")]
    )
    def test_a_program_of_the_container_sends_it(self, sent, program, client):
        result, argv = sent(**{program: self.SCORES})
        assert (result.client, result.transport) == (client, "probe container")
        assert (result.steps["rerank"].ok, result.steps["rerank"].scores) == (True, [(1, 0.7)])
        assert argv[-2] == self.REQUEST.body().decode()
        assert argv[argv.index("Content-Type: application/json") - 1] == "--header"
        assert argv[-1] == "http://reranker:8000/v1/rerank"

    def test_a_key_is_in_no_argument(self, container, right):
        """Arguments of a program can be read by others; the request goes without one then."""
        inside = Played(curl=self.SCORES)
        container.respond = lambda one, argv, stdin: (
            inside(one, argv, stdin) if one.name == "container" else right(argv, stdin)
        )
        request = dataclasses.replace(self.REQUEST, key="canary")
        with patch.object(probe, "_run", wraps=probe._run) as run_:
            result = ask(container, request)
        assert result.steps["rerank"].ok
        assert "Bearer canary" in run_.call_args.args[3]
        assert "canary" not in repr(request)
        assert not [argv for argv, _ in inside.asked if "curl" in argv[0]]

    @pytest.mark.parametrize("code", [127, 139])
    def test_busybox_without_that_applet_or_that_crashes(self, sent, code):
        missing = ExecResult(code, "", "wget: applet not found")
        assert sent(busybox=missing, wget=self.SCORES)[0].client == "wget"

    def test_no_program_at_all(self, sent):
        result, _ = sent()
        assert result.client.endswith(", probe container")
        assert (result.steps["rerank"].ok, len(result.steps["rerank"].scores)) == (True, 3)

    @pytest.mark.parametrize(
        "output", [ExecResult(1, "", "wget: bad address 'reranker:8000'"), ExecResult(0, "<html>", "")]
    )
    def test_its_failure_counts(self, sent, output):
        result, _ = sent(busybox=output)
        step = result.steps["rerank"]
        assert (step.ok, step.detail) == (False, output.stderr or output.stdout)

    def test_library_of_a_python_in_the_container_is_not_used(self, container, right):
        container.respond = Played(python=right)
        ask(container, self.REQUEST)
        assert json.loads(container.respond.asked[0][1])["cohere"] is False


class TestBatch:
    @given(
        delays=st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.004]), min_size=8, max_size=8),
        at_once=st.integers(1, 4),
        needed=st.integers(0, 8),
        limit=st.sampled_from([0.002, 0.006, 10.0]),
        fails=st.integers(0, 12),
    )
    @settings(max_examples=60, deadline=None)
    def test_each_response_is_of_its_request_whatever_delays_the_workers(
        self, delays, at_once, needed, limit, fails
    ):
        sent, pauses = [], iter(delays * 40)

        def delayed(function):
            def slow(*arguments):
                value = function(*arguments)
                time.sleep(next(pauses))
                return value

            return slow

        def send(_connection, _path, body, _headers):
            sent.append(body)
            if body == str(fails):
                raise TimeoutError
            return {"status": 200, "text": body}

        config = {"posts": [("/v1/rerank", str(number)) for number in range(8)], "headers": {}}
        config |= {"at_once": at_once, "needed": needed, "seconds": limit, "spare": limit / 2, "timeout": 1}
        clock = SimpleNamespace(monotonic=delayed(time.monotonic), perf_counter=time.perf_counter)
        with patch.multiple(program, time=clock, send=delayed(send)):
            responses = program.send_all("127.0.0.1", 1, config)
        places = [response["place"] for response in responses]
        assert sorted(map(str, places)) == sorted(sent)
        assert places == list(range(len(places)))
        for response in responses:
            assert response["ok"] is (response["place"] != fails)
            assert response.get("text", str(fails)) == str(response["place"])


def test_dns_of_an_ipv6_address():
    assert program.dns("::1", 8000) == {"detail": "::1"}
