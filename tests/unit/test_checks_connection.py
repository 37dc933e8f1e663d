"""Judging what a probe saw: each failure has its layer, its words and its remedy."""

import dataclasses
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ragops.checks import Check, Report, connection, probe
from ragops.checks.connection import RULES, Target
from ragops.checks.probe import LAYERS, NEEDS, TITLES, ProbeResult, Step, stopped_by
from ragops.data import __file__ as data
from ragops.docker.objects import ExecResult
from ragops.ragflow import releases
from ragops.ragflow.discovery import RagflowContainer
from ragops.reranker.architectures import by_kind
from tests.support.faults import FAULTS, spoiled
from tests.support.stub import Behaviour, StubReranker

URL = "http://reranker:8000/v1"
SCORES = ((0, 0.1), (1, 0.9), (2, 0.2))
EMBEDDING = by_kind("embedding")
QWEN3 = by_kind("qwen3-reranker")
HTTP = ("health", "routes", "models", "rerank")


def asked(*, url=URL, name="model", known=EMBEDDING, release=releases.NEWEST, proxies=None):
    return Target("ragflow-server", url, name, known, releases.of(release), proxies or {})


def answer(failed=None, detail="", **changed):
    """All well but one layer; those that need it could not be asked."""
    seen = {
        name: changed.pop(name) for name in ("status", "kind", "location", "text", "error") if name in changed
    }
    steps = {name: Step(ok=True, detail="fine", ms=2.0) for name in LAYERS}
    steps["routes"] = dataclasses.replace(steps["routes"], names=changed.pop("paths", ("/v1/rerank",)))
    steps["models"] = dataclasses.replace(steps["models"], names=changed.pop("models", ("model",)))
    steps["rerank"] = dataclasses.replace(steps["rerank"], scores=changed.pop("scores", SCORES))
    if failed in {"dns", "tcp"}:
        steps = {name: steps[name] for name in LAYERS[: LAYERS.index(failed)]}
    if failed:
        steps[failed] = Step(ok=False, detail=detail, **seen)
    return ProbeResult(steps=steps, **{"transport": "python", "client": "cohere 5.6.2", **changed})


def judge(found, is_local=False, **options):
    return connection.check_layers(found, asked(**options), is_local=is_local)


def only(found, **options):
    """The one check that is not well."""
    wrong = [check for check in judge(found, **options) if check.status in {"warn", "fail"}]
    assert len(wrong) == 1
    return wrong[0]


def test_all_well():
    checks = judge(answer())
    assert [check.status for check in checks] == ["ok"] * 6
    assert [check.name for check in checks] == [TITLES[layer] for layer in LAYERS]
    assert checks[5].detail == "3 documents, 3 scores, best 0.900 (2 ms, cohere 5.6.2)"


def test_table_names_what_each_layer_stands_on():
    order = list(TITLES)
    for layer, needs in NEEDS.items():
        assert all(order.index(need) < order.index(layer) for need in needs)
    assert stopped_by("rerank", {"health", "models"}) is None
    assert stopped_by("exposure", set(order)) is None
    assert stopped_by("budget", {"rerank"}) == "rerank"


@pytest.mark.parametrize(
    ("layer", "skipped"),
    [
        ("dns", LAYERS[1:]),
        ("tcp", LAYERS[2:]),
        ("health", ()),
        ("models", ()),
        ("rerank", ()),
    ],
)
def test_a_failure_stops_what_needs_it_and_nothing_else(layer, skipped):
    statuses = dict(zip(LAYERS, (check.status for check in judge(answer(layer, "no"))), strict=True))
    assert statuses[layer] == "fail"
    assert {name for name, status in statuses.items() if status == "skip"} == set(skipped)


def test_random_weights_that_say_so_are_not_judged_by_their_order():
    found = answer(scores=((0, 0.9), (1, 0.1), (2, 0.2)))
    assert only(found).name == TITLES["rerank"]
    checks = connection.check_layers(found, dataclasses.replace(asked(), trained=False))
    assert {check.status for check in checks} == {"ok"}


def test_no_rerank_route_stops_the_call():
    checks = judge(answer(paths=("/health", "/v1/chat/completions")))
    assert [check.status for check in checks] == ["ok", "ok", "ok", "fail", "ok", "skip"]
    assert "rerank is served" in checks[5].detail


