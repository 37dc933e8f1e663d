"""``ragops tune``: candidates, decision, gate, the file that is written, and the containers."""

import json
import random
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ragops
from ragops import cli
from ragops.bench import run, tune
from ragops.bench.tune import Search, candidates, decide, ratio_interval
from ragops.configuration import Reranker, Stack, load, parse, write_settings
from ragops.docker.objects import ContainerSpec, ExecResult
from ragops.errors import BenchError, EngineError, LaunchError, LockedError, StackError
from ragops.reranker import options as vllm
from ragops.reranker.host import Core, Host, Node
from ragops.reranker.model import Model, Shape
from ragops.reranker.sizing import size
from ragops.session import lock
from tests.support import stub as replies
from tests.support.served import Served
from tests.support.stub import Behaviour, application

NAME = "ragflow-vllm-reranker"
BOTH = [f"{NAME}-tune-a", f"{NAME}-tune-b"]
GIB = 1 << 30
VNNI, AVX2 = frozenset({"avx512f", "avx512_vnni"}), frozenset({"avx2"})
SCORES = {"first": (0.9, 0.1, 0.05), "second": (0.3, 0.7, 0.1)}


@pytest.fixture
def qwen3(tmp_path):
    shape = Shape(28, 1024, 3072, 8, 128, 151669)
    name, architecture = "Qwen3-Reranker-0.6B", "Qwen3ForCausalLM"
    return Model(
        folder=tmp_path,
        name=name,
        architecture=architecture,
        kind="qwen3-reranker",
        max_tokens=40960,
        causal=True,
        shape=shape,
        weight_bytes=1_191_588_280,
        dtype="bfloat16",
    )


@pytest.fixture
def encoder(qwen3):
    return Model(**{**vars(qwen3), "kind": "cross-encoder", "causal": False, "max_tokens": 4096})


def host(features=VNNI):
    cpus = tuple(Core(n, n, 0, 0) for n in range(4))
    return Host("CPU", features, cpus, (Node(0, 256 * GIB),), 256 * GIB)


def names(stack, model, machine=None):
    return candidates(stack, model, machine or host())


def config_hash(stack, model):
    return vllm.container_spec(stack, model, size(stack, model, host()), image="x").config_hash()


class TestCandidates:
    def test_each_can_be_launched_and_changes_the_launch(self, qwen3, encoder):
        for model in (qwen3, encoder):
            default = config_hash(Stack(), model)
            table = [settings for settings in candidates(Stack(), model, host()).values() if settings]
            stacks = [Stack(reranker=Reranker(**settings)) for settings in table]
            hashes = {config_hash(stack, model) for stack in stacks}
            assert len(hashes - {default}) == len(table)

    def test_what_the_configuration_says_is_left_out(self, qwen3):
        now = Reranker(max_num_batched_tokens=4096, max_num_seqs=32, block_size=64, eager=True)
        table = names(Stack(reranker=now), qwen3)
        assert not {"batched-4096", "sequences-32", "block-64", "eager"} & set(table)
        assert table["batched-2048"] == {"max_num_batched_tokens": 2048}
        assert table["sequences-128"] == {"max_num_seqs": 128}
        assert table["block-32"] == {"block_size": 32}
        assert table["compiled"] == {"eager": False}

    def test_an_encoder_has_no_blocks_and_takes_a_document_in_one_step(self, qwen3, encoder):
        assert {"block-64", "block-128", "batched-1024", "eager"} <= set(names(Stack(), qwen3))
        assert set(names(Stack(), encoder)) == {"batched-8192", "sequences-32", "eager", "int8"}

    def test_int8_needs_a_processor_and_a_model_that_is_not_quantized(self, qwen3):
        assert list(names(Stack(), qwen3))[-1] == "int8"
        assert "int8" not in names(Stack(), qwen3, host(AVX2))
        assert "int8" not in names(Stack(), Model(**{**vars(qwen3), "quantized": "compressed-tensors"}))


def decided(truth, noise, chance):
    ratios = []
    while (decision := decide(ratios)) is None:
        ratios.append(truth * chance.lognormvariate(0, noise))
    return decision, len(ratios)


