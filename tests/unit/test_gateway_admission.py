"""The gateway's replicas that come back, become wrong, or fail while others are waiting."""

import asyncio
import json

import pytest

from ragops.gateway import dispatch, replicas
from tests.support.gateway import serving
from tests.support.replicas import Replica, _write, reference, response

TEXTS = [f"document {number} " * (3 + number % 5) for number in range(24)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "TICK", 0.005)
    monkeypatch.setattr(dispatch, "LATE_SECONDS", 100.0)  # on a busy machine any share may be slow


def right(query="which one"):
    return response({"query": query, "documents": TEXTS})[1]["results"]


def test_a_paused_replica_is_proved_at_once_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "HEALTH_TIMEOUT", 0.1)

    async def scenario():
        async with serving(tmp_path, Replica(), stub := Replica()) as gateway:
            stub.behave(fault="hang")  # also of health checks
            await gateway.until(lambda: len(gateway.pool.admitted) == 1)
            stub.behave(fault="")
            await gateway.until(lambda: len(gateway.pool.admitted) == 2, seconds=30)

    asyncio.run(scenario())


def test_a_request_to_a_gateway_that_has_just_started_waits_for_the_first_proof(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), expected=0) as gateway:
            assert not gateway.pool.admitted
            assert (await gateway.rerank(documents=TEXTS)).json()["results"] == right()

    asyncio.run(scenario())


def test_a_request_after_an_idle_time_waits_for_a_replica_that_is_being_proved(tmp_path, monkeypatch):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            monkeypatch.setattr(dispatch, "GRACE_SECONDS", 30.0)
            replica = client.pool.admitted[0]
            client.pool.fail(replica, "TimeoutError")
            assert (await client.rerank(documents=TEXTS)).status_code == 200

    asyncio.run(scenario())


def test_a_request_without_any_response_ends_after_a_multiple_of_its_expected_time(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "PROOF_TIMEOUT", 0.05)

    async def scenario():
        async with serving(tmp_path, Special()) as gateway:
            lost = asyncio.ensure_future(gateway.rerank(documents=["lost"]))
            await gateway.until(lambda: gateway.dispatcher.shares)
            await gateway.until(lambda: not gateway.dispatcher.shares)
            lost.cancel()
            await gateway.admitted(1)
            assert (await gateway.rerank(documents=["another"])).status_code == 200

    asyncio.run(scenario())


def test_a_process_that_is_replaced_between_two_health_checks_is_proved(tmp_path):
    async def scenario():
        async with serving(tmp_path, stub := Replica()) as gateway:
            await stub.stop()
            await gateway.until(lambda: not gateway.pool.admitted)
            (replica,) = gateway.pool.replicas.values()
            assert replica.missed in {1, 2}
            stub.behave(fault="wrong")
            await stub.start()
            await gateway.until(lambda: replica.state == "rejected")

    asyncio.run(scenario())


def test_scores_of_a_replica_that_became_wrong_leave_the_cache(tmp_path, monkeypatch):
    async def scenario():
        async with serving(tmp_path, stub := Replica(), cache=1000) as gateway:
            stub.behave(fault="wrong")
            assert (await gateway.rerank(documents=TEXTS)).json()["results"] != right()
            (replica,) = gateway.pool.replicas.values()
            replica.due = 0.0
            await gateway.until(lambda: replica.state == "rejected")
            stub.behave(fault="")
            replica.due = 0.0
            await gateway.admitted(1)
            again = await gateway.rerank(documents=TEXTS)
            assert (again.headers["x-cached"], again.json()["results"]) == ("0", right())

    asyncio.run(scenario())


def test_no_request_waits_for_ever_behind_newer_ones(tmp_path, monkeypatch):
    """One share each, but for the first: its second share is due, while there is always a newer request."""
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.1)

    async def scenario():
        async with serving(tmp_path, Replica(fixed=0.02, per_byte=2e-5), deadline=20) as gateway:
            ended = asyncio.Event()

            async def newer(client):
                number = 0
                while not ended.is_set():
                    number += 1
                    await gateway.rerank(query=f"{client} {number}", documents=TEXTS[:1])

            clients = [asyncio.ensure_future(newer(client)) for client in range(3)]
            try:
                async with asyncio.timeout(30):
                    reply = await gateway.rerank(documents=TEXTS * 2)
            finally:
                ended.set()
                await asyncio.gather(*clients)
            assert reply.headers["x-ranked"] == "48/48"

    asyncio.run(scenario())


