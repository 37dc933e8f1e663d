"""Unit tests read a recorded machine (``tests/data/hosts``), never the one that runs them."""

from pathlib import Path

import pytest

from ragops import host as hosts

HOSTS = Path(__file__).parents[1] / "data" / "hosts"


@pytest.fixture(scope="session", autouse=True)
def recorded_host():
    """``read_host()`` and its like read a processor with AVX2 only."""
    with pytest.MonkeyPatch.context() as patch:
        root = (HOSTS / "epyc-avx2",)
        for function in (hosts.read_host, hosts.read_addresses, hosts.read_quota):
            patch.setattr(function, "__defaults__", root)
        yield


@pytest.fixture(params=["epyc-avx2", "epyc-avx512bf16", "xeon-amx"])
def each_host(request, monkeypatch):
    """Each recorded machine in turn."""
    monkeypatch.setattr(hosts.read_host, "__defaults__", (HOSTS / request.param,))
    return hosts.read_host()
