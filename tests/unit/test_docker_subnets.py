"""Overlapping subnets, and a fake engine without a free one."""

import pytest

from ragops.docker import objects
from ragops.docker.objects import NetworkSpec
from ragops.errors import EngineError


def test_overlapping_ones_are_named():
    assert objects.overlapping_subnets("10.1.0.0/16", ("10.1.2.0/24", "10.2.0.0/16", "fd00::/64")) == (
        "10.1.2.0/24",
    )


def test_the_fake_engine_runs_out_as_docker_does(fake):
    for number in range(30):  # bridge has the first of 31
        fake.create_network(NetworkSpec(f"n{number}"))
    with pytest.raises(EngineError, match="non-overlapping IPv4 address pool"):
        fake.create_network(NetworkSpec("one-more"))
    fake.create_network(NetworkSpec("named", subnet="10.77.0.0/24"))
