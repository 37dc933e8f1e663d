"""Each fault is reported under its code at its line, and nothing else."""

import json
import re
from pathlib import Path

import pytest

from ragops.cli import main
from ragops.compose import check_file, check_texts
from ragops.compose.faults import RULES
from ragops.reranker.host import Core, Host, Node

CASES = Path(__file__).parents[1] / "data" / "compose"
CLEAN = (CASES / "clean.yaml").read_text()
OVERRIDES = re.search(r"      - '--hf-overrides=.*\n", CLEAN)[0]
HEALTH = re.search(r"    healthcheck:\n.*\n", CLEAN)[0]


def find(text, host, **variables):
    return check_texts({Path("/nowhere/compose.yaml"): text}, host, variables).findings


def codes(text, host, **variables):
    return [finding.code for finding in find(text, host, **variables)]


def changed(*pairs):
    text = CLEAN
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


MODEL = "/srv/Qwen3-Reranker-0.6B:/models/qwen3-reranker-0.6b:ro"

ONE_FAULT = {
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
    "option-removed": (
        "error",
        "--swap-space",
        [("--runner=pooling", "--runner=pooling\n      - --swap-space=4")],
    ),
    "option-newer": (
        "error",
        "--max-num-queued",
        [("=32", "=32\n      - --max-num-queued-reqs=9"), ("0.32", "0.28")],
    ),
    "task-removed": ("error", "--task", [("--runner=pooling", "--task=score")]),
    "runner-missing": ("error", "--runner", [("--runner=pooling", "--runner=generate")]),
    "template-ignored": ("error", "--chat-template", [("vllm-cpu:0.32.0", "vllm-cpu:0.13.0")]),
    "convert-alone": ("error", "command:", [(OVERRIDES, "      - --convert=classify\n")]),
    "option-value": ("error", "--api-key", [("--runner=pooling", "--api-key\n      - --runner=pooling")]),
    "variable-unset": (
        "warning",
        "--api-key",
        [("--runner=pooling", "--runner=pooling\n      - --api-key=$KEY")],
    ),
    "argument-joined": ("error", "--seed", [("--runner=pooling", "--runner=pooling\n      - --seed 1")]),
    "comment-as-text": ("error", '"# a', [("--runner=pooling", '--runner=pooling\n      - "# a"')]),
    "key-unknown": ("error", "healthchek", [("    cpuset: 0-3\n", "    cpuset: 0-3\n    healthchek: {}\n")]),
    "proxy-loopback": (
        "warning",
        "https_proxy",
        [("    environment:\n", "    environment:\n      https_proxy: localhost:3128\n")],
    ),
    "proxy-catches": (
        "warning",
        "http_proxy",
        [
            (
                "    environment:\n",
                "    environment:\n      http_proxy: http://p:3128\n      no_proxy: .internal\n",
            )
        ],
    ),
    "image-architecture": ("warning", "image:", [("    ports", "    platform: linux/arm64/v8\n    ports")]),
}


def test_a_correct_file_has_no_faults(machine):
    assert find(CLEAN, machine) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"is_original_qwen3_reranker": true', '"method": "from_2_way_softmax"'),
        ("--runner=pooling", "--runner=auto"),
        ("      - --runner=pooling\n", ""),
        ("=pooling\n", "=pooling\n      - ${MORE:-}\n"),  # the API server's module ignores a second model
        ("      VLLM_", "      http_proxy: 'http://['\n      no_proxy: 127.0.0.1,reranker\n      VLLM_"),
        ("./qwen3.jinja:/templates/qwen3.jinja:ro", "templates:/templates"),
    ],
)
def test_equivalent_values_are_no_faults(old, new, machine):
    assert find(changed((old, new)), machine) == ()


@pytest.mark.parametrize("code", ONE_FAULT)
def test_one_fault_is_reported_alone_with_its_line(code, machine):
    severity, mark, pairs = ONE_FAULT[code]
    text = changed(*pairs)
    findings = find(text, machine)
    line = text[: text.index(mark)].count("\n") + 1
    assert [(finding.code, finding.severity, finding.line) for finding in findings] == [
        (code, severity, line)
    ]
    assert findings[0].message
    assert findings[0].fix


