"""Several files are merged as Docker Compose merges them; findings name the file of their value."""

import json
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from ragops.cli import main
from ragops.compose import check_file, check_texts
from ragops.compose.syntax import merge_files, parse
from ragops.errors import ComposeError
from ragops.reranker.host import Core, Host, Node

HOST = Host("one", frozenset({"amx_bf16"}), (Core(0, 0),), (Node(0, 1 << 34),), 1 << 34)
IMAGE = "image: vllm-cpu:1"
CASES = {
    "scalars": ("restart: always", "restart: 'no'\nshm_size: 1gb"),
    "commands": ("entrypoint: [a, b]\ncommand: --x 1", "command: [--y]\nentrypoint: c d"),
    "environment": ("environment: {A: 1, B: 2, C: }", "environment: [B=3, 'D=4=5', E]"),
    "environment lists": ("environment: [A=1, B]", "environment: {A: , B: x}"),
    "volumes": (
        "volumes: [va:/a, ./b:/b:ro, /c]",
        "volumes: [{type: bind, source: /x, target: /a}, vd:/d, ve:/c]",
    ),
    "ports": (
        "ports: ['80:8000', '81', 127.0.0.1:82:82]",
        "ports: ['80:8000', '81:81', 0.0.0.0:80:8000/udp]",
    ),
    "long ports": (
        "ports: ['80:8000']",
        "ports: [{target: 8000, published: '80'}, {target: 9, protocol: udp}]",
    ),
    "networks": ("networks: [default, b]", "networks: {b: {aliases: [x]}, c: {}}"),
    "aliases": ("networks: {b: {aliases: [x, y]}}", "networks: {b: {aliases: [y, z]}}"),
    "build": ("build: .", "build: {context: ., args: {a: b}}"),
    "gpus": ("gpus: all", "gpus: [{count: 1}]"),
    "healthcheck": ("healthcheck: {test: [CMD, a], retries: 1}", "healthcheck: {test: curl b, timeout: 3s}"),
    "labels": ("labels: {a: 1}", "labels: [a=2, b]"),
    "deploy": (
        "deploy: {resources: {limits: {memory: 1g}}}",
        "deploy: {resources: {limits: {cpus: '2'}}, labels: [a=1]}",
    ),
    "logging": (
        "logging: {driver: syslog, options: {a: b}}",
        "logging: {driver: json-file, options: {c: d}}",
    ),
    "logging options": ("logging: {driver: syslog, options: {a: b}}", "logging: {options: {c: d}}"),
    "capabilities": ("cap_add: [A, B]", "cap_add: [B, C]"),
    "dns": ("dns: 1.1.1.1\ntmpfs: /a", "dns: [1.1.1.1, 8.8.8.8]\ntmpfs: [/a, /b]"),
    "ulimits": ("ulimits: {nofile: {soft: 1, hard: 2}, core: 1}", "ulimits: {nofile: 5}"),
    "nothing": ("environment: {A: 1}\nshm_size: 1gb", "environment:\nshm_size:"),
    "no command": ("command: --x", "command:"),
    "reset": (
        "environment: {A: 1, B: 2}\nports: ['80']\nshm_size: 1gb",
        "ports: !reset []\nenvironment: {A: !reset null}",
    ),
    "override": (
        "ports: ['80']\nenvironment: {A: 1}",
        "ports: !override ['81']\nenvironment: !override [B=1]",
    ),
    "extends": ("environment: [A=1, B=1]\nvolumes: [va:/a]", "extends: {service: base}\nenvironment: {A: 2}"),
    "extends with reset": (
        "shm_size: 1gb",
        "extends: base\nenvironment: !reset\nvolumes: !override ['va:/z']",
    ),
}
BASE = f"  base: {{{IMAGE}, environment: [B=2, Z=1], volumes: ['vd:/a', 've:/e'], command: x}}\n"
TOP = "volumes: {va: {labels: [x=y]}, vd: , ve: }\nnetworks: {b: {labels: {x: y}, internal: true}, c: }\n"
TOP_OF_SECOND = "volumes: {va: {labels: {x: z}}, vg: }\nnetworks: {b: {labels: [x=z, u]}}\n"


def files(folder):
    """Two files in which each case is a service."""
    first, second = "services:\n", f"services:\n{BASE}"
    for name, (before, after) in CASES.items():
        key = f"  {name.replace(' ', '-')}:\n"
        first += key + "".join(f"    {line}\n" for line in f"{IMAGE}\n{before}".split("\n"))
        second += key + "".join(f"    {line}\n" for line in after.split("\n"))
    (folder / "a.yaml").write_text(first + TOP)
    (folder / "b.yaml").write_text(second + TOP_OF_SECOND)
    return [folder / "a.yaml", folder / "b.yaml"]


