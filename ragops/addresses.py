"""Which subnets are left for networks that name none; pure.

The engine takes the next subnet of its pools that overlaps neither another network nor a route or
name server of its host. Source: moby's ``libnetwork/ipamutils`` and ``libnetwork/netutils``.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_network
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Pool = tuple[str, int]
"""A range, and the prefix length of the subnets that are cut from it."""

POOLS: tuple[Pool, ...] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)
"""Those of an engine whose ``daemon.json`` has no ``default-address-pools``."""

ENOUGH = 100
"""No more are counted: pools of one's own may hold thousands."""


def free(pools: Iterable[Pool], taken: Iterable[str]) -> tuple[str, ...]:
    """Subnets that a new network could get, the first :data:`ENOUGH` of them.

    Args:
        pools: The engine's.
        taken: Subnets of networks, routes and name servers; IPv6 ones don't matter.
    """
    occupied = tuple(_v4(taken))
    found = (one for one in _subnets(pools) if not any(one.overlaps(other) for other in occupied))
    return tuple(str(one) for one in islice(found, ENOUGH))


def overlapping(subnet: str, taken: Iterable[str]) -> tuple[str, ...]:
    """Those of the subnets that overlap this one."""
    one = ip_network(subnet, strict=False)
    others = ((text, ip_network(text, strict=False)) for text in taken)
    return tuple(text for text, other in others if other.version == one.version and one.overlaps(other))


def parse_routes(text: str) -> tuple[str, ...]:
    """Subnets in ``/proc/net/route``, without the default route; numbers there are little-endian."""
    rows = (line.split() for line in text.splitlines()[1:])
    pairs = ((_number(row[1]), _number(row[7])) for row in rows if len(row) > 7)
    return tuple(str(IPv4Network((to, mask.bit_count()))) for to, mask in pairs if mask)


def parse_servers(text: str) -> tuple[str, ...]:
    """IPv4 name servers in ``/etc/resolv.conf``, as subnets of one address."""
    found = re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", text, re.MULTILINE)
    return tuple(f"{server}/32" for server in found)


def _v4(subnets: Iterable[str]) -> Iterator[IPv4Network]:
    every = (ip_network(one, strict=False) for one in subnets)
    return (one for one in every if isinstance(one, IPv4Network))


def _subnets(pools: Iterable[Pool]) -> Iterator[IPv4Network]:
    for base, size in pools:
        for whole in _v4((base,)):
            yield from whole.subnets(new_prefix=max(size, whole.prefixlen))


def _number(little_endian: str) -> int:
    return int.from_bytes(bytes.fromhex(little_endian), "little")
