"""The search on a rig in memory: who wins, what is kept, what is told, and going on after an interrupt."""

import random
from dataclasses import replace

import pytest

from ragops.errors import BenchError, LaunchError
from ragops.tuning import folder
from ragops.tuning.candidates import Candidate, merged
from ragops.tuning.compare import Rule
from ragops.tuning.records import Launch, Size, TuneInfo
from ragops.tuning.search import Block, Search

LAUNCH = Launch("sha", "sha256:1", ("--model", "m"), (("A", "b"),), "0-1", 1 << 30, "CPU")
SIZE = Size(documents=8, requests=2, max_words=100, queries=2)
SCORES = ((0.9, 0.1), (0.3, 0.7))


class Rig:
    """Launches whose speed is known: each setting multiplies it."""

    def __init__(self, noise=0.01, **speeds):
        self.speeds, self.noise = speeds, noise
        self.chance = random.Random(1)  # noqa: S311 - repeatable noise, no secret
        self.there, self.started, self.blocks, self.gated = {}, [], [], 0
        self.moved, self.refused, self.broken, self.stop_at, self.failing = {}, set(), set(), None, set()

    def made(self, candidate):
        return candidate.settings

    def start(self, slot, settings):
        names = {name for name, _ in settings}
        self.started.append(names)
        assert slot not in self.there, "that place is taken"
        self.there[slot] = names
        if names & self.refused:
            raise LaunchError("it ended 3 s after the wait began", evidence="out of memory", hint="give more")
        return 1.0

    def sized(self, slot):
        assert self.there[slot] == set()
        return SIZE

    def scores(self, slot, size):
        by = max((self.moved.get(name, 0.0) for name in self.there[slot]), default=0.0)
        return tuple(tuple(score + by for score in one) for one in SCORES)

    def gate(self, slot):
        self.gated += 1
        return "right documents come first: no" if self.there[slot] & self.failing else ""

    def block(self, slot, number, size):
        self.blocks.append(number)
        if number == self.stop_at:
            raise KeyboardInterrupt
        if self.there[slot] & self.broken:
            return Block(0, 1.0, 0, error="connection: refused")
        speed = 10.0
        for name in self.there[slot]:
            speed *= self.speeds.get(name, 1.0)
        documents = size.documents * size.requests
        return Block(documents, documents / speed * self.chance.lognormvariate(0, self.noise), 100)

    def drop(self, slot):
        self.there.pop(slot, None)


def begun(*names):
    tried = tuple(Candidate(name, ((name, 1),), f"{name} might help") for name in names)
    return TuneInfo("2026-01-01T00:00:00+00:00", "box", "m", "", LAUNCH, tried, 0.02, Rule())


@pytest.fixture
def search(tmp_path):
    """Runs a search to its end; gives back what it found."""

    def run(rig, info, trials=(), *, trained=True, again=False, **fields):
        kept = folder.TuneFolder(tmp_path / "tune", again=again)
        try:
            return Search(rig, info, trials, kept, trained=trained, **fields).run()
        finally:
            kept.close()

    return run


def verdicts(info):
    return {row.name: row.verdict for row in info.rows}


def test_each_gets_its_verdict_and_winners_add_up(search):
    rig = Rig(fast=1.2, slow=0.7, plain=1.0, faster=1.15)
    found = search(rig, begun("slow", "fast", "plain", "faster"))
    assert verdicts(found) == {
        "slow": "slower",
        "fast": "kept",
        "plain": "no difference",
        "faster": "kept",
    }
    assert found.settings == (("fast", 1), ("faster", 1))
    assert [row.against for row in found.rows] == ["default", "default", "default+fast", "default+fast"]
    assert found.total.low < 1.2 * 1.15 < found.total.high
    assert (found.complete, found.king) == (True, "default+fast+faster")
    assert rig.started == [set(), {"slow"}, {"fast"}, {"fast", "plain"}, {"fast", "faster"}, set()]


def test_pairs_alternate_and_no_text_is_sent_twice_to_one_launch(search, tmp_path):
    search(Rig(noise=0.1), begun("one", "two"))
    _, trials = folder.load(tmp_path / "tune")
    order = [one.who for one in trials if one.challenger == "one"]
    assert order[:8] == ["default", "one", "one", "default", "default", "one", "one", "default"]
    seen = [(one.who, one.block) for one in trials]
    assert len(set(seen)) == len(seen)
    assert all(
        len({t.block for t in trials if (t.challenger, t.pair) == (o.challenger, o.pair)}) == 1
        for o in trials
    )


def test_one_winner_needs_no_last_comparison(search):
    rig = Rig(fast=1.2)
    found = search(rig, begun("fast"))
    assert found.total == found.rows[0].ratio
    assert len(rig.started) == 2


def test_nothing_won(search):
    found = search(Rig(), begun("plain"))
    assert (found.settings, found.total, found.king) == ((), None, "default")


def test_one_that_does_not_start_is_a_row_that_says_why(search):
    rig = Rig(fast=1.3)
    rig.refused = {"huge"}
    found = search(rig, begun("huge", "fast"))
    assert verdicts(found) == {"huge": "did not start", "fast": "kept"}
    assert found.rows[0].detail == "it ended 3 s after the wait began - out of memory - give more"


