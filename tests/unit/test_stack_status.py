"""What ``status`` shows of the gateway and its replicas."""

import dataclasses
import json

import pytest

from ragops import cli
from ragops.checks.connection import RUNS
from ragops.checks.verify import ADMITTED
from ragops.configuration import Reranker, Stack
from ragops.docker.objects import ExecResult
from ragops.reranker.gateway import Cache, GatewayState, Hour
from ragops.stack import verbs

STACK = Stack(reranker=Reranker(replicas=2))
NAME = STACK.reranker.name
FIRST, SECOND = STACK.replica_names
STATE = GatewayState("0" * 12, 27.0, Cache(limit=1000), Hour(), ())


@pytest.fixture
def shown(serving, here):
    """The status of a stack that runs, as an object, as rows and as JSON."""
    verbs.up(STACK, serving)
    for name in (NAME, FIRST, SECOND):
        serving.change(name, health="healthy")

    def look(change=None):
        respond = serving.respond
        serving.respond = changed(respond, change)
        status = verbs.status(STACK, serving)
        serving.respond = respond
        rows = [" ".join(row) for row in status.table().rows if not isinstance(row, str)]
        return status, rows, json.loads(cli.output.as_json(status))

    return look


def changed(respond, change):
    """The programs' results, with another state of the gateway."""

    def result(box, argv, stdin):
        original = respond(box, argv, stdin)
        if change and box.name == NAME and argv[1] == "-ISc":
            return ExecResult(0, json.dumps(change(json.loads(original.stdout))), "")
        return original

    return result


def rejecting(address):
    def change(state):
        for row in state["replicas"]:
            if row["address"] == address:
                row.update(state="rejected", reason="scores differ by 0.31")
        return state

    return change


def test_all_admitted(shown):
    status, rows, fields = shown()
    assert status.ok
    assert status.problem is None
    assert rows[1].startswith(f"gateway {NAME}: running healthy\ndeadline 27 s, ")
    assert rows[2:4] == [f"replica {name}: running healthy, admitted" for name in (FIRST, SECOND)]
    assert [row["admitted"] for row in fields["replicas"]] == [True, True]
    assert fields["gateway"]["deadline"] == 27.0


def test_replica_that_is_rejected(shown, serving):
    address = f"{serving.container(SECOND).endpoints[0].address}:8000"
    status, rows, fields = shown(rejecting(address))
    assert not status.ok
    assert status.problem.code == "replica-rejected"
    assert "not admitted: " in rows[3]
    assert f"{address}: scores differ by 0.31" in rows[3]
    assert [row["admitted"] for row in fields["replicas"]] == [True, False]
    assert fields["replicas"][1]["problem"]["code"] == "replica-rejected"


def test_replica_that_is_gone(shown, serving):
    serving.remove_container(SECOND)
    status, rows, _ = shown()
    assert status.problem.code == "reranker-missing"
    assert rows[3].startswith(f"replica {SECOND}: missing, not admitted: ")


def test_gateway_that_does_not_respond(shown, serving):
    serving.change(NAME, status="paused")
    status, rows, fields = shown()
    assert status.problem.code == "reranker-paused"
    assert fields["gateway"] is None
    assert all("not admitted" in row for row in rows[2:4])


class TestVerify:
    """The same states as checks of verify."""

    @pytest.fixture
    def verified(self, ragflow, shown, serving):
        def verify(change=None):
            respond = serving.respond
            serving.respond = changed(respond, change)
            report = verbs.verify(STACK, serving)
            return report, [check for check in report.checks if check.name == ADMITTED]

        return verify

    def test_all_admitted(self, verified):
        report, admitted = verified()
        assert [check.status for check in admitted] == ["ok"]
        assert [check.name for check in report.checks if check.status == "fail"] == []

    def test_one_of_two_is_a_warning(self, verified, serving):
        report, admitted = verified(rejecting(f"{serving.container(SECOND).endpoints[0].address}:8000"))
        assert [(check.status, SECOND in check.detail) for check in admitted] == [("warn", True)]
        assert [check.name for check in report.checks if check.status == "fail"] == []

    def test_stopped_replica_is_a_warning_with_its_cause(self, verified, serving):
        serving.change(SECOND, status="exited", exit_code=132)
        _, admitted = verified()
        assert [(check.status, "SIGILL" in check.detail) for check in admitted] == [("warn", True)]

    def test_none_is_the_only_failure(self, verified):
        report, admitted = verified(lambda state: {**state, "replicas": []})
        assert [check.status for check in admitted] == ["fail", "fail"]
        assert len(report.checks) == 2

    def test_gateway_that_is_paused(self, verified, serving):
        serving.change(NAME, status="paused")
        report, _ = verified()
        assert [(check.name, check.status) for check in report.checks] == [(RUNS, "fail")]

    def test_programs_run_with_an_image_of_vllm(self, verified, serving, ragflow):
        images = []
        create = serving.create_container
        serving.create_container = lambda spec: images.append(spec.image) or create(spec)
        verified()
        assert images
        assert set(images) == {serving.container(FIRST).image_id}

    def test_first_version_stack_is_verified_as_it_is(self, ragflow, serving, here):
        verbs.up(Stack(gateway=False), serving)
        report = verbs.verify(Stack(), serving)
        assert [check.name for check in report.checks if check.status == "fail"] == []
        assert ADMITTED not in [check.name for check in report.checks]


def test_without_a_gateway_there_are_no_replicas(serving, here):
    stack = Stack(gateway=False)
    verbs.up(stack, serving)
    status = verbs.status(stack, serving)
    assert (status.gateway, status.admission) == (None, ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "deadline 27 s, cache empty, no request in the last hour"),
        ({"deadline": 0.0, "cache": Cache()}, "no deadline, no cache, no request in the last hour"),
        (
            {"cache": Cache(80, 1000, 30, 90), "hour": Hour(10, 0, 640, 640, 0)},
            "deadline 27 s, cache 25 % of 120 documents, 100 % of 640 documents ranked in the last hour",
        ),
        ({"hour": Hour(10, 2, 10_000, 9_999, 3)}, "99.9 % of 10,000 documents ranked in the last hour"),
        ({"hour": Hour(10, 2, 640, 330, 3)}, "51.5 % of 640 documents ranked in the last hour, 2 of 10"),
        ({"hour": Hour(10, 0, 640, 640, 3)}, ", documents cut: 3"),
    ],
)
def test_gateway_in_words(fields, words):
    assert words in dataclasses.replace(STATE, **fields).summary
