"""The command: exit codes, JSON on standard output, errors with a hint on standard error."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ragops import cli
from ragops.bench.records import LoadLevel
from ragops.docker.objects import ExecResult
from ragops.errors import BenchError, EngineError
from ragops.reranker import files, gateway
from tests.support.stub import Behaviour, StubReranker

CONTAINER = "docker-ragflow-cpu-1"


@pytest.fixture
def run(here, capsys):
    """Runs one command line; gives exit code, standard output and standard error."""

    def ragops(*argv):
        try:
            code = cli.main(argv)
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return code, output.out, output.err

    return ragops


@pytest.fixture
def up(run, serving, ragflow):
    """A stack that is as declared."""
    assert run("up")[0] == 0
    serving.change("ragflow-vllm-reranker", health="healthy")
    serving.calls.clear()
    return serving


def as_json(run, *argv):
    code, out, _ = run(*argv, "--json")
    return code, json.loads(out)


class TestUsage:
    @pytest.mark.parametrize(
        "argv",
        [
            ("nonsense",),
            ("connect",),
            ("demo",),
            ("bench", "--requests", "many"),
            ("up", "--no"),
        ],
    )
    def test_wrong_usage_is_2(self, run, argv):
        code, out, err = run(*argv)
        assert (code, out) == (2, "")
        assert err.startswith("Usage: ragops")

    @pytest.mark.parametrize(
        "argv", [("--help",), ("up", "--help"), ("demo", "up", "--help"), ("--version",)]
    )
    def test_help_is_no_error(self, run, argv):
        code, out, err = run(*argv)
        assert (code, err) == (0, "")
        assert "ragops" in out


class TestWithoutAStack:
    def test_doctor_changes_nothing(self, run, fake, ragflow):
        code, out, err = run("doctor")
        assert code == 0
        assert re.fullmatch(r"\d+ ok, \d+ warnings?, 0 failed, \d+ skipped in \d+ s", err.splitlines()[-1])
        assert "engine answers" in out
        assert fake.calls == []

    def test_doctor_fails_when_a_check_does(self, run, fake):
        fake.version = "28.2.2"
        fake.add_container("other", publish=(("0.0.0.0", 8123, 80),))
        code, data = as_json(run, "doctor")
        assert (code, data["ok"]) == (1, False)

    def test_plan_is_pending_and_can_be_pasted(self, run, fake, ragflow):
        code, out, _ = run("plan")
        assert code == 3
        assert "+ create network ragflow-rerank\n" in out
        assert "\ndocker network create --driver bridge" in out
        assert fake.calls == []

    def test_status_is_pending(self, run, ragflow):
        code, out, _ = run("status")
        assert code == 3
        assert "missing" in out

    def test_up_tells_steps_apart_from_data(self, run, serving, ragflow):
        code, out, err = run("up")
        assert code == 0
        assert any(line.endswith(" + create network ragflow-rerank") for line in err.splitlines())
        assert "http://ragflow-vllm-reranker:8000/v1" in out

    def test_verify_says_what_to_run(self, run):
        code, out, err = run("verify")
        assert (code, out) == (1, "")
        assert err.splitlines() == [
            "error: no reranker ragflow-vllm-reranker",
            "see: ragops explain reranker-missing",
            "hint: ragops up",
        ]

    def test_down_of_nothing(self, run, fake):
        code, out, _ = run("down")
        assert (code, out) == (0, "nothing to change\n")
        assert fake.calls == []


class TestWithAStack:
    def test_plan_and_status_are_well(self, run, up):
        code, out, _ = run("plan")
        assert code == 0
        assert out.startswith("nothing to change\n")
        assert run("status")[0] == 0

    def test_a_second_up_makes_no_changing_call(self, run, up):
        assert run("up")[0] == 0
        assert up.calls == []

    def test_drift_is_pending(self, run, up):
        up.disconnect("ragflow-rerank", CONTAINER)
        code, out, _ = run("status")
        assert code == 3
        assert f"+ connect {CONTAINER} to ragflow-rerank" in out

    def test_connect_and_disconnect_twice(self, run, up):
        assert run("disconnect", CONTAINER)[:2] == (0, f"- disconnect {CONTAINER} from ragflow-rerank\n")
        assert as_json(run, "disconnect", CONTAINER) == (0, {"changes": [], "notes": []})
        assert run("connect", CONTAINER)[:2] == (0, f"+ connect {CONTAINER} to ragflow-rerank\n")
        assert as_json(run, "connect", CONTAINER) == (0, {"changes": [], "notes": []})

    def test_verify_is_well(self, run, up):
        code, out, err = run("verify")
        assert code == 0
        assert " 0 failed" in err.splitlines()[-1]
        assert "RAGFlow's call" in out

    def test_verify_times_calls_unless_told_not_to(self, run, up):
        assert "ok    calls end in time" in run("verify")[1]
        code, out, _ = run("verify", "--no-budget")
        assert code == 0
        assert "skip  time is enough" in out

    def test_verify_fails_when_disconnected(self, run, up):
        up.disconnect("ragflow-rerank", CONTAINER)
        code, out, _ = run("verify")
        assert code == 1
        assert f"hint: ragops connect {CONTAINER}" in out

    def test_logs_have_the_name_of_their_container(self, run, up):
        front, replica = "ragflow-vllm-reranker", "ragflow-vllm-reranker-1"
        up.output |= {front: "first\nsecond\nthird\n", replica: "loading\nready\n"}
        lines = f"{replica}: loading\n{replica}: ready\n"
        assert run("logs", replica, "--tail", "2")[:2] == (0, lines)
        assert run("logs", "--tail", "2")[:2] == (0, f"{front}: second\n{front}: third\n{lines}")
        assert as_json(run, "logs", "--tail", "1") == (0, {front: "third", replica: "ready"})

    def test_logs_of_another_container_are_not_shown(self, run, up):
        code, record = as_json(run, "logs", CONTAINER)
        assert (code, record["code"]) == (1, "reranker-missing")
        assert "ragflow-vllm-reranker" in record["hint"]

    def test_down(self, run, up):
        code, out, _ = run("down")
        assert code == 0
        assert "- remove container ragflow-vllm-reranker" in out
        assert up.container(CONTAINER).status == "running"

    def test_down_all_removes_what_is_ours(self, run, up):
        up.add_image("theirs:1", labels={"org.ragops": "image"})
        up.add_container("theirs", image="theirs:1")
        assert run("down", "--all")[0] == 0
        assert not any(one.ours for one in (*up.containers(), *up.networks()))
        assert up.container("theirs").running

    @pytest.mark.parametrize(
        ("argv", "code", "keys"),
        [
            (("doctor",), 0, {"title", "ok", "checks", "notes"}),
            (("image",), 0, {"id", "tags", "digests", "size", "labels", "architecture", "layers", "gateway"}),
            (("plan",), 0, {"changes", "notes"}),
            (("up",), 0, {"ok", "network", "reranker", "ragflow", "drift", "internal_url"}),
            (("status",), 0, {"ok", "served_name", "host_url", "substitute"}),
            (("connect", CONTAINER), 0, {"changes"}),
            (("disconnect", CONTAINER), 0, {"changes"}),
            (("verify",), 0, {"title", "ok", "checks", "notes"}),
            (("down",), 0, {"changes"}),
            (("demo", "down"), 0, {"changes"}),
        ],
    )
    def test_json(self, run, up, argv, code, keys):
        seen, data = as_json(run, *argv)
        assert seen == code
        assert keys <= set(data)

    def test_json_of_a_plan_has_the_commands(self, run, serving, ragflow):
        code, data = as_json(run, "plan")
        assert code == 3
        assert data["changes"][0]["change"] == "+ create network ragflow-rerank"
        assert data["changes"][0]["commands"][0][:3] == ["docker", "network", "create"]


class TestErrors:
    @pytest.mark.parametrize(
        "argv",
        [("connect", "nobody"), ("connect", CONTAINER), ("disconnect", "nobody"), ("verify",), ("bench",)],
    )
    def test_without_a_stack_end_with_a_hint(self, run, ragflow, monkeypatch, fake, argv):
        monkeypatch.setattr("ragops.docker.engine.connect", lambda: fake)
        code, out, err = run(*argv)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.splitlines()[-1].startswith("hint: ")

    def test_are_json_too(self, run, ragflow):
        code, data = as_json(run, "connect", "nobody")
        assert code == 1
        assert data["error"] == "RagflowError"
        assert data["message"] == "no container is named nobody"
        assert data["hint"]

    def test_wrong_declaration(self, run, here):
        (here.parent / "ragops.toml").write_text("[network]\nnme = 1\n")
        code, _, err = run("plan")
        assert code == 1
        assert err.startswith("error: ragops.toml:2: unknown key network.nme\n")
        assert err.endswith("hint: did you mean name?\n")

    def test_named_declaration_is_read(self, run, here, fake, ragflow):
        (here.parent / "other.toml").write_text('[network]\nname = "other-net"\n')
        assert "create network other-net" in run("plan", "--stack", "other.toml")[1]
        assert run("plan", "--stack", "no.toml")[0] == 1

    def test_no_engine(self, run, monkeypatch):
        def nobody():
            raise EngineError(
                "no Docker engine answers", code="engine-silent", evidence="a socket", hint="start one"
            )

        monkeypatch.setattr("ragops.docker.engine.connect", nobody)
        code, out, err = run("status")
        assert (code, out) == (1, "")
        assert err.splitlines() == [
            "error: no Docker engine answers",
            "  a socket",
            "see: ragops explain engine-silent",
            "hint: start one",
        ]

    def test_engine_that_refuses(self, run, fake, ragflow):
        fake.refuse("create network", "could not find an available, non-overlapping IPv4 address pool")
        code, _, err = run("up")
        assert code == 1
        assert err.splitlines()[-1].startswith("hint: docker network prune")

    def test_interrupt_says_what_remains(self, run, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("ragops.up", interrupted)
        code, out, err = run("up")
        assert (code, out) == (130, "")
        assert "ragops down" in err

    def test_unexpected_exceptions_are_errors_with_a_log_file(self, run, monkeypatch, tmp_path):
        def broken(*_):
            raise TypeError("a fault")

        monkeypatch.setattr("ragops.status", broken)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        code, out, err = run("status")
        (log,) = tmp_path.glob("ragops-*.log")
        assert (code, out) == (1, "")
        assert err.startswith("error: unexpected TypeError\n  a fault\n")
        assert err.splitlines()[-1].endswith(str(log))
        assert "Traceback" in log.read_text()

    def test_files_that_can_not_be_used_are_named(self, run, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device", "/srv/x")

        monkeypatch.setattr("ragops.status", full)
        code, data = as_json(run, "status")
        assert (code, data["code"], data["message"]) == (
            1,
            "file-refused",
            "can't use /srv/x: No space left on device",
        )

    @pytest.mark.parametrize("json", [(), ("--json",)])
    def test_control_characters_are_escaped(self, run, monkeypatch, json):
        def hostile(*_):
            raise EngineError("a\x1b[31m", evidence="b\r\u009b\u202e\udcff", hint="c\x7f")

        monkeypatch.setattr("ragops.status", hostile)
        _, out, err = run("status", *json)
        assert not set("\x1b\r\u009b\u202e\udcff\x7f") & set(out + err)
        assert "\\u001b[31m" in err
        assert "\\u009b" in (out or err)

    def test_reader_that_leaves_is_no_traceback(self, run, monkeypatch):
        def gone(*_):
            raise BrokenPipeError

        monkeypatch.setattr("ragops.status", gone)
        assert run("status") == (1, "", "")


class TestDemo:
    def test_up_and_down(self, run, fake):
        fake.add_image("ragops-demo-client:latest")
        assert as_json(run, "demo", "up") == (0, {"container": CONTAINER, "demo": True})
        assert fake.container(CONTAINER).role == "demo"
        assert run("demo", "up")[0] == 0
        assert run("demo", "down")[0] == 0
        assert (fake.container(CONTAINER), fake.network("docker_ragflow")) == (None, None)

    def test_ragflow_itself_is_never_taken_for_the_demo(self, run, fake, ragflow):
        fake.add_image("ragops-demo-client:latest")
        code, _, err = run("demo", "up")
        assert code == 1
        assert "this machine seems to have a RAGFlow" in err
        run("demo", "down")
        assert fake.container(ragflow)

    def test_a_demo_client_that_stopped_is_started(self, run, fake):
        fake.add_image("ragops-demo-client:latest")
        run("demo", "up")
        fake.stop(CONTAINER)
        assert run("demo", "up")[0] == 0
        assert fake.container(CONTAINER).running


class TestImage:
    def test_existing_images_are_shown(self, run, fake):
        code, out, _ = run("image")
        assert code == 0
        assert [line.partition("  ")[0] for line in out.splitlines()] == ["vllm-cpu:latest", gateway.tag()]
        assert fake.calls == []

    @pytest.mark.parametrize(
        ("settings", "built"), [("", [f"build {gateway.tag()}"]), ("gateway = false", [])]
    )
    def test_the_gateways_is_built_if_it_is_used(self, run, fake, here, monkeypatch, settings, built):
        monkeypatch.setattr(files, "download", lambda *_argv, **_options: None)
        fake.respond = lambda _container, _argv, _stdin: ExecResult(0, "3.11\n", "")
        fake.remove_image(gateway.tag())
        fake.calls.clear()
        Path("ragops.toml").write_text(settings)
        assert run("image")[0] == 0
        assert [call for call in fake.calls if call.startswith("build ")] == built


class TestBench:
    @pytest.fixture
    def measured(self, monkeypatch):
        asked = {}

        def benchmark(_stack, config, **_):
            asked.update(vars(config))
            raise BenchError("seen enough", hint="none")

        monkeypatch.setattr("ragops.benchmark", benchmark)
        return asked

    def test_options_reach_the_benchmark(self, run, measured, tmp_path):
        argv = ("--requests", "5", "--clients", "1,2", "--rate", "3", "--repeats", "2", "--results", "r")
        more = ("--constant", "2", "--burst", "4", "--seed", "7", "--same-texts")
        code, _, err = run("bench", *argv, *more)
        assert (code, err.splitlines()[0]) == (1, "error: seen enough")
        assert [level.name for level in measured["levels"]] == [
            "closed-1", "closed-2", "poisson-3", "constant-2", "burst-4",
        ]  # fmt: skip
        assert {level.requests for level in measured["levels"]} == {5}
        assert (measured["repeats"], measured["warmup"], str(measured["results"])) == (2, 3, "r")
        assert (measured["seed"], measured["fresh"]) == (7, False)

    def test_the_load_is_that_of_the_release(self, run, measured, ragflow):
        """The running container tells its release, whose window is 64 at the most."""
        run("bench", "--requests", "9", "--max-words", "300")
        assert measured["workload"].release == "v0.25.3"
        assert {len(one.documents) for one in measured["workload"].requests} == {64}
        run("bench", "--requests", "3", "--release", "v0.27.0", "--page-size", "30", "--form", "stemmed")
        assert {len(one.documents) for one in measured["workload"].requests} == {90}
        assert measured["workload"].name == "ragflow-stemmed"

    def test_own_requests_are_sent_whole(self, run, measured, tmp_path):
        file = tmp_path / "mine.jsonl"
        file.write_text('{"query": "q", "documents": ["a"]}\n' * 3)
        run("bench", "--workload", str(file), "--clients", "2")
        assert measured["workload"].profile == "own"
        assert measured["levels"] == (LoadLevel.closed(2),)

    def test_any_server_by_its_address_to_the_verdict(self, run, here, tmp_path):
        with StubReranker(Behaviour(per_token_s=1e-7)) as stub:
            argv = ("--url", stub.base_url, "--model", "stub-reranker", "--requests", "8")
            code, out, _ = run("bench", *argv, "--max-words", "60", "--results", str(tmp_path))
        assert code == 0
        assert out.splitlines()[1].split()[:3] == ["1", "client", "8"]
        for part in (
            "client: ",
            "largest window",
            "p95",
        ):
            assert part in out
        assert out.splitlines()[-1].startswith(f"recorded in {tmp_path}")

    def test_a_fast_wrong_reranker_fails(self, run, here, tmp_path):
        with StubReranker(Behaviour(wrong_after=9)) as stub:
            argv = (
                "--url",
                stub.base_url,
                "--model",
                "stub-reranker",
                "--requests",
                "3",
                "--max-words",
                "60",
            )
            code, out, _ = run("bench", *argv, "--results", str(tmp_path))
        assert code == 1
        assert "Wrong scores" in out

    def test_the_load_of_a_run_is_sent_again(self, run, here, tmp_path):
        results = ("--results", str(tmp_path))
        with StubReranker() as stub:
            server = ("--url", stub.base_url, "--model", "stub-reranker")
            load = ("--requests", "4", "--max-words", "60", "--clients", "2", "--warmup", "1", "--seed", "7")
            assert run("bench", *server, *load, *results, "--name", "first")[0] == 0
            (first,) = tmp_path.glob("*-first")
            again = tmp_path / "again"
            same = ("bench", *server, "--like", str(first), "--results", str(again))
            code, out, _ = run(*same, "--requests", "9", "--json")
            assert run(*same, "--name", "second")[0] == 0
        assert (code, json.loads(out)["figures"][0]["n"]) == (0, 4)
        (second,) = again.glob("*-first")
        assert [json.loads(file.read_text())["name"] for file in again.glob("*-second/run.json")] == [
            "second"
        ]
        old, new = (json.loads((folder / "run.json").read_text()) for folder in (first, second))
        for field in ("workload", "levels", "warmup", "repeats", "seed", "fresh", "order_played"):
            assert new[field] == old[field]
        assert run("bench", "--like", "missing", *results)[0] == 1
        assert run("bench", "--like", str(first), "--resume", str(first), *results)[0] == 2

    def test_a_run_is_continued(self, run, here, tmp_path):
        with StubReranker() as stub:
            argv = (
                "--url",
                stub.base_url,
                "--model",
                "stub-reranker",
                "--requests",
                "8",
                "--max-words",
                "60",
            )
            assert run("bench", *argv, "--results", str(tmp_path / "r"))[0] == 0
            (folder,) = (tmp_path / "r").iterdir()
            info = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(
                json.dumps({**info, "complete": False, "reason": "still running"})
            )
            lines = (folder / "requests.jsonl").read_text().splitlines(keepends=True)
            (folder / "requests.jsonl").write_text("".join(lines[:6]))
            code, out, _ = run("bench", "--resume", str(folder), "--json")
        assert code == 0
        assert json.loads(out)["figures"][0]["n"] == 8
        assert run("bench", "--resume", str(folder))[0] == 1

    def test_the_key_of_a_server_is_sent_and_stored_nowhere(self, run, here, tmp_path, monkeypatch):
        key, file = "canary-key", tmp_path / "key"
        file.write_text(f"{key}\n")
        results = tmp_path / "results"
        with StubReranker(Behaviour(api_key=key)) as stub:
            argv = (
                "--url",
                stub.base_url,
                "--model",
                "stub-reranker",
                "--requests",
                "4",
                "--max-words",
                "60",
            )
            code, _, err = run("bench", *argv, "--results", str(results))
            assert (code, "RAGOPS_RERANKER_KEY" in err) == (1, True)
            monkeypatch.setenv("RAGOPS_RERANKER_KEY", key)
            outputs = [run("bench", *argv, "--results", str(results))]
            monkeypatch.delenv("RAGOPS_RERANKER_KEY")
            (folder,) = results.iterdir()
            info = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps({**info, "complete": False}))
            lines = (folder / "requests.jsonl").read_text().splitlines(keepends=True)
            (folder / "requests.jsonl").write_text("".join(lines[:5]))
            outputs.append(run("bench", "--resume", str(folder), "--key-file", str(file)))
        assert [code for code, _, _ in outputs] == [0, 0]
        stored = "".join(path.read_text() for path in folder.iterdir())
        assert key not in stored + "".join(out + err for _, out, err in outputs)

    def test_a_stopped_run_tells_how_to_go_on(self, run, here, tmp_path, monkeypatch):
        def stop(done, total, text=""):
            if done == 4:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr("ragops.progress.advance", stop)
        with StubReranker() as stub:
            argv = (
                "--url",
                stub.base_url,
                "--model",
                "stub-reranker",
                "--requests",
                "9",
                "--max-words",
                "60",
            )
            code, _, err = run("bench", *argv, "--results", str(tmp_path / "r"))
        (folder,) = (tmp_path / "r").iterdir()
        assert code == 130
        assert f"continue with: ragops bench --resume {folder}" in err

    @pytest.mark.parametrize("option", ["--requests", "--page-size", "--max-words", "--repeats", "--warmup"])
    @pytest.mark.parametrize("number", ["-1", "1000000000"])
    def test_numbers_are_bounded(self, run, here, option, number):
        assert run("bench", option, number)[0] == 2

    def test_an_address_needs_a_model(self, run, here):
        code, _, err = run("bench", "--url", "http://127.0.0.1:9/v1")
        assert code == 1
        assert "--url and --model go together" in err


def module(*argv, **environment):
    """``python -m ragops`` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ragops", *argv],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("output", "code"), [("/dev/full", 1), ("closed pipe", 1), ("/dev/null", 1)])
def test_output_that_can_not_be_written(tmp_path, output, code):
    """A process of its own: Python itself reports what is left in the buffer when it ends."""
    argv = [sys.executable, "-m", "ragops", "doctor"]
    reader, writer = os.pipe()
    os.close(reader)
    stream = writer if output == "closed pipe" else os.open(output, os.O_WRONLY)
    environment = os.environ | {"DOCKER_HOST": "unix:///none.sock", "RAGOPS_HOME": str(tmp_path)}
    done = subprocess.run(
        argv, stdout=stream, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_as_a_process_without_an_engine(tmp_path, model_folder):
    where = {"RAGOPS_HOME": str(tmp_path), "RAGOPS_MODEL_DIR": str(model_folder), "HOME": str(tmp_path)}
    code, out, err = module("status", DOCKER_HOST=f"unix://{tmp_path}/none.sock", **where)
    assert (code, out) == (1, "")
    assert err.startswith("error: no Docker engine responds\n")
    assert err.splitlines()[-1].startswith("hint: ")
