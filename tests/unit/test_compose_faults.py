"""Each fault is told at its line under its code, and nothing else is."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ragops.cli import main
from ragops.compose import check_file, check_text, faults
from ragops.host import Core, Host, Node

CASES = Path(__file__).parents[1] / "data" / "compose"
CLEAN = (CASES / "clean.yaml").read_text()
OVERRIDES = re.search(r"      - '--hf-overrides=.*\n", CLEAN)[0]
HEALTH = re.search(r"    healthcheck:\n.*\n", CLEAN)[0]


def told(text, host, **values):
    return check_text(text, Path("/nowhere/compose.yaml"), host, values).findings


def changed(*pairs):
    text = CLEAN
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


MODEL = "/srv/Qwen3-Reranker-0.6B:/models/qwen3-reranker-0.6b:ro"

ONE_FAULT = {
    "compose-version": ("warning", "version: ", [("services:\n", "version: '3'\nservices:\n")]),
    "hf-overrides-env": (
        "error",
        "VLLM_HF_OVERRIDES",
        [(OVERRIDES, ""), ("    environment:\n", "    environment:\n      VLLM_HF_OVERRIDES: '{}'\n")],
    ),
    "hf-overrides-missing": ("error", "command:", [(OVERRIDES, "")]),
    "hf-overrides-broken": (
        "error",
        "--hf-overrides",
        [("'--hf-overrides={\"arch", "'--hf-overrides={arch")],
    ),
    "template-missing": ("error", "command:", [("      - --chat-template=/templates/qwen3.jinja\n", "")]),
    "dtype-slow": ("warning", "--dtype", [("--dtype=bfloat16", "--dtype=float32")]),
    "model-name-slash": (
        "warning",
        "--served",
        [("name=qwen3-reranker-0.6b", "name=me/qwen3-reranker-0.6b")],
    ),
    "model-name-split": ("error", "--served", [("name=qwen3-reranker-0.6b", "name=qwen3-reranker___VLLM")]),
    "trust-remote-code": (
        "warning",
        "--trust",
        [("--runner=pooling", "--runner=pooling\n      - --trust-remote-code")],
    ),
    "kv-cache-unset": ("warning", "command:", [("      - --kv-cache-memory-bytes=2147483648\n", "")]),
    "kv-cache-small": ("error", "--kv-cache", [("=2147483648", "=268435456")]),
    "kv-cache-broken": (
        "error",
        "VLLM_CPU_KVCACHE_SPACE",
        [("    environment:\n", "    environment:\n      VLLM_CPU_KVCACHE_SPACE: 0.5\n")],
    ),
    "max-model-len-unset": ("warning", "command:", [("      - --max-model-len=8192\n", "")]),
    "block-size": ("error", "--block-size", [("--block-size=32", "--block-size=16")]),
    "model-positional": ("error", "- /models/qwen3", [("- --model=/models", "- /models")]),
    "model-not-mounted": ("warning", "--model=", [(f'"{MODEL}", ', "")]),
    "host-loopback": ("error", "--host", [("--port=8000", "--host=127.0.0.1")]),
    "threads-all": ("error", "OMP_THREADS", [("OMP_THREADS_BIND: 0-3", "OMP_THREADS_BIND: all")]),
    "cpu-quota": ("warning", "cpus:", [("    cpuset: 0-3\n", "    cpus: 2.5\n    cpuset: 0-3\n")]),
    "port-exposed": ("warning", "ports:", [("127.0.0.1:8123", "8123")]),
    "port-mismatch": ("warning", "ports:", [("8123:8000", "8123:9000")]),
    "route-moves": ("warning", "  a-net:\n    ext", [("ragflow-rerank", "a-net")]),
    "healthcheck-missing": ("warning", "  reranker:", [(HEALTH, "")]),
    "shm-small": ("error", "shm_size", [("shm_size: 1gb", "shm_size: 256m")]),
    "restart-loop": ("warning", "restart:", [("on-failure:5", "always")]),
    "image-unpinned": ("warning", "image:", [("vllm-cpu:0.32.0", "vllm-cpu")]),
}


def test_a_right_file_has_no_faults(machine):
    assert told(CLEAN, machine) == ()


@pytest.mark.parametrize("code", ONE_FAULT)
def test_one_fault_is_told_alone_with_its_line(code, machine):
    severity, mark, pairs = ONE_FAULT[code]
    text = changed(*pairs)
    found = told(text, machine)
    line = text[: text.index(mark)].count("\n") + 1
    assert [(one.code, one.severity, one.line) for one in found] == [(code, severity, line)]
    assert found[0].message
    assert found[0].fix


def test_a_removed_task_is_told_beside_the_runner_that_is_missing(machine):
    found = told(changed(("--runner=pooling", "--task=score")), machine)
    assert {(one.code, one.severity) for one in found} == {
        ("task-removed", "error"),
        ("runner-missing", "error"),
    }


def test_every_code_has_a_case():
    codes = {rule.code for rule in faults.RULES}
    assert len(codes) == len(faults.RULES)
    assert codes == {*ONE_FAULT, "task-removed", "runner-missing", "max-model-len-large"}


def test_a_file_from_memory_has_nearly_all_faults(machine):
    found = check_file(CASES / "handwritten.yaml", machine).findings
    expected = {
        *("compose-version", "hf-overrides-env", "task-removed", "runner-missing", "template-missing"),
        *("dtype-slow", "cpu-quota", "port-exposed", "model-name-slash", "trust-remote-code", "route-moves"),
        *("healthcheck-missing", "shm-small", "kv-cache-unset", "restart-loop", "image-unpinned"),
        "model-positional",
    }
    assert {one.code for one in found} == expected
    lines = (CASES / "handwritten.yaml").read_text().splitlines()
    at = {one.code: lines[one.line - 1].strip() for one in found}
    assert at["task-removed"] == "--task score"
    assert at["dtype-slow"] == "--dtype float32"
    assert at["trust-remote-code"] == "--trust-remote-code"
    assert at["cpu-quota"] == 'cpus: "1"'
    assert at["hf-overrides-env"] == "VLLM_HF_OVERRIDES: |"


def test_services_that_are_no_reranker_on_vllm_are_left_alone(machine):
    checked = check_file(CASES / "others.yaml", machine)
    assert checked.findings == ()
    assert checked.fixed == (CASES / "others.yaml").read_text()
    assert "included files are not looked into" in checked.notes[0]


def test_what_is_not_seen_is_named_and_not_guessed(machine):
    text = (CASES / "forms.yaml").read_text()
    checked = check_text(text, Path("/nowhere/compose.yaml"), machine, {})
    assert {one.service for one in checked.findings} == {"shell"}
    notes = " ".join(checked.notes)
    assert "unseen extends a service of another file" in notes
    assert "unseen: its flags come from" in notes


def test_a_script_a_list_and_long_forms_are_read(machine):
    text = (CASES / "forms.yaml").read_text()
    found = {one.code for one in told(text, machine)}
    assert found >= {
        "dtype-slow",
        "model-name-split",
        "threads-all",
        "port-exposed",
        "port-mismatch",
        "restart-loop",
    }
    assert "shm-small" not in found
    assert "model-positional" not in found


def test_merged_and_extended_keys_are_told_where_they_stand(machine):
    found = check_file(CASES / "anchors.yaml", machine).findings
    assert [(one.code, one.line, one.service) for one in found] == [
        ("restart-loop", 5, "first-reranker"),
        ("restart-loop", 5, "second-reranker"),
        ("kv-cache-broken", 17, "first-reranker"),
        ("kv-cache-broken", 17, "second-reranker"),
        ("cpu-quota", 20, "second-reranker"),
    ]


def test_variables_are_filled_in(machine):
    text = changed(("127.0.0.1:8123", "${ADDRESS:-127.0.0.1}:8123"), ("=bfloat16", "=${DTYPE:-bfloat16}"))
    assert told(text, machine) == ()
    assert [one.code for one in told(text, machine, ADDRESS="0.0.0.0")] == ["port-exposed"]
    assert [one.code for one in told(text, machine, DTYPE="float16")] == ["dtype-slow"]


def test_dtype_depends_on_the_processor():
    old = Host("old", frozenset({"avx2"}), (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)
    assert [one.code for one in told(CLEAN, old)] == ["dtype-slow"]
    assert told(changed(("=bfloat16", "=float32")), old) == ()


@pytest.mark.parametrize("model", ["bge-reranker-v2-m3", "all-MiniLM-L6-v2", "ms-marco-MiniLM-L6-v2"])
def test_encoders_need_neither_overrides_nor_template(machine, model):
    text = changed(
        (OVERRIDES, ""),
        ("      - --chat-template=/templates/qwen3.jinja\n", ""),
        ("--model=/models/qwen3-reranker-0.6b", f"--model=/models/{model}"),
        (MODEL, f"/srv/{model}:/models/{model}"),
    )
    assert told(text, machine) == ()


def test_a_converted_qwen3_needs_the_template_only(machine):
    text = changed(
        (OVERRIDES, ""),
        ("      - --chat-template=/templates/qwen3.jinja\n", ""),
        ("0.6b", "0.6b-seq-cls"),
        ("0.6B", "0.6B-seq-cls"),
    )
    assert [one.code for one in told(text, machine)] == ["template-missing"]


def test_a_gpu_is_not_judged_as_a_cpu(machine):
    text = changed(
        ("vllm-cpu:0.32.0", "vllm/vllm-openai:v0.32.0"), ("bfloat16", "float16"), ("    shm_size: 1gb\n", "")
    )
    assert told(text, machine) == ()


def test_a_folder_on_this_machine_tells_what_its_model_can(machine, model_folder):
    text = changed(
        (OVERRIDES, ""), ("/srv/Qwen3-Reranker-0.6B", str(model_folder)), ("--chat-template", "--seed")
    )
    text = text.replace("--seed=/templates/qwen3.jinja", "--seed=1")
    found = told(text, machine)
    assert [(one.code, one.fix) for one in found] == [("max-model-len-large", "--max-model-len 512")]


def test_dollars_of_compose_are_no_variables(machine):
    text = changed(("    environment:\n", "    environment:\n      PASSWORD: a$$b\n"))
    assert told(text, machine) == ()


class TestCommand:
    """``ragops check``, as one types it."""

    @pytest.mark.parametrize(("case", "code"), [("handwritten", 1), ("clean", 0), ("others", 0)])
    def test_the_exit_code_is_1_when_a_finding_is_an_error(self, case, code, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.host.read_host", lambda: machine)
        assert main(["check", str(CASES / f"{case}.yaml")]) == code
        assert "errors" in capsys.readouterr().out

    def test_warnings_alone_are_no_failure(self, tmp_path, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.host.read_host", lambda: machine)
        (tmp_path / "compose.yaml").write_text(CLEAN.replace("on-failure:5", "always"))
        assert main(["check", str(tmp_path / "compose.yaml")]) == 0
        assert "0 errors, 1 warnings" in capsys.readouterr().out

    def test_json_has_the_documented_form(self, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.host.read_host", lambda: machine)
        assert main(["check", "--json", str(CASES / "handwritten.yaml")]) == 1
        said = json.loads(capsys.readouterr().out)
        assert set(said) == {"findings"}
        assert all(list(one) == ["code", "severity", "line", "message", "fix"] for one in said["findings"])
        assert {one["severity"] for one in said["findings"]} == {"error", "warning"}

    def test_fix_prints_the_file_alone(self, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.host.read_host", lambda: machine)
        main(["check", "--fix", str(CASES / "handwritten.yaml")])
        said = capsys.readouterr().out
        assert YAML(typ="safe").load(said)["services"]["rerank"]["restart"] == "on-failure:5"

    def test_what_is_no_yaml_ends_with_its_line_and_a_hint(self, tmp_path, capsys):
        (tmp_path / "compose.yaml").write_text("services:\n\ta: {}\n")
        assert main(["check", str(tmp_path / "compose.yaml")]) == 1
        said = capsys.readouterr().err
        assert "compose.yaml:2:" in said
        assert "hint:" in said
