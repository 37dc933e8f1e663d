"""ragops tune on the real engine: one core does not win, too little memory does not start."""

import pytest

import ragops
from ragops import host as hosts
from ragops import sizing
from ragops.errors import BenchError
from ragops.stack import Network, Reranker, Stack
from ragops.tuning import rig
from ragops.tuning.candidates import Candidate
from ragops.tuning.compare import Rule

STACK = Stack(
    network=Network(name="ragopstest-tune"),
    # Eager, which a search would leave out at first: a start then takes a third of the time.
    reranker=Reranker(name="ragopstest-tuned", port=False, eager=True, ready_timeout=240),
)


@pytest.fixture
def quick(monkeypatch):
    """Two settings, small blocks."""
    first = sizing.cores(STACK, hosts.read_host())[0].cpu
    tried = (
        Candidate("cramped", (("memory_gib", 1),), "it can't help: three processes don't fit"),
        Candidate("one-core", (("compute", str(first)),), "it can't help: the others wait"),
    )
    monkeypatch.setattr("ragops.tuning.run.untuned", lambda stack: stack)
    monkeypatch.setattr("ragops.tuning.run.candidates", lambda *_: tried)
    monkeypatch.setattr(rig, "REQUEST_S", 0.6)
    monkeypatch.setattr(rig, "BLOCK_S", 1.2)


def test_one_core_does_not_win_what_can_not_start_says_why_nothing_is_left(engine, image, quick, tmp_path):
    told = []
    file = tmp_path / "ragops.toml"
    found = ragops.tune(
        STACK,
        rule=Rule(least=3, most=6),
        results=tmp_path,
        write=file,
        told=told.append,
        engine=engine,
    )
    rows = {row.name: row for row in found.rows}
    assert rows["cramped"].verdict == "did not start", told
    assert "memory" in rows["cramped"].detail
    # Six pairs on a busy machine may not tell the two apart; a winner they must not make of it.
    assert rows["one-core"].verdict in ("slower", "no difference"), told
    assert 3 <= rows["one-core"].ratio.pairs <= 6
    assert rows["one-core"].agreement.max_difference < 1e-3
    assert (found.settings, found.gate, found.near) == ((), "passed", True)
    assert not file.exists()
    names = [one.name for one in engine.containers()] + [one.name for one in engine.volumes()]
    assert [name for name in names if name.startswith("ragopstest-tuned")] == []
    with pytest.raises(BenchError, match="is complete"):
        ragops.tune(STACK, resume=found.folder, engine=engine)
