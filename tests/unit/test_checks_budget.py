"""Do RAGFlow's calls end in time: what is sent, and what is said of what was seen."""

import dataclasses
import json

import pytest

from ragops.checks import budget
from ragops.checks import budget as calls
from ragops.checks import budget as speed
from ragops.checks.budget import RagflowCall, TimedCalls
from ragops.checks.latency import needed, share_at_least
from ragops.checks.probe import ProbeResponse
from ragops.checks.questions import Expected
from ragops.docker.objects import ContainerSpec, ExecResult
from ragops.ragflow import releases
from ragops.ragflow.discovery import RagflowContainer
from ragops.reranker.host import Core, Host, Node
from ragops.reranker.model import describe
from tests.support import stub
from tests.support.stub import Behaviour, service_seconds

MINILM = Expected("m", "embedding", 256, "a stand-in")
QWEN3 = Expected("m", "qwen3-reranker", 8192)
REFUSAL = (
    "This model's maximum context length is 256 tokens. However, your prompt contains at least 257 input "
    "tokens."
)
REFUSED = ProbeResponse(400, json.dumps({"error": {"message": REFUSAL}}))


def container(fake, image="infiniflow/ragflow:v0.25.3", name="ragflow-server"):
    fake.add_container(name, image=image)
    return RagflowContainer(fake.container(name))


@pytest.fixture
def about(fake):
    """The profile of a release for a model."""

    def make(tag="v0.25.3", expected=QWEN3):
        return calls.call_profile(container(fake, f"infiniflow/ragflow:{tag}", f"container-{tag}"), expected)

    return make


def record(seconds, documents=64, *, tokens=20000, error="", warm_up=False, form="natural", unranked=0):
    return RagflowCall(documents, seconds, tokens, error, form=form, warm_up=warm_up, unranked=unranked)


def seen(*times, ramp=(0.2, 0.8), too_long=REFUSED, cut_to=None, **fields):
    """Calls of 64 chunks that took so long, after two small ones."""
    small = [
        record(took, count, tokens=count * 300, warm_up=True)
        for took, count in zip(ramp, calls.RAMP, strict=False)
    ]
    forms = ("natural", "stemmed")
    large = [record(took, form=forms[place % 2], **fields) for place, took in enumerate(times)]
    return TimedCalls((*small, *large), too_long, cut_to)


def behind(ranked, *, deadline=27.0, calls_=2):
    """Calls of 64 chunks of which the deadline left all but some unranked."""
    ramp = (deadline * 2 / ranked, deadline * 8 / ranked)
    return seen(*[deadline] * calls_, ramp=ramp, tokens=ranked * 300, unranked=64 - ranked)


def judge(measured, profile, expected=QWEN3, can=40960):
    return {
        one.name: one for one in budget.check_calls(measured, profile, expected, can, ("first", "second"))
    }


class TestProfile:
    def test_window_is_the_release_s(self, about):
        assert dict(about("v0.25.3").window) == {64: pytest.approx(1)}
        assert dict(about("v0.27.0").window) == pytest.approx({64: 0.63, 66: 0.16, 70: 0.105, 90: 0.105})
        assert about("v0.27.0").most == 90

    def test_release_that_is_not_told_is_the_newest_and_said(self, fake):
        found = calls.call_profile(container(fake, "ragflow:mine", "mine"), QWEN3)
        assert found.release.name == releases.NEWEST
        assert "is assumed" in found.release.assumed

    def test_documents_are_cut_to_the_model(self, about):
        assert about(expected=MINILM).max_words < 256 / 2
        assert about(expected=QWEN3).max_words > 1000