def test_a_share_that_is_cancelled_before_it_starts_frees_its_replica(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica()) as gateway:
            (replica,) = gateway.pool.replicas.values()
            request = asyncio.ensure_future(gateway.rerank(documents=TEXTS))
            hand_out = gateway.dispatcher._hand_out

            def handed_out(*arguments):
                hand_out(*arguments)
                gateway.dispatcher._hand_out = hand_out
                gateway.dispatcher.restart()  # before the loop has run the share's task

            gateway.dispatcher._hand_out = handed_out
            async with asyncio.timeout(30):
                assert (await request).json()["results"] == right()
            assert not replica.busy

    asyncio.run(scenario())


class Special(Replica):
    """A stub replica whose requests with one text go wrong."""

    async def _rerank(self, reader, writer, body):
        if b"poison" in body:
            return await _write(writer, 500, {"error": {"message": "Out of range float values", "code": 500}})
        if b"lost" in body:
            await asyncio.sleep(3600)
        return await super()._rerank(reader, writer, body)


def test_a_duplicate_that_is_cancelled_before_its_first_step_leaves_its_replica_free(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), Replica()) as gateway:
            send, held = gateway.pool.send, []

            async def hold(replica, path, body, *rest, **fields):
                reply = await send(replica, path, body, *rest, **fields)
                if body and b"one text" in body:
                    held.append(asyncio.get_running_loop().create_future())
                    await held[-1]
                return reply

            gateway.pool.send = hold
            sent = asyncio.ensure_future(gateway.rerank(documents=["one text"]))
            await gateway.until(lambda: held)
            [share] = gateway.dispatcher.shares
            share.slow = True
            held[0].set_result(None)  # it ends in the turn of the loop ...
            gateway.dispatcher.pump()  # ... in which it is sent once more
            assert len(gateway.dispatcher.shares) == 2
            assert (await sent).status_code == 200
            await gateway.until(lambda: not any(one.busy for one in gateway.pool.replicas.values()))

    asyncio.run(scenario())


def test_scores_of_a_replica_that_failed_before_it_was_rejected_leave_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "LONGEST_PAUSE", 0.05)

    async def scenario():
        async with serving(tmp_path, stub := Replica(), cache=1000) as gateway:
            [replica] = gateway.pool.replicas.values()
            stub.behave(fault="wrong")
            assert (await gateway.rerank(documents=TEXTS)).json()["results"] != right()
            gateway.pool.fail(replica, "of a share")
            await gateway.until(lambda: replica.state == "rejected")
            assert not gateway.dispatcher.cache
            stub.behave(fault="")
            await gateway.admitted(1)
            assert (await gateway.rerank(documents=TEXTS)).json()["results"] == right()

    asyncio.run(scenario())


def test_a_lost_response_holds_no_replica_after_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "LATE_SECONDS", 0.02)

    async def scenario():
        async with serving(tmp_path, Special(), cache=1000, deadline=5) as gateway:
            assert (await gateway.rerank(documents=["lost"])).status_code == 503
            await gateway.until(lambda: not gateway.dispatcher.shares)
            assert (await gateway.rerank(documents=["another"])).status_code == 200

    asyncio.run(scenario())


def test_a_share_that_ends_late_after_the_deadline_teaches_how_slow_its_replica_is(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "LATE_SECONDS", 1.0)

    async def scenario():
        async with serving(tmp_path, Special(), cache=1000, deadline=0.5) as gateway:
            [replica] = gateway.pool.replicas.values()
            assert (await gateway.rerank(documents=["lost"])).status_code == 503
            await gateway.until(lambda: not gateway.dispatcher.shares and not replica.busy)
            assert max(seconds for _, seconds in list(replica.paces)[-1:]) > 1.0
            assert len(replica.paces) == 3  # after two reference requests

    asyncio.run(scenario())


def test_a_share_that_is_cancelled_in_its_time_teaches_no_pace(tmp_path):
    """Its replica was taken out for another reason, and the other one had the scores first."""

    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs) as gateway:
            for stub in stubs:
                stub.behave(fixed=3600)
            sent = asyncio.ensure_future(gateway.rerank(documents=["one text"]))
            await gateway.until(lambda: sum(stub.counts["now"] for stub in stubs) == 1)
            [share] = gateway.dispatcher.shares
            next(stub for stub in stubs if not stub.counts["now"]).behave(fixed=0.0)
            before, share.replica.failures = list(share.replica.paces), 9  # no proof for long
            gateway.pool.fail(share.replica, "TimeoutError")
            assert (await sent).status_code == 200
            await gateway.until(lambda: not share.replica.busy)
            assert list(share.replica.paces) == before

    asyncio.run(scenario())