ELSEWHERE = {"max-model-len-large", "mount-missing", "mount-folder"}
"""Faults whose cases depend on the files of the machine."""


def test_every_code_has_a_case():
    cases = {*ONE_FAULT, *ELSEWHERE, *(code for codes in COLLECTED.values() for code in codes.split())}
    assert set(RULES) == cases


COLLECTED = {
    "reports/anchoruse": "restart-loop",
    "reports/badkey": "key-unknown",
    "reports/classify": "convert-alone template-not-mounted",
    "reports/comment": "comment-as-text",
    "reports/comment2": "model-name-slash comment-as-text",
    "reports/emptylist": "argument-empty",
    "reports/emptyword": "healthcheck-missing kv-cache-unset model-name-slash variable-unset",
    "reports/emptyword2": "kv-cache-unset model-name-slash variable-unset",
    "reports/goneflags": "image-unpinned image-architecture option-removed option-removed option-removed",
    "reports/gpuimage-nogpu": "gpu-not-requested",
    "reports/keyempty": "variable-unset",
    "reports/name4b": "hf-overrides-missing template-missing",
    "reports/nocommand": "kv-cache-unset healthcheck-missing",
    "reports/oldtask": "",
    "reports/oldtemplate": "template-ignored mount-missing",
    "reports/override": "",
    "reports/proxy": "proxy-loopback",
    "reports/servetwice": "serve-twice",
    "reports/todo-contradiction": "model-name-slash",
    "reports/todo2": "model-name-slash restart-loop",
    "published/chat-builder": "port-exposed restart-loop",
    "published/cpu-web-ui": (
        "image-unpinned threads-all option-removed option-removed dtype-slow model-name-slash key-unknown"
    ),
    "published/embed-and-rerank": "restart-loop healthcheck-missing argument-joined port-exposed",
    "published/keys-from-the-environment": (
        "variable-unset comment-as-text option-value mount-missing proxy-loopback proxy-loopback port-exposed"
    ),
    "published/knowledge-graph": (
        "healthcheck-missing image-unpinned model-name-slash port-exposed restart-loop"
    ),
    "published/ragflow-behind-a-proxy": "proxy-catches convert-alone template-missing proxy-catches",
    "published/serve-in-the-command": "template-missing serve-twice",
    "published/template-as-a-folder": (
        "image-architecture runner-missing kv-cache-small mount-missing mount-missing"
    ),
    **{f"healthy/{file.stem}": "" for file in sorted((CASES / "healthy").glob("*.yaml"))},
}
"""Minimal inputs of a report, files of the styles that people publish, and healthy ones: their faults."""


@pytest.mark.parametrize("name", COLLECTED)
def test_collected_files_have_these_faults_and_no_others(name, machine):
    checked = check_file(CASES / f"{name}.yaml", host=machine)
    assert [finding.code for finding in checked.findings] == COLLECTED[name].split()


def test_each_collected_file_is_in_the_table():
    files = {
        f"{file.parent.name}/{file.stem}" for file in CASES.glob("*/*.yaml") if file.parent.name != "odd"
    }
    assert files == set(COLLECTED)


@pytest.mark.parametrize(
    ("image", "removed"),
    [
        ("vllm/vllm-openai-cpu:v0.12.0", []),
        ("vllm/vllm-openai-cpu:v0.13.0-x86_64", ["error"]),
        ("vllm/vllm-openai-cpu:latest-x86_64", ["error"]),
        ("public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v0.8.5.post1", []),
        ("public.ecr.aws/q9t5s3a7/vllm-arm64-cpu-release-repo:v0.12.0", []),
        ("acme-vllm:0.9.2", ["warning"]),
        ("vllm/vllm-openai-cpu@sha256:0123", ["warning"]),
    ],
)
def test_a_removed_option_is_an_error_in_images_that_lack_it(image, removed, machine):
    findings = find(changed(("vllm-cpu:0.32.0", image), ("--runner=pooling", "--task=score")), machine)
    assert [finding.severity for finding in findings if finding.code == "task-removed"] == removed