def test_layers_that_were_not_asked_after_a_time_out_are_skipped():
    found = answer("health", "timed out", error="TimeoutError")
    steps = {name: found.steps[name] for name in ("dns", "tcp", "health")}
    checks = judge(ProbeResult("python", steps, client="cohere 5.6.2"))
    assert [check.status for check in checks] == ["ok", "ok", "fail", "skip", "skip", "skip"]


@pytest.mark.parametrize("step", ["health", "models"])
def test_route_that_another_server_lacks_is_a_warning(step):
    found = only(answer(step, "HTTP 404", status=404))
    assert (found.name, found.status) == (TITLES[step], "warn")


def test_routes_without_a_response_are_a_failure():
    """As of a gateway whose only replica hangs: no layer below is tested."""
    steps = {layer: answer().steps[layer] for layer in ("dns", "tcp", "health")}
    steps["routes"] = Step(False, "timed out", error="TimeoutError")
    checks = judge(ProbeResult("python", steps))
    assert [check.status for check in checks][:4] == ["ok", "ok", "ok", "fail"]


def test_list_of_routes_that_another_server_lacks_is_skipped():
    statuses = [check.status for check in judge(answer("routes", "HTTP 404", status=404))]
    assert statuses == ["ok", "ok", "ok", "skip", "ok", "ok"]


@pytest.mark.parametrize(
    ("paths", "known", "detail", "flags"),
    [
        (("/v1/chat/completions",), EMBEDDING, "writes text", "--runner pooling"),
        (("/v1/completions",), QWEN3, "writes text", "--runner pooling --hf-overrides '{\"arch"),
        (("/v1/embeddings", "/pooling"), EMBEDDING, "embeddings only", "--runner pooling"),
        (("/classify", "/pooling"), QWEN3, "not of one label", "--hf-overrides"),
        (("/classify", "/pooling"), EMBEDDING, "not of one label", "--convert classify"),
        (("/pooling",), QWEN3, "each token", "--chat-template qwen3_reranker.jinja"),
        (("/api/generate",), QWEN3, "another kind of server", "address"),
        (("/rerank", "/v2/rerank"), QWEN3, "wrong path", "ends in /v1"),
        (("/v1/rerank", "/v1/embeddings"), QWEN3, "as a cosine", "--hf-overrides"),
    ],
)
def test_routes_tell_which_flags_were_missing(paths, known, detail, flags):
    found = next(check for check in judge(answer(paths=paths), known=known) if check.status == "fail")
    assert found.name == TITLES["routes"]
    assert detail in found.detail
    assert flags in found.remedy


@pytest.mark.parametrize(
    ("paths", "known"),
    [(("/v1/rerank", "/classify"), QWEN3), (("/v1/rerank", "/v1/embeddings"), EMBEDDING)],
)
def test_routes_of_a_reranker_that_is_well(paths, known):
    assert judge(answer(paths=paths), known=known)[3].status == "ok"


@pytest.mark.parametrize(
    ("layer", "detail", "is_local", "cause", "remedy"),
    [
        ("dns", "Name or service not known", False, "share no network", "ragops connect ragflow-server"),
        ("tcp", "[Errno 111] Connection refused", True, "127.0.0.1", "--host 0.0.0.0"),
        ("tcp", "[Errno 111] Connection refused", False, "no process listens", "ragops status"),
        ("tcp", "timed out", False, "ufw, drops", "ufw route allow in on BRIDGE out on BRIDGE"),
        ("tcp", "[Errno 113] No route to host", False, "firewalld, rejects", "--change-interface=BRIDGE"),
        ("tcp", "Network is unreachable", False, "no response", "iptables -S FORWARD"),
    ],
)
def test_below_http(layer, detail, is_local, cause, remedy):
    found = only(answer(layer, detail), is_local=is_local)
    assert (found.name, found.status) == (TITLES[layer], "fail")
    assert cause in found.detail
    assert detail in found.detail
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("no replica is admitted", "the gateway has admitted no replica"),
        ("nothing was ranked by the deadline", "the gateway's deadline passed"),
        ("the queue is full", "more requests wait"),
        ("engine died", "the server's engine has died"),
    ],
)
def test_refusals_of_the_gateway(message, cause):
    body = json.dumps({"error": {"message": message, "code": 503}})
    found = only(answer("rerank", f"HTTP 503: {body}", status=503, text=body))
    assert (found.status, found.detail.startswith(cause)) == ("fail", True)