class Server:
    """Answers the programs that ask, in times that are made up."""

    def __init__(self, behaviour=None, limit=None):
        behaviour = behaviour or Behaviour()
        self.behaviour, self.limit, self.sent = behaviour, limit, []

    def __call__(self, _box, _argv, stdin):
        order = json.loads(stdin)
        self.headers = order["post_headers"]
        responses = [{"place": place, **found} for place, found in enumerate(self.answers(order))]
        return ExecResult(0, json.dumps({"responses": responses}), "")

    def answers(self, order):
        for path, text in order["posts"]:
            body = json.loads(text)
            self.sent.append((path, body, order["timeout"]))
            found = self.answer(body, order["timeout"])
            yield found
            if not found["ok"]:
                return

    def answer(self, body, timeout):
        longest = max(len(one.split()) for one in body["documents"])
        tokens = stub.count_tokens(self.behaviour, body["query"], body["documents"])
        took = service_seconds(self.behaviour, len(body["documents"]), tokens)
        if self.limit and longest > self.limit:
            answer = {"ok": True, "status": 400, "text": REFUSED.text}
        elif took > timeout:
            answer = {"ok": False, "detail": "timed out"}
        else:
            said = stub.ranking(self.behaviour, body, tokens, 1)
            answer = {"ok": True, "status": 200, "text": json.dumps(said)}
        return {**answer, "ms": took * 1000}


@pytest.fixture
def measure(fake, monkeypatch):
    """Measures a made-up server with few calls."""
    monkeypatch.setattr(calls, "CALLS", 6)

    def run(server, expected=QWEN3, tag="v0.25.3", **options):
        fake.respond = server
        found = container(fake, f"infiniflow/ragflow:{tag}")
        url = "http://reranker:8000/v1"
        return calls.time_calls(fake, found, "vllm-cpu:latest", url, expected, **options)

    return run


class TestMeasure:
    def test_sends_small_calls_then_both_forms_by_turns_then_one_too_long(self, measure):
        server = Server(Behaviour(per_token_s=0.0001), limit=7000)
        found = measure(server)
        assert [one.documents for one in found.calls] == [2, 8, 64, 64, 64, 64, 64, 64]
        assert [one.form for one in found.calls[2:]] == ["stemmed", "natural"] * 3
        assert [one.warm_up for one in found.calls] == [True] * 2 + [False] * 6
        assert found.calls[2].service == pytest.approx(found.calls[2].tokens * 0.0001)
        path, body, timeout = server.sent[0]
        assert (path, timeout, body["top_n"]) == ("/v1/rerank", 30.0, 2)
        assert server.headers == {"Cache-Control": "no-cache"}
        assert server.sent[2][1]["documents"][0].islower()
        assert found.too_long.status == 400
        assert len(server.sent[-1][1]["documents"]) == 2

    @pytest.mark.parametrize(
        ("tag", "forms"),
        [
            ("v0.22.1", ["stemmed"] * 6),
            ("v0.27.2", ["markup", "stemmed"] * 3),
            ("v1.0.0-rc1", ["markup"] * 6),
        ],
    )
    def test_sends_the_texts_of_the_release(self, measure, tag, forms):
        server = Server()
        found = measure(server, tag=tag)
        assert [call.form for call in found.calls[2:]] == forms
        tables = [any("<td>" in text for text in body["documents"]) for _, body, _ in server.sent[2:8]]
        assert tables == [form == "markup" for form in forms]

    def test_no_text_comes_twice(self, measure):
        server = Server()
        measure(server)
        queries = [body["query"] for _, body, _ in server.sent[1:]]
        assert len(set(queries)) == len(queries)

    def test_texts_stay_below_the_model_s_limit_and_it_is_said(self, measure):
        server = Server(limit=256)
        found = measure(server, MINILM)
        assert found.cut_to
        assert [one.error for one in found.calls] == [""] * 8
        assert found.too_long.status == 400

    def test_stops_at_the_first_call_without_an_answer(self, measure):
        found = measure(Server(Behaviour(per_document_s=1.0)))
        assert [bool(one.error) for one in found.calls] == [False, False, True]

    def test_stops_when_the_time_is_over_unless_everything_is_wanted(self, measure, monkeypatch):
        monkeypatch.setattr(calls, "SECONDS", -1.0)
        assert len(measure(Server()).calls) == 1
        assert len(measure(Server(), full=True).calls) == 8

    def test_progress_is_reported(self, measure, steps):
        measure(Server())
        assert (len(steps), steps.done, steps.total) == (1, 8, 8)

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            ({"status": 503, "text": "busy"}, "HTTP 503: busy"),
            ({"detail": "timed out"}, "timed out"),
            ({"status": 200, "text": "[]"}, "not the expected JSON"),
            ({"status": 200, "text": '{"results": []}'}, "0 scores for 2 documents"),
        ],
    )
    def test_answers_that_are_none(self, measure, reply, error):
        server = Server()
        server.answer = lambda _body, _timeout: {"ok": True, "ms": 1.0, **reply}
        assert error in measure(server).calls[0].error


