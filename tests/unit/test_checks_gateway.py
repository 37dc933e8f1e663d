"""The score check through a gateway: what it may do is no fault, and each fault of a replica is still one."""

import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack

import httpx
import pytest

from benchmarks.calibrate import check_stub, results_of
from ragops.checks import budget, probe, questions, reference, rules, verify
from ragops.checks.probe import ProbeResponse
from ragops.checks.questions import Expected
from ragops.checks.ready import ReplicaStatus
from ragops.docker.objects import ExecResult
from ragops.errors import LaunchError
from ragops.gateway import dispatch, replicas
from ragops.gateway.app import Gateway
from ragops.ragflow.discovery import RagflowContainer
from tests.support.faulty_scorers import FAULTY_SCORERS
from tests.support.served import Served
from tests.support.stub import Behaviour, StubReranker

QWEN = Expected("stub-reranker", "qwen3-reranker", 8192)
HEALTHY = Behaviour(scorer="healthy", prompt="card")
MALFORMED = {"nan", "indices", "duplicates"}
"""Faults of a response's form, with which the gateway admits no replica."""
MISSING = {"capped", "deduplicated"}
"""Faults of longer responses, of which the gateway uses none."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A replica that failed is proved again at once."""
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(replicas, "LONGEST_PAUSE", 0.0)


def wrong(scorer):
    return dataclasses.replace(HEALTHY, scorer=scorer)


def through(folder, *behaviours, right=None, headers=probe.STRICT, deadline=0.0):
    """Checks of the scores, and the states of the replicas.

    Without ``right``, the reference of the gateway, any finite scores are admitted.
    """
    file = folder / "reference.json"
    anything = {"query": "q", "documents": ["a", "b"], "scores": [0, 0]}
    fields = {"id": "0" * 12, "trained": True, "tolerance": 1e9, "requests": [anything]}
    file.write_text(right or json.dumps(fields))

    async def run(addresses):
        environment = {"GATEWAY_REPLICAS": addresses, "GATEWAY_REFERENCE": str(file), "GATEWAY_CACHE": "1000"}
        gateway = Gateway({**environment, "GATEWAY_DEADLINE": f"{deadline}"})
        app = gateway.application
        async with AsyncExitStack() as opened:
            await opened.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
            await opened.enter_async_context(client)
            async with asyncio.timeout(120):
                while not proved(gateway):  # noqa: ASYNC110 - states of another task
                    await asyncio.sleep(0.005)
            states = [row.state for row in gateway.pool.replicas.values()]
            return await responses(client, headers) if "admitted" in states else {}, states

    with ExitStack() as opened:
        stubs = [opened.enter_context(StubReranker(behaviour)) for behaviour in behaviours]
        addresses = ",".join(stub.base_url.split("/")[2] for stub in stubs)
        found, states = asyncio.run(run(addresses))
    plan = questions.plan_requests(QWEN)
    return rules.check_scores(QWEN, questions.parse_responses(plan, found)), states


def proved(gateway):
    rows = gateway.pool.replicas.values()
    return len(rows) == len(gateway.pool.hosts) and all(row.reason != "not yet proved" for row in rows)


async def responses(client, headers):
    plan = questions.plan_requests(QWEN)
    found, unneeded = {}, len(plan.calls) - plan.needed
    for place, request in enumerate(questions.probe_requests(QWEN, plan, "/v1")[:-unneeded]):
        sent = {"content-type": "application/json", **headers}
        reply = await client.post(request.path, content=request.body.encode(), headers=sent)
        found[place] = ProbeResponse(reply.status_code, reply.text)
    return found


def failed(checks):
    return next(check for check in checks if check.status == "fail")


def approved(behaviour=HEALTHY):
    return reference.reference(QWEN, results_of(behaviour, QWEN, needed=True), "0" * 12)


class TestOneReplica:
    def test_healthy_one_passes_as_it_does_directly(self, tmp_path):
        checks, states = through(tmp_path, HEALTHY, right=approved())
        assert states == ["admitted"]
        assert checks == check_stub(HEALTHY, QWEN, needed=True)

    @pytest.mark.parametrize("scorer", sorted({*FAULTY_SCORERS} - MALFORMED - MISSING - {"top-n"}))
    def test_each_fault_is_found_by_the_same_check(self, tmp_path, scorer):
        checks, states = through(tmp_path, wrong(scorer))
        directly = failed(check_stub(wrong(scorer), QWEN, needed=True))
        assert states == ["admitted"]
        assert (failed(checks).name, failed(checks).remedy) == (directly.name, directly.remedy)

    def test_the_gateway_applies_top_n_itself(self, tmp_path):
        assert {check.status for check in through(tmp_path, wrong("top-n"))[0]} == {"ok", "skip"}

    @pytest.mark.parametrize("scorer", sorted(MISSING))
    def test_scores_that_are_missing_are_an_error(self, tmp_path, scorer):
        check = failed(through(tmp_path, wrong(scorer))[0])
        assert check.name == "scores are well formed"
        assert "HTTP 503" in check.detail

    @pytest.mark.parametrize("scorer", sorted(MALFORMED))
    def test_malformed_responses_are_never_admitted(self, tmp_path, scorer):
        assert through(tmp_path, wrong(scorer))[1] == ["checking"]

    @pytest.mark.parametrize("prompt", ["none", "bare", "longer", "newline", "apart"])
    def test_each_wrong_prompt_is_found_by_the_same_check(self, tmp_path, prompt):
        behaviour = dataclasses.replace(HEALTHY, prompt=prompt)
        directly = failed(check_stub(behaviour, QWEN, needed=True))
        assert failed(through(tmp_path, behaviour)[0]) == directly


