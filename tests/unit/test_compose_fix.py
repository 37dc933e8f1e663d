"""The mended file keeps what was right, has no fault left that can be mended, and compose takes it."""

import os
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ragops import vllm
from ragops.compose import check_file, check_text

CASES = Path(__file__).parents[1] / "data" / "compose"
HANDWRITTEN = (CASES / "handwritten.yaml").read_text()
SET = {"NAME": "reranker-x", "PORT": "8200", "MODEL": "/srv/all-MiniLM-L6-v2", "NETWORK": "b-net"}
LEFT = {"handwritten": {"image-unpinned"}, "minilm": {"image-unpinned"}, "qwen3": {"image-unpinned"}}


def fixed(text, host, **values):
    return check_text(text, Path("/nowhere/compose.yaml"), host, values).fixed


def service(text, name):
    return YAML(typ="safe").load(text)["services"][name]


def config(text, tmp_path, **values):
    """What docker-compose makes of the text; needs no engine."""
    file = tmp_path / "compose.yaml"
    file.write_text(text)
    program = resources.files("compose") / "docker-compose"
    argv = [str(program), "--project-name", "x", "--file", str(file), "config"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | values)


@pytest.mark.parametrize("case", ["handwritten", "anchors", "minilm", "qwen3", "clean", "others"])
def test_a_mended_file_has_no_more_to_mend(case, machine):
    text = fixed((CASES / f"{case}.yaml").read_text(), machine, **SET)
    again = check_text(text, Path("/nowhere/compose.yaml"), machine, SET)
    assert {one.code for one in again.findings} == LEFT.get(case, set())
    assert again.fixed == text


@pytest.mark.parametrize("case", ["handwritten", "anchors", "minilm", "qwen3", "clean"])
def test_compose_takes_a_mended_file(case, machine, tmp_path):
    done = config(fixed((CASES / f"{case}.yaml").read_text(), machine, **SET), tmp_path, **SET)
    assert done.returncode == 0, done.stderr
    assert "obsolete" not in done.stderr


def test_a_file_without_faults_stays_as_it_is(machine):
    text = (CASES / "clean.yaml").read_text()
    assert fixed(text, machine) == text


def test_comments_and_order_are_kept(machine):
    text = fixed(HANDWRITTEN, machine)
    for comment in (
        "# A reranker as",
        "# scores for",
        "# for trying it out",
        "# started by",
        "# half the machine",
    ):
        assert comment in text
    keys = list(service(text, "rerank"))
    assert keys[0] == "image"
    assert keys[-1] == "networks"
    assert text.index("# half the machine") < text.index("deploy:")


def test_the_command_is_what_vllm_gets(machine):
    found = service(fixed(HANDWRITTEN, machine), "rerank")
    assert found["entrypoint"] == list(vllm.ENTRYPOINT)
    flags = dict(row.split("=", 1) for row in found["command"])
    assert flags == {
        "--model": "/weights/Qwen3-Reranker-0.6B",
        "--dtype": "bfloat16",
        "--hf-overrides": vllm.KNOWN[0].overrides,
        "--runner": "pooling",
        "--chat-template": "/templates/qwen3_reranker.jinja",
        "--kv-cache-memory-bytes": str(2 << 30),
        "--served-model-name": "qwen3-reranker-0.6b",
        "--max-model-len": "4096",
    }


def test_the_template_in_the_file_is_the_packaged_one(machine):
    document = YAML(typ="safe").load(fixed(HANDWRITTEN, machine))
    (content,) = (one["content"] for one in document["configs"].values())
    assert content.replace("$$", "$") == (vllm.TEMPLATES / "qwen3_reranker.jinja").read_text()


def test_the_container_gets_what_a_launch_by_ragops_has(machine):
    found = service(fixed(HANDWRITTEN, machine), "rerank")
    assert found["ports"] == ["127.0.0.1:8200:8000"]
    assert found["cpuset"] == "0"  # a quota of one core becomes one core
    assert found["environment"] == {"VLLM_CPU_OMP_THREADS_BIND": "0", "TZ": "Europe/Vienna"}
    assert found["deploy"] == {"resources": {"limits": {"memory": "6G"}}}
    assert found["restart"] == "on-failure:5"
    assert found["shm_size"] == "1gb"
    assert "/health" in found["healthcheck"]["test"][-1]


def test_what_is_left_to_the_user_is_said_at_the_top(machine):
    head = [line for line in fixed(HANDWRITTEN, machine).splitlines()[:6] if line.startswith("# ")]
    assert any("docker network create ragflow-rerank" in line for line in head)
    assert any("call the model qwen3-reranker-0.6b" in line for line in head)
    assert any("image-unpinned" in line for line in head)


def test_others_that_share_an_anchor_keep_theirs(machine):
    before, after = (CASES / "anchors.yaml").read_text(), check_file(CASES / "anchors.yaml", machine).fixed
    assert service(after, "web") == service(before, "web")
    assert "environment: *variables" in after
    assert service(after, "first-reranker")["restart"] == "on-failure:5"
    assert "VLLM_CPU_KVCACHE_SPACE" not in service(after, "first-reranker")["environment"]
    assert service(after, "second-reranker")["volumes"] == service(after, "first-reranker")["volumes"]