CAUGHT = {
    "html": ("health", "HTML instead of JSON", '"Company proxy"', "docker network inspect"),
    "html-502": ("health", "HTML instead of JSON", '"502 Bad Gateway"', "proxy's own"),
    "redirect-301": ("health", "a redirect", "HTTP 301 to https://ragflow.example/", "becomes a GET"),
    "redirect-302": ("health", "a redirect", "HTTP 302 to https://ragflow.example/", "becomes a GET"),
    "redirect-307": ("health", "a redirect", "HTTP 307 to https://ragflow.example/", "leads to"),
    "redirect-308": ("health", "a redirect", "HTTP 308 to https://ragflow.example/", "leads to"),
    "unauthorized": ("models", "vLLM wants the key", '{"error": "Unauthorized"}', "--api-key"),
    "unauthorized-gateway": ("health", "wants a key of its own", "Invalid API key", "proxy's key"),
    "generates": ("routes", "writes text", "/v1/chat/completions", "--runner pooling"),
    "embeds": ("routes", "embeddings only", "/v1/embeddings", "--runner pooling"),
    "classifies": ("routes", "not of one label", "/classify", "--convert classify"),
    "pools": ("routes", "each token", "/pooling", "--convert classify"),
    "wrong-path": ("rerank", "wrong path", "Not Found", "ends in /v1"),
    "says-200": ("rerank", "an old vLLM", "does not support Rerank", "--runner pooling"),
    "busy": ("rerank", "the queue is full", "HTTP 503", "--max-num-queued-reqs"),
    "backlog": ("rerank", "the queue is full", "backlog limit", "--max-num-queued-tokens"),
    "dead": ("health", "engine has died", "HTTP 503", "ragops up"),
    "fails": ("rerank", "refused the call", "HTTP 500", "ragops logs"),
    "reset": ("rerank", "cut before the response", "", "ragops logs"),
    "hangs": ("rerank", "no response came", "timed out", "ragops verify"),
    "no-results": ("rerank", "no ranking", "relevance", "docker network inspect"),
    "empty": ("rerank", "no ranking", "HTTP 200", "docker network inspect"),
}
"""The stub's faults: first layer that fails, cause, evidence, words of the remedy."""

HARMLESS = {"no-openapi", "only-rerank"}

PROGRAM = Path(data).parent / "probe.py"