def test_a_file_of_docker_that_became_a_folder_is_an_error(tmp_path, machine):
    (tmp_path / "compose.yaml").write_text(CLEAN)
    missing, folder = check_file(tmp_path / "compose.yaml", host=machine), tmp_path / "qwen3.jinja"
    folder.mkdir()
    made = check_file(tmp_path / "compose.yaml", host=machine)
    folder.rmdir()
    folder.touch()
    assert [[finding.code for finding in checked.findings] for checked in (missing, made)] == [
        ["mount-missing"],
        ["mount-folder"],
    ]
    assert check_file(tmp_path / "compose.yaml", host=machine).findings == ()
    assert any("not on this machine" in note for note in made.notes)


@pytest.mark.parametrize(
    ("name", "size"),
    [("Qwen3-Reranker-0.6B", "0.88"), ("Qwen3-Reranker-4B", "1.12"), ("Qwen3-Reranker", None)],
)
def test_key_value_memory_depends_on_the_size_in_the_name(name, size, machine):
    text = changed(
        ("Qwen3-Reranker-0.6B", name), ("qwen3-reranker-0.6b", name.lower()), ("=2147483648", "=1048576")
    )
    findings = [finding.message for finding in find(text, machine) if finding.code == "kv-cache-small"]
    assert [size in message for message in findings] == ([True] if size else [])


