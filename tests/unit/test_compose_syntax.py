"""YAML and command lines are read as compose reads them; an error has its line."""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.compose import check_file, check_texts, render, syntax
from ragops.compose.syntax import Word, parse, parse_options, read_command, resolve, split_colons, split_words
from ragops.docker.objects import ContainerSpec, Mount, NetworkSpec
from ragops.errors import ComposeError
from ragops.reranker.host import Core, Host, Node

CASES = Path(__file__).parents[1] / "data" / "compose"
HOST = Host("one", frozenset({"amx_bf16"}), (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)


def check(text, **values):
    return check_texts({Path("/nowhere/compose.yaml"): text}, HOST, values)


def command(text, **values):
    root = parse(text, "compose.yaml", values)
    return read_command(root.get("entrypoint"), root.get("command"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A-$B", "1-"),
        ("${A}", "1"),
        ("${B:-x}", "x"),
        ("${B-x}", ""),
        ("${C-x}", "x"),
        ("${C:-${A}}", "1"),
        ("${C:-{json}}", "{json}"),
        ("${A:+yes}${C+no}", "yes"),
        ("$$A $${A}", "$A ${A}"),
        ("${A:?must}", "1"),
        ("${C}", None),
        ("$C", None),
        ("${C:?must}", None),
        ("${C", None),
        ("cost: 5$", "cost: 5$"),
    ],
)
def test_variables_are_substituted_as_compose_does(text, expected):
    assert resolve(text, {"A": "1", "B": ""}) == expected


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ('BIND_IP="127.0.0.1"   # loopback only', "127.0.0.1"),
        ("BIND_IP='$HOST_OF_TEST'", "$HOST_OF_TEST"),
        ('BIND_IP="${NOT_SET_HERE:-::1}"', "::1"),
        ("export BIND_IP=$HOST_OF_TEST", "10.0.0.1"),
        ("BIND_IP=${HOST_OF_TEST:+0.0.0.0}", "0.0.0.0"),
        ("BIND_IP=", ""),
    ],
)
def test_env_files_are_read_as_compose_does(tmp_path, monkeypatch, line, address):
    monkeypatch.setenv("HOST_OF_TEST", "10.0.0.1")
    (tmp_path / ".env").write_text(f"HOST_OF_TEST=10.0.0.2\n{line}\n")
    service = "services: {reranker: {image: vllm-cpu, ports: [{host_ip: $BIND_IP, target: 8000}]}}"
    (tmp_path / "compose.yaml").write_text(service)
    (reranker,) = check_file(tmp_path / "compose.yaml", host=HOST).rerankers
    assert reranker.ports[0].address == address


def test_variables_come_from_the_env_file_of_the_folder(tmp_path):
    (tmp_path / ".env").write_text(
        "# c\nexport HOST_OF_TEST='127.0.0.1'\nADDRESS_OF_TEST=${HOST_OF_TEST} # note\n"
    )
    text = (CASES / "clean.yaml").read_text().replace("127.0.0.1:8123", "${ADDRESS_OF_TEST:-0.0.0.0}:8123")
    (tmp_path / "compose.yaml").write_text(text)
    assert "port-exposed" not in {
        finding.code for finding in check_file(tmp_path / "compose.yaml", host=HOST).findings
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("services:\n  a:\n    image: x\n   b: y\n", ":4: "),
        ("services:\n\ta: {}\n", ":2: "),
        ("services:\n  a:\n    image: x\n    image: y\n", ":4: "),
        ("services: {}\n---\nservices: {}\n", ":2: "),
        ("services:\n  a: *nowhere\n", ":2: "),
        ("- a\n- b\n", ":1: "),
        ("", ":1: "),
        ("services: [\n", ":2: "),
        ("a: " + "[" * 800, ""),
        ("a: \0", ""),
        ("services: &a\n  x: *a\n", ":2: "),
        ("services:\n  a: &a {image: vllm, deploy: *a}\n", ":2: "),
        ("services:\n  [a]: x\n", ":2: "),
        ("a:\n  x: 1\n  x:\n    y: 1\n", ":3: "),
        (f"a: {'[' * 200_000}", ":1: "),
        (f"a: {'{b: ' * 100_000}", ":1: "),
        (f"a: {'b' * 200_000}", ":1: "),
    ],
)
def test_a_file_that_is_no_compose_file_is_refused_with_its_line(text, place):
    with pytest.raises(ComposeError) as caught:
        check(text)
    assert place in caught.value.message
    assert caught.value.code == "compose-unreadable"
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", [f"a: [{'b,' * 1000}]", "a: &a {b: 1, c: 1}\n" + "d: {<<: [" + "*a," * 400 + "]}\n"]
)
def test_values_are_counted_with_those_that_are_merged(monkeypatch, text):
    monkeypatch.setattr(syntax, "MAX_VALUES", 1000)
    with pytest.raises(ComposeError, match="more than 1000 values"):
        check(text)


