"""``ragops check --fix`` renders the reranker of a compose file as ragops would start it."""

import json
import os
import re
import subprocess
from importlib import resources
from pathlib import Path

import pytest
import yaml

from ragops.cli import main
from ragops.compose import check_texts, render
from ragops.configuration import Stack
from ragops.errors import ComposeError
from tests.support.fake_engine import FakeEngine

FILE = """
services:
  rerank:
    image: vllm-cpu:latest
    container_name: my-reranker
    command: [--model, /weights/tiny, --task, score, --port=8000]
    ports: ["8200:8000"]
    volumes: ["{model}:/weights/tiny:ro", "logs:/logs"]
    environment: {{TZ: UTC, HF_HUB_OFFLINE: "1"}}
    restart: always
    depends_on: [db]
    networks:
      back: {{aliases: [scores]}}
  db:
    image: postgres:17
networks:
  back: {{name: {network}, external: true}}
volumes:
  logs: {{driver: local}}
"""


@pytest.fixture
def file(here, model_folder, monkeypatch, tmp_path):
    """A compose file whose model is only named in the file itself."""
    monkeypatch.delenv("RAGOPS_MODEL_DIR")
    engine = FakeEngine()
    engine.version = "28.2.2"
    monkeypatch.setattr("ragops.docker.engine.connect", lambda: engine)
    path = tmp_path / "docker-compose.yaml"
    path.write_text(FILE.format(model="./tiny", network="my-net"))
    return path


def fix(file, capsys):
    """The rendered document, and what is not taken over."""
    assert main(["check", "--fix", "--json", str(file)]) == 1
    record = json.loads(capsys.readouterr().out)
    assert "task-removed" in {finding["code"] for finding in record["findings"]}
    return yaml.safe_load(record["text"]), record["not_taken_over"]


def test_name_model_port_and_network_come_from_the_file(file, capsys, model_folder):
    document, _ = fix(file, capsys)
    service = document["services"]["rerank"]
    assert service["container_name"] == "my-reranker"
    assert service["volumes"][0]["source"] == str(model_folder)
    assert service["ports"] == ["127.0.0.1:8200:8000"]
    assert document["networks"] == {"back": {"name": "my-net", "external": "true"}}
    assert service["networks"] == {"back": {"aliases": ["scores"]}}
    assert service["environment"]["TZ"] == "UTC"


def test_the_service_has_no_gateway_whatever_is_configured(file, capsys):
    expected, _ = fix(file, capsys)
    Path("ragops.toml").write_text("[reranker]\nreplicas = 2")
    assert fix(file, capsys)[0] == expected


def test_everything_else_that_the_file_sets_is_listed(file, capsys):
    _, left_out = fix(file, capsys)
    assert {item.partition(":")[0] for item in left_out} == {
        *("served name /weights/tiny", "option --task=score"),
        *("key restart", "key depends_on"),
    }


def test_the_rendered_service_has_no_fault_and_the_file_is_unchanged(file, capsys, machine, tmp_path):
    before = file.read_text()
    assert main(["check", "--fix", str(file)]) == 1
    output = capsys.readouterr()
    findings = check_texts({tmp_path / "fixed.yaml": output.out}, machine, {}).findings
    assert {finding.code for finding in findings} <= {"image-unpinned"}
    assert "[task-removed]" in output.err
    assert file.read_text() == before


