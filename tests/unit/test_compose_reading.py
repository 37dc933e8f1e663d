"""Valid compose files of any form: no crash, no false finding, and the same faults in each form."""

import json
import os
import subprocess
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.compose import check_file, check_texts
from ragops.reranker.host import Core, Host, Node

CASES = Path(__file__).parents[1] / "data" / "compose"
ODD = sorted((CASES / "odd").glob("*.yaml"))
HEALTHY = sorted((CASES / "healthy").glob("*.yaml"))
HOST = Host("one", frozenset({"amx_bf16"}), (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)


def compose_config(file):
    """The result of ``docker-compose config``; needs no engine."""
    program = resources.files("compose") / "docker-compose"
    argv = [str(program), "--project-name", "odd", "--profile", "*", "--file", str(file), "config", "--quiet"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)


@pytest.mark.parametrize("file", [*ODD, *HEALTHY], ids=lambda file: file.stem)
def test_the_corpus_is_valid(file, monkeypatch):
    monkeypatch.setenv("RERANK_KEY", "k")
    done = compose_config(file)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ODD, ids=lambda file: file.stem)
def test_the_corpus_has_no_faults(file):
    assert check_file(file, host=HOST).findings == ()


@pytest.mark.parametrize(
    "keys",
    [
        "device_requests: [{driver: nvidia}]",
        "deploy: {x-note: 1, resources: {limits: {cpu: 1}}}",
        "volumes: [{type: bind, source: ./a, target: /a, bind: {create_host: true}}]",
        "networks: {default: {alias: [a]}}",
    ],
)
def test_keys_are_refused_as_compose_refuses_them(keys, tmp_path):
    text = f"services:\n  reranker:\n    image: vllm-cpu:1\n    {keys}\n"
    (tmp_path / "compose.yaml").write_text(text)
    assert "additional properties" in compose_config(tmp_path / "compose.yaml").stderr
    findings = check_texts({Path("/nowhere/compose.yaml"): text}, HOST, {}).findings
    assert [finding.line for finding in findings if finding.code == "key-unknown"] == [4]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("extends", "include:"),
        ("extends", "elsewhere extends"),
        ("not-vllm", "vllm runs vLLM"),
    ],
)
def test_what_is_not_checked_is_named(name, note):
    assert note in " ".join(check_file(CASES / "odd" / f"{name}.yaml", host=HOST).notes)


BASE = json.loads(json.dumps(yaml.safe_load((CASES / "clean.yaml").read_text())))["services"]["reranker"]
FAULTS = {
    "none": {},
    "task": {"--runner": None, "--task": "score"},
    "slow": {"--dtype": "float32"},
    "template": {"--chat-template": None},
    "overrides": {"--hf-overrides": None},
    "broken": {"--hf-overrides": "{architectures"},
    "slash": {"--served-model-name": "me/rerank"},
    "loopback": {"--host": "127.0.0.1"},
    "block": {"--block-size": "16"},
}
CODES = {
    "none": set(),
    "task": {"task-removed"},
    "slow": {"dtype-slow"},
    "template": {"template-missing"},
    "overrides": {"hf-overrides-missing"},
    "broken": {"hf-overrides-broken"},
    "slash": {"model-name-slash"},
    "loopback": {"host-loopback"},
    "block": {"block-size"},
}


def options(fault):
    values = dict(row.split("=", 1) for row in BASE["command"]) | FAULTS[fault]
    return [(name, value) for name, value in values.items() if value is not None]


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def as_list(pairs):
    return [f"{name}={value}" for name, value in pairs]


def as_words(pairs):
    return [word for pair in pairs for word in pair]


def as_text(pairs):
    return " ".join(f"{name} {quoted(value)}" for name, value in pairs)


def with_underscores(pairs):
    return [f"{name.replace('-', '_').replace('__', '--', 1)}={value}" for name, value in pairs]


def with_defaults(pairs):
    return [
        f"{name}={value}" if "{" in value else f"{name}=${{UNSET_OF_TEST:-{value}}}" for name, value in pairs
    ]


