"""Each target's answer, on machines of every kind; nothing is measured here."""

import dataclasses

import pytest

from benchmarks import targets
from benchmarks.targets import CALLS, Call, Series, Timed
from ragops.bench.records import Gemm, GemmPeak, Sample

AMX = GemmPeak("bfloat16", 0.88e9, 2, (Gemm("float32", 0.37), Gemm("bfloat16", 2.6)))
"""2,955 tokens/s."""
AVX2 = GemmPeak("float32", 0.88e9, 2, (Gemm("float32", 0.13), Gemm("bfloat16", 0.02)))
"""148 tokens/s."""
TYPICAL, HEAVY = CALLS


def series(seconds, *, documents=8, per_document=340, launch="default", scores=(0.9, 0.5, 0.1), calls=3):
    """Calls of one length, in each of which the cache had 15 tokens of each document."""
    tokens = documents * (per_document + 15)
    one = Timed(seconds, documents, tokens, documents * per_document, scores, 0.0)
    return Series(launch, (one,) * calls)


class TestSeries:
    def test_the_median_call_counts(self):
        plain = series(2.0)
        odd = dataclasses.replace(plain.calls[0], seconds=20.0)
        found = Series("default", (odd, *plain.calls[:2]))
        assert (found.documents_per_s, found.computed_per_s, found.slowest) == (4.0, 1360.0, 20.0)
        assert found.computed_per_document == 340

    def test_what_others_used_is_neither_the_servers_nor_ours(self):
        before = Sample(0, cpu_ns=10, host_busy_ns=100, client_ns=5)
        after = Sample(1_000, cpu_ns=910, host_busy_ns=1_600, client_ns=105)
        assert targets.others(before, after) == pytest.approx(0.5)
        assert targets.others(before, dataclasses.replace(after, host_busy_ns=0)) == 0

    def test_calls_are_as_large_as_the_machine_is_fast(self):
        assert targets.documents(AVX2) == 6  # 15 s x 148 tokens/s / 355 tokens
        assert targets.documents(AMX) == targets.MOST_DOCUMENTS
        assert targets.documents(GemmPeak("float32", 0.88e9, 2, ())) == 2


class TestRecipe:
    @pytest.mark.parametrize(
        ("limit", "ours", "theirs", "answer"),
        [
            (AMX, 1.4, 14.0, "met"),
            (AMX, 4.0, 14.0, "missed"),  # 10 times slower than what multiplication allows
            (AVX2, 20.0, 40.0, "beyond this machine"),  # 8.7 documents in 20 s is all there is
        ],
    )
    def test_met_missed_or_beyond(self, limit, ours, theirs, answer):
        found = targets.against_recipe(series(ours), series(theirs, launch="recipe"), limit)
        assert found.answer == answer
        assert found.figure.startswith(f"{theirs / ours:.1f} times")

    def test_the_limit_is_in_the_recipes_terms(self):
        found = targets.against_recipe(series(20.0), series(40.0), AVX2)
        assert found.limit == "multiplication alone, in float32, allows 2.2 times"
        assert "float32 from ragops too" in found.note
        assert targets.against_recipe(series(2.0), series(4.0), AMX).note == ""

    def test_a_limit_that_is_unknown_excuses_nothing(self):
        unknown = GemmPeak("bfloat16", 0.88e9, 2, (Gemm("bfloat16", None, "no kernel"),))
        assert targets.against_recipe(series(2.0), series(4.0), unknown).answer == "missed"
        found = targets.share_of_limit(series(2.0), unknown)
        assert (found.answer, found.figure) == ("missed", "the limit could not be measured: no kernel")


@pytest.mark.parametrize(
    ("seconds", "answer", "share"), [(1.41, "met", "65%"), (1.5, "missed", "61%"), (1.1, "met", "84%")]
)
def test_the_share_counts_what_was_computed(seconds, answer, share):
    found = targets.share_of_limit(series(seconds), AMX)
    assert (found.answer, found.figure.split(":")[0]) == (answer, share)


class TestInt8:
    def test_a_gain_with_the_order_beside_it(self):
        found = targets.int8_gain((series(2.0), series(1.5, scores=(0.5, 0.9, 0.1))), "", "")
        assert found.answer == "met"
        assert "1.33 times" in found.figure
        assert "Kendall's tau 0.333, same document first in 0%" in found.figure

    def test_too_little(self):
        assert targets.int8_gain((series(2.0), series(1.9)), "", "").answer == "missed"

    def test_a_processor_whose_sums_overflow_meets_nothing_however_fast(self):
        found = targets.int8_gain((series(2.0), series(1.0)), "no VNNI", "")
        assert found.answer == "beyond this machine"
        assert "no VNNI" in found.limit

    @pytest.mark.parametrize(("unfit", "answer"), [("", "missed"), ("no VNNI", "beyond this machine")])
    def test_it_did_not_start(self, unfit, answer):
        found = targets.int8_gain((), unfit, "ended after 9 s")
        assert (found.answer, found.figure) == (answer, "did not start: ended after 9 s")


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [(100, 45, "met"), (100, 51, "missed"), (200, 70, "missed"), (50, 25, "met")],
)
def test_the_second_start_is_short_by_itself_and_beside_the_first(first, second, answer):
    found = targets.second_start(first, second)
    assert found.answer == answer
    assert found.note.startswith("tried: ") is (answer == "missed")


class TestCalls:
    def sent(self, seconds, calls=5, call=TYPICAL):
        return series(seconds, documents=call.documents, per_document=call.tokens + 60, calls=calls)

    def test_all_in_time(self):
        found = targets.call(TYPICAL, series(1.4), AMX, self.sent(11.0), None)
        assert found.answer == "met"
        assert "slowest 11.0 s of 5 calls, so at least 55% of such calls fit" in found.figure
        assert "p95 with an interval needs 72" in found.figure
        assert found.note == ""

    def test_one_too_late_is_missed_and_says_what_would_help(self):
        late = Series("default", (*self.sent(11.0).calls, *self.sent(13.0).calls[:1]))
        found = targets.call(TYPICAL, series(1.4), AMX, late, series(1.0, launch="int8"))
        assert found.answer == "missed"
        assert "so at least" not in found.figure
        assert found.note == (
            "int8 would take about 8 s; two replicas with as many cores each would take about 6 s; "
            "2 of them reach 12 s"
        )

    def test_none_is_sent_where_multiplication_alone_takes_longer(self):
        slow = series(20.0)
        assert not targets.worth_sending(TYPICAL, slow, AVX2)
        found = targets.call(TYPICAL, slow, AVX2, None, None)
        assert found.answer == "beyond this machine"
        assert found.limit == "multiplication alone takes 147 s"
        assert found.figure.startswith("none was sent: about 160 s")
        assert "14 of them reach 12 s" in found.note

    def test_longer_documents_take_the_template_along(self):
        found = targets.call(HEAVY, series(1.4), AMX, None, None)
        assert "about 26 s" in found.figure  # 90 x (500 + 60) tokens at 1,943 a second

    def test_a_machine_of_unknown_limit_is_asked(self):
        unknown = GemmPeak("bfloat16", 0.88e9, 2, ())
        assert targets.worth_sending(Call("x", 9, 9, 0.001), series(20.0), unknown)