def compose_config(*files):
    """The model of ``docker-compose config``; needs no engine."""
    program = resources.files("compose") / "docker-compose"
    argv = [str(program), "--project-name", "p", *(part for file in files for part in ("-f", str(file)))]
    done = subprocess.run([*argv, "config", "--format", "json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def as_json(node):
    if isinstance(node.value, dict):
        return {key: as_json(value) for key, value in node.mapping.items()}
    return [as_json(item) for item in node.elements] if isinstance(node.value, list) else node.value


def test_compose_reads_the_merged_file_as_it_reads_both(tmp_path):
    paths = files(tmp_path)
    roots = [parse(path.read_text(), path.name, {}) for path in paths]
    (tmp_path / "merged.yaml").write_text(json.dumps(as_json(merge_files(roots))))
    expected, merged = compose_config(*paths), compose_config(tmp_path / "merged.yaml")
    for name, service in expected["services"].items():
        assert merged["services"][name] == service, name
    assert merged == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ports: ['80']", "ports: '80'"),
        ("deploy: {replicas: 1}", "deploy: [a]"),
        ("shm_size: 1g", "shm_size: {a: b}"),
    ],
)
def test_values_of_different_types_are_refused_with_their_place(before, after):
    roots = [
        parse(f"services:\n  one:\n    {text}\n", name, {}, first)
        for text, name, first in ((before, "a.yaml", 1), (after, "b.yaml", 5))
    ]
    with pytest.raises(ComposeError, match=r"b\.yaml:3: services\.one\.") as caught:
        merge_files(roots)
    assert "a.yaml" in caught.value.message


BROKEN = f"""services:
  reranker:
    {IMAGE}
    command: vllm serve BAAI/bge-reranker-v2-m3 --task score
    environment: {{VLLM_CPU_KVCACHE_SPACE: x}}
"""
OVERRIDE = """services:
  reranker:
    shm_size: 16m
    environment: {VLLM_CPU_OMP_THREADS_BIND: all}
"""


def findings(folder, **texts):
    checked = check_texts({folder / name.replace("_", "."): text for name, text in texts.items()}, HOST, {})
    return {(Path(finding.file).name, finding.line, finding.code) for finding in checked.findings}


def test_a_finding_has_the_file_and_the_line_of_its_value(tmp_path):
    found = findings(tmp_path, a_yaml=BROKEN, b_yaml=OVERRIDE)
    assert found >= {
        *(("a.yaml", 4, "task-removed"), ("a.yaml", 5, "kv-cache-broken")),
        *(("b.yaml", 3, "shm-small"), ("b.yaml", 4, "threads-all")),
        ("a.yaml", 2, "healthcheck-missing"),  # of the service, which the first file defines
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("compose.yaml", OVERRIDE.replace("16m", "1g")),
        ("compose.yaml", f"services:\n  reranker:\n    {IMAGE}\n    runtime: !reset null\n"),
        ("docker-compose.override.yml", f"services:\n  reranker:\n    {IMAGE}\n    tty: true\n"),
    ],
)
def test_an_override_alone_has_no_faults_that_its_base_may_not_have(tmp_path, name, text):
    checked = check_texts({tmp_path / name: text}, HOST, {})
    assert {finding.code for finding in checked.findings} <= {"threads-all"}
    assert "ragops check BASE OVERRIDE" in checked.notes[0]


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        (["docker-compose.yml", "docker-compose.override.yml"], "", "both"),
        (["compose.yaml", "docker-compose.yml", "compose.override.yaml"], "", "both"),
        (["docker-compose.yml"], "", "first"),
        (["a.yaml", "b.yaml"], "COMPOSE_FILE=a.yaml:b.yaml", "both"),
    ],
)
def test_without_a_file_those_of_compose_are_checked(
    tmp_path, monkeypatch, capsys, files, environment, expected
):
    monkeypatch.setattr("ragops.reranker.host.read_host", lambda: HOST)
    (tmp_path / files[0]).write_text(BROKEN)
    (tmp_path / files[-1]).write_text(OVERRIDE if len(files) > 1 else BROKEN)
    (tmp_path / ".env").write_text(environment)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--json"]) == 1
    codes = {row["code"] for row in json.loads(capsys.readouterr().out)["findings"]}
    assert ("threads-all" in codes) is (expected == "both")
    assert [path.name for path in check_file(tmp_path, host=HOST).paths] == [files[0], *files[1:][-1:]]


def test_a_folder_without_a_compose_file_is_an_error(tmp_path):
    with pytest.raises(ComposeError, match="no compose file"):
        check_file(tmp_path)


def test_variables_of_an_env_file_are_read(tmp_path):
    (tmp_path / "vllm.env").write_text("VLLM_CPU_OMP_THREADS_BIND=all\nVLLM_CPU_KVCACHE_SPACE='$x'\n")
    text = BROKEN.replace(
        "environment: {VLLM_CPU_KVCACHE_SPACE: x}", "env_file: [vllm.env, {path: b, required: false}]"
    )
    assert {code for _, line, code in findings(tmp_path, a_yaml=text) if line == 5} == {
        "threads-all",
        "kv-cache-broken",
    }
    checked = check_texts({tmp_path / "a.yaml": text.replace("vllm.env", "missing.env")}, HOST, {})
    assert any("env_file" in note for note in checked.notes)
    assert not {"threads-all", "kv-cache-unset"} & {finding.code for finding in checked.findings}