def test_two_rerankers_get_cores_of_their_own(machine):
    text = (
        (CASES / "anchors.yaml")
        .read_text()
        .replace("    environment:\n      <<", "    cpus: 2\n    environment:\n      <<")
    )
    mended = fixed(text, machine)
    assert service(mended, "first-reranker")["cpuset"] == "0-1"
    assert service(mended, "second-reranker")["cpuset"] == "2-3"


def test_forms_are_mended_in_their_own_form(machine):
    text = fixed((CASES / "forms.yaml").read_text(), machine)
    found = service(text, "shell")
    assert found["entrypoint"] == ["vllm", "serve"]
    assert "--dtype=bfloat16" in found["command"]
    assert found["environment"] == ["VLLM_CPU_OMP_THREADS_BIND=0-1", "TZ"]  # two of four cores
    assert found["ports"][0] == {"target": 8000, "published": "8300", "host_ip": "127.0.0.1"}
    assert found["ports"][1] == "127.0.0.1:8301:8000/tcp"
    assert found["ports"][2] == "${UNSET}:8302:8000"
    assert found["ports"][3] == "127.0.0.1::8000"
    assert "@sha256:" in found["image"]
    assert service(text, "unseen") == service((CASES / "forms.yaml").read_text(), "unseen")


def test_a_script_that_does_more_is_not_rewritten(machine):
    text = (CASES / "forms.yaml").read_text().replace("exec vllm", "pip install x && vllm")
    found = service(fixed(text, machine), "shell")
    assert found["entrypoint"] == ["/bin/bash", "-c"]
    assert "pip install x" in found["command"][0]
    assert "Left as it was (dtype-slow)" in fixed(text, machine)


def test_variables_stay_variables(machine):
    text = HANDWRITTEN.replace("8200:8000", "${PORT:-8200}:8000").replace("4096", "${LENGTH:-4096}")
    found = service(fixed(text, machine), "rerank")
    assert found["ports"] == ["127.0.0.1:${PORT:-8200}:8000"]
    assert "--max-model-len=${LENGTH:-4096}" in found["command"]


def test_a_list_of_words_is_changed_in_place(machine):
    text = (CASES / "clean.yaml").read_text().replace("--dtype=bfloat16", "--dtype\n      - float32 # slow")
    found = service(fixed(text, machine), "reranker")
    assert "--dtype=bfloat16" in found["command"]
    assert "float32" not in found["command"]
    assert len(found["command"]) == len(service((CASES / "clean.yaml").read_text(), "reranker")["command"])


def test_the_hosts_network_is_left(machine):
    text = (
        (CASES / "clean.yaml").read_text().replace("    networks: [ragflow-rerank]", "    network_mode: host")
    )
    text = text.replace('    ports: ["127.0.0.1:8123:8000"]\n', "")
    found = service(fixed(text, machine), "reranker")
    assert "network_mode" not in found
    assert found["networks"] == ["ragflow-rerank"]
    assert found["ports"] == ["127.0.0.1:8000:8000"]


@pytest.mark.parametrize("before", ["", "--port 8000 "])
def test_a_model_by_position_comes_first(machine, before):
    """vllm serve refuses --served-model-name when the model is anywhere else."""
    head = "services:\n  rerank:\n    image: vllm/vllm-openai-cpu:v0.29.0\n"
    text = f"{head}    command: serve {before}BAAI/bge-reranker-base\n"
    assert service(fixed(text, machine), "rerank")["command"][:2] == ["serve", "BAAI/bge-reranker-base"]


def test_comments_in_a_list_of_arguments_are_kept(machine):
    head = "services:\n  rerank:\n    image: vllm-cpu:1\n    command:\n      - --model\n"
    words = "      - a/bge-reranker-base # the model\n      - --task\n      - score\n"
    mended = fixed(f"{head}{words}      # below the command\n\n  other:\n    image: x\n", machine)
    assert "a/bge-reranker-base # the model" in mended
    assert "# below the command" in mended
    assert "--task" not in mended
    assert mended.index("# below the command") < mended.index("  other:")


def test_empty_sections_of_the_file_are_filled(machine):
    text = (CASES / "clean.yaml").read_text() + "configs:\n"
    mended = fixed(text.replace("      - --chat-template=/templates/qwen3.jinja\n", ""), machine)
    assert len(YAML(typ="safe").load(mended)["configs"]) == 1


def test_a_scalar_that_others_name_keeps_its_one_anchor(machine):
    text = (CASES / "odd" / "merge-keys.yaml").read_text().replace("on-failure:5", "always")
    mended = fixed(text, machine)
    assert mended.count("&image") <= 1
    assert service(mended, "reranker")["restart"] == "on-failure:5"
    assert service(mended, "migrate") == service(text, "migrate")