class TestInTime:
    def test_enough_calls_give_p95_with_its_interval(self, about):
        found = judge(seen(*[1.0 + place / 100 for place in range(needed(0.95))]), about())[budget.IN_TIME]
        assert found.status == "ok"
        assert "fits: p95 1.68 s [1." in found.detail
        assert "n=72 calls of 64 chunks, of the 30 s that RAGFlow v0.25.3 waits" in found.detail

    def test_few_calls_say_what_so_few_can_say(self, about):
        found = judge(seen(*[2.0] * 5), about())[budget.IN_TIME]
        assert found.status == "ok"
        assert "n=5 calls of 64 chunks: at least 54 % of calls fit" in found.detail
        assert "p95 needs 72" in found.detail

    @pytest.mark.parametrize(("took", "status"), [(14.9, "ok"), (15.1, "warn"), (29.0, "warn")])
    def test_few_calls_near_the_limit_are_a_warning(self, about, took, status):
        found = judge(seen(took, took), about())[budget.IN_TIME]
        assert found.status == status
        assert found.remedy == "1. first; 2. second"

    def test_call_without_an_answer(self, about):
        found = judge(seen(2.0, 30.0, error="timed out"), about())[budget.IN_TIME]
        assert (found.status, "no response in the 30 s" in found.detail) == ("fail", True)

    def test_release_that_waits_longer_than_is_waited_here(self, about):
        found = judge(seen(30.0, error="timed out"), about("v0.25.2"))[budget.IN_TIME]
        assert (found.status, "of the 300 s that RAGFlow v0.25.2 waits" in found.detail) == ("warn", True)

    def test_refused_call_is_no_matter_of_speed(self, about):
        found = judge(seen(0.1, error="HTTP 503: busy"), about())[budget.IN_TIME]
        assert (found.status, "ragops logs" in found.remedy) == ("fail", True)

    def test_p95_beyond_the_limit(self, about):
        slow = judge(seen(*[31.0] * 72), about())[budget.IN_TIME]
        assert (slow.status, "does not fit" in slow.detail) == ("fail", True)
        near = judge(seen(*[29.0] * 69, *[31.0] * 3), about())[budget.IN_TIME]
        assert (near.status, "inconclusive" in near.detail) == ("warn", True)

    def test_what_differs_from_ragflow_is_said(self, fake):
        profile = calls.call_profile(container(fake, "mine:1"), MINILM)
        found = judge(seen(1.0, cut_to=112), profile, MINILM)[budget.IN_TIME]
        assert "is assumed" in found.detail
        assert "cut to 112 words for the model, so lighter" in found.detail

    def test_nothing_but_small_calls(self, about):
        assert judge(seen(), about())[budget.IN_TIME].status == "warn"