def test_speed_is_stated_for_the_processor_that_it_was_measured_on(machine):
    text, avx512 = changed(("=bfloat16", "=float32")), frozenset({"avx512f", "avx512_bf16"})
    other = Host("other", avx512, (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)
    messages = [find(text, host)[0].message for host in (machine, other)]
    assert ["measured with AMX" in message for message in messages] == ["amx_bf16" in machine.features, False]


@pytest.mark.parametrize(
    ("features", "tag", "codes_of_image"),
    [
        ({"asimd", "bf16"}, "v0.32.0-x86_64", ["image-architecture"]),
        ({"asimd", "bf16"}, "v0.32.0-arm64", []),
        ({"amx_bf16"}, "nightly-aarch64", ["image-unpinned", "image-architecture"]),
        (set(), "v0.32.0-arm64", []),  # where the kernel gives no features
    ],
)
def test_the_tags_processor_is_compared_with_the_machines(features, tag, codes_of_image):
    host = Host("any", frozenset(features), (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)
    reported = codes(changed(("vllm-cpu:0.32.0", f"vllm/vllm-openai-cpu:{tag}")), host)
    assert [code for code in reported if code.startswith("image-")] == codes_of_image


def test_an_api_key_leaves_rerank_open(machine):
    text = changed(("127.0.0.1:8123", "8123"), ("--port=8000", "--port=8000\n      - --api-key=k"))
    (finding,) = find(text, machine)
    assert (finding.code, "/rerank" in finding.message) == ("port-exposed", True)


def test_a_handwritten_file_has_nearly_all_faults(machine):
    findings = check_file(CASES / "handwritten.yaml", host=machine).findings
    expected = {
        *("hf-overrides-env", "task-removed", "template-missing"),
        *("dtype-slow", "cpu-quota", "port-exposed", "model-name-slash", "trust-remote-code", "route-moves"),
        *("healthcheck-missing", "shm-small", "kv-cache-unset", "restart-loop", "image-unpinned"),
        "model-positional",
    }
    assert {finding.code for finding in findings} == expected
    lines = (CASES / "handwritten.yaml").read_text().splitlines()
    at = {finding.code: lines[finding.line - 1].strip() for finding in findings}
    assert at["task-removed"] == "--task score"
    assert at["dtype-slow"] == "--dtype float32"
    assert at["trust-remote-code"] == "--trust-remote-code"
    assert at["cpu-quota"] == 'cpus: "1"'
    assert at["hf-overrides-env"] == "VLLM_HF_OVERRIDES: |"


def test_services_that_are_no_reranker_on_vllm_have_no_faults(machine):
    checked = check_file(CASES / "others.yaml", host=machine)
    assert checked.findings == ()
    assert checked.rerankers == ()
    assert "include:" in checked.notes[0]


def test_what_is_not_checked_is_named(machine):
    text = (CASES / "forms.yaml").read_text()
    checked = check_texts({Path("/nowhere/compose.yaml"): text}, machine, {})
    assert {finding.service for finding in checked.findings} == {"shell"}
    notes = [note for note in checked.notes if " unseen " in note]
    assert any("extends" in note for note in notes)
    assert any("options" in note for note in notes)


def test_a_script_a_list_and_long_forms_are_read(machine):
    text = (CASES / "forms.yaml").read_text()
    reported = set(codes(text, machine))
    assert reported >= {
        "dtype-slow",
        "model-name-split",
        "threads-all",
        "port-exposed",
        "port-mismatch",
        "restart-loop",
    }
    assert "shm-small" not in reported
    assert "model-positional" not in reported


def test_merged_and_extended_keys_are_reported_at_their_lines(machine):
    findings = check_file(CASES / "anchors.yaml", host=machine).findings
    assert [(finding.code, finding.line, finding.service) for finding in findings] == [
        ("restart-loop", 5, "first-reranker"),
        ("restart-loop", 5, "second-reranker"),
        ("kv-cache-broken", 17, "first-reranker"),
        ("kv-cache-broken", 17, "second-reranker"),
        ("cpu-quota", 20, "second-reranker"),
    ]


def test_variables_are_substituted(machine):
    text = changed(("127.0.0.1:8123", "${ADDRESS:-127.0.0.1}:8123"), ("=bfloat16", "=${DTYPE:-bfloat16}"))
    assert find(text, machine) == ()
    assert codes(text, machine, ADDRESS="0.0.0.0") == ["port-exposed"]
    assert codes(text, machine, DTYPE="float16") == ["dtype-slow"]


def test_dtype_depends_on_the_processor():
    old = Host("old", frozenset({"avx2"}), (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)
    assert codes(CLEAN, old) == ["dtype-slow"]
    assert find(changed(("=bfloat16", "=float32")), old) == ()


@pytest.mark.parametrize("model", ["bge-reranker-v2-m3", "all-MiniLM-L6-v2", "ms-marco-MiniLM-L6-v2"])
def test_encoders_need_neither_overrides_nor_template(machine, model):
    text = changed(
        (OVERRIDES, ""),
        ("      - --chat-template=/templates/qwen3.jinja\n", ""),
        ("--model=/models/qwen3-reranker-0.6b", f"--model=/models/{model}"),
        (MODEL, f"/srv/{model}:/models/{model}"),
    )
    assert find(text, machine) == ()


def test_a_converted_qwen3_needs_the_template_only(machine):
    text = changed(
        (OVERRIDES, ""),
        ("      - --chat-template=/templates/qwen3.jinja\n", ""),
        ("0.6b", "0.6b-seq-cls"),
        ("0.6B", "0.6B-seq-cls"),
    )
    assert codes(text, machine) == ["template-missing"]


@pytest.mark.parametrize("image", ["vllm/vllm-openai-xpu:v0.32.0", "quay.io/ascend/vllm-ascend:v0.30.0"])
def test_rules_for_cpus_do_not_apply_to_other_accelerators(image, machine):
    text = changed(("vllm-cpu:0.32.0", image), ("    shm_size: 1gb\n", "    devices: [/dev/dri]\n"))
    assert find(text, machine) == ()


def test_rules_for_cpus_do_not_apply_to_a_gpu(machine):
    text = changed(
        ("vllm-cpu:0.32.0", "vllm/vllm-openai:v0.32.0"),
        ("bfloat16", "float16"),
        ("    shm_size: 1gb\n", "    gpus: all\n"),
    )
    assert find(text, machine) == ()


def test_a_model_folder_on_this_machine_is_read(machine, model_folder):
    text = changed(
        (OVERRIDES, ""), ("/srv/Qwen3-Reranker-0.6B", str(model_folder)), ("--chat-template", "--seed")
    )
    text = text.replace("--seed=/templates/qwen3.jinja", "--seed=1")
    findings = find(text, machine)
    assert [(finding.code, finding.fix) for finding in findings] == [
        ("max-model-len-large", "--max-model-len 512")
    ]


def test_an_escaped_dollar_sign_is_no_variable(machine):
    text = changed(("    environment:\n", "    environment:\n      PASSWORD: a$$b\n"))
    assert find(text, machine) == ()


class TestCommand:
    """``ragops check``."""

    @pytest.mark.parametrize(("case", "code"), [("handwritten", 1), ("clean", 0), ("others", 0)])
    def test_the_exit_code_is_1_when_a_finding_is_an_error(self, case, code, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.reranker.host.read_host", lambda: machine)
        assert main(["check", str(CASES / f"{case}.yaml")]) == code
        assert "errors" in capsys.readouterr().out

    def test_warnings_alone_are_not_a_failure(self, tmp_path, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.reranker.host.read_host", lambda: machine)
        (tmp_path / "compose.yaml").write_text(CLEAN.replace("on-failure:5", "always"))
        assert main(["check", str(tmp_path / "compose.yaml")]) == 0
        assert "[restart-loop]" in capsys.readouterr().out

    def test_json_has_the_documented_form(self, capsys, monkeypatch, machine):
        monkeypatch.setattr("ragops.reranker.host.read_host", lambda: machine)
        assert main(["check", "--json", str(CASES / "handwritten.yaml")]) == 1
        record = json.loads(capsys.readouterr().out)
        assert set(record) == {"findings"}
        fields = {"code", "severity", "file", "line", "message", "fix", "service"}
        assert all(set(finding) == fields for finding in record["findings"])
        assert {finding["severity"] for finding in record["findings"]} == {"error", "warning"}

    def test_a_file_that_is_not_yaml_ends_with_its_line_and_a_hint(self, tmp_path, capsys):
        (tmp_path / "compose.yaml").write_text("services:\n\ta: {}\n")
        assert main(["check", str(tmp_path / "compose.yaml")]) == 1
        message = capsys.readouterr().err
        assert "compose.yaml:2:" in message
        assert "hint:" in message


SERVICE = """services:
  reranker:
    image: vllm/vllm-openai-cpu:v0.32.0
    shm_size: 1gb
    command: {command}
    healthcheck: {{test: [CMD, "true"]}}
"""
USUAL = ["--model", "BAAI/bge-reranker-v2-m3", "--dtype", "bfloat16", "--kv-cache-memory-bytes", "67108864"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--api-key", "#hidden", "--served-model-name", "r"], set()),
        (["--served-model-name", "r", "--api-key hidden"], {"argument-joined"}),
        (["--served-model-name", "r", "--max-model-len", "9" * 400], set()),
        (["--served-model-name", "r", "--hf-overrides=" + "[" * 60_000], {"hf-overrides-broken"}),
    ],
)
def test_unusual_values(machine, more, expected):
    findings = find(SERVICE.format(command=json.dumps([*USUAL, *more])), machine)
    assert {finding.code for finding in findings} == expected
    assert "hidden" not in str(findings)


def test_a_cache_in_fp8_takes_less(machine):
    qwen3 = [
        "--model",
        "Qwen/Qwen3-Reranker-4B",
        "--max-model-len",
        "8192",
        "--kv-cache-memory-bytes",
        "1000000000",
    ]
    assert "kv-cache-small" in codes(SERVICE.format(command=json.dumps(qwen3)), machine)
    fp8 = [*qwen3, "--kv-cache-dtype", "fp8"]
    assert "kv-cache-small" not in codes(SERVICE.format(command=json.dumps(fp8)), machine)