def repeated(truth, noise, times=1000):
    chance = random.Random(7)  # noqa: S311 - repeatable noise, no secret
    return [decided(truth, noise, chance) for _ in range(times)]


class TestDecision:
    @pytest.mark.parametrize("noise", [0.005, 0.03, 0.1])
    def test_a_candidate_that_is_not_faster_is_seldom_called_faster(self, noise):
        assert [decision for decision, _ in repeated(1.0, noise)].count("faster") <= 0.01 * 1000

    def test_a_gain_of_15_percent_is_detected_early(self):
        results = repeated(1.15, 0.03)
        assert [decision for decision, _ in results].count("faster") >= 0.95 * 1000
        assert sum(pairs for _, pairs in results) / 1000 < 6

    def test_a_loss_of_a_quarter_ends_early(self):
        results = repeated(0.74, 0.02)
        assert {decision for decision, _ in results} <= {"slower", "no gain"}
        assert sum(pairs for _, pairs in results) / 1000 < 4

    @given(st.floats(0.5, 2.0), st.floats(0.0, 0.5), st.integers(0, 1000))
    def test_it_ends_after_three_to_eight_pairs(self, truth, noise, seed):
        decision, pairs = decided(truth, noise, random.Random(seed))  # noqa: S311
        assert decision in {"faster", "slower", "no gain", "inconclusive"}
        assert 3 <= pairs <= 8

    def test_interval_is_that_of_the_tables(self):
        mean, (low, high) = ratio_interval([1.1, 1.2, 1.3])
        # mean of logarithms 0.180, standard error 0.0483, t(1 - 0.05 / 12, 2) = 10.89
        assert (mean, low, high) == pytest.approx((1.1972, 0.7077, 2.0253), rel=2e-3)


FILES = {
    "comments": b"# a\n[reranker]   # b\n# c\nport  =  9000\nblock_size = 64   # d\n[ragflow]\nproject='d'\n",
    "blank lines": b"[reranker]\nport = 1\n\n\n# about ragflow\n[ragflow]\n\n\nproject = 'd'\n",
    "indented": b'[reranker]\n    port = 1\n    publish   =   "127.0.0.1"   \n\n\n',
    "CRLF": b'# a\r\n[reranker]\r\nport = 1\r\nblock_size = 64\t# x\r\n\r\n[ragflow]\r\nproject = "d"\r\n',
    "quoted": b'["reranker"]\n"block_size" = 64\n',
    "dotted": b"reranker.port = 9000\n\n[network]\nname='xx'\n",
    "no table": b'[network]\nname = "xx"\n',
    "array": b'[ragflow]\ncontainers = [\n  "aa",   # first\n\n  "bb",\n]\n[reranker]\nport=1\n',
    "byte order mark": b"\xef\xbb\xbf[reranker]\nport = 1\n",
    "empty": b"",
}