class TestDeadline:
    """What the gateway's deadline leaves unranked is a warning with the share, never a silence."""

    @pytest.fixture
    def profile(self, about):
        return dataclasses.replace(about(), deadline=27.0)

    def test_header_of_a_partial_response(self, measure):
        server = Server()
        respond = server.answer
        server.answer = lambda body, timeout: {
            **respond(body, timeout),
            "ranked": f"1/{len(body['documents'])}",
        }
        assert [call.unranked for call in measure(server).calls[:3]] == [1, 7, 63]

    def test_whole_calls_have_no_share(self, profile):
        found = judge(seen(2.0, 2.0), profile)[budget.IN_TIME]
        assert (found.status, "ranked" in found.detail) == ("ok", False)

    @pytest.mark.parametrize(("ranked", "share"), [(33, "52 %"), (50, "78 %"), (11, "17 %")])
    def test_share_of_partial_calls(self, profile, ranked, share):
        found = judge(behind(ranked), profile)[budget.IN_TIME]
        assert found.status == "warn"
        assert found.detail.startswith(f"partial: {2 * ranked} of 128 chunks were ranked ({share})")
        assert "deadline of 27 s" in found.detail
        assert found.remedy

    def test_late_calls_are_a_failure_all_the_same(self, profile):
        late = behind(33, deadline=31.0, calls_=72)
        assert judge(late, profile)[budget.IN_TIME].status == "fail"

    def test_deadline_before_which_nothing_was_ranked(self, profile):
        error = "HTTP 503: nothing was ranked by the deadline"
        found = judge(seen(27.0, error=error), profile)[budget.IN_TIME]
        assert (found.status, found.remedy) == ("fail", "1. first; 2. second")

    @pytest.mark.parametrize("ranked", [11, 33, 50])
    def test_capacity_is_what_was_ranked(self, profile, ranked):
        found = judge(behind(ranked, calls_=6), profile)[budget.CAPACITY]
        assert found.status == "warn"
        fitting = int(found.detail.removeprefix("about ").split()[0].strip(","))
        assert abs(fitting - ranked) <= 1
        assert "the deadline ended requests" in found.detail

    @pytest.mark.parametrize(
        ("timed", "factor"),
        [
            (behind(32), 2.0),
            (behind(16), 4.0),
            (seen(13.5, 13.5), 0.5),
            (seen(54.0, 54.0), 2.0),
            (seen(30.0, ramp=(2.7, 10.8), error="timed out"), 3.2),
            (seen(0.1, ramp=(), error="HTTP 503"), 1.0),
        ],
    )
    def test_how_many_times_as_fast_it_must_be(self, profile, timed, factor):
        assert budget.shortfall(timed, profile) == pytest.approx(factor, rel=0.01)


class TestRoom:
    def test_line_of_time_tells_how_many_chunks(self, about):
        times = [(tokens / 1000, tokens) for tokens in (18000, 19000, 20000, 21000)]
        large = tuple(record(took, tokens=tokens) for took, tokens in times)
        small = tuple(record(count * 0.3, count, tokens=count * 300, warm_up=True) for count in (2, 8))
        found = judge(TimedCalls((*small, *large), REFUSED), about())[budget.CAPACITY]
        assert found.status == "ok"
        assert "of 30" in found.detail
        assert "RAGFlow sends up to 64; more than were tried" in found.detail

    def test_slow_server_of_which_only_small_calls_are_known(self, about):
        found = judge(seen(30.0, ramp=(4.0, 16.0), error="timed out"), about())[budget.CAPACITY]
        assert found.status == "warn"
        assert found.detail.startswith("about 15, as the slowest took 2.00 s for each chunk")
        assert "top_k = 15" in found.remedy

    @pytest.mark.parametrize(
        "timed",
        [
            seen(30.0, ramp=(0.2, 0.8), error="timed out"),
            seen(*[29.0] * needed(0.95), ramp=(10.0, 40.0)),
        ],
        ids=["a call timed out", "all calls fit"],
    )
    def test_an_estimate_that_contradicts_the_calls_is_left_out(self, about, timed):
        found = judge(timed, about())[budget.CAPACITY]
        assert (found.status, found.remedy) == ("skip", "")

    def test_a_call_that_verify_ended_is_not_late_for_an_older_release(self, about):
        found = judge(seen(30.0, ramp=(4.0, 16.0), error="timed out"), about("v0.25.2"))[budget.CAPACITY]
        assert found.detail.startswith("about 150,")

    def test_no_answer_at_all(self, about):
        none = TimedCalls((record(30.0, 2, error="timed out", warm_up=True),), REFUSED)
        found = judge(none, about())
        assert (found[budget.CAPACITY].status, found[budget.REGISTRATION].status) == ("skip", "fail")


