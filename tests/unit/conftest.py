"""Unit tests read a recorded machine (``tests/data/hosts``), never the one that runs them."""

from pathlib import Path

import pytest

from ragops.reranker import host

HOSTS = Path(__file__).parents[1] / "data" / "hosts"


@pytest.fixture(scope="session", autouse=True)
def recorded_host():
    """``read_host()`` and its like read a processor with AVX2 only."""
    with pytest.MonkeyPatch.context() as patch:
        root = (HOSTS / "epyc-avx2",)
        for function in (host.read_host, host.read_addresses, host.read_quota):
            patch.setattr(function, "__defaults__", root)
        yield


@pytest.fixture(params=["epyc-avx2", "epyc-avx512bf16", "xeon-amx"])
def each_host(request, monkeypatch):
    """Each recorded machine in turn."""
    monkeypatch.setattr(host.read_host, "__defaults__", (HOSTS / request.param,))
    return host.read_host()