def test_one_that_stops_answering_is_a_row_that_says_why(search):
    rig = Rig()
    rig.broken = {"weak"}
    found = search(rig, begun("weak", "plain"))
    assert verdicts(found) == {"weak": "failed", "plain": "no difference"}
    assert found.rows[0].detail == "connection: refused"


def test_faster_with_other_scores_is_not_kept(search):
    rig = Rig(sloppy=2.0, near=1.5)
    rig.moved = {"sloppy": 0.03, "near": 0.01}
    found = search(rig, begun("sloppy", "near"))
    assert verdicts(found) == {"sloppy": "scores moved", "near": "kept"}
    assert found.rows[1].agreement.max_difference == pytest.approx(0.01)
    assert "tolerance is 0.02" in found.rows[0].detail


def test_scores_are_compared_with_those_without_tuning_not_with_the_last_winner(search):
    rig = Rig(one=1.3, two=1.3)
    rig.moved = {"one": 0.015, "two": 0.03}  # two is within the tolerance of one, not of the default
    assert verdicts(search(rig, begun("one", "two"))) == {"one": "kept", "two": "scores moved"}


def test_faster_that_the_score_gate_refuses_is_not_kept(search):
    rig = Rig(sloppy=1.5)
    rig.failing = {"sloppy"}
    found = search(rig, begun("sloppy"))
    assert verdicts(found) == {"sloppy": "score gate failed"}
    assert (found.settings, found.gate) == ((), "passed")


def test_default_that_the_score_gate_refuses_ends_the_search(search):
    rig = Rig()
    rig.gate = lambda _: "right documents come first: no"
    with pytest.raises(BenchError, match="fails the score gate"):
        search(rig, begun("plain"))


def test_random_weights_are_not_asked_for_right_answers(search):
    rig = Rig(fast=1.3)
    found = search(rig, begun("fast"), trained=False)
    assert (rig.gated, verdicts(found)) == (0, {"fast": "kept"})
    assert "not asked" in found.gate


def test_champion_that_goes_away_ends_the_search_and_keeps_what_was_measured(search, tmp_path):
    rig = Rig()
    rig.block = Away(rig)
    with pytest.raises(BenchError, match="the reranker is gone") as caught:
        search(rig, begun("plain"))
    assert "ragops tune --resume" in caught.value.hint
    assert caught.value.code == "reranker-gone"
    info, trials = folder.load(tmp_path / "tune")
    assert not info.complete
    assert len(trials) == 1


class Away:
    """The first launch answers no block."""

    def __init__(self, rig):
        self.rig = rig

    def __call__(self, slot, number, size):
        return Block(0, 1.0, 0, error="gone") if slot == "a" else Rig.block(self.rig, slot, number, size)


def test_time_that_is_over_leaves_the_rest_untried(search):
    clock = iter([False, True])
    found = search(Rig(fast=1.2), begun("fast", "plain"), over=lambda: next(clock))
    assert verdicts(found) == {"fast": "kept"}
    assert ([one.name for one in found.left], found.complete) == (["plain"], False)
    assert found.total == found.rows[0].ratio


def test_an_interrupted_search_goes_on_where_it_was(search, tmp_path):
    rig = Rig(fast=1.2)
    rig.stop_at = 5  # in the middle of the second match
    with pytest.raises(KeyboardInterrupt):
        search(rig, begun("fast", "plain", "slow"))
    info, trials = folder.load(tmp_path / "tune")
    assert verdicts(info) == {"fast": "kept"}
    before = len([one for one in trials if one.challenger == "plain"])
    assert before % 2 == 0
    assert before > 0
    rig = Rig(fast=1.2, slow=0.5)
    found = search(rig, replace(info, reason="still running"), trials, again=True)
    assert rig.started[0] == {"fast"}, "it begins with the best so far"
    assert verdicts(found) == {"fast": "kept", "plain": "no difference", "slow": "slower"}
    assert min(number for number in rig.blocks if number >= 0) >= 5, "no text was sent before"
    _, whole = folder.load(tmp_path / "tune")
    assert whole[: len(trials)] == trials
    pairs = [one.pair for one in whole if one.challenger == "plain" and one.who == "plain"]
    assert pairs == list(range(len(pairs)))


def test_a_line_that_was_cut_off_is_left_out(search, tmp_path):
    search(Rig(), begun("plain"))
    _, trials = folder.load(tmp_path / "tune")
    with (tmp_path / "tune" / "trials.jsonl").open("a") as file:
        file.write('{"challenger": "pl')
    assert folder.load(tmp_path / "tune")[1] == trials


@pytest.mark.parametrize("text", ["{}", "no json", '{"form": 99}'])
def test_a_folder_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(BenchError, match="no recorded run"):
        folder.load(tmp_path)
    (tmp_path / "tune.json").write_text(text)
    (tmp_path / "trials.jsonl").write_text("")
    with pytest.raises(BenchError, match="is broken"):
        folder.load(tmp_path)


def test_settings_of_winners_go_on_top_of_each_other():
    assert merged((("a", 1),), (("a", 2),)) == (("a", 2),)