def test_compose_accepts_the_rendered_service(file, capsys, tmp_path):
    main(["check", "--fix", str(file)])
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text(capsys.readouterr().out)
    argv = [str(resources.files("compose") / "docker-compose"), "--file", str(fixed), "config", "--quiet"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr


LEFT_OUT = "not taken over"


@pytest.mark.parametrize(
    ("before", "after", "place", "value"),
    [
        ("logs:/logs", "logs:/logs:ro", "volumes", "logs:/logs:ro"),
        ("logs:/logs", "./tiny:/extra:ro", "volumes", "./tiny:/extra:ro"),
        ("logs:/logs", "./none:/extra", LEFT_OUT, "mount ./none:/extra: ./none is not on this machine"),
        (
            "{driver: local}",
            "{driver_opts: {o: 'password=hidden'}}",
            LEFT_OUT,
            "mount logs:/logs: its definition",
        ),
        ("logs:/logs", "logs:/tmp", LEFT_OUT, "mount logs:/tmp"),
        ("logs:/logs", "undefined:/logs", LEFT_OUT, "mount undefined:/logs"),
        ("logs:/logs", "$UNSET_OF_TEST:/logs", LEFT_OUT, "mount bind:/logs"),
        ("TZ: UTC", "TZ: '${ZONE:-UTC}'", "environment", {"TZ": "${ZONE:-UTC}"}),
        ("TZ: UTC", "HF_TOKEN: hidden", "environment", {"HF_TOKEN": None}),
        ("TZ: UTC", "HF_TOKEN: hidden", LEFT_OUT, "value of the environment variable HF_TOKEN"),
        ("TZ: UTC", "HF_TOKEN: '${MINE:-hidden}'", "environment", {"HF_TOKEN": None}),
        ("TZ: UTC", "HF_TOKEN: $MINE", "environment", {"HF_TOKEN": "$MINE"}),
        ("TZ: UTC", "VLLM_CPU_KVCACHE_SPACE: 4", LEFT_OUT, "environment variable VLLM_CPU_KVCACHE_SPACE"),
        ("TZ: UTC", "http_proxy: http://localhost:1", LEFT_OUT, "environment variable http_proxy"),
        ("restart: always", "restart: 'no'", "restart", "no"),
        ("restart: always", "labels: [a=b]", "labels", {"a": "b", "org.ragops": "reranker"}),
        ("restart: always", "extra_hosts: ['a:1.2.3.4']", "extra_hosts", "a:1.2.3.4"),
        ("restart: always", "user: root", LEFT_OUT, "key user"),
        ("--port=8000", "--served-model-name, reranker", "command", "reranker"),
        (
            "--port=8000",
            "--served-model-name=me/it",
            LEFT_OUT,
            "served name me/it: in RAGFlow, the model is then tiny",
        ),
        ("--port=8000", "--served-model-name, a, b", LEFT_OUT, "served name b"),
        ("--port=8000", "--api-key=hidden", LEFT_OUT, "option --api-key"),
        ("--port=8000", "'--api-key hidden'", LEFT_OUT, "option --api-key"),
        ("--port=8000", "--otlp-traces-endpoint=http://me:hidden@h", LEFT_OUT, "option --otlp"),
        ("TZ: UTC", "OPENAI_KEY: hidden", "environment", {"OPENAI_KEY": None}),
        ("TZ: UTC", "DB_URL: postgres://u:hidden@h/d", "environment", {"DB_URL": None}),
        ("--port=8000", "'${MORE:-}'", LEFT_OUT, "variable MORE of the command"),
        ("{name: my-net, external: true}", "", "networks", {"back": {"aliases": ["scores"]}, "ragops": {}}),
        (", external: true", "", "networks", {"back": {"aliases": ["scores"]}}),
        ("    networks:\n      back: {aliases: [scores]}\n", "", "networks", {"default": {}, "ragops": {}}),
    ],
)
def test_each_setting_is_taken_over_or_listed(file, capsys, before, after, place, value):
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    assert main(["check", "--fix", "--json", str(file)]) in {0, 1}
    output = capsys.readouterr().out
    record = json.loads(output)
    document = yaml.safe_load(record["text"])
    service = document["services"]["rerank"]
    assert "hidden" not in output
    assert ("logs" in document["volumes"]) is any("logs:" in str(row) for row in service["volumes"])
    taken = record["not_taken_over"] if place == LEFT_OUT else service[place]
    if place == LEFT_OUT:
        assert any(item.startswith(value) for item in taken)
    elif isinstance(value, dict):
        assert taken | value == taken
    else:
        assert value in taken


def test_a_port_that_is_no_number_is_not_taken_over(file, capsys):
    file.write_text(file.read_text().replace("8200:8000", "²:8000"))
    assert "²" not in str(fix(file, capsys)[0]["services"]["rerank"])


def test_only_what_the_file_sets_is_configured(machine, tmp_path):
    """Sizes depend on what is configured, such as the key-value cache of a listwise model."""
    text = FILE.format(model="./tiny", network="my-net")
    (service,) = check_texts({tmp_path / "compose.yaml": text}, machine, {}).rerankers
    taken = render.take_over(service, Stack()).reranker.model_fields_set
    assert taken == {"name", "port"}


def test_a_service_name_of_one_letter_is_no_container_name(file, capsys):
    text = file.read_text().replace("    container_name: my-reranker\n", "")
    file.write_text(text.replace("  rerank:", "  r:"))
    service = fix(file, capsys)[0]["services"]["r"]
    assert service["container_name"] == Stack().reranker.name


def test_a_network_that_moves_the_route_is_not_taken_over(file, capsys):
    file.write_text(FILE.format(model="./tiny", network="a-net"))
    document, left_out = fix(file, capsys)
    assert [network["name"] for network in document["networks"].values()] == [Stack().network.name]
    assert {"network a-net", "network alias scores"} <= set(left_out)


def test_without_ports_nothing_is_published(file, capsys):
    file.write_text(file.read_text().replace('    ports: ["8200:8000"]\n', ""))
    assert "ports" not in fix(file, capsys)[0]["services"]["rerank"]


def test_a_model_that_is_not_here_is_never_guessed(file, capsys, monkeypatch, model_folder):
    file.write_text(FILE.format(model="/elsewhere", network="my-net"))
    assert main(["check", "--fix", str(file)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "RAGOPS_MODEL_DIR" in output.err
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(model_folder))
    document, left_out = fix(file, capsys)
    assert document["services"]["rerank"]["volumes"][0]["source"] == str(model_folder)
    assert any(item.startswith("model /weights/tiny") for item in left_out)


@pytest.mark.parametrize(
    ("image", "code"), [("nginx", "compose-no-reranker"), ("vllm/vllm-openai:v0.32.0", "compose-gpu")]
)
def test_no_reranker_and_a_gpu_are_refused(file, capsys, image, code):
    file.write_text(file.read_text().replace("vllm-cpu:latest", image))
    assert main(["check", "--fix", "--json", str(file)]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == code


def test_other_rerankers_of_the_file_are_listed(file, capsys):
    second = "  second-rerank: {extends: rerank, container_name: other}\n  db:"
    file.write_text(file.read_text().replace("  db:", second))
    document, left_out = fix(file, capsys)
    assert list(document["services"]) == ["rerank"]
    assert "service second-rerank" in left_out


def test_a_name_that_ragops_does_not_accept_is_refused(machine):
    text = FILE.format(model="/srv", network="my-net").replace("my-reranker", "'@'")
    (service,) = check_texts({Path("/nowhere/compose.yaml"): text}, machine, {}).rerankers
    with pytest.raises(ComposeError) as caught:
        render.take_over(service, Stack())
    assert caught.value.code == "compose-value-refused"
    assert "name" in caught.value.evidence


REPORTS = sorted((Path(__file__).parents[1] / "data" / "compose" / "reports").glob("*.yaml"))
NOT_PRINTED = {
    "nocommand": "compose-incomplete",
    "override": "compose-incomplete",
    "gpuimage-nogpu": "compose-gpu",
}
LISTED = {
    "emptylist": {"variable EXTRA_ARGS of the command"},
    "emptyword": {
        "variable EXTRA_ARGS of the command",
        "variable UNSET_KEY of the command",
        "option --api-key",
    },
    "emptyword2": {"variable EXTRA_ARGS of the command", "variable PORT of the command", "option --port"},
    "keyempty": {"variable VLLM_API_KEY of the command", "option --api-key"},
    "comment": {"words after # in the command"},
    "comment2": {"words after # in the command"},
    "todo-contradiction": {"program bash"},
    "todo2": {"program bash", "key restart"},
    "oldtask": {"option --task=score", "environment variable VLLM_CPU_KVCACHE_SPACE"},
    "badkey": {"key device_requests"},
    "anchoruse": {"key restart"},
    "proxy": {"environment variable http_proxy"},
    "oldtemplate": {"mount ./nowhere.jinja:/t.jinja: ./nowhere.jinja is not on this machine"},
    "servetwice": set(),
    "goneflags": {"option --device=cpu", "option --disable-log-requests", "option --swap-space=4"},
    "classify": {"option --convert=classify", "option --chat-template=/t.jinja"},
    "name4b": {"model /root/models"},
}


def test_files_of_the_reports(here, capsys, tmp_path):
    """Compose accepts what is printed, alone and with its file; the rest is listed or refused."""
    originals, fixed = ({"services": {}, "volumes": {}, "networks": {}} for _ in range(2))
    file = tmp_path / "docker-compose.yml"
    for path in REPORTS:
        report, text = path.stem, path.read_text()
        file.write_text(text)
        assert main(["check", "--fix", "--json", str(file)]) in {0, 1}
        record = json.loads(capsys.readouterr().out)
        if report in NOT_PRINTED:
            assert record["code"] == NOT_PRINTED[report]
            continue
        document, original = yaml.safe_load(record["text"]), yaml.safe_load(text)
        (name,) = document["services"]
        service, left_out = document["services"][name], record["not_taken_over"]
        assert {*left_out, *(item.split(": ")[0] for item in left_out)} >= LISTED[report], report
        command = service["command"]
        assert command[::2] == [
            word for word in command if word.startswith("--")
        ]  # options with their values
        served = command[command.index("--served-model-name") + 1]
        renamed = [item for item in left_out if item.startswith("served name")]
        assert bool(renamed) is not bool(re.search(r"--served-model-name[ =]\w", text)), report
        assert all(item.endswith(f"is then {served}") for item in renamed)
        assert set(document["volumes"]) - {"reranker-compiled"} == (
            {"hf"} if report == "anchoruse" else set()
        )
        original["services"][name].pop("device_requests", None)
        for whole, part in ((originals, original), (fixed, document)):
            whole["services"][report] = part["services"][name] | {"container_name": report}
            for key in ("volumes", "networks"):
                whole[key] |= part.get(key, {})
    for name, document in (("a.yaml", originals), ("b.yaml", fixed)):
        (tmp_path / name).write_text(yaml.safe_dump(document))
    compose = str(resources.files("compose") / "docker-compose")
    for names in (["b.yaml"], ["a.yaml", "b.yaml"]):
        argv = [
            compose,
            *(part for name in names for part in ("-f", str(tmp_path / name))),
            "config",
            "--quiet",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
