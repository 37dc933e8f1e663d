"""The page of the gateway is true: metrics, headers, routes and limits are those that the service has."""

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from ragops.gateway import app, replicas
from ragops.reranker import gateway
from tests.support.gateway import serving
from tests.support.replicas import Replica

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gateway.rst").read_text()
FILES = DOCS / "_data" / "gateway"
RULES = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"][0]["rules"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Prometheus' text and the headers after requests that were cut by the deadline."""

    async def scenario():
        folder, stub = tmp_path_factory.mktemp("gateway"), Replica(per_byte=1e-4)
        async with serving(folder, stub, deadline=0.2, cache=100) as client:
            for _ in range(2):
                reply = await client.rerank(documents=[f"document {number} " * 5 for number in range(80)])
            return (await client.http.get("/metrics")).text, reply.headers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "CHECK_SECONDS", 0.01)
        return asyncio.run(scenario())


def test_three_alerts_use_metrics_and_labels_that_are_exported(exported):
    assert [rule["alert"] for rule in RULES] == ["RerankLate", "RerankPartial", "RerankNothingAdmitted"]
    for rule in RULES:
        names = re.findall(r"ragops_gateway_\w+", rule["expr"])
        labels = re.findall(r'(\w+)="([\w|]+)"', rule["expr"].replace("=~", "="))
        assert names
        for name in names:
            assert re.search(rf"^{name}[ {{]", exported[0], re.MULTILINE), name
        for name, values in labels:
            for value in values.split("|"):
                assert f'{name}="{value}"' in exported[0], value


def test_the_scrape_configuration_reads_the_rules():
    scrape = yaml.safe_load((FILES / "prometheus.yml").read_text())
    assert scrape["rule_files"] == ["alerts.yml"]
    assert scrape["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:8123"]}]


def test_the_table_has_every_metric(exported):
    names = set(re.findall(r"^# TYPE ragops_gateway_(\w+)", exported[0], re.MULTILINE))
    table = PAGE[PAGE.index("metric, after ``ragops_gateway_``") : PAGE.index("The log has a line")]
    assert names <= set(re.findall(r"``(\w+)(?:\{\w+\})?``", table))


def test_every_header_of_the_response_is_on_the_page(exported):
    own = {name for name in exported[1] if name.startswith("x-") or name == "server-timing"}
    assert own == set(re.findall(r"``([\w-]+): [^`]*``\n     - (?:documents|milliseconds)", PAGE))
    assert re.fullmatch(r"\d+/80", exported[1]["x-ranked"])


def test_routes_and_limits():
    routes = [getattr(route, "path", "") for route in app.Gateway({}).application.routes]
    assert {"/v1/rerank", "/metrics"} <= set(routes)
    assert [path for path in routes if f"``{path}``" not in PAGE] == []
    assert f"{app.MAX_BODY >> 20} MiB gets" in PAGE
    assert f"{gateway._MEMORY >> 20} MiB and {gateway._SCORE} bytes" in PAGE
    assert f"client_max_body_size {app.MAX_BODY >> 20}m;" in (FILES / "nginx.conf").read_text()