class TestTwoReplicas:
    """Requests are divided; the gateway knows the right scores of short ones."""

    @pytest.mark.parametrize("other", [HEALTHY, wrong("capped")], ids=["healthy", "lossy"])
    def test_what_one_loses_the_other_ranks(self, tmp_path, other):
        checks, states = through(tmp_path, HEALTHY, other, right=approved())
        assert states == ["admitted"] * 2
        assert {check.status for check in checks} == {"ok", "skip"}

    @pytest.mark.parametrize("scorer", ["constant", "noise", "logits", "generative"])
    def test_wrong_one_is_rejected_and_the_other_serves(self, tmp_path, scorer):
        checks, states = through(tmp_path, HEALTHY, wrong(scorer), right=approved())
        assert sorted(states) == ["admitted", "rejected"]
        assert {check.status for check in checks} == {"ok", "skip"}


class TestDeadline:
    """Timed calls over a real socket: each ends by the deadline, and says how much was ranked."""

    @pytest.fixture
    def timed(self, fake, tmp_path, monkeypatch):
        monkeypatch.setattr(budget, "CALLS", 2)
        monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.05)
        fake.add_container("ragflow-server", image="infiniflow/ragflow:v0.25.3")
        ragflow = RagflowContainer(fake.container("ragflow-server"))
        fake.respond = lambda _box, argv, stdin: run_program(argv, stdin)
        (tmp_path / "reference.json").write_text(approved())

        def measure(deadline, **fields):
            behaviour = dataclasses.replace(HEALTHY, **fields)
            with StubReranker(behaviour) as stub:
                address = stub.base_url.split("/")[2]
                settings = {"REPLICAS": address, "REFERENCE": tmp_path / "reference.json", "CACHE": 1000}
                settings["DEADLINE"] = deadline
                gateway = Gateway({f"GATEWAY_{name}": str(value) for name, value in settings.items()})
                with Served(gateway.application, lifespan="on") as served:
                    url = f"{served.url}/v1"
                    end = time.monotonic() + 120
                    while not gateway.pool.admitted and time.monotonic() < end:
                        time.sleep(0.01)
                    calls = budget.time_calls(fake, ragflow, "vllm-cpu:latest", url, QWEN)
            profile = budget.call_profile(ragflow, QWEN, deadline)
            return calls, {
                check.name: check for check in budget.check_calls(calls, profile, QWEN, 8192, ("x",))
            }

        return measure

    def test_slow_replica(self, timed):
        calls, checks = timed(3.0, per_token_s=0.0005)
        large = [call for call in calls.calls if not call.warm_up]
        assert len(large) == 2
        assert all(not call.error and call.service < 20 for call in large)
        assert all(8 < call.unranked < 64 for call in large)
        assert checks[budget.IN_TIME].status == "warn"
        assert checks[budget.IN_TIME].detail.startswith("partial: ")

    def test_long_document_is_cut_and_counted(self, timed):
        calls, checks = timed(20.0, max_tokens=7000)
        assert (calls.too_long.status, calls.too_long.truncated) == (200, 1)
        assert all(call.unranked == 0 for call in calls.calls)
        assert "cut by the gateway" in checks[budget.LONG].detail
        assert checks[budget.IN_TIME].status == "ok"


def run_program(argv, stdin):
    command = [sys.executable, "-S", "-c", argv[2]]
    ended = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, env={})
    return ExecResult(ended.returncode, ended.stdout, ended.stderr)


class TestAdmitted:
    """A replica that serves nothing is a warning while another serves."""

    BAD = LaunchError("reranker-2 was stopped", code="reranker-stopped", hint="ragops up")

    @pytest.mark.parametrize(
        ("problems", "statuses"),
        [
            ((), []),
            ((None, None), ["ok"]),
            ((None, BAD), ["warn"]),
            ((BAD, None, BAD), ["warn", "warn"]),
            ((BAD, BAD), ["fail", "fail"]),
            ((BAD,), ["fail"]),
        ],
    )
    def test_status(self, problems, statuses):
        states = [ReplicaStatus(f"reranker-{place}", error) for place, error in enumerate(problems, start=1)]
        checks = verify.check_replicas(states)
        assert [check.status for check in checks] == statuses
        for check in checks:
            expected = (
                ("reranker-1, reranker-2", "") if check.status == "ok" else ("reranker-2 was", "ragops up")
            )
            assert expected[0] in check.detail
            assert check.remedy == expected[1]


def test_without_strict_handling_the_cache_hides_a_fault(tmp_path):
    """So the header is needed: a repeated request is not computed again."""
    fault = wrong("noise")
    assert failed(through(tmp_path, fault)[0]).detail.startswith("random: the same request")
    assert not failed(through(tmp_path, fault, headers={})[0]).detail.startswith("random: the same request")
