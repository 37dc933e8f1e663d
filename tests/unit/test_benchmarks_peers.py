"""Other engines in turn with vLLM: what is started and compared, and what the page shows; none runs here."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import peers, write
from benchmarks.data import peer
from benchmarks.targets import Timed
from ragops.docker.objects import ContainerSpec
from ragops.errors import EngineError

ROOT = Path(__file__).parents[2]
ZEN = next(one for one in peers.PEERS if not one.engine)
SCORES = (0.9, 0.5, 0.2)


def timed(seconds, scores=SCORES):
    return Timed(seconds, len(scores), 300, 300, scores, 0.1)


def row(scores=SCORES):
    default, int8, calls = ((timed(s), timed(s + 1)) for s in (2.0, 1.0, 4.0))
    return peers.Row(peers.PEERS[0], 1.0, default, int8, tuple(replace(one, scores=scores) for one in calls))


def test_ratios_are_of_documents_a_second_and_have_an_interval():
    judged = peers.judged(row())
    ratio, low, high = judged.to_default
    assert ratio == pytest.approx((0.5 * 0.6) ** 0.5)
    assert low < ratio < high
    assert judged.to_int8[0] == pytest.approx((0.25 * 0.4) ** 0.5)
    assert judged.order.kendall_tau == judged.order_int8.kendall_tau == 1


def test_a_server_with_another_order_gets_no_ratio():
    judged = peers.judged(row(scores=(0.2, 0.5, 0.9)))
    assert (judged.to_default, judged.to_int8) == (None, None)
    assert judged.order.kendall_tau == -1
    assert judged.error


@pytest.mark.parametrize(
    ("cpu", "features", "runs"),
    [
        ("Intel Xeon", {"avx512f"}, False),
        ("AMD EPYC", {"avx2"}, False),
        ("AMD EPYC", {"avx512f"}, True),
    ],
)
def test_zentorch_is_measured_only_where_vllm_uses_it(cpu, features, runs, monkeypatch):
    def started(*_):
        raise EngineError("started")

    monkeypatch.setattr(peers, "_started", started)
    runner = SimpleNamespace(host=SimpleNamespace(cpu_model=cpu, features=frozenset(features)))
    result = peers._row(runner, ZEN, (), seed=1)
    assert result.calls == ()
    assert (result.error == "started") == runs
    assert (result.error == peers.NO_ZEN) == (not runs)


def test_a_slow_server_gets_three_requests_after_the_warm_up(monkeypatch):
    monkeypatch.setattr(peers, "BUDGET_SECONDS", 0.0)
    server = SimpleNamespace(name="slow", send=lambda _: timed(9.0))
    assert len(peers._rounds((server, server, server), tuple(range(6)))) == 4


def test_packages_of_a_peer_are_added_to_the_image(tmp_path):
    made = peers._with_layer(ContainerSpec(name="c", image="i"), tmp_path, ("LD_PRELOAD", ""))
    assert made.environment == (("PYTHONPATH", "/layer"), ("LD_PRELOAD", ""))
    assert [(mount.source, mount.target, mount.read_only) for mount in made.mounts] == [
        (str(tmp_path), "/layer", True)
    ]


def test_every_peer_is_one_of_the_servers_engines():
    assert {one.engine for one in peers.PEERS if one.engine} == set(peer.ENGINES)
    assert all("==" in package for one in peers.PEERS for package in one.packages)


def test_the_page_shows_ratios_orders_and_why_one_is_missing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    comparisons = importlib.import_module("comparisons")
    origin = {"cpu_model": "Some CPU", "core_count": 2}
    rows = (peers.judged(row()), peers.Row(ZEN, 0.0, error=peers.NO_ZEN))
    made = peers.Measured("2026-12-01", origin, "a model", "random weights", 3, 280, rows)
    write(made, tmp_path / "peers.json")
    monkeypatch.setattr(comparisons, "DATA", tmp_path)
    text = "\n".join(comparisons.peers())
    ratio = json.loads((tmp_path / "peers.json").read_text())["rows"][0]["to_default"][0]
    for part in (f"{ratio:.2f} (", "1.000, 100%", peers.NO_ZEN, "random weights", "Some CPU", "2026-12-01"):
        assert part in text
