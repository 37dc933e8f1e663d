"""The gateway's replicas that come back, become wrong, or fail while others are waiting."""

import asyncio

import pytest

from ragops.gateway import dispatch, replicas, split
from tests.support.gateway import serving
from tests.support.replicas import Replica, response

TEXTS = [f"document {number} " * (3 + number % 5) for number in range(24)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(replicas, "HEALTH_TIMEOUT", 0.1)
    monkeypatch.setattr(dispatch, "TICK", 0.005)
    monkeypatch.setattr(dispatch, "LATE_SECONDS", 0.02)


def right(query="which one"):
    return response({"query": query, "documents": TEXTS})[1]["results"]


def test_a_paused_replica_is_proved_at_once_when_it_is_back(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), stub := Replica()) as gateway:
            stub.behave(fault="hang")  # also of health checks
            await gateway.until(lambda: len(gateway.pool.admitted) == 1)
            stub.behave(fault="")
            await gateway.until(lambda: len(gateway.pool.admitted) == 2, seconds=5)

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
    monkeypatch.setattr(split, "SHARE_SECONDS", 0.1)

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
                async with asyncio.timeout(5):
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
            occupy = gateway.dispatcher._occupy

            def occupied(*arguments):
                occupy(*arguments)
                gateway.dispatcher._occupy = occupy
                gateway.dispatcher.restart()  # before the loop has run the share's task

            gateway.dispatcher._occupy = occupied
            async with asyncio.timeout(5):
                assert (await request).json()["results"] == right()
            assert not replica.busy

    asyncio.run(scenario())