class TestRegistration:
    def test_against_its_own_limit(self, about):
        assert judge(seen(1.0), about())[budget.REGISTRATION].status == "ok"
        assert judge(seen(1.0, ramp=(11.0, 20.0)), about())[budget.REGISTRATION].status == "fail"

    def test_older_releases_have_none(self, about):
        assert budget.REGISTRATION not in judge(seen(1.0), about("v0.23.1"))


class TestLongChunk:
    def test_long_enough_model(self, about):
        found = judge(seen(1.0), about())[budget.LONG]
        assert (found.status, "makes the whole call a 400" in found.detail) == ("ok", True)

    def test_short_model_names_the_chunk_size(self, about):
        found = judge(seen(1.0), about(expected=MINILM), MINILM, 256)[budget.LONG]
        assert found.status == "warn"
        assert found.remedy == "chunk_token_num of 147 or less in RAGFlow's dataset, then parse it again"

    @pytest.mark.parametrize(
        ("tag", "mode", "words"),
        [
            ("v0.27.1", "raise_error", "makes the whole call a 400"),
            ("v0.27.2", "", "is cut by RAGFlow"),
            ("v0.27.2", " Truncate", "is cut by RAGFlow"),
            ("v0.27.2", "passthrough", "makes the whole call a 400"),
            ("v0.27.2", "raise_error", "fails the call in RAGFlow itself"),
            ("v1.0.0-rc1", "", "is cut by RAGFlow"),
        ],
    )
    def test_effect_follows_ragflows_mode(self, fake, tag, mode, words):
        ragflow = container(fake, f"infiniflow/ragflow:{tag}")
        environment = (f"RERANK_TOKEN_LIMIT_MODE={mode}",)
        ragflow = RagflowContainer(dataclasses.replace(ragflow.container, environment=environment))
        profile = calls.call_profile(ragflow, QWEN3)
        assert words in judge(seen(1.0), profile)[budget.LONG].detail

    def test_model_that_can_more(self, about):
        short = Expected("m", "qwen3-reranker", 512)
        found = judge(seen(1.0), about(expected=short), short, 40960)[budget.LONG]
        assert found.remedy.startswith("max_model_len = 1024 under [reranker], then ragops up; or chunk_")

    def test_document_that_the_gateway_cuts(self, about):
        cut = seen(1.0, too_long=ProbeResponse(200, "{}", truncated=1))
        found = judge(cut, about())[budget.LONG]
        assert (found.status, "cut by the gateway" in found.detail) == ("ok", True)
        short = judge(cut, about(expected=MINILM), MINILM, 256)[budget.LONG]
        assert (short.status, "cut by the gateway" in short.detail) == ("warn", True)
        assert short.remedy.startswith("chunk_token_num of 147")

    @pytest.mark.parametrize(
        ("reply", "status", "words"),
        [
            (ProbeResponse(200, "{}"), "ok", "is read or cut"),
            (ProbeResponse(500, "oops"), "warn", "HTTP 500: oops"),
            (ProbeResponse(0, "Remote end closed connection"), "warn", "got no response: Remote end"),
        ],
    )
    def test_other_answers(self, about, reply, status, words):
        found = judge(seen(1.0, too_long=reply), about())[budget.LONG]
        assert (found.status, words in found.detail) == (status, True)


def test_share_that_few_calls_show():
    assert share_at_least(0) == 0
    assert share_at_least(1) == pytest.approx(0.05)
    assert share_at_least(59) == pytest.approx(0.95, abs=0.002)