COMMANDS = st.sampled_from([as_list, as_words, as_text, with_underscores, with_defaults])
PORTS = st.sampled_from(
    [
        BASE["ports"],
        ["${ADDRESS_OF_TEST:-127.0.0.1}:8123:8000/tcp"],
        ["[::1]:8123:8000"],
        [{"target": 8000, "published": "8123", "host_ip": "127.0.0.1"}],
        [],
    ]
)
MOUNTS = st.sampled_from(
    [
        lambda text: text,
        lambda text: {"type": "bind", "source": text.split(":")[0], "target": text.split(":")[1]},
    ]
)
SHM = st.sampled_from(
    [
        {"shm_size": "1gb"},
        {"shm_size": 1 << 30},
        {"shm_size": "${UNSET_OF_TEST:-1024m}"},
        {"tmpfs": ["/dev/shm:size=1g"]},  # noqa: S108 - a mount's target
        {"ipc": "host"},
    ]
)
RESTARTS = st.sampled_from(
    [
        {"restart": "on-failure:5"},
        {"restart": "no"},
        {},
        {"deploy": {"restart_policy": {"condition": "on-failure", "max_attempts": 3}}},
        {"deploy": {"restart_policy": {"condition": "none"}}},
    ]
)
ENVIRONMENTS = st.sampled_from(
    [
        {"VLLM_CPU_OMP_THREADS_BIND": "0-3"},
        ["VLLM_CPU_OMP_THREADS_BIND=0-3", "TZ"],
        {"VLLM_CPU_OMP_THREADS_BIND": "${UNSET_OF_TEST:-0-3}", "TZ": None},
    ]
)


@given(
    fault=st.sampled_from(list(FAULTS)),
    command=COMMANDS,
    ports=PORTS,
    mount=MOUNTS,
    shm=SHM,
    restart=RESTARTS,
    environment=ENVIRONMENTS,
    inherited=st.booleans(),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=30)
def test_a_fault_is_reported_in_every_form_of_the_file(
    fault, command, ports, mount, shm, restart, environment, inherited, order
):
    service = {
        **{key: value for key, value in BASE.items() if key not in {"shm_size", "restart"}},
        **shm,
        **restart,
        "command": command(order.sample(pairs := options(fault), len(pairs))),
        "ports": ports,
        "volumes": [mount(text) for text in BASE["volumes"]],
        "environment": environment,
    }
    services = {"reranker": service}
    if inherited:
        services = {
            "reranker": {"extends": {"service": "base"}},
            "base": {**service, "image": "vllm-cpu:0.32.0"},
        }
    networks = {"ragflow-rerank": {"external": True}}
    text = json.dumps({"services": services, "networks": networks})
    checked = check_texts({Path("/nowhere/compose.yaml"): text}, HOST, {})
    assert {finding.code for finding in checked.findings} == CODES[fault], text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", "qwen3-reranker"),
        ("qwen3-4b-reranker", "qwen3-reranker"),
        ("Qwen3_Reranker_8B-W8A8", "qwen3-reranker"),
        ("qwen3-rerank-4b", "qwen3-reranker"),
        ("qwen3-0.6b-reranker-seq-cls", "qwen3-reranker-seq-cls"),
        ("Qwen3-Embedding-0.6B", "embedding"),
        ("Qwen3-4B", None),
    ],
)
def test_kind_of_a_model_by_its_name(name, kind):
    text = f"services: {{reranker: {{image: vllm-cpu, command: --model {name}}}}}"
    (reranker,) = check_texts({Path("/nowhere/compose.yaml"): text}, HOST, {}).rerankers
    assert reranker.served.kind == kind


def test_kind_of_a_volume():
    volumes = ["/srv/m:/m:ro", "./t.jinja:/t.jinja", "~/hf:/hf", "cache:/c", "/anonymous"]
    text = f"services: {{reranker: {{image: vllm-cpu, volumes: {json.dumps(volumes)}}}}}"
    (reranker,) = check_texts({Path("/nowhere/compose.yaml"): text}, HOST, {}).rerankers
    kinds = [(mount.kind, mount.source, mount.target) for mount in reranker.mounts]
    assert kinds == [
        ("bind", "/srv/m", "/m"),
        ("bind", "./t.jinja", "/t.jinja"),
        ("bind", "~/hf", "/hf"),
        ("volume", "cache", "/c"),
        ("volume", "", "/anonymous"),
    ]
