"""The program of Swarm's tasks, as a process of its own."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragops.configuration import Stack
from ragops.data import task as program
from ragops.errors import EngineError
from ragops.reranker import options, sizing
from ragops.reranker.host import parse_probe, read_host
from tests.support.stub import StubReranker
from tests.unit.test_reranker_host import machine

SHOW = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), dict(os.environ)]))"


def run(*arguments, **environment):
    python, *rest = options.task(*map(str, arguments))
    assert python == "python3"
    return subprocess.run(
        [sys.executable, *rest], capture_output=True, text=True, env=environment, check=False, timeout=240
    )


@pytest.mark.parametrize(
    ("cpus", "nodes"),
    [
        ([(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 0)], {0: "0-3"}),
        ([(cpu, cpu % 64, cpu // 64 % 2) for cpu in range(512)], {0: "0-127,256-383", 1: "128-255,384-511"}),
    ],
)
def test_a_nodes_record_is_what_is_read_there(tmp_path, cpus, nodes):
    root = machine(tmp_path / "root", cpus, nodes, proc__self__cgroup="0::/x\n")
    cpuinfo = root / "proc/cpuinfo"
    flags = "flags\t\t: " + " ".join(f"feature{number}" for number in range(150)) + " avx512_bf16\n"
    cpuinfo.write_text(cpuinfo.read_text().replace("model name", f"{flags}cpu MHz\t: 1.0\nmodel name"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    ended = run("node", tmp_path / "model", root, RAGOPS_NODE="abc")
    assert len(ended.stdout.splitlines()) == 1
    assert len(ended.stdout) < 16384  # Docker splits longer lines of a log
    record = parse_probe(ended.stdout)
    assert (record.node, record.error) == ("abc", "")
    assert record.host == read_host(root)
    assert record.host.has_bf16
    assert record.fingerprint == program.fingerprint(tmp_path / "model", sampled=True)


def test_a_model_that_cannot_be_read_is_an_error_of_the_record(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").symlink_to("/proc/self/mem")  # readable for no program that starts at 0
    record = parse_probe(run("node", tmp_path / "model").stdout)
    assert record.fingerprint == ""
    assert record.error


def test_a_folder_that_does_not_exist_has_no_fingerprint(tmp_path):
    record = parse_probe(run("node", tmp_path / "model").stdout)
    assert record.fingerprint == ""
    assert "config.json" in record.error


@pytest.mark.parametrize(
    "line",
    ["", "[]", "{}", '{"files": "!"}', '{"files": "eJyrVtLT0y/QL0gtKlGyUlCqBQAlTwTZ", "node": "a"}'],
)
def test_another_line_is_no_record(line):
    with pytest.raises(EngineError) as caught:
        parse_probe(line)
    assert caught.value.code == "probe-silent"


def test_a_command_gets_the_cpus_and_the_environment_of_its_node():
    first = min(os.sched_getaffinity(0))
    entry = {"cores": f"{first}-{first}", "environment": {"TORCHINDUCTOR_COMPILE_THREADS": "7"}}
    table = json.dumps({"this": entry, "other": {"cores": "4000"}})
    ended = run("start", sys.executable, "-c", SHOW, RAGOPS_NODE="this", RAGOPS_NODES=table, HOME="/x")
    cores, environment = json.loads(ended.stdout)
    assert cores == [first]
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == str(first)
    assert environment["TORCHINDUCTOR_COMPILE_THREADS"] == "7"
    assert environment["HOME"] == "/x"
    assert not any(name.startswith("RAGOPS_") for name in environment)
    refused = run("start", sys.executable, "-c", SHOW, RAGOPS_NODE="other", RAGOPS_NODES=table)
    assert refused.returncode == 1
    assert "no CPUs 4000" in refused.stderr


def test_a_node_that_joined_later_has_the_cpus_of_its_affinity():
    cores, environment = json.loads(run("start", sys.executable, "-c", SHOW, RAGOPS_NODE="new").stdout)
    assert cores == sorted(os.sched_getaffinity(0))
    computing = sizing.compute_cpus(Stack(), read_cores(cores))
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == ",".join(map(str, computing))


def read_cores(cpus):
    return tuple(core for core in read_host().cpus if core.cpu in cpus)


@contextmanager
def victim():
    """A process whose standard error is the log of the task."""
    with subprocess.Popen(["sleep", "60"], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def scores_of(url, documents):
    body = json.dumps({"query": "q", "documents": documents})
    done = subprocess.run(
        ["curl", "-s", "-H", "Content-Type: application/json", "-d", body, f"{url}/rerank"],
        capture_output=True,
        check=True,
    )
    return [
        row["relevance_score"] for row in sorted(json.loads(done.stdout)["results"], key=lambda r: r["index"])
    ]


def test_the_health_check_ends_a_server_with_other_scores(tmp_path):
    file, mark, documents = tmp_path / "reference.json", tmp_path / "mark", ["q a", "b", "c"]
    with StubReranker() as stub, victim() as process:
        base = stub.base_url.removesuffix("/v1")

        def check(server=base):
            return run("health", server, file, mark, process.pid)

        assert check("http://127.0.0.1:9").returncode == 1
        assert check().returncode == 0
        assert not mark.exists()
        request = {"query": "q", "documents": documents, "scores": scores_of(stub.base_url, documents)}
        right = {"id": "one", "tolerance": 0.01, "requests": [request]}
        file.write_text(json.dumps(right))
        assert check().returncode == 0
        assert mark.read_text() == "one"
        sent = len(stub.calls)
        assert check().returncode == 0
        assert len(stub.calls) == sent  # the requests are sent until they passed once
        wrong = {**request, "scores": [score + 0.3 for score in request["scores"]]}
        file.write_text(json.dumps({**right, "id": "two", "requests": [wrong]}))
        ended = check()
        assert ended.returncode == 1
        assert "0.3" in ended.stderr
        assert process.wait(60) == -15
        assert "reference two" in process.stderr.read()
        assert mark.read_text() == "one"


def test_the_source_fits_a_swarm_service():
    source = Path(program.__file__).read_text()
    assert "$" not in source  # compose files would replace it
    assert "{{" not in source
