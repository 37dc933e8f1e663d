"""What the live tests measure of a load, and the ports that they give to servers."""

from pathlib import Path

import pytest

from benchmarks import free_port
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
