"""ragops tune on the real engine: one core is not faster, too little memory does not start."""

import pytest

import ragops
from ragops.bench import tune
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.reranker import host, sizing
from tests.support.names import PROJECT

STACK = Stack(
    network=Network(name=f"{PROJECT}-tune"),
    # Eager: a start takes a third of the time.
    reranker=Reranker(name=f"{PROJECT}-tuned", port=False, eager=True, ready_timeout=900),
    ragflow=Ragflow(project=PROJECT),  # the other process of pytest-xdist has a demo client, too
)


@pytest.fixture
def quick(monkeypatch):
    """Two candidates, short rounds, at most five pairs."""
    core = sizing.cores(STACK, host.read_host())[0].cpu
    table = {"cramped": {"memory_gib": 1}, "one-core": {"compute": str(core)}}
    monkeypatch.setattr(tune, "candidates", lambda *_: table)
    monkeypatch.setattr(tune, "REQUEST_S", 0.6)
    monkeypatch.setattr(tune, "ROUND_S", 1.2)
    monkeypatch.setattr(tune, "MAX_PAIRS", 5)


def test_one_core_is_not_faster_a_failed_start_is_explained_nothing_is_left(
    engine, image, quick, share_cache, tmp_path
):
    file = tmp_path / "ragops.toml"
    share_cache(*(f"{STACK.reranker.name}-tune-{letter}" for letter in "ab"))
    result = ragops.tune(STACK, results=tmp_path, write=file, engine=engine)
    rows = {row.candidate: row for row in result.rows}
    assert rows["cramped"].decision == "failed"
    assert "memory" in rows["cramped"].reason
    # A few pairs on a busy machine may be inconclusive; faster they must not be.
    assert rows["one-core"].decision in ("slower", "no gain", "inconclusive")
    assert 3 <= rows["one-core"].pairs <= 5
    assert (result.settings, result.written, file.exists()) == ({}, None, False)
    runs = [ragops.load_run(path.parent) for path in result.folder.glob("*/run.json")]
    assert len(runs) == 1 + 2 * rows["one-core"].pairs
    assert all(run.info.complete and not run.problems for run in runs)
    names = [container.name for container in engine.containers()] + [v.name for v in engine.volumes()]
    assert [name for name in names if name.startswith(f"{PROJECT}-tuned")] == []
