"""sizing.py and options.py: vLLM's options and the reranker's container for a model and a machine."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
import pytest

from ragops.configuration import Network, Reranker, Stack
from ragops.docker.objects import LABEL_STACK, EngineState
from ragops.errors import StackError
from ragops.reranker import architectures, options, sizing
from ragops.reranker.host import Core, Host, Node, format_cpu_list
from ragops.reranker.model import Model, Shape

GIB = 1 << 30
AMX = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16"})

QWEN3 = Model(
    folder=Path("/srv/Qwen3-Reranker-0.6B"),
    name="Qwen3-Reranker-0.6B",
    architecture="Qwen3ForCausalLM",
    kind="qwen3-reranker",
    max_tokens=40960,
    causal=True,
    shape=Shape(28, 1024, 3072, 8, 128, 151669),
    weight_bytes=1_191_588_280,
    dtype="bfloat16",
)
MINILM = Model(
    folder=Path("/srv/all-MiniLM-L6-v2"),
    name="all-MiniLM-L6-v2",
    architecture="BertModel",
    kind="embedding",
    max_tokens=256,
    causal=False,
    shape=Shape(6, 384, 1536, 12, 32, 30522),
    weight_bytes=90_868_376,
    dtype="float32",
)


def host(cpus: int = 2, *, threads: int = 1, nodes: int = 1, features=AMX, memory: int = 64 * GIB) -> Host:
    """``cpus`` logical CPUs, threads numbered as on servers: first all cores, then their twins."""
    cores = cpus // threads
    per_node = cores // nodes
    rows = tuple(
        Core(cpu, cpu % cores % per_node, cpu % cores // per_node, cpu % cores // per_node)
        for cpu in range(cpus)
    )
    return Host(
        "Some CPU", features, rows, tuple(Node(node, memory // nodes) for node in range(nodes)), memory
    )


def stack(**reranker) -> Stack:
    return Stack(reranker=Reranker(**reranker))


def size(model: Model = QWEN3, machine: Host | None = None, **reranker) -> sizing.Sizing:
    return sizing.size(stack(**reranker), model, machine or host())


def launch(model: Model = QWEN3, machine: Host | None = None, configuration: Stack | None = None, **reranker):
    configuration = configuration or stack(**reranker)
    needs = sizing.size(configuration, model, machine or host())
    return options.container_spec(configuration, model, needs, image="vllm-cpu:latest")


def flags(spec) -> dict[str, str]:
    """The command line as flag and value; the value of a switch is empty."""
    words = [*spec.command, "--"]
    return {
        word: "" if after.startswith("--") else after
        for word, after in itertools.pairwise(words)
        if word.startswith("--")
    }


def test_qwen3_gets_all_that_makes_its_scores_right():
    found = flags(launch())
    assert found["--model"] == "/models/qwen3-reranker-0.6b"
    assert found["--served-model-name"] == "qwen3-reranker-0.6b"
    assert found["--runner"] == "pooling"
    assert found["--dtype"] == "bfloat16"
    assert found["--chat-template"] == "/templates/qwen3_reranker.jinja"
    assert json.loads(found["--hf-overrides"]) == {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    assert found["--block-size"] == "32"
    assert "--enable-prefix-caching" in found
    assert found["--max-model-len"] == "8192"
    assert found["--kv-cache-memory-bytes"] == str(2 * GIB)
    assert found["--disable-access-log-for-endpoints"] == "/health,/metrics"
    assert "--trust-remote-code" not in found


def test_a_converted_qwen3_gets_the_template_only():
    found = flags(launch(Model(**{**vars(QWEN3), "kind": "qwen3-reranker-seq-cls"})))
    assert "--chat-template" in found
    assert "--hf-overrides" not in found


def test_an_encoder_gets_neither():
    spec = launch(MINILM)
    found = flags(spec)
    assert found["--max-model-len"] == "256"
    assert not {"--chat-template", "--hf-overrides", "--block-size", "--enable-prefix-caching"} & set(found)
    assert [mount.target for mount in spec.mounts] == ["/models/all-minilm-l6-v2", options.CACHE]


def test_a_listwise_model_takes_ragflows_usual_call_at_once():
    jina = replace(QWEN3, kind="jina-reranker-v3", architecture="JinaForRanking", max_tokens=131072)
    found = flags(launch(jina))
    assert int(found["--max-model-len"]) > 64 * 320
    assert found["--kv-cache-memory-bytes"] == str(4 * GIB)
    assert not {"--chat-template", "--hf-overrides"} & set(found)
    assert flags(launch(jina, kv_cache_gib=1))["--max-model-len"] == str(GIB // (112 * 1024))


@pytest.mark.parametrize(
    ("kind", "pooler", "method"),
    [
        ("zerank", {"logit_sigma": 5.0}, "no_post_processing"),
        ("mxbai-rerank-v2", {"logit_mean": 4.5}, "from_2_way_softmax"),
        ("bge-reranker-v2-gemma", None, "no_post_processing"),
    ],
)
def test_a_language_model_gets_head_and_scale(kind, pooler, method):
    found = flags(launch(replace(QWEN3, kind=kind)))
    assert json.loads(found["--hf-overrides"])["method"] == method
    assert json.loads(found.get("--pooler-config", "null")) == pooler


def test_raw_logits_of_a_folder_become_probabilities():
    sigmoid = json.dumps(architectures.SIGMOID)
    found = flags(launch(replace(MINILM, kind="cross-encoder", overrides=sigmoid)))
    assert json.loads(found["--hf-overrides"]) == architectures.SIGMOID


def test_every_setting_has_a_reason():
    rows = (*options.arguments(stack(), QWEN3, size()), *options.environment(stack(), QWEN3, size()))
    assert all(row.why for row in rows)
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("features", "wanted", "dtype"),
    [
        ({"amx_bf16"}, "auto", "bfloat16"),
        ({"avx512_bf16"}, "auto", "bfloat16"),
        ({"avx512f", "avx2"}, "auto", "float32"),
        (set(), "auto", "float32"),
        (set(), "bfloat16", "bfloat16"),
        ({"amx_bf16"}, "float16", "float16"),
    ],
)
def test_arithmetic_follows_the_processor(features, wanted, dtype):
    machine = host(features=frozenset(features))
    assert flags(launch(machine=machine, dtype=wanted))["--dtype"] == dtype


@pytest.mark.parametrize(
    ("machine", "cpus", "mems", "threads"),
    [
        (host(1), "0", "0", "0"),
        (host(2), "0-1", "0", "0-1"),
        (host(2, threads=2), "0", "0", "0"),
        (host(8, threads=2), "0-3", "0", "0-3"),
        (host(5), "0-4", "0", "0-3"),
        (host(16, threads=2), "0-7", "0", "0-6"),
        (host(32, threads=2, nodes=2), "0-7", "0", "0-6"),
    ],
)
def test_one_thread_of_each_core_of_one_node(machine, cpus, mems, threads):
    spec = launch(machine=machine)
    assert (spec.cpuset_cpus, spec.cpuset_mems) == (cpus, mems)
    assert dict(spec.environment)["VLLM_CPU_OMP_THREADS_BIND"] == threads


def test_the_node_with_the_most_allowed_cpus():
    whole = host(32, threads=2, nodes=2)
    allowed = tuple(cpu for cpu in whole.cpus if cpu.cpu not in {0, 1, 2})
    spec = launch(machine=Host(**{**vars(whole), "cpus": allowed}))
    assert (spec.cpuset_cpus, spec.cpuset_mems) == ("8-15", "1")


def test_named_cores_are_honoured_with_their_nodes():
    spec = launch(machine=host(32, threads=2, nodes=2), cores="6-9,24")
    assert (spec.cpuset_cpus, spec.cpuset_mems) == ("6-9,24", "0-1")
    assert dict(spec.environment)["VLLM_CPU_OMP_THREADS_BIND"] == "6-9"


def test_cores_that_are_not_allowed():
    with pytest.raises(StackError, match="CPU 2-3 can't be used") as caught:
        launch(cores="1-3")
    assert caught.value.evidence == "allowed: 0-1"


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("Qwen3-Reranker-0.6B", "qwen3-reranker-0.6b"),
        ("a___b@c", "a-b-c"),
        ("a__b____c", "a__b-c"),
        ("my, model", "my-model"),
        ("@", "model"),
    ],
)
def test_ragflow_can_take_the_served_name(name, served):
    model = Model(**{**vars(QWEN3), "name": name})
    assert options.served_name(stack(), model) == served
    assert options.served_name(stack(served_name="Mine"), model) == "Mine"


def test_the_length_is_the_models_unless_it_is_long():
    assert size(MINILM).max_model_len == 256
    assert size().max_model_len == 8192
    assert size(max_model_len=1024).max_model_len == 1024
    with pytest.raises(StackError, match="takes 256 tokens"):
        launch(MINILM, max_model_len=512)


def test_a_document_must_fit_the_key_value_cache():
    with pytest.raises(StackError, match="32768 tokens") as caught:
        launch(max_model_len=32768)
    assert "kv_cache_gib = 4" in caught.value.hint
    assert flags(launch(max_model_len=32768, kv_cache_gib=4))["--max-model-len"] == "32768"


def test_memory_adds_up():
    need = size().memory
    assert need.kv_cache == 2 * GIB
    assert need.weights == QWEN3.weight_bytes + 151669 * 1024 * 2
    assert 0 < need.activations < GIB // 4
    required = need.weights + need.kv_cache + need.activations + need.processes
    assert 0 <= need.required - required < GIB // 4
    assert need.page_cache == QWEN3.weight_bytes + GIB
    assert 0 <= need.total - required - need.page_cache < GIB // 4
    assert launch().memory == need.total


def test_page_cache_gets_what_the_machine_has():
    required = size().memory.required
    assert launch(machine=host(memory=required)).memory == required
    with pytest.raises(StackError, match="of memory"):
        launch(machine=host(memory=required - 1))


def test_float32_weights_are_twice_as_large():
    machine = host(features=frozenset())
    assert size(machine=machine).memory.weights > 2 * QWEN3.weight_bytes
    assert size(MINILM).memory.weights == MINILM.weight_bytes // 2


def test_more_cores_compile_more_at_once_up_to_four():
    needs = [size(machine=host(cpus)).memory.processes for cpus in (1, 2, 4, 64)]
    assert needs == [2.5 * GIB, 3 * GIB, 4 * GIB, 4 * GIB]


def test_a_machine_with_too_little_memory():
    with pytest.raises(StackError, match=r"this machine offers 4\.0"):
        launch(machine=host(memory=4 * GIB))
    assert launch(machine=host(memory=4 * GIB), memory_gib=4).memory == 4 * GIB
    with pytest.raises(StackError, match=r"needs 5\.0 GiB"):
        launch(machine=host(memory=4 * GIB), memory_gib=5)


def test_one_node_has_only_its_part_of_the_memory():
    with pytest.raises(StackError, match=r"offers 5\.0"):
        launch(machine=host(8, nodes=2, memory=10 * GIB))


def test_a_cgroup_limit_counts_unless_the_stack_names_a_size():
    limited = Host(**{**vars(host()), "memory_limit": 3 * GIB})
    with pytest.raises(StackError, match=r"offers 3\.0"):
        launch(machine=limited)
    assert launch(machine=limited, memory_gib=8).memory == 8 * GIB


def test_the_container_is_closed():
    spec = launch()
    assert spec.read_only
    assert spec.pids_limit > 0
    assert spec.user == "65532:65532"
    assert {"noexec", "size=256m"} <= set(spec.tmpfs[0][1].split(","))
    assert all(mount.read_only for mount in spec.mounts if mount.kind == "bind")
    environment = dict(spec.environment)
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
    assert "LD_PRELOAD" not in environment


def test_shared_memory_holds_vllms_rings():
    assert launch().shm_size > (160 + 240) << 20


ENGINE = EngineState("ID", "unix:///x", "28.0.0", "1.48", "/var/lib/docker", "6.1")


@pytest.mark.parametrize(
    ("engine", "reranker", "internal", "published"),
    [
        (ENGINE, {}, False, [("127.0.0.1", 8123, 8000)]),
        (ENGINE, {"publish": "::1", "port": 9}, False, [("::1", 9, 8000)]),
        (ENGINE, {"port": False}, False, []),
        (ENGINE, {}, True, []),
        (replace(ENGINE, version="20.10.24+dfsg1"), {"port": 9}, False, []),
        (replace(ENGINE, version="27.5.1"), {}, False, []),
        (replace(ENGINE, version="27.5.1", isolated=True), {}, False, [("127.0.0.1", 8123, 8000)]),
        (replace(ENGINE, version="4.9.3"), {}, False, []),  # Podman
        (replace(ENGINE, version="dev"), {}, False, []),
        (replace(ENGINE, version="20.10.24"), {"expose": True}, False, [("127.0.0.1", 8123, 8000)]),
        (None, {}, False, []),
    ],
)
def test_port_is_published_only_where_the_engine_keeps_other_machines_out(
    engine, reranker, internal, published
):
    configured = Stack(network=Network(internal=internal), reranker=Reranker(**reranker))
    assert options.published(configured, engine) == tuple(published)


@pytest.mark.parametrize(
    ("version", "internal", "expose", "closed"),
    [
        ("28.0.0", None, False, None),
        ("27.5.1", None, False, True),
        ("27.5.1", False, False, False),
        ("27.5.1", None, True, None),
        ("28.0.0", True, False, True),
    ],
)
def test_new_network_is_internal_where_the_engine_lets_other_machines_in(version, internal, expose, closed):
    configured = Stack(network=Network(internal=internal), reranker=Reranker(expose=expose))
    assert options.closed(configured, replace(ENGINE, version=version)).network.internal is closed


def test_engine_restarts_the_reranker_after_a_stop_of_its_own():
    """At its start the engine restarts what exited with an error; vLLM exits with 0 after SIGTERM."""
    spec = launch()
    assert (spec.restart, spec.stop_signal) == ("on-failure:5", "SIGKILL")


def test_compiled_code_goes_to_the_volume():
    spec = launch()
    volume = next(mount for mount in spec.mounts if mount.kind == "volume")
    assert (volume.source, volume.target) == ("ragflow-vllm-reranker-compiled", options.CACHE)
    environment = dict(spec.environment)
    for name in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "PYTHONPYCACHEPREFIX", "HOME"):
        assert environment[name].startswith(f"{options.CACHE}/65532")
    assert environment["VLLM_USE_AOT_COMPILE"] == "0"


def test_a_configured_template_is_mounted():
    spec = options.container_spec(stack(), QWEN3, size(), image="i", template=Path("/srv/t/mine.jinja"))
    assert "/srv/t/mine.jinja" in {mount.source for mount in spec.mounts}
    assert flags(spec)["--chat-template"] == "/templates/qwen3_reranker.jinja"


def test_the_health_check_lasts_as_long_as_up_waits():
    assert launch(ready_timeout=90).health.start_period == 90
    assert dict(launch(ready_timeout=90).environment)["VLLM_ENGINE_READY_TIMEOUT_S"] == "600"
    assert dict(launch(ready_timeout=1800).environment)["VLLM_ENGINE_READY_TIMEOUT_S"] == "1800"


def render(query: str, document: str, **more: str) -> str:
    """The score template as vLLM renders it, by way of transformers."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    text = (options.TEMPLATES / "qwen3_reranker.jinja").read_text(encoding="utf-8")
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    return environment.from_string(text).render(
        messages=messages, tools=None, documents=None, add_generation_prompt=False, **more
    )