def test_documents_that_are_cut_teach_no_pace_and_cost_what_is_left_of_them(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(per_byte=1e-6, max_tokens=500), deadline=60) as gateway:
            [replica] = gateway.pool.replicas.values()
            before = list(replica.paces)
            reply = await gateway.rerank(documents=["long " * 20000])
            assert (reply.status_code, reply.headers["x-truncated"]) == (200, "1")
            assert list(replica.paces) == before
            assert gateway.dispatcher.longest == 500 * dispatch.BYTES_OF_TOKEN

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [1, 2])
def test_a_document_that_vllm_fails_on_is_no_fault_of_the_replicas(tmp_path, number):
    async def scenario():
        async with serving(tmp_path, *(Special() for _ in range(number))) as gateway:
            for _ in range(3):
                poison = asyncio.ensure_future(gateway.rerank(documents=["poison", "x"]))
                while not poison.done():
                    assert (await gateway.rerank(documents=TEXTS)).status_code == 200
                reply = await poison
                assert (reply.status_code, reply.json()["error"]["message"][:12]) == (500, "Out of range")

    asyncio.run(scenario())


def test_a_replica_that_hangs_in_its_periodic_proof_is_taken_out(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "HEALTH_TIMEOUT", 0.1)

    async def scenario():
        async with serving(tmp_path, stub := Replica()) as gateway:
            [replica] = gateway.pool.replicas.values()
            stub.behave(fault="hang")
            replica.due = 0.0
            await gateway.until(lambda: replica.state == "down")
            assert (await gateway.rerank(documents=TEXTS)).status_code == 503

    asyncio.run(scenario())


def test_a_replica_whose_proof_is_overdue_gets_that_first(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.2)

    async def scenario():
        async with serving(tmp_path, stub := Replica()) as gateway:
            [replica] = gateway.pool.replicas.values()
            replica.due, proofs = -1000.0, stub.counts["requests"]
            assert gateway.pool.free == []
            assert (await gateway.rerank(documents=["one"])).status_code == 200
            assert stub.counts["requests"] == proofs + 2

    asyncio.run(scenario())


@pytest.mark.parametrize(("deadline", "seconds"), [(60, 2.0), (8, 1.0)])
def test_a_share_takes_a_fraction_of_a_short_deadline(tmp_path, deadline, seconds):
    async def scenario():
        async with serving(tmp_path, stub := Replica(), deadline=deadline) as gateway:
            stub.behave(fixed=3600)
            [replica] = gateway.pool.replicas.values()
            replica.paces.clear()
            replica.learn(0.01, 10)
            sent = asyncio.ensure_future(gateway.rerank(documents=[f"{number:91}" for number in range(100)]))
            await gateway.until(lambda: gateway.dispatcher.shares)
            [share] = gateway.dispatcher.shares
            assert share.expected == pytest.approx(seconds, abs=0.11)
            sent.cancel()

    asyncio.run(scenario())


def test_a_deadline_in_which_no_document_fits_is_an_error_that_says_so(tmp_path):
    async def scenario():
        async with serving(tmp_path, stub := Replica(), deadline=0.3) as gateway:
            stub.behave(fixed=3600)
            replies = await asyncio.gather(*(gateway.rerank(str(number), TEXTS) for number in range(2)))
            messages = {reply.json()["error"]["message"] for reply in replies}
            assert [reply.status_code for reply in replies] == [503, 503]
            assert any("first share takes longer" in message for message in messages)
            assert all("by the deadline of" in message for message in messages)

    asyncio.run(scenario())


def test_no_replica_of_the_former_model_gets_a_share_while_the_model_changes(tmp_path):
    """One is busy and the others are free when the new model's first replica passes."""

    async def scenario():
        former, new = [Replica(fixed=0.03) for _ in range(3)], Replica(fixed=0.03, seed="new")
        async with serving(tmp_path, *former, new, expected=3, cache=1000) as gateway:
            changed = reference(identity="2" * 12, seed="new", requests=3)
            (tmp_path / "reference.json").write_text(json.dumps(changed))
            queries = []
            while gateway.pool.serving != changed["id"]:
                queries.append(f"query {len(queries)}")
                await gateway.rerank(query=queries[-1], documents=TEXTS[:1])
            reply = await gateway.rerank(query=queries[-1], documents=TEXTS[:1])
            request = {"query": queries[-1], "documents": TEXTS[:1]}
            assert reply.json()["results"] == response(request, new.behaviour)[1]["results"]

    asyncio.run(scenario())


def test_a_replica_that_failed_for_hours_is_taken_out_like_any_other(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica()) as gateway:
            (replica,) = gateway.pool.replicas.values()
            replica.failures = 1 << 20
            gateway.pool.fail(replica, "HTTP 500")
            assert replica.state == "checking"
            assert replica.due > asyncio.get_running_loop().time() + replicas.LONGEST_PAUSE / 2

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["a..b:8000", f"{'x' * 70}:8000"])
def test_a_text_that_can_be_no_name_leaves_the_others_watched(tmp_path, host):
    async def scenario():
        async with serving(tmp_path, stub := Replica()) as gateway:
            gateway.pool.hosts.append(host)
            await asyncio.sleep(0.05)
            await stub.stop()
            await gateway.until(lambda: not gateway.pool.admitted, seconds=30)

    asyncio.run(scenario())


