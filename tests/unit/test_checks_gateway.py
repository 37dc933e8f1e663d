"""The score check through a gateway: what it may do is no fault, and each fault of a replica is still one."""

import asyncio
import dataclasses
import json
from contextlib import AsyncExitStack, ExitStack

import httpx
import pytest

from benchmarks.calibrate import check_stub, results_of
from ragops.checks import probe, questions, reference, rules, verify
from ragops.checks.probe import ProbeResponse
from ragops.checks.questions import Expected
from ragops.checks.ready import ReplicaStatus
from ragops.errors import LaunchError
from ragops.gateway import replicas
from ragops.gateway.app import Gateway
from tests.support.faulty_scorers import FAULTY_SCORERS
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
            async with asyncio.timeout(10):
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
    return rows and all(row.reason != "not yet proved" for row in rows)


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