def test_the_largest_file_is_read_within_two_seconds():
    service = "    image: vllm-cpu:1\n    environment: {A: b}\n    ports: ['80:80']\n"
    text = "services:\n" + "".join(f"  service-{number}:\n{service}" for number in range(16_600))
    start = time.process_time()
    assert len(parse(text, "compose.yaml", {}).get("services").mapping) == 16_600
    assert time.process_time() - start < 2
    with pytest.raises(ComposeError, match="more than 100000 values"):
        parse(f"{text}b: [{'c,' * 500}]", "compose.yaml", {})


@pytest.mark.parametrize("name", ["missing.yaml", "folder", "binary.yaml", "large.yaml", "pipe", "/dev/zero"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_text(f"a: b{' ' * syntax.MAX_BYTES}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ComposeError) as caught:
        check_file(tmp_path / name, host=HOST)
    assert name in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "command: [vllm, serve, /m, --task, score]",
        "command: vllm serve /m --task score",
        "command: >\n  vllm serve /m\n  --task score\n",
        "command: bash -c 'exec vllm serve /m --task=score'",
        "entrypoint: [sh, -c]\ncommand: ['cd / && vllm serve /m --task score; sleep 9']",
        "entrypoint: vllm\ncommand: serve /m --task score",
        "entrypoint: [/opt/bin/vllm, serve]\ncommand: [/m, --task=score]",
    ],
)
def test_each_form_of_a_command_gives_the_same_options(text):
    line = command(text)
    assert line.entry == "serve"
    assert [(option.name, option.value) for option in line.options] == [("", "/m"), ("--task", "score")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("command: >\n  --runner pooling  # was --task score\n  --dtype bfloat16\n", ["--runner", "--dtype"]),
        ("command:\n  - --dtype=auto\n  - '# old'\n  - --seed=1\n", ["--dtype", "--seed"]),
        (
            "entrypoint: [bash, -c]\ncommand:\n  - |\n    vllm serve --seed 1 \\\n    # x\n    --dtype a#b\n",
            ["--seed", "--dtype"],
        ),
        ("command: --seed 1 ${NOTHING:-} --dtype auto", ["--seed", "--dtype"]),
        ("command: --seed 1 ${MORE} --dtype $UNSET", ["--seed", "--port", "--dtype"]),
    ],
)
def test_comments_and_empty_variables_are_no_options(text, expected):
    options = command(text, MORE="--port 81").options
    assert [option.name for option in options] == expected


def test_options_are_distinguished_from_values():
    line = "--enforce-eager /m --max_model_len 5 --served-model-name a b --port=8 -tp 2 --seed"
    words = [Word(text, text, 1) for text in line.split(" ")]
    assert [(option.name, option.value) for option in parse_options(words)] == [
        ("--enforce-eager", ""),
        ("", "/m"),
        ("--max-model-len", "5"),
        ("--served-model-name", "a"),
        ("--port", "8"),
        ("-tp", "-tp"),
        ("--seed", ""),
    ]


def test_words_of_a_folded_command_have_their_own_lines():
    root = parse("a: 1\ncommand: >\n  --one 1\n\n  --two '2 2'\nb: --one\n", "f", {})
    assert [(word.text, word.line) for word in split_words(root.get("command"))] == [
        ("--one", 3),
        ("1", 3),
        ("--two", 5),
        ("2 2", 5),
    ]


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("command: --dtype $TYPE", True),
        ("command: --dtype ${TYPE} --port 1", True),
        ("command: $ALL", False),
        ("command: /m ${MORE}", False),
        ("command: [--config, a.yaml]", False),
        ("entrypoint: /start.sh\ncommand: --port 1", False),
        ("command: ${FLAGS:---port 1 --seed 2}", True),
    ],
)
def test_a_command_line_that_may_hide_options_is_not_complete(text, complete):
    assert command(text).complete is complete