@pytest.mark.parametrize("count", ["[]", "null", '{"count": []}', "{"])
def test_a_malformed_count_of_tokens_is_a_failure_and_no_wait_for_ever(tmp_path, count):
    class Odd(Replica):
        def _other(self, method, path, body):
            status, reply = super()._other(method, path, body)
            return status, count.encode() if path == "/tokenize" else reply

    async def scenario():
        async with serving(tmp_path, Odd(max_tokens=30)) as gateway, asyncio.timeout(30):
            assert (await gateway.rerank(documents=["word " * 50])).status_code in {200, 503}

    asyncio.run(scenario())


def test_a_removed_replica_that_passes_a_new_reference_changes_nothing(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), new := Replica(seed="new"), expected=1) as gateway:
            pool, changed = gateway.pool, reference(identity="2" * 12, seed="new")
            removed = pool.replicas[new.address]
            pool.hosts.remove(new.address)
            read, rounds = pool.read_reference, []
            pool.read_reference = lambda: rounds.append(read())
            await gateway.until(lambda: rounds)  # it is not being resolved any more
            await gateway.until(lambda: not removed.busy)
            pool.resolved(new.address, set())
            pool.reference = changed
            await pool._prove(removed, changed)
            assert len(pool.admitted) == 1
            assert pool.serving != changed["id"]

    asyncio.run(scenario())


@pytest.mark.parametrize("cache", [0, 100])
def test_at_the_deadline_the_time_of_a_running_share_is_the_replicas(tmp_path, cache):
    async def scenario():
        async with serving(tmp_path, stub := Replica(per_byte=1e-3), deadline=6, cache=cache) as gateway:
            texts = [f"a document of some length {number}" for number in range(200)]
            stub.behave(fault="hang", every=stub.counts["requests"] + 2)  # the second share runs until then
            reply = await gateway.rerank(documents=texts)
            own = reply.headers["server-timing"].removeprefix("gateway;dur=").partition(",")[0]
            assert 0 < int(reply.headers["x-ranked"].partition("/")[0]) < len(texts)
            assert float(own) < 3000  # the second share runs for about 5 s

    asyncio.run(scenario())


@pytest.mark.parametrize("loop", ["pool", "dispatcher"])
def test_an_unexpected_error_ends_no_loop(tmp_path, monkeypatch, caplog, loop):
    """A replica that fails afterwards is taken out, and a request is served."""

    async def scenario():
        async with serving(tmp_path, Replica(), stub := Replica()) as gateway:
            part, name = {
                "pool": (gateway.pool, "read_reference"),
                "dispatcher": (gateway.dispatcher, "pump"),
            }[loop]
            right_one = getattr(part, name)

            def fail():
                setattr(part, name, right_one)
                raise RuntimeError

            setattr(part, name, fail)
            await gateway.until(lambda: "RuntimeError" in caplog.text)
            await stub.stop()
            await gateway.until(lambda: len(gateway.pool.admitted) == 1)
            assert (await gateway.rerank(documents=TEXTS)).json()["results"] == right()
            held = []
            monkeypatch.setattr(gateway.dispatcher, "pump", lambda: held.append(True))
            await gateway.until(lambda: held)  # it goes on without requests

    asyncio.run(scenario())


def test_documents_of_a_failed_share_wait_until_they_are_handed_out_again(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica()) as gateway:
            send, waiting = gateway.pool.send, []

            async def fail(replica, path, *rest, **fields):
                if path == "/v1/rerank" and gateway.dispatcher.shares:
                    gateway.pool.send = send
                    raise ConnectionResetError
                return await send(replica, path, *rest, **fields)

            failed = gateway.dispatcher._failed

            def note(share, *rest):
                failed(share, *rest)
                waiting.append(share.job.waiting)

            gateway.dispatcher._failed, gateway.pool.send = note, fail
            assert (await gateway.rerank(documents=["one text"])).status_code == 200
            assert waiting == [True]

    asyncio.run(scenario())


def test_a_score_that_is_computed_again_is_the_last_that_leaves_the_cache(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), cache=2) as gateway:
            for text, headers in [("a", {}), ("b", {}), ("a", {"Cache-Control": "no-cache"}), ("c", {})]:
                await gateway.rerank(documents=[text], headers=headers)
            cached = [(await gateway.rerank(documents=[text])).headers["x-cached"] for text in ("a", "b")]
            assert cached == ["1", "0"]

    asyncio.run(scenario())