def prompt(instruction: str, query: str, document: str) -> str:
    """What Qwen3-Reranker's model card puts together."""
    return (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


USUAL = "Given a web search query, retrieve relevant passages that answer the query"
AWKWARD = "  a\n\n {{ b }} {% if %} {# c #} <b>&amp;</b>\n"


@pytest.mark.parametrize(("query", "document"), [("a", "b"), ("", ""), (AWKWARD, AWKWARD)])
def test_the_prompt_is_the_model_cards(query, document):
    assert render(query, document) == prompt(USUAL, query, document)


def test_an_instruction_takes_the_place_of_the_usual_one():
    assert render("a", "b", instruction="Find birds") == prompt("Find birds", "a", "b")
    assert render("a", "b", instruction="") == prompt(USUAL, "a", "b")


class TestWhatTuneMayChange:
    def test_nothing_named_is_the_launch_as_it_was(self):
        named = {
            "--max-num-batched-tokens",
            "--max-num-seqs",
            "--enforce-eager",
            "--no-enable-prefix-caching",
        }
        assert not named & set(flags(launch()))

    def test_named_settings_are_taken(self):
        settings = {"block_size": 64, "prefix_caching": False, "max_num_batched_tokens": 4096}
        found = flags(launch(**settings, max_num_seqs=64, eager=True))
        assert (found["--block-size"], found["--max-num-batched-tokens"]) == ("64", "4096")
        assert (found["--max-num-seqs"], found["--enforce-eager"]) == ("64", "")
        assert "--no-enable-prefix-caching" in found
        assert "--enable-prefix-caching" not in found

    def test_named_cpus_compute_and_the_container_keeps_all(self):
        spec = launch(machine=host(4), compute="1,3")
        assert dict(spec.environment)["VLLM_CPU_OMP_THREADS_BIND"] == "1,3"
        assert spec.cpuset_cpus == "0-3"

    def test_cpus_that_are_not_the_containers_are_refused(self):
        with pytest.raises(StackError, match="compute: CPU 2-3 can't be used here") as caught:
            launch(machine=host(4), cores="0-1", compute="1-3")
        assert caught.value.code == "cores-missing"

    def test_memory_follows_the_batched_tokens(self):
        more = size(max_num_batched_tokens=8192).memory.activations
        assert more == 4 * size().memory.activations

    @pytest.mark.parametrize("settings", [{"block_size": 32}, {"prefix_caching": True}])
    def test_an_encoder_has_nothing_to_share(self, settings):
        with pytest.raises(StackError, match="is an encoder") as caught:
            launch(MINILM, **settings)
        assert caught.value.code == "setting-refused"

    @pytest.mark.parametrize(
        ("model", "settings"),
        [
            (MINILM, {"max_num_batched_tokens": 255}),
            (QWEN3, {"max_num_batched_tokens": 127}),
            (QWEN3, {"max_num_batched_tokens": 256, "max_num_seqs": 257}),
        ],
    )
    def test_steps_that_vllm_refuses(self, model, settings):
        with pytest.raises(StackError, match="max_num_batched_tokens") as caught:
            launch(model, **settings)
        assert caught.value.code == "setting-refused"


def test_releases_of_options_are_in_order():
    """Each option came before it was gone, and replacements are options that are still there."""
    numbers = [(since, gone) for since, gone, _ in options.RELEASES.values()]
    assert all(bool(since) != bool(gone) for since, gone in numbers)
    replaced = {instead.partition("=")[0] for _, _, instead in options.RELEASES.values()} - {"", "--task"}
    assert {name for name in replaced if options.RELEASES.get(name, ("", "", ""))[1]} == set()
    assert options.release("0.8.5") < options.release("0.10") < options.release("0.10.1")


def core_lists(machine: Host, **reranker) -> list[tuple[str, str, str]]:
    """CPUs, CPUs that compute and NUMA node of each replica."""
    return [
        (
            format_cpu_list(core.cpu for core in needs.cores),
            format_cpu_list(needs.compute),
            format_cpu_list(core.node for core in needs.cores),
        )
        for needs in sizing.sizes(stack(**reranker), MINILM, machine)
    ]


class TestReplicas:
    @pytest.mark.parametrize(
        ("machine", "configured", "sets"),
        [
            (host(32, threads=2, nodes=2), {"replicas": 1}, [("0-7", "0-6", "0")]),
            (host(32, threads=2, nodes=2), {"replicas": 2}, [("0-7", "0-6", "0"), ("8-15", "8-14", "1")]),
            (
                host(32, threads=2, nodes=2),
                {"replicas": 3},
                [("0-3", "0-3", "0"), ("4-7", "4-7", "0"), ("8-15", "8-14", "1")],
            ),
            (host(2), {"replicas": 2}, [("0", "0", "0"), ("1", "1", "0")]),
            (host(7), {"replicas": 3}, [("0-1", "0-1", "0"), ("2-3", "2-3", "0"), ("4-6", "4-6", "0")]),
            (
                host(8, nodes=2),
                {"replicas": 2, "cores": "1-2,4-6", "compute": "1,5"},
                [("1-2", "1", "0"), ("4-6", "5", "1")],
            ),
        ],
    )
    def test_each_has_cores_of_one_node(self, machine, configured, sets):
        assert core_lists(machine, **configured) == sets

    @pytest.mark.parametrize("count", range(1, 17))
    @pytest.mark.parametrize("machine", [host(16), host(64, threads=2, nodes=4)], ids=["16", "64"])
    def test_share_no_core_and_fit_machine_and_node(self, machine, count):
        needs = sizing.sizes(stack(replicas=count), MINILM, machine)
        cpus = [core.cpu for each in needs for core in each.cores]
        assert len(cpus) == len(set(cpus))
        assert len(needs) == count
        assert sum(each.memory_limit for each in needs) <= machine.usable_memory
        for node in machine.nodes:
            own = [each.memory_limit for each in needs if each.cores[0].node == node.node]
            assert sum(own) <= node.memory
        sizes = [len(each.cores) for each in needs]
        assert max(sizes) <= 2 * min(sizes)

    @pytest.mark.parametrize(
        ("machine", "configured", "code"),
        [
            (host(4, threads=2), {"replicas": 3}, "replicas-many"),
            (host(8), {"replicas": 2, "cores": "3"}, "replicas-many"),
            (host(8), {"replicas": 2, "compute": "0-3"}, "cores-missing"),
            (host(8), {"replicas": 2, "compute": "0,8"}, "cores-missing"),
            (host(8, memory=6 * GIB), {"replicas": 2}, "memory-short"),
            (host(8, nodes=2, memory=12 * GIB), {"replicas": 4}, "memory-short"),
            (host(8, memory=12 * GIB), {"replicas": 2, "memory_gib": 7}, "memory-short"),
        ],
    )
    def test_that_the_machine_has_no_place_for(self, machine, configured, code):
        with pytest.raises(StackError) as caught:
            sizing.sizes(stack(**configured), MINILM, machine)
        assert caught.value.code == code
        assert caught.value.hint

    def test_is_reached_by_the_gateway_only(self):
        configuration = Stack()
        spec = options.as_replica(configuration, launch(), "rr-1")
        assert (spec.name, spec.publish, spec.aliases) == ("rr-1", (), (configuration.replicas_alias,))
        assert spec.all_labels()[LABEL_STACK] == configuration.reranker.name
