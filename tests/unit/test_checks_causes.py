"""NO_PROXY is read as httpx reads it, on which RAGFlow's client stands."""

import httpx
import pytest

from ragops.checks.connection import proxy_for, proxy_settings, without_secret

URL = "http://ragflow-vllm-reranker:8000/v1"
PROXY = "http://proxy.test:3128"


def httpx_catches(monkeypatch, environment):
    """Whether httpx would ask a proxy for the address."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)
    for line in environment:
        monkeypatch.setenv(*line.split("=", 1))
    with httpx.Client() as client:
        return client._transport_for_url(httpx.URL(f"{URL}/rerank")) is not client._transport


@pytest.mark.parametrize(
    ("caught", "excepted"),
    [
        (True, ""),
        (True, "localhost,127.0.0.1"),
        (True, "172.16.0.0/12"),
        (True, "10.0.0.0/8, 192.168.0.0/16"),
        (True, "vllm-reranker"),
        (True, ".ragflow-vllm-reranker"),
        (True, "ragflow-vllm-reranker:8123"),
        (True, "https://ragflow-vllm-reranker"),
        (True, "ragflow"),
        (True, "*.internal"),
        (False, "ragflow-vllm-reranker"),
        (False, "localhost, ragflow-vllm-reranker ,db"),
        (False, "RAGFLOW-VLLM-RERANKER"),
        (False, "ragflow-vllm-reranker:8000"),
        (False, "http://ragflow-vllm-reranker"),
        (False, "all://ragflow-vllm-reranker:8000"),
        (False, "*"),
        (False, "db,*"),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_forms_of_exceptions(monkeypatch, caught, excepted, variable):
    environment = (f"HTTP_PROXY={PROXY}", f"{variable}={excepted}")
    assert bool(proxy_for(proxy_settings(environment), URL)) is caught
    assert httpx_catches(monkeypatch, environment) is caught


@pytest.mark.parametrize(
    ("caught", "environment"),
    [
        (False, ()),
        (False, ("HTTPS_PROXY=http://proxy.test:3128",)),
        (True, ("http_proxy=proxy.test:3128",)),
        (True, ("ALL_PROXY=http://proxy.test:3128",)),
        (True, ("all_proxy=http://proxy.test:3128",)),
        (False, ("HTTP_PROXY=http://proxy.test:3128", "http_proxy=")),
        (True, ("NO_PROXY=ragflow-vllm-reranker", "no_proxy=db", "http_proxy=http://proxy.test:3128")),
        (False, ("NO_PROXY=db", "no_proxy=ragflow-vllm-reranker", "http_proxy=http://proxy.test:3128")),
    ],
)
def test_which_variable_counts(monkeypatch, caught, environment):
    assert bool(proxy_for(proxy_settings(environment), URL)) is caught
    assert httpx_catches(monkeypatch, environment) is caught


@pytest.mark.parametrize("entry", ["reranker.corp.test", "corp.test", ".corp.test", "*", "corp.test:8000"])
def test_names_with_dots_are_excepted_by_what_is_above_them(entry):
    proxies = proxy_settings((f"http_proxy={PROXY}", f"no_proxy={entry}"))
    assert proxy_for(proxies, "http://reranker.corp.test:8000/v1") == ""


@pytest.mark.parametrize(
    ("entry", "host", "caught"),
    [("10.0.0.5", "10.0.0.5", False), ("10.0.0.0/8", "10.0.0.5", True), ("10.0.0.0/8", "10.0.0.0", False)],
)
def test_addresses(entry, host, caught):
    proxies = proxy_settings((f"http_proxy={PROXY}", f"no_proxy={entry}"))
    assert bool(proxy_for(proxies, f"http://{host}:8000/v1")) is caught


def test_secrets_are_left_out():
    proxies = proxy_settings(("HTTP_PROXY=http://me:secret@proxy.test:3128/?token=abc",))
    assert proxy_for(proxies, URL) == "http://proxy.test:3128/"
    assert without_secret("https://u:p@h/x?y=z#f") == "https://h/x"


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        (("HTTP_PROXY=http://up:1", "http_proxy=http://low:1"), "http://up:1"),
        (("HTTP_PROXY=", "http_proxy=http://low:1"), "http://low:1"),
        (("ALL_PROXY=http://all:1",), ""),
        (("HTTP_PROXY=http://up:1", "NO_PROXY=reranker"), ""),
    ],
)
def test_proxies_of_a_server_in_go(environment, proxy):
    """As ``http.DefaultTransport.Clone()`` of Go 1.19 chose them, in a program with the same environment."""
    assert proxy_for(proxy_settings(environment, "Go"), "http://reranker:8000/v1") == proxy
