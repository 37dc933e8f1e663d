"""What tune tries on which machine, when a difference counts, and how the winner is written down."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops import vllm
from ragops.errors import BenchError, StackError
from ragops.host import Core, Host, Node
from ragops.model import Model, Shape
from ragops.stack import Reranker, Stack, parse
from ragops.tuning import declare
from ragops.tuning.candidates import applied, candidates, chosen, merged, untuned
from ragops.tuning.compare import Rule

GIB = 1 << 30
AMX = frozenset({"avx512f", "avx512_bf16", "amx_bf16"})
AVX512_BF16 = frozenset({"avx512f", "avx512_bf16"})
AVX2 = frozenset({"avx2"})


def model(folder, **changed):
    shape = Shape(28, 1024, 3072, 8, 128, 151669)
    fields = {
        "folder": folder,
        "name": "Qwen3-Reranker-0.6B",
        "architecture": "Qwen3ForCausalLM",
        "kind": "qwen3-reranker",
        "max_tokens": 40960,
        "causal": True,
        "shape": shape,
        "weight_bytes": 1_191_588_280,
        "dtype": "bfloat16",
    }
    return Model(**{**fields, **changed})


@pytest.fixture
def qwen3(tmp_path):
    return model(tmp_path)


@pytest.fixture
def encoder(tmp_path):
    return model(tmp_path, kind="cross-encoder", causal=False, max_tokens=512, dtype="float32")


def host(cpus, *, threads=1, nodes=1, features=AMX):
    cores = cpus // threads
    each = cores // nodes
    rows = tuple(Core(n, n % cores % each, n % cores // each, n % cores // each) for n in range(cpus))
    memory = tuple(Node(node, 256 * GIB // nodes) for node in range(nodes))
    return Host("CPU", features, rows, memory, 256 * GIB)


def tried(stack, served, machine):
    """Names of what is tried without being asked for, and their settings."""
    return {one.name: dict(one.settings) for one in chosen(candidates(stack, served, machine))}


class TestCandidates:
    def test_few_cores_try_to_leave_one_out(self, qwen3):
        assert tried(Stack(), qwen3, host(2))["compute-but-one"] == {"compute": "0"}
        assert "compute-but-one" not in tried(Stack(), qwen3, host(1))

    def test_many_cores_try_all(self, qwen3):
        found = tried(Stack(), qwen3, host(16))
        assert found["compute-all"] == {"compute": "0-15"}
        assert not {"compute-but-one", "both-threads", "all-nodes"} & set(found)

    def test_second_threads_and_other_nodes_where_there_are_some(self, qwen3):
        found = tried(Stack(), qwen3, host(32, threads=2, nodes=2))
        assert found["both-threads"] == {"cores": "0-7,16-23", "compute": "0-7,16-22"}
        assert found["all-nodes"] == {"cores": "0-15", "compute": "0-14"}

    def test_named_cores_stay(self, qwen3):
        found = tried(Stack(reranker=Reranker(cores="0-7")), qwen3, host(32, threads=2, nodes=2))
        assert not {"both-threads", "all-nodes"} & set(found)
        assert found["compute-all"] == {"compute": "0-7"}

    @pytest.mark.parametrize(
        ("features", "dtypes"),
        [(AMX, set()), (AVX512_BF16, {"float32"}), (AVX2, set())],
        ids=["amx", "avx512", "avx2"],
    )
    def test_arithmetic_is_tried_where_it_may_gain(self, qwen3, features, dtypes):
        known = {"float32", "float16", "bfloat16"}
        assert known & set(tried(Stack(), qwen3, host(4, features=features))) == dtypes

    def test_emulated_bfloat16_is_tried_when_it_is_asked_for(self, qwen3):
        found = candidates(Stack(), qwen3, host(4, features=AVX2))
        assert [one.name for one in chosen(found, ("eager", "bfloat16"))] == ["bfloat16", "eager"]

    def test_named_arithmetic_stays(self, qwen3):
        stack = Stack(reranker=Reranker(dtype="bfloat16"))
        assert not {"float32", "float16"} & {one.name for one in candidates(stack, qwen3, host(4))}

    def test_an_encoder_has_no_blocks_and_reads_documents_in_one_piece(self, qwen3, encoder):
        left = {"block-64", "block-128", "no-prefix-cache", "batched-1024"}
        assert left <= set(tried(Stack(), qwen3, host(4)))
        assert not left & set(tried(Stack(), encoder, host(4)))
        assert {"batched-4096", "batched-8192", "eager"} <= set(tried(Stack(), encoder, host(4)))

    def test_unknown_name_says_which_there_are(self, qwen3):
        with pytest.raises(BenchError, match="turbo is no setting to try") as caught:
            chosen(candidates(Stack(), qwen3, host(4)), ("turbo",))
        assert "block-64" in caught.value.evidence

    @pytest.mark.parametrize("features", [AMX, AVX2])
    @pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1), (4, 1, 1), (16, 2, 1), (64, 2, 2)])
    def test_each_can_be_launched_and_changes_the_launch(self, qwen3, encoder, shape, features):
        cpus, threads, nodes = shape
        machine = host(cpus, threads=threads, nodes=nodes, features=features)
        for served in (qwen3, encoder):
            usual = vllm.launch(Stack(), served, machine, image="x")
            for one in candidates(Stack(), served, machine):
                changed = vllm.launch(applied(Stack(), one.settings), served, machine, image="x")
                assert changed.config_hash() != usual.config_hash(), one.name

    def test_a_search_begins_without_what_an_earlier_one_wrote(self):
        stack = parse('[reranker]\nblock_size = 64\neager = true\ncompute = "0"\ndtype = "float32"\nport = 1')
        assert untuned(stack) == parse('[reranker]\ndtype = "float32"\nport = 1')

    def test_settings_are_checked_and_merged(self):
        assert merged((("block_size", 64), ("eager", True)), (("block_size", 128),)) == (
            ("block_size", 128),
            ("eager", True),
        )
        with pytest.raises(ValueError, match="multiple of 32"):
            applied(Stack(), (("block_size", 16),))


def dice(seed=7):
    return random.Random(seed)  # noqa: S311 - repeatable noise, no secret


def match(rule, truth, noise, chance):
    """Play pairs until the rule decides; gives back the decision and how many it took."""
    ratios = []
    while (decision := rule.decide(ratios)) == "go on":
        ratios.append(truth * chance.lognormvariate(0, noise))
    return decision, len(ratios)


class TestRule:
    @pytest.mark.parametrize("noise", [0.005, 0.03, 0.1])
    def test_what_is_not_faster_seldom_wins(self, noise):
        chance = dice()
        wins = [match(Rule(), 1.0, noise, chance)[0] for _ in range(500)].count("better")
        assert wins <= 0.01 * 500

    def test_what_is_faster_by_just_the_gain_wins_in_a_few_percent(self):
        chance = dice()
        wins = [match(Rule(), 1.03, 0.02, chance)[0] for _ in range(500)].count("better")
        assert wins <= 0.05 * 500

    def test_a_gain_of_15_percent_is_found(self):
        chance = dice()
        played = [match(Rule(), 1.15, 0.03, chance) for _ in range(500)]
        assert [decision for decision, _ in played].count("better") >= 0.95 * 500
        assert sum(pairs for _, pairs in played) / 500 < 6

    def test_a_loss_of_a_quarter_ends_early_and_is_named(self):
        chance = dice()
        played = [match(Rule(), 0.74, 0.02, chance) for _ in range(500)]
        assert {decision for decision, _ in played} <= {"worse", "same"}
        assert sum(pairs for _, pairs in played) / 500 < 4

    @given(st.floats(0.5, 2.0), st.floats(0.0, 0.5), st.integers(0, 1000))
    def test_it_always_ends(self, truth, noise, seed):
        decision, pairs = match(Rule(), truth, noise, dice(seed))
        assert decision in {"better", "worse", "same"}
        assert Rule().least <= pairs <= Rule().most

    def test_interval_is_the_one_of_the_tables(self):
        found = Rule(doubt=0.05, least=3, most=3).ratio([1.1, 1.2, 1.3])
        # mean of logs 0.18, standard error 0.0483 of them, t(0.975, 2) = 4.303
        assert (found.middle, found.low, found.high) == pytest.approx((1.1972, 0.9727, 1.4735), abs=2e-3)


TEXT = """\
# my stack
[network]
name = "x1" # because