class TestFile:
    @pytest.mark.parametrize("content", FILES.values(), ids=FILES)
    def test_every_other_line_stays_byte_for_byte(self, tmp_path, content):
        file = tmp_path / "ragops.toml"
        file.write_bytes(content)
        write_settings(file, {"block_size": 128, "eager": True})
        before = [line for line in content.splitlines(keepends=True) if b"block_size" not in line]
        after = file.read_bytes().splitlines(keepends=True)
        rest = iter(after)
        assert all(line in rest for line in before), after
        added = [line for line in after if line.strip() and line not in before]
        assert [line for line in added if b"block_size" not in line and b"eager" not in line] in (
            [],
            [b"[reranker]\n"],
        )
        changed = load(file)
        expected = parse(content.decode("utf-8-sig")).reranker.model_copy(
            update={"block_size": 128, "eager": True}
        )
        assert changed.model_dump() == {
            **parse(content.decode("utf-8-sig")).model_dump(),
            "reranker": expected.model_dump(),
        }

    def test_a_missing_file_is_created(self, tmp_path):
        write_settings(tmp_path / "ragops.toml", {"eager": True})
        assert load(tmp_path / "ragops.toml").reranker.eager

    def test_a_last_line_without_an_end_gets_one(self, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_bytes(b"[reranker]\nport = 1 # c")
        write_settings(file, {"eager": True})
        assert file.read_bytes() == b"[reranker]\nport = 1 # c\neager = true\n"

    def test_permissions_and_link_stay(self, tmp_path):
        target, link = tmp_path / "real.toml", tmp_path / "ragops.toml"
        target.write_bytes(FILES["comments"])
        target.chmod(0o600)
        link.symlink_to(target)
        write_settings(link, {"eager": True})
        assert link.is_symlink()
        assert target.stat().st_mode & 0o777 == 0o600
        assert load(target).reranker.eager

    @pytest.mark.parametrize(
        "content", [b"[reranker\n", b"[reranker]\nname = '\xff'\n"], ids=["TOML", "UTF-8"]
    )
    def test_an_unreadable_file_stays(self, tmp_path, content):
        file = tmp_path / "ragops.toml"
        file.write_bytes(content)
        with pytest.raises(StackError) as caught:
            write_settings(file, {"eager": True})
        assert caught.value.code == "stack-unreadable"
        assert file.read_bytes() == content

    def test_an_invalid_value_is_not_written(self, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_bytes(FILES["comments"])
        with pytest.raises(StackError) as caught:
            write_settings(file, {"block_size": 16})
        assert caught.value.code == "value-refused"
        assert file.read_bytes() == FILES["comments"]
        assert list(tmp_path.iterdir()) == [file]


class FakeSearch(Search):
    """Rerankers of known speed and scores: each setting multiplies the speed of the configuration."""

    def __init__(self, scores=None, fails=(), **speeds):
        self.baseline, self.other = BOTH
        self.rows, self.settings, self._round = [], {}, 0
        self._engine = SimpleNamespace(remove_volume=lambda _: None)
        self.changed, self.fails, self.speeds = scores or {}, fails, speeds
        self.containers, self.measured, self.started, self.broken = {}, [], [], set()

    def start(self, name, settings):
        self.started.append(dict(settings))
        self.containers[name] = dict(settings)
        if "huge" in settings:
            raise LaunchError("exit code 137", evidence="out of memory")

    def _remove(self, name):
        self.containers.pop(name, None)

    def documents_per_s(self, name, run_name):
        if name in self.broken or self.broken & set(self.containers[name]):
            raise BenchError("requests failed")
        self.measured.append((name, self._round))
        speed = 10.0
        for key in self.containers[name]:
            speed *= self.speeds.get(key, 1.0)
        return speed

    def score(self, name):
        settings = self.containers[name]
        failed = "scores are in range" if set(settings) & set(self.fails) else ""
        for key in settings:
            if key in self.changed:
                return failed, self.changed[key]
        return failed, SCORES


def searched(search, *settings):
    search.run({name: {name: 1} for name in settings})
    return {row.candidate: row.decision for row in search.rows}


def moved(by):
    return {query: tuple(score + by for score in scores) for query, scores in SCORES.items()}


class TestSearch:
    def test_faster_candidates_add_up(self):
        search = FakeSearch(slow=0.7, fast=1.2, same=1.0, faster=1.15)
        decisions = searched(search, "slow", "fast", "same", "faster")
        assert decisions == {"slow": "slower", "fast": "faster", "same": "no gain", "faster": "faster"}
        assert search.settings == {"fast": 1, "faster": 1}
        assert search.started == [
            {},
            {"slow": 1},
            {"fast": 1},
            {"fast": 1, "same": 1},
            {"fast": 1, "faster": 1},
        ]
        assert [row.ratio for row in search.rows] == pytest.approx([0.7, 1.2, 1.0, 1.15])
        assert search.containers == {}

    def test_pairs_are_interleaved_and_no_server_gets_texts_twice(self):
        search = FakeSearch()
        searched(search, "one", "two")
        pairs = search.measured[1:]  # the first is the calibration
        a, b = BOTH
        assert [name for name, _ in pairs[:6]] == [a, b, b, a, a, b]
        assert [number for _, number in pairs] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]

    @pytest.mark.parametrize(
        "scores",
        [{"first": (0.1, 0.9, 0.05), "second": SCORES["second"]}, moved(0.03)],
        ids=["another order", "other scores"],
    )
    def test_a_faster_candidate_with_unequal_scores_is_rejected(self, scores):
        search = FakeSearch({"fast": scores}, fast=2.0)
        assert searched(search, "fast", "other") == {"fast": "rejected", "other": "no gain"}
        assert search.settings == {}

    def test_another_order_below_the_first_place_is_rejected_too(self):
        close = {"first": (0.9, 0.10, 0.11, 0.12), "second": (0.9, 0.10, 0.11, 0.12)}
        search = FakeSearch({"fast": dict.fromkeys(close, (0.9, 0.12, 0.11, 0.1))}, fast=2.0)
        search.score = lambda name: (
            "",
            FakeSearch.score(search, name)[1] if search.containers[name] else close,
        )
        assert searched(search, "fast") == {"fast": "rejected"}

    def test_scores_within_the_tolerance_are_equal(self):
        search = FakeSearch({"fast": moved(0.01)}, fast=2.0)
        assert searched(search, "fast") == {"fast": "faster"}

    def test_scores_are_compared_with_the_configuration_and_not_with_the_last_baseline(self):
        search = FakeSearch({"one": moved(0.015), "two": moved(0.03)}, one=1.3, two=1.3)
        search.score = lambda name: ("", moved(0.015 * len(search.containers[name])))
        assert searched(search, "one", "two") == {"one": "faster", "two": "rejected"}

    def test_a_faster_candidate_that_fails_a_score_check_is_rejected(self):
        search = FakeSearch(fails=("fast",), fast=2.0)
        assert searched(search, "fast") == {"fast": "rejected"}
        assert search.rows[0].reason == "scores are in range"

    def test_a_candidate_that_fails_is_a_row_and_the_search_continues(self):
        search = FakeSearch(fast=1.2)
        search.broken = {"weak"}
        assert searched(search, "huge", "weak", "fast") == {
            "huge": "failed",
            "weak": "failed",
            "fast": "faster",
        }
        assert "out of memory" in search.rows[0].reason

    def test_a_configuration_that_fails_ends_the_search(self):
        search = FakeSearch()
        search.score = lambda _: ("check_truncation", SCORES)
        with pytest.raises(BenchError) as caught:
            searched(search, "fast")
        assert caught.value.evidence == "check_truncation"
        search = FakeSearch()
        start = search.start
        search.start = lambda name, settings: (
            search.broken.add(BOTH[0]) if settings else None,
            start(name, settings),
        )
        with pytest.raises(BenchError):
            searched(search, "fast")
        assert (search.containers, search.rows) == ({}, [])

    def test_an_interrupt_removes_the_containers(self):
        search = FakeSearch()
        start = search.start

        def interrupted(name, settings):
            start(name, settings)
            if settings:
                raise KeyboardInterrupt

        search.start = interrupted
        with pytest.raises(KeyboardInterrupt):
            searched(search, "fast")
        assert search.containers == {}


def replied(path, text):
    behaviour, body = Behaviour(scorer="healthy", prompt="apart"), json.loads(text)
    if path.endswith("/tokenize"):
        reply = replies.count(body)
    else:
        used = replies.count_tokens(behaviour, body["query"], body["documents"])
        reply = replies.ranking(behaviour, body, used, number=1)
    return {"ok": True, "status": 200, "text": json.dumps(reply), "ms": 1.0}


@pytest.fixture
def engine(here, fake, probed, monkeypatch):
    """Each container that starts has a stub reranker behind its port; its options decide its speed."""
    monkeypatch.setattr(tune, "REQUEST_S", 0.01)
    monkeypatch.setattr(tune, "ROUND_S", 0.01)

    def level_statistics(run):
        speeds = {"4096": 12.0, "--enforce-eager": 7.0}
        options = run.info.provenance.launch_arguments
        return [SimpleNamespace(documents_per_s=min([speeds[o] for o in options if o in speeds] or [10.0]))]

    monkeypatch.setattr(tune, "level_statistics", level_statistics)
    stubs = []

    class Engine(type(fake)):
        def start(self, container):
            super().start(container)
            state = self.container(container)
            if state.role == "tune":
                stubs.append(served(state.published[0][1]))
                self.output[state.name] = "Application startup complete."

    def respond(container, argv, stdin):
        if not stdin:
            return ExecResult(0, "vllm 0.32", "")
        order = json.loads(stdin)
        if "posts" in order:
            return ExecResult(
                0,
                json.dumps(
                    {"responses": [{"place": n, **replied(*post)} for n, post in enumerate(order["posts"])]}
                ),
                "",
            )
        return ExecResult(0, json.dumps(probed(order)), "")

    fake.__class__ = Engine
    fake.version = "28.2.2"
    fake.respond = respond
    yield fake
    for stub in stubs:
        stub.__exit__(None, None, None)


def served(port):
    """A stub on that very port; the socket names its protocol, else asyncio sends with a delay."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(512)
    return Served(
        application(Behaviour(model="tiny", scorer="healthy", prompt="apart")), listener
    ).__enter__()


def left(engine):
    existing = [container.name for container in engine.containers()] + [v.name for v in engine.volumes()]
    return [name for name in existing if "tune" in name]


class TestVerb:
    def test_only_the_keys_of_faster_candidates_are_written(self, engine, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_text("[reranker]\nready_timeout = 60 # s\n")
        result = ragops.tune(load(), only=("batched-4096", "eager"), results="results", write=file)
        assert {row.candidate: row.decision for row in result.rows} == {
            "batched-4096": "faster",
            "eager": "slower",
        }
        assert file.read_text() == "[reranker]\nready_timeout = 60 # s\nmax_num_batched_tokens = 4096\n"
        assert (result.settings, result.written) == ({"max_num_batched_tokens": 4096}, file)
        assert left(engine) == []
        record = json.loads((result.folder / "tune.json").read_text())
        assert record["settings"] == {"max_num_batched_tokens": 4096}
        runs = [ragops.load_run(path.parent) for path in result.folder.glob("*/run.json")]
        assert len(runs) == 1 + 2 * 2 * 3
        assert all(run.info.complete and not run.problems for run in runs)
        for text in (str(result), result._repr_html_()):
            assert "batched-4096" in text

    def test_a_partial_search_keeps_other_settings_and_names_what_it_changes(self, engine, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_text("[reranker]\nmax_num_batched_tokens = 1024\nmax_num_seqs = 128\neager = false\n")
        result = ragops.tune(load(), only=("batched-4096",), write=file)
        assert file.read_text().splitlines()[1:] == [
            "max_num_batched_tokens = 4096",
            "max_num_seqs = 128",
            "eager = false",
        ]
        assert result.before == {"max_num_batched_tokens": 1024}
        assert "max_num_batched_tokens = 4096 (before: 1024)" in str(result)
        assert json.loads((result.folder / "tune.json").read_text())["before"] == result.before

    def test_containers_are_apart_from_the_stack_and_one_computes_at_a_time(self, engine, monkeypatch):
        specs, running = [], []
        create, record = engine.create_container, run.record
        monkeypatch.setattr(engine, "create_container", lambda spec: specs.append(spec) or create(spec))

        def watched(*args, **fields):
            running.append([c.name for c in engine.containers() if c.status == "running"])
            return record(*args, **fields)

        monkeypatch.setattr(tune, "record", watched)
        ragops.tune(load(), only=("eager",))
        assert [spec.name for spec in specs] == BOTH
        for spec in specs:
            assert (spec.network, spec.restart, spec.role) == (None, "no", "tune")
            assert spec.publish[0][0] == "127.0.0.1"
            assert [m.source for m in spec.mounts if m.kind == "volume"] == [f"{spec.name}-compiled"]
        assert [("--enforce-eager" in spec.command) for spec in specs] == [False, True]
        assert {len(containers) for containers in running} == {1}
        assert {containers[0] for containers in running} == set(BOTH)

    def test_int8_is_created_while_the_baseline_is_paused(self, engine, model_folder, monkeypatch, tmp_path):
        copy = tmp_path / "tiny-int8"

        def quantize(source, *, engine, image, kind):
            assert [c.status for c in engine.containers() if c.role == "tune"] == ["paused"]
            copy.mkdir()
            for file in source.iterdir():
                (copy / file.name).write_bytes(file.read_bytes())
            return copy

        monkeypatch.setattr("ragops.reranker.int8.int8", quantize)
        monkeypatch.setattr("ragops.reranker.int8.unfit", lambda _: "")
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        (tmp_path / "ragops.toml").write_text(f'[reranker]\nmodel = "{model_folder}"\n')
        row = ragops.tune(load(), only=("int8",)).rows[0]
        assert (row.settings, row.decision) == ({"model": str(copy), "served_name": "tiny"}, "no gain")

    def test_int8_is_refused_where_another_model_would_be_served(self, engine, monkeypatch):
        monkeypatch.setattr("ragops.reranker.int8.int8", lambda *_, **__: pytest.fail("created"))
        monkeypatch.setattr("ragops.reranker.int8.unfit", lambda _: "")
        row = ragops.tune(load(), only=("int8",)).rows[0]
        assert row.decision == "failed"
        assert "RAGOPS_MODEL_DIR" in row.reason

    def test_a_start_that_fails_is_a_row(self, engine, tmp_path):
        engine.refuse(f"start {BOTH[1]}", "no space left on device")
        result = ragops.tune(load(), only=("eager",), write="ragops.toml")
        assert result.rows[0].decision == "failed"
        assert "no space left on device" in result.rows[0].reason
        assert (result.settings, result.written, left(engine)) == ({}, None, [])
        assert not (tmp_path / "ragops.toml").exists()

    def test_an_interrupt_leaves_nothing(self, engine, monkeypatch):
        def step(line):
            if "pair 2" in line:
                raise KeyboardInterrupt

        monkeypatch.setattr("ragops.bench.tune.step", step)
        with pytest.raises(KeyboardInterrupt):
            ragops.tune(load(), only=("eager",))
        assert left(engine) == []

    @pytest.mark.parametrize("name", [NAME, f"{NAME}-1"])
    def test_a_running_reranker_or_replica_would_share_the_cores(self, engine, name):
        engine.add_container(name)
        with pytest.raises(BenchError) as caught:
            ragops.tune(load())
        assert (caught.value.code, caught.value.hint) == ("cores-shared", f"docker stop {name}")

    def test_a_watched_stack_is_refused(self, engine):
        with lock(engine.state().id, NAME, "watch"), pytest.raises(LockedError):
            ragops.tune(load())

    def test_containers_of_a_killed_search_are_removed_and_those_of_others_stay(self, engine):
        engine.create_container(ContainerSpec(BOTH[0], "vllm-cpu:latest", role="tune"))
        ragops.tune(load(), only=("eager",))
        assert left(engine) == []
        engine.add_container(BOTH[0])
        with pytest.raises(EngineError):
            ragops.tune(load(), only=("eager",))
        assert BOTH[0] in left(engine)

    def test_two_have_to_fit_into_memory(self, engine, machine, monkeypatch):
        small = type(machine)(**{**vars(machine), "available": 5 << 30})
        monkeypatch.setattr("ragops.reranker.host.read_host", lambda: small)
        with pytest.raises(StackError) as caught:
            ragops.tune(load(), only=("eager",))
        assert caught.value.code == "memory-short"

    def test_down_removes_what_a_killed_search_left(self, engine):
        for name in BOTH:
            engine.create_volume(f"{name}-compiled", role="cache")
            engine.create_container(ContainerSpec(name, "vllm-cpu:latest", role="tune"))
        ragops.down(load())
        assert left(engine) == []

    def test_the_command_writes_and_prints_json(self, engine, capsys):
        assert cli.main(["tune", "--only", "batched-4096", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["settings"], record["written"]) == ({"max_num_batched_tokens": 4096}, "ragops.toml")
        assert load().reranker.max_num_batched_tokens == 4096

    def test_the_command_writes_nothing_when_told_so(self, engine, tmp_path):
        assert cli.main(["tune", "--only", "batched-4096", "--no-write"]) == 0
        assert not (tmp_path / "ragops.toml").exists()

    def test_an_unknown_candidate_is_refused(self, engine, capsys):
        assert cli.main(["tune", "--only", "turbo"]) == 1
        assert "turbo" in capsys.readouterr().err