def run_with_cohere(request):
    """Runs verify's program in this process, which imports RAGFlow's client once for all faults."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.setattr(sys, "stdin", io.StringIO(request))
        patch.setattr(sys, "stdout", output)
        runpy.run_path(str(PROGRAM), run_name="__main__")
    return output.getvalue()


def run_without_cohere(request):
    """Runs verify's program without site-packages, so without RAGFlow's client."""
    argv = [sys.executable, "-S", str(PROGRAM)]
    return subprocess.run(argv, input=request, capture_output=True, text=True, check=True, env={}).stdout


def played(behaviour, **options):
    """What verify's program sees of a stub, with RAGFlow's client and without, judged."""
    with StubReranker(behaviour) as stub:
        about = asked(url=stub.base_url, name="stub-reranker", **options)
        request = json.loads(probe.probe_input(about.url, about.request, timeout=1)) | {"get_timeout": 1}
        for run, client in ((run_with_cohere, "cohere 5.6.2"), (run_without_cohere, "http.client")):
            found = probe.parse_result(ExecResult(0, run(json.dumps(request)), ""), "python")
            assert found.client == client
            yield connection.check_layers(found, about)


def test_every_fault_of_the_stub_is_judged():
    assert set(CAUGHT) | HARMLESS == set(FAULTS)
    with pytest.raises(ValueError, match="no fault 'typo'"):
        spoiled(None, "typo")


@pytest.mark.parametrize("fault", CAUGHT)
def test_fault_is_caught_by_its_layer_and_named(fault):
    layer, cause, evidence, remedy = CAUGHT[fault]
    for checks in played(Behaviour(fault=fault)):
        failed = next(check for check in checks if check.status == "fail")
        assert failed.name == TITLES[layer]
        assert cause in failed.detail
        assert evidence in failed.detail or fault == "no-results"
        assert remedy in failed.remedy


@pytest.mark.parametrize("fault", sorted(HARMLESS))
def test_server_that_ranks_is_no_failure(fault):
    for checks in played(Behaviour(fault=fault)):
        assert [check for check in checks if check.status == "fail"] == []
        assert connection.ConnectionResult(tuple(checks)).rerank_succeeded


@pytest.mark.parametrize(
    ("behaviour", "layer", "cause"),
    [
        (Behaviour(model="other"), "models", "stub-reranker is not among: other"),
        (Behaviour(max_tokens=4), "rerank", "over-long: one document is longer"),
        (Behaviour(max_tokens=4, names_output=True), "rerank", "over-long: one document is longer"),
    ],
)
def test_wrong_model_and_long_document(behaviour, layer, cause):
    for checks in played(behaviour):
        failed = [check for check in checks if check.status == "fail"]
        assert failed[0].name == TITLES[layer]
        assert cause in failed[0].detail
        if behaviour.max_tokens:
            assert "a chunk has 19 tokens or more" in failed[0].remedy
        if layer == "models":
            assert "wrong model" in failed[1].detail, "the call tells a wrong model from a wrong path"


def test_first_words_of_a_page_without_a_title():
    found = only(answer("health", "HTTP 200", status=200, kind="text/html", text="<html><b>Go\n away</b>"))
    assert '"Go away"' in found.detail


def test_rules_can_be_searched_and_none_is_hidden():
    words = [rule.words for rule in RULES]
    assert len(set(words)) == len(words)
    values = {"host": "h", "where": "w", "bridge": "b", "timeout": 30.0, "tokens": 1}
    assert all(rule.remedy.format(**values) for rule in RULES)


def test_model_that_is_not_served_names_the_one_that_is():
    found = only(answer(models=("other",)))
    assert found.status == "fail"
    assert found.detail == "model is not among: other"
    assert "served now: other" in found.remedy


@pytest.mark.parametrize(
    ("name", "release", "detail"),
    [
        ("model___VLLM", "v0.25.3", "cuts a name at ___ and sends model"),
        ("model@home", "v0.25.3", "first @"),
        ("model", "v0.17.2", "model___VLLM (RAGFlow v0.17.2 makes it of model) is not among"),
    ],
)
def test_model_is_asked_for_by_the_name_that_ragflow_makes(name, release, detail):
    assert detail in only(answer(models=(name,)), name=name, release=release).detail


def test_slashes_go_through():
    found = judge(answer(models=("Qwen/Qwen3-Reranker-0.6B",)), name="Qwen/Qwen3-Reranker-0.6B")
    assert found[4].status == "ok"


@pytest.mark.parametrize(
    "scores",
    [(), SCORES[:2], ((0, 0.1), (1, 0.9), (1, 0.2)), ((1, 0.1), (2, 0.9), (3, 0.2)), (*SCORES, (3, 0.3))],
)
def test_one_score_for_each_document(scores):
    found = only(answer(scores=scores))
    assert found.status == "fail"
    assert "3 documents went out" in found.detail


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_are_numbers(score):
    found = only(answer(scores=((0, score), *SCORES[1:])))
    assert (found.status, "dtype" in found.remedy) == ("fail", True)


def test_wrong_order_is_a_warning():
    found = only(answer(scores=((0, 0.9), (1, 0.1), (2, 0.2))))
    assert (found.status, "scores look wrong" in found.remedy) == ("warn", True)


PROXIES = {"http": "http://me:secret@proxy.test:3128", "no": "localhost, db"}


class TestProxy:
    def test_that_would_catch_the_call(self):
        found = only(answer(), proxies=PROXIES)
        assert (found.name, found.status) == (connection.PROXY, "warn")
        assert "HTTP_PROXY=http://proxy.test:3128 would catch reranker" in found.detail
        assert "NO_PROXY=localhost, db does not except it" in found.detail
        assert "secret" not in found.detail
        assert "add reranker to NO_PROXY" in found.remedy

    def test_with_an_exception(self):
        assert len(judge(answer(), proxies=PROXIES | {"no": "db, reranker"})) == 6

    def test_that_caught_it(self):
        checks = judge(answer("rerank", "status_code: 403, body: no", error="ApiError"), proxies=PROXIES)
        failed = next(check for check in checks if check.status == "fail")
        assert "a proxy is between" in failed.detail
        assert "http://proxy.test:3128: status_code: 403" in failed.detail

    def test_that_is_not_the_cause(self):
        failed = answer("rerank", "HTTP 500: oops", error="HttpError", status=500)
        checks = judge(failed, proxies=PROXIES)
        assert "ragops logs" in next(check for check in checks if check.status == "fail").remedy

    def test_of_a_kind_that_the_client_can_not_use(self):
        failed = answer("rerank", "Using SOCKS proxy, but the 'socksio' package is not installed.")
        checks = judge(failed, proxies={"all": "socks5://proxy.test:1080"})
        assert "ALL_PROXY" in next(check for check in checks if check.status == "fail").remedy


class TestCheck:
    @pytest.fixture
    def ask(self, fake, ragflow, probed):
        """Asks; ``inside`` is whether the port answers in the server's own container."""
        fake.add_container("reranker", network=fake.container(ragflow).endpoints[0].network)

        def checks(inside=None, **changed):
            def respond(container, _argv, stdin):
                own = {"tcp": {"ok": inside}} if container.name == "reranker" else changed
                return ExecResult(0, json.dumps(probed(json.loads(stdin), **own)), "")

            fake.respond = respond
            found = RagflowContainer(fake.container(ragflow))
            about = connection.target(found, URL, "model", EMBEDDING)
            return connection.check(fake, found, "vllm-cpu:latest", about, "reranker").checks

        return checks

    def test_asks_from_inside(self, ask):
        assert {check.status for check in ask()} == {"ok"}

    @pytest.mark.parametrize(("inside", "cause"), [(True, "127.0.0.1"), (False, "no process listens")])
    def test_looks_into_the_server_that_refuses(self, ask, inside, cause):
        refused = {"ok": False, "detail": "[Errno 111] Connection refused"}
        failed = next(check for check in ask(inside=inside, tcp=refused) if check.status == "fail")
        assert cause in failed.detail

    def test_firewall_rule_is_for_the_bridge_of_the_common_network(self, ask, fake, ragflow):
        network = fake.container(ragflow).endpoints[0].network
        failed = ask(tcp={"ok": False, "detail": "timed out", "error": "timeout"})[1]
        bridge = f"br-{fake.network(network).id[:12]}"
        assert f"ufw route allow in on {bridge} out on {bridge}" in failed.remedy

    @pytest.mark.parametrize("end", ["stop", "remove_container"])
    def test_without_a_running_server_no_name_server_is_asked(self, ask, fake, end):
        """Docker's name server knows running containers only."""
        getattr(fake, end)("reranker")
        fake.execute = None
        (found,) = ask()
        assert (found.name, found.status) == (connection.RUNS, "fail")
        assert "ragops up" in found.remedy

    def test_without_a_common_network_no_name_server_is_asked(self, ask, fake, ragflow):
        """Docker's name server passes unknown names on to that of the site."""
        fake.disconnect(fake.container(ragflow).endpoints[0].network, "reranker")
        fake.connect("bridge", "reranker")
        fake.execute = None
        found = ask()
        assert (found[0].name, found[0].status) == ("name resolves", "fail")
        assert f"ragops connect {ragflow}" in found[0].remedy
        assert {check.status for check in found[1:]} == {"skip"}

    def test_environment_of_the_container_tells_its_proxies(self, ask, fake, ragflow):
        fake.change(ragflow, environment=("HTTP_PROXY=http://proxy.test:3128",))
        assert ask()[-1].name == connection.PROXY

    @pytest.mark.parametrize(
        ("status", "remedy"), [("paused", "docker unpause {}"), ("exited", "docker start {}")]
    )
    def test_container_that_does_not_run(self, ask, fake, ragflow, status, remedy):
        fake.change(ragflow, status=status)
        (found,) = ask()
        assert (found.status, found.remedy) == ("fail", remedy.format(ragflow))