def test_colons_in_variables_and_addresses_do_not_split():
    assert split_colons("${A:-1}:${B:-2:3}:8000") == ["${A:-1}", "${B:-2:3}", "8000"]
    assert split_colons("[::1]:80:80/tcp") == ["[::1]", "80", "80/tcp"]


def test_the_record_has_its_documented_forms(machine):
    checked = check_file(CASES / "handwritten.yaml", host=machine)
    first = json.loads(json.dumps(checked.to_json()))["findings"][0]
    assert set(first) == {"code", "severity", "file", "line", "message", "fix", "service"}
    lines = str(checked).splitlines()
    assert any(
        line.startswith(f"{checked.paths[0]}:21: error: ") and "[task-removed]" in line for line in lines
    )
    assert (checked.count("error"), checked.count("warning")) == (4, 11)
    assert not checked.ok


@pytest.mark.parametrize(
    "text",
    [
        "services:\n  reranker: {image: vllm-cpu, extends: reranker}\n",
        "services:\n  reranker: {image: vllm-cpu, extends: {service: other}}\n  other: {extends: reranker}\n",
        "services: {reranker: {image: vllm-cpu, command: null, ports: null, environment: }}\nnetworks:\n",
        "services: {reranker: {image: vllm-cpu, ports: !override [80], command: !reset null}}\n",
        "services: {1: {image: vllm-cpu, container_name: rerank, environment: {2: 3}, ports: [80, 81.5]}}",
        "services: {reranker: {image: vllm-cpu, cpus: [], environment: true}}",
        "include: [a.yaml]\n",
        "services:\n",
        "services: [a]\n",
        "services: {a: b}\n",
    ],
)
def test_odd_files_are_read(text):
    assert isinstance(check(text).findings, tuple)


KEYS = (
    *("image", "command", "entrypoint", "environment", "ports", "networks", "volumes", "deploy", "restart"),
    *(
        "healthcheck",
        "shm_size",
        "cpus",
        "extends",
        "tmpfs",
        "ipc",
        "network_mode",
        "labels",
        "configs",
        "cpuset",
    ),
)
TEXTS = st.sampled_from(
    [
        *(
            "vllm-cpu:latest",
            "vllm serve /models/Qwen3-Reranker-0.6B --task score",
            "8000:8000",
            "$A",
            "${B:-c}",
            "",
        ),
        *(
            "always",
            "--dtype",
            "float32",
            "'",
            "{",
            "a=b",
            "VLLM_HF_OVERRIDES={}",
            "limits",
            "1g",
            "bash",
            "-c",
        ),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            TEXTS | st.sampled_from(["resources", "limits", "cpus", "test", "name", "target"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    service=st.dictionaries(st.sampled_from(KEYS), VALUES),
    later=st.dictionaries(st.sampled_from(KEYS), VALUES),
    rest=st.dictionaries(
        st.sampled_from(["version", "networks", "configs", "name", "include", "x-a"]), VALUES
    ),
)
@settings(max_examples=30)
def test_any_file_of_the_right_shape_is_read_merged_and_rendered(service, later, rest):
    """JSON is YAML too."""
    document = {**rest, "services": {"reranker": {"image": "vllm-cpu:latest", **service}}}
    assert isinstance(check(json.dumps(document)).findings, tuple)
    command = service.get("command") or "--port 1"
    texts = (document, {**rest, "services": {"reranker": {**later, "command": command}}})
    paths = (Path("/nowhere/a.yaml"), Path("/nowhere/b.yaml"))
    with contextlib.suppress(ComposeError):  # values of different types
        checked = check_texts(dict(zip(paths, map(json.dumps, texts), strict=True)), HOST, {})
        given = {"environment": (("A", "1"),), "mounts": (Mount("/m", "/m"),), "tmpfs": (("/scratch", "rw"),)}
        spec = ContainerSpec(name="reranker", image="vllm-cpu:latest", **given)
        for reranker in checked.rerankers:
            render.corrected(reranker, checked.root, spec, NetworkSpec("net"), checked.absent)


@given(st.text(alphabet="services: {}[]-&*!|>'\"#\n\t$ab0", max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ComposeError):
        check(text)


def test_services_are_read_in_time_that_is_linear_in_their_number():
    def seconds(number):
        text = "services:\n" + "".join(
            f"  service-{n}: {{image: nginx, ports: ['80']}}\n" for n in range(number)
        )
        start = time.process_time()
        check(text)
        return time.process_time() - start

    assert seconds(1600) < 30 * max(0.01, seconds(200))