[reranker]   # the server
# do not touch
port = 9000
block_size = 64   # from last year
[ragflow]
project = "docker"
"""


class TestDeclaration:
    def test_only_what_changed_changes(self):
        after = declare.changed(TEXT, (("eager", True), ("max_num_batched_tokens", 4096)))
        kept = [line for line in TEXT.splitlines() if "block_size" not in line]
        assert [line for line in after.splitlines() if line in kept] == kept
        assert set(after.splitlines()) - set(kept) == {"eager = true", "max_num_batched_tokens = 4096"}
        made = parse(after).reranker
        assert (made.eager, made.max_num_batched_tokens, made.block_size, made.port) == (
            True,
            4096,
            None,
            9000,
        )

    def test_what_an_earlier_search_wrote_goes_and_the_users_wishes_stay(self):
        text = '[reranker]\ndtype = "float32"\ncores = "0-1"\nprefix_caching = false\n'
        assert declare.changed(text, ()) == '[reranker]\ndtype = "float32"\ncores = "0-1"\n'

    def test_nothing_to_say_leaves_the_file_alone(self, tmp_path):
        file = tmp_path / "ragops.toml"
        assert declare.write(file, ()) is False
        assert not file.exists()

    def test_a_missing_file_or_table_is_made(self, tmp_path):
        file = tmp_path / "ragops.toml"
        assert declare.write(file, (("compute", "0"),)) is True
        assert parse(file.read_text()).reranker.compute == "0"
        file.write_text('[network]\nname = "x1"\n')
        assert declare.write(file, (("compute", "0"),)) is True
        assert parse(file.read_text()).network.name == "x1"

    def test_dotted_keys_are_a_table_too(self):
        made = parse(declare.changed("reranker.port = 9000\n", (("eager", True),))).reranker
        assert (made.port, made.eager) == (9000, True)

    def test_what_would_be_no_declaration_is_not_written(self, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_text(TEXT)
        with pytest.raises(StackError, match="block_size = 16"):
            declare.write(file, (("block_size", 16),))
        assert file.read_text() == TEXT
        assert list(tmp_path.iterdir()) == [file]

    def test_permissions_stay(self, tmp_path):
        file = tmp_path / "ragops.toml"
        file.write_text(TEXT)
        file.chmod(0o600)
        declare.write(file, (("eager", True),))
        assert file.stat().st_mode & 0o777 == 0o600

    def test_what_is_no_toml_is_refused(self):
        with pytest.raises(StackError, match="is not TOML"):
            declare.changed("[reranker\n", ())