class TestReport:
    CHECKS = (
        Check("one", "ok", "fine", where="container"),
        Check("second", "warn", "odd", "look", "container"),
        Check("third", "fail", "<broken>", "look"),
        Check("fourth", "fail", "follows", "later"),
    )

    def test_a_warning_is_no_failure(self):
        assert Report("r", self.CHECKS[:2]).ok
        assert not Report("r", self.CHECKS).ok
        assert Report("r", self.CHECKS).first_failure() == self.CHECKS[2]
        assert Report("r", ()).first_failure() is None

    def test_text_groups_by_place_and_shows_remedies_of_what_is_not_well(self):
        lines = str(Report("verify", self.CHECKS, ("a note",))).splitlines()
        assert lines[:3] == ["verify", "from container", "  ok    one     fine"]
        assert lines[4].endswith("hint: look")
        assert lines[5] == "on this host"
        assert lines[-1] == "note: a note"

    def test_html_groups_as_the_text_does_and_is_escaped(self):
        page = Report("r", self.CHECKS, ("a note",))._repr_html_()
        places = ['rowgroup">from container</th>', 'rowgroup">on this host</th>']
        assert [page.count(place) for place in places] == [1, 1]
        assert "odd<br>hint: look" in page
        assert "&lt;broken&gt;<br>hint: look" in page
        assert "fine</td>" in page
        assert "note: a note" in page
