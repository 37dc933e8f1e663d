"""Unit tests read a recorded machine (``tests/data/hosts``), never the one that runs them."""

import os
from functools import cache
from pathlib import Path

import httpx
import pytest

from ragops import errors
from ragops.reranker import host

HOSTS = Path(__file__).parents[1] / "data" / "hosts"


@pytest.fixture(scope="session", autouse=True)
def recorded_host():
    """``read_host()`` and its like read a processor with AVX2 only."""
    with pytest.MonkeyPatch.context() as patch:
        root = (HOSTS / "epyc-avx2",)
        for function in (host.read_host, host.read_quota):
            patch.setattr(function, "__defaults__", root)
        yield


@pytest.fixture(scope="session", autouse=True)
def unpublished():
    """Errors name ``ragops explain``, whatever site the package's metadata has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "_site", lambda: "")
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_certificates():
    """httpx reads all certificate authorities for each client, in 15 ms: clients of the tests share them."""
    create = httpx._config.create_ssl_context

    @cache
    def created(_, options):
        return create(**dict(options))

    def shared(**options):
        return created(os.environ.get("SSL_CERT_FILE"), tuple(options.items()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", shared)
        yield


@pytest.fixture(params=["epyc-avx2", "epyc-avx512bf16", "xeon-amx"])
def each_host(request, monkeypatch):
    """Each recorded machine in turn."""
    monkeypatch.setattr(host.read_host, "__defaults__", (HOSTS / request.param,))
    return host.read_host()