class TestSpeed:
    HOST = Host(
        "a CPU",
        frozenset({"avx512_bf16"}),
        tuple(Core(number, number) for number in range(4)),
        (Node(0, 1 << 34),),
        1 << 34,
    )
    BOUND = (("VLLM_CPU_OMP_THREADS_BIND", "0-3"),)

    @pytest.fixture
    def advice(self, fake, model_folder):
        def give(*command, environment=self.BOUND, causal=False, host=self.HOST, factor=1.0, **fields):
            spec = ContainerSpec("reranker", "vllm-cpu:latest", command=command, environment=environment)
            fake.create_container(spec)
            model = dataclasses.replace(describe(model_folder), causal=causal, **fields)
            return speed.speed_advice([fake.container("reranker")], model, host, factor)

        return give

    def test_what_is_enough_is_computed_from_the_pace(self, advice):
        found = advice("--dtype", "bfloat16", factor=2.0)
        assert found[:2] == (
            "8 cores in place of 4, of one container or of replicas (ragops scale N)",
            "a model with at most 50 % of this one's work for each token",
        )
        assert [text.split()[0] for text in found[2:]] == ["shorter"]

    @pytest.mark.parametrize(
        ("features", "factor", "fields", "words"),
        [
            ({"avx512_vnni"}, 1.4, {"architecture": "Qwen3ForCausalLM"}, "enough for 100 % of"),
            ({"avx512_vnni"}, 1.9, {"architecture": "Qwen3ForCausalLM"}, "enough for 79 % of"),
            ({"avx512_vnni"}, 1.9, {"architecture": "Qwen3ForCausalLM", "int8_bytes": 1}, ""),
            ({"avx512_vnni"}, 1.9, {"architecture": "JinaForRanking"}, ""),
            ({"avx2"}, 1.9, {"architecture": "Qwen3ForCausalLM"}, ""),
        ],
    )
    def test_int8_where_it_can_be_served(self, advice, features, factor, fields, words):
        host = dataclasses.replace(self.HOST, features=frozenset(features))
        found = [text for text in advice(host=host, factor=factor, **fields) if "int8" in text]
        assert bool(found) == bool(words)
        assert all(words in text for text in found)

    def test_threads_of_all_replicas_count(self, fake, model_folder):
        for number, threads in enumerate(("0-1", "2-3")):
            environment = (("VLLM_CPU_OMP_THREADS_BIND", threads),)
            fake.create_container(ContainerSpec(f"r-{number}", "vllm-cpu:latest", environment=environment))
        replicas = [fake.container("r-0"), fake.container("r-1")]
        found = speed.speed_advice(replicas, describe(model_folder), self.HOST, 1.5)
        assert found[-3].startswith("6 cores in place of 4, of one container")
        assert not [text for text in found if text.startswith("cores")]

    def test_well_launched_has_only_the_last_two(self, advice):
        found = advice("--dtype", "bfloat16")
        assert [one.split()[0] for one in found] == ["shorter", "more"]

    def test_in_this_order(self, advice):
        found = advice("--dtype", "float32", environment=(("VLLM_CPU_OMP_THREADS_BIND", "0-1"),))
        assert [one.split()[0] for one in found] == ["dtype", "cores", "shorter", "more"]
        assert "2 of 4" in found[1]

    def test_threads_that_vllm_binds_itself(self, advice):
        assert "leaves one out" in advice("--dtype", "bfloat16", environment=())[0]

    @pytest.mark.parametrize(
        ("command", "first"),
        [
            ((), "--enable-prefix-caching"),
            (("--enable-prefix-caching", "--block-size", "128"), "--block-size"),
            (("--enable-prefix-caching", "--block-size", "32"), "shorter"),
        ],
    )
    def test_caches_of_a_causal_model(self, advice, command, first):
        assert advice("--dtype", "bfloat16", *command, causal=True)[0].startswith(first)
