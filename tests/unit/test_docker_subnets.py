"""Free and overlapping subnets, and the subnets that a host uses."""

import pytest

from ragops.docker import objects
from ragops.docker.objects import NetworkSpec
from ragops.errors import EngineError
from ragops.reranker import host


def test_a_new_engine_has_31_subnets():
    found = objects.free_subnets(objects.POOLS, ())
    assert (len(found), found[0], found[-1]) == (31, "172.17.0.0/16", "192.168.240.0/20")


def test_networks_routes_and_name_servers_take_theirs_away():
    taken = ("172.18.0.0/16", "172.20.5.0/24", "192.168.1.1/32", "fd00::/64")
    found = objects.free_subnets(objects.POOLS, taken)
    assert len(found) == 28
    assert not {"172.18.0.0/16", "172.20.0.0/16", "192.168.0.0/20"} & set(found)


def test_a_route_may_take_many():
    assert len(objects.free_subnets(objects.POOLS, ("172.16.0.0/12",))) == 16
    assert objects.free_subnets(objects.POOLS, ("172.16.0.0/12", "192.168.0.0/16")) == ()


def test_pools_of_ones_own_are_not_counted_to_the_end():
    assert len(objects.free_subnets((("10.0.0.0/8", 24),), ())) == objects.MAX_SUBNETS
    assert objects.free_subnets((("10.5.0.0/24", 16), ("fd00::/48", 64)), ()) == ("10.5.0.0/24",)


def test_overlapping_ones_are_named():
    assert objects.overlapping_subnets("10.1.0.0/16", ("10.1.2.0/24", "10.2.0.0/16", "fd00::/64")) == (
        "10.1.2.0/24",
    )


def test_routes_as_the_kernel_writes_them(tmp_path):
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert host.parse_routes(table) == ("172.17.0.0/16", "192.0.2.0/24")
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/net/route").write_text(table)
    (tmp_path / "etc/resolv.conf").write_text("search x\nnameserver 192.168.0.1\nnameserver ::1\n")
    assert host.read_addresses(tmp_path) == ("172.17.0.0/16", "192.0.2.0/24", "192.168.0.1/32")
    assert host.read_addresses(tmp_path / "none") == ()


def test_the_fake_engine_runs_out_where_it_is_predicted(fake):
    for number in range(30):  # bridge has the first
        fake.create_network(NetworkSpec(f"n{number}"))
    subnets = [subnet for one in fake.networks() for subnet in one.subnets]
    assert objects.free_subnets(objects.POOLS, subnets) == ()
    with pytest.raises(EngineError, match="non-overlapping IPv4 address pool"):
        fake.create_network(NetworkSpec("one-more"))
    fake.create_network(NetworkSpec("named", subnet="10.77.0.0/24"))
