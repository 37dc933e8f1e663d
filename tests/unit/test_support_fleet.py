"""What the live tests measure of a load, and the ports that they give to servers."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import free_port
from tests.support import fault_table
from tests.support.fleet import Load, Question, Sample


def load_that_ended(*ends):
    load = Load("http://127.0.0.1:9", clients=0)
    load.samples = [Sample(Question("q", ()), end - 0.1, end, 200, 0, "", "") for end in ends]
    return load


@pytest.mark.parametrize(
    ("ends", "rate", "seconds"),
    [
        ((), 1, None),
        ((10.5, 11.5), 1, 0.0),
        ((10.5, 11.4, 11.6, 11.8, 13.0), 3, 1.4),
        ((10.5, 11.4, 11.6, 11.8, 12.3), 3, None),  # the window is not over yet
        ((9.0, 9.1, 9.2, 10.5, 12.0), 2, None),
        ((10.5, 10.5, 10.5, 13.0), 3, 0.0),
    ],
)
def test_full_speed_begins_with_the_first_window_of_that_rate(ends, rate, seconds):
    found = load_that_ended(*ends).full_speed(10.0, rate)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_a_free_port_is_none_that_an_outgoing_connection_may_get():
    lowest, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    assert 10_000 <= free_port() < max(int(lowest), 20_000)


@pytest.mark.parametrize(
    ("shares", "idle"), [((1, 2), False), ((1, 1), True), ((None, 2, 2), True), ((1, None), True)]
)
def test_a_replica_is_idle_until_the_gateway_shows_that_it_got_work(monkeypatch, shares, idle):
    """While the gateway does not respond, nothing shows it."""
    monkeypatch.setattr(fault_table, "LIMIT", 0.5)
    monkeypatch.setattr(fault_table, "QUIET", 0.0)
    answers = iter((1, *shares))

    def states():
        count[0] = next(answers, count[0])
        return [] if count[0] is None else [{"address": "a", "state": "admitted", "shares": count[0]}]

    count, sample = [1], Sample(Question("q", ()), 0.0, 0.1, 200, 0, "", "")
    fleet = SimpleNamespace(states=states, wait=lambda *_: time.monotonic())
    load = SimpleNamespace(full_speed=lambda *_: None, between=lambda *_: [sample])
    fault = fault_table.Fault("none", lambda _: None, seconds=0.0, after=1)
    assert fault_table.run(fleet, load, 1.0, fault).idle is idle
