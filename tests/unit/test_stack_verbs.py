"""The verbs on a fake engine: their changes, results and errors."""

import copy
import dataclasses
import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from unittest import mock

import pytest

import ragops
from ragops.checks import connection, rules, verify
from ragops.configuration import Gateway, Ragflow, Reranker, Stack, home, load
from ragops.docker.objects import LABEL_CONFIG, LABEL_MODEL
from ragops.errors import (
    EngineError,
    ImageError,
    LaunchError,
    LockedError,
    ModelError,
    NotFoundError,
    RagflowError,
    StackError,
)
from ragops.reranker import architectures, gateway, options
from ragops.reranker.model import describe
from ragops.session import Deployment, Session, lock, reference_folder
from ragops.stack import verbs
from ragops.stack.plan import ReplaceContainer

GIB = 1 << 30
INVALID_MODE = "is not supported: invalid network mode"
STACK = Stack(gateway=False)
NET, RERANKER = STACK.network.name, STACK.reranker.name

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def stack_up(serving, ragflow):
    verbs.up(STACK, serving)
    serving.change(RERANKER, health="healthy")
    serving.calls.clear()
    return serving


class TestUp:
    def test_returns_the_status(self, serving, ragflow, steps):
        status = verbs.up(STACK, serving)
        assert status.ok
        assert status.served_name == "tiny"
        assert [server.name for server in status.ragflow] == [ragflow]
        assert status.connected(status.ragflow[0])
        assert steps[0] == f"+ create network {NET}"
        assert steps[-1].endswith("ready")

    def test_container_mounts_the_model_folder(self, serving, ragflow, model_folder):
        verbs.up(STACK, serving)
        command = serving.container(RERANKER).command
        assert "--served-model-name" in command
        spec = serving._specs[serving.container(RERANKER).id]
        assert spec.mounts[0].source == str(model_folder)
        assert spec.cpuset_cpus == "0-3"

    def test_second_call_changes_nothing_and_does_not_wait(self, stack_up, steps):
        stack_up.respond = lambda *_: None
        verbs.up(STACK, stack_up)
        assert (stack_up.calls, steps) == ([], [])

    def test_second_call_waits_while_the_model_loads(self, stack_up, steps):
        stack_up.change(RERANKER, health="starting")
        verbs.up(STACK, stack_up)
        assert steps == [f"{RERANKER}: ready"]

    def test_ragflow_is_reconnected_to_a_reranker_with_a_long_log(self, stack_up, ragflow):
        stack_up.output[RERANKER] = "GET /health 200\n" * 1000
        stack_up.change(RERANKER, restart_count=1)
        stack_up.disconnect(NET, ragflow)
        assert verbs.up(STACK, stack_up).ok

    def test_missing_image_is_pulled(self, serving, ragflow):
        stack = Stack(gateway=False, reranker=Reranker(image="mine:1"))
        serving.registry.add("mine:1")
        assert verbs.up(stack, serving).ok
        assert serving.container(RERANKER).image == "mine:1"

    def test_start_counts_as_waiting(self, serving, ragflow, monkeypatch):
        clock, waits = [0.0], []
        start = serving.start
        monkeypatch.setattr("time.monotonic", lambda: clock[0])
        monkeypatch.setattr("ragops.checks.ready.wait", lambda *_, begin: waits.append(clock[0] - begin))
        serving.start = lambda container: clock.__setitem__(0, 3.0) or start(container)
        verbs.up(STACK, serving)
        assert waits == [3.0]

    def test_unavailable_image_changes_nothing(self, serving, ragflow):
        with pytest.raises(ImageError):
            verbs.up(Stack(gateway=False, reranker=Reranker(image="mine:1")), serving)
        assert serving.network(NET) is None

    @pytest.mark.parametrize(
        ("call", "words", "code", "remedy"),
        [
            (
                f"start {RERANKER}",
                f"endpoint with name {RERANKER} already exists in network {NET}",
                "endpoint-left",
                f"docker network disconnect --force {NET} {RERANKER}; docker start {RERANKER}; ragops up",
            ),
            ("connect", f'"pasta" {INVALID_MODE}', "podman-network", "--network bridge"),
        ],
        ids=["Docker 29", "Podman"],
    )
    def test_refusals_of_newer_and_other_engines_have_a_remedy(
        self, stack_up, ragflow, call, words, code, remedy
    ):
        stack_up.stop(RERANKER)
        stack_up.disconnect(NET, ragflow)
        stack_up.refuse(call, words)
        with pytest.raises(EngineError) as caught:
            verbs.up(STACK, stack_up)
        assert (caught.value.code, remedy in caught.value.hint) == (code, True)
        stack_up.change(RERANKER, health="healthy")
        assert verbs.up(STACK, stack_up).ok

    def test_empty_folder_of_another_file_system_is_found_before_vllm(
        self, serving, ragflow, model_folder, other_model, monkeypatch
    ):
        """Without a reranker nothing is left of it; a running one continues."""
        serving.hidden = {str(model_folder)}
        with pytest.raises(EngineError, match=str(model_folder)) as caught:
            verbs.up(STACK, serving)
        assert caught.value.code == "folder-empty"
        assert (serving.container(RERANKER), f"start {RERANKER}" in serving.calls) == (None, False)
        serving.hidden = set()
        before = verbs.up(STACK, serving).reranker
        serving.hidden = {str(other_model)}
        monkeypatch.setenv("RAGOPS_MODEL_DIR", str(other_model))
        snap = dataclasses.replace(serving.state(), root="/var/snap/docker/common/var-lib-docker")
        monkeypatch.setattr(serving, "state", lambda: snap)
        with pytest.raises(EngineError) as caught:
            verbs.up(STACK, serving)
        assert "snap" in caught.value.hint
        assert serving.container(RERANKER) == before
        assert f"stop {RERANKER}" not in serving.calls

    def test_container_that_exits_is_not_removed(self, fake, ragflow):
        start = fake.start

        def start_and_end(container):
            start(container)
            fake.change(container, status="exited", exit_code=1)

        fake.start = start_and_end
        fake.output[RERANKER] = "ValueError: no"
        with pytest.raises(LaunchError, match="code 1") as caught:
            verbs.up(STACK, fake)
        assert caught.value.evidence == "ValueError: no"
        assert fake.container(RERANKER).status == "exited"

    @pytest.mark.parametrize(
        "change",
        [
            lambda engine: verbs.up(STACK, engine),
            lambda engine: verbs.down(STACK, engine),
            lambda engine: verbs.connect(STACK, "docker-ragflow-cpu-1", engine),
            lambda engine: verbs.disconnect(STACK, "docker-ragflow-cpu-1", engine),
        ],
    )
    def test_refused_while_another_process_changes_the_stack(self, serving, ragflow, change):
        serving.add_network(NET)
        with lock(serving.state().id, RERANKER), pytest.raises(LockedError):
            change(serving)
        assert serving.calls == []

    def test_an_unhealthy_server_that_responds_is_not_restarted(self, stack_up):
        stack_up.change(RERANKER, health="unhealthy")
        verbs.up(STACK, stack_up)
        assert stack_up.calls == []
        answers = iter([None])  # the next ones respond
        respond = stack_up.respond
        stack_up.respond = lambda *call: next(answers, respond(*call))
        verbs.up(STACK, stack_up)
        assert stack_up.calls == [f"stop {RERANKER}", f"start {RERANKER}"]

    def test_lock_is_released_while_waiting(self, serving, ragflow):
        taken = []
        respond = serving.respond

        def respond_and_lock(*asked):
            with lock(serving.state().id, RERANKER):
                taken.append(True)
            return respond(*asked)

        serving.respond = respond_and_lock
        verbs.up(STACK, serving)
        assert taken


@pytest.fixture
def other_model(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "other")


class TestModel:
    """The model of a running reranker changes only if the configuration or the variable names another."""

    def test_without_a_model_and_a_reranker_nothing_is_started(self, serving, ragflow, monkeypatch):
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        serving.registry.add("mine:1")
        with pytest.raises(ModelError):
            verbs.up(Stack(gateway=False, reranker=Reranker(image="mine:1")), serving)
        assert serving.image("mine:1") is None
        for verb in (verbs.plan, verbs.up, verbs.status, verbs.next_step):
            with pytest.raises(ModelError) as caught:
                verb(STACK, serving)
            assert caught.value.code == "model-unset"
        assert serving.container(RERANKER) is None

    @pytest.mark.parametrize("state", ["running", "exited", "renamed"])
    def test_without_a_variable_the_recorded_model_is_kept(self, stack_up, model_folder, monkeypatch, state):
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        if state == "exited":
            stack_up.stop(RERANKER)
        if state == "renamed":
            stack_up.rename(RERANKER, "mine")
        (note,) = [note for note in verbs.plan(STACK, stack_up).notes if "no model is configured" in note]
        assert str(model_folder) in note
        status = verbs.up(STACK, stack_up)
        assert (status.served_name, status.reranker.model) == ("tiny", model_folder)
        assert not [call for call in stack_up.calls if call.startswith("create")]

    def test_reranker_of_a_release_without_the_label_keeps_its_mounted_model(
        self, stack_up, model_folder, monkeypatch
    ):
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        old = stack_up.container(RERANKER)
        labels = {name: value for name, value in old.labels.items() if "model" not in name}
        stack_up.change(RERANKER, labels={**labels, LABEL_CONFIG: "of an earlier release"})
        changes = verbs.plan(STACK, stack_up)
        (replacement,) = changes.actions
        assert isinstance(replacement, ReplaceContainer)
        assert replacement.reason == "its configuration changed"
        assert any(str(model_folder) in note for note in changes.notes)
        assert verbs.up(STACK, stack_up).reranker.labels[LABEL_MODEL] == str(model_folder)

    @pytest.mark.parametrize("by", ["variable", "configuration"])
    def test_another_model_is_a_named_change(self, stack_up, model_folder, other_model, monkeypatch, by):
        stack = STACK
        if by == "variable":
            monkeypatch.setenv("RAGOPS_MODEL_DIR", str(other_model))
        else:
            monkeypatch.delenv("RAGOPS_MODEL_DIR")
            stack = Stack(gateway=False, reranker=Reranker(model=other_model))
        (replacement,) = verbs.plan(stack, stack_up).actions
        assert isinstance(replacement, ReplaceContainer)
        assert replacement.reason == f"model: {model_folder} → {other_model}"
        assert verbs.up(stack, stack_up).reranker.model == other_model

    def test_other_weights_in_the_same_folder_are_a_named_change(self, stack_up, model_folder):
        (model_folder / "model.safetensors").write_bytes((64).to_bytes(8, "little") + b"{}".ljust(64))
        (replacement,) = verbs.plan(STACK, stack_up).actions
        assert isinstance(replacement, ReplaceContainer)
        assert replacement.reason == f"model: the files of {model_folder} changed"

    def test_reading_verbs_download_nothing(self, fake, ragflow, monkeypatch):
        monkeypatch.setenv("RAGOPS_MODEL_DIR", "substitute")
        monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("downloaded"))
        for verb in (verbs.plan, verbs.status, verbs.next_step):
            with pytest.raises(ModelError) as caught:
                verb(STACK, fake)
            assert (caught.value.code, "ragops model" in caught.value.hint) == ("model-missing", True)
        checks = {check.name: check for check in ragops.doctor(STACK, fake).checks}
        assert (checks["model"].status, checks["model"].remedy) == ("warn", "ragops model")
        assert fake.calls == []


@pytest.mark.parametrize(
    ("host", "used", "fits"),
    [
        ({"available": 8 * GIB}, 0, True),
        ({"available": 6 * GIB}, 0, False),
        ({"available": 6 * GIB}, 3 * GIB, True),
        ({"available": None}, 0, False),
        ({"available": 8 * GIB, "memory_limit": 9 * GIB}, 0, False),
    ],
)
def test_new_reranker_runs_beside_the_old_one_if_the_memory_is_free(
    stack_up, machine, monkeypatch, host, used, fits
):
    """Both may take all of their limits, of 4 GiB each; the old one has taken a part already."""
    stack_up.change(RERANKER, memory=4 * GIB)
    stack_up.used[RERANKER] = dataclasses.replace(stack_up.stats(RERANKER), memory_bytes=used)
    monkeypatch.setattr("ragops.reranker.host.read_host", lambda: dataclasses.replace(machine, **host))
    changed = Stack(gateway=False, reranker=Reranker(memory_gib=4, port=False))
    (replacement,) = verbs.plan(changed, stack_up).actions
    assert isinstance(replacement, ReplaceContainer)
    assert (replacement.obstacle == "") is fits


class TestLockFile:
    @pytest.fixture
    def stack(self, tmp_path):
        (tmp_path / "ragops.toml").write_text("")
        return load(tmp_path / "ragops.toml")

    def test_up_writes_image_and_model_beside_the_configuration(self, serving, ragflow, stack, model_folder):
        verbs.up(stack, serving)
        image, model = serving.image("vllm-cpu:latest"), describe(model_folder)
        assert tomllib.loads(stack.file.with_name("ragops.lock").read_text()) == {
            "image": "vllm-cpu:latest",
            "digest": image.id,
            "model": str(model_folder),
            "fingerprint": model.fingerprint,
        }

    def test_without_a_configuration_file_it_is_in_the_data_folder(self, serving, ragflow, here):
        verbs.up(STACK, serving)
        assert [file.name for file in here.glob("*.lock.toml")] == [f"{RERANKER}.lock.toml"]

    def test_plan_names_a_moved_tag_and_another_model_without_a_reranker(
        self, serving, ragflow, stack, model_folder, other_model, monkeypatch
    ):
        verbs.up(stack, serving)
        verbs.down(stack, serving)
        before = self.locked(stack, serving)
        serving.add_image("other:1")
        serving.tag("other:1", "vllm-cpu:latest")
        monkeypatch.setenv("RAGOPS_MODEL_DIR", str(other_model))
        moved, model = self.locked(stack, serving)
        assert before == []
        assert "vllm-cpu:latest moved from" in moved
        assert model == f"model: {model_folder} → {other_model}"
        verbs.up(stack, serving)
        assert self.locked(stack, serving) == []

    def test_change_of_an_existing_reranker_is_named_once(self, stack, serving, other_model, monkeypatch):
        verbs.up(stack, serving)
        monkeypatch.setenv("RAGOPS_MODEL_DIR", str(other_model))
        assert self.locked(stack, serving) == []

    def locked(self, stack, engine):
        return [note for note in verbs.plan(stack, engine).notes if note.startswith(("image: ", "model: "))]

    def test_unreadable_file_is_an_error_with_a_hint(self, serving, ragflow, stack):
        stack.file.with_name("ragops.lock").write_text("= =")
        with pytest.raises(StackError) as caught:
            verbs.plan(stack, serving)
        assert caught.value.file == stack.file.with_name("ragops.lock")

    def test_file_that_can_not_be_written_is_a_warning(self, serving, ragflow, stack, messages):
        with mock.patch("ragops.stack.lockfile.replace_file", side_effect=PermissionError("read-only")):
            assert verbs.up(stack, serving).ok
        assert any("ragops.lock is not written" in line for line in messages)


class TestReading:
    def test_plan_names_a_missing_image(self, fake, ragflow):
        fake.remove_image("vllm-cpu:latest")
        fake.calls.clear()
        changes = verbs.plan(STACK, fake)
        assert "image vllm-cpu:latest is missing" in changes.notes[0]
        assert fake.calls == []

    @pytest.mark.parametrize(("version", "internal"), [("20.10.24", True), ("28.0.0", False)])
    def test_new_network_keeps_other_machines_out(self, fake, ragflow, version, internal):
        fake.version = version
        commands = verbs.plan(STACK, fake).commands()
        assert ("--internal" in commands[0]) == internal
        assert any("--publish" in command for command in commands) != internal

    def test_open_network_of_an_earlier_release_has_a_note(self, fake, ragflow):
        fake.add_network(NET)
        assert any("may reach" in note for note in verbs.plan(STACK, fake).notes)
        fake.version = "28.0.0"
        assert not any("may reach" in note for note in verbs.plan(STACK, fake).notes)

    def test_plan_notes_a_substitute_model(self, fake, ragflow):
        assert "tiny is a substitute" in verbs.plan(STACK, fake).notes[-1]

    def test_status_without_a_stack(self, fake):
        status = verbs.status(STACK, fake)
        assert not status.ok
        assert (status.network, status.reranker, status.ragflow) == (None, None, ())
        assert "is missing" in str(status)

    def test_status_shows_drift(self, stack_up, ragflow):
        stack_up.disconnect(NET, ragflow)
        status = verbs.status(STACK, stack_up)
        assert not status.ok
        assert f"{ragflow}: not connected" in str(status)
        assert f"+ connect {ragflow} to {NET}" in str(status)

    def test_status_of_a_stopped_reranker(self, stack_up):
        stack_up.stop(RERANKER)
        assert not verbs.status(STACK, stack_up).ok

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"status": "paused"}, "reranker-paused"),
            ({"status": "exited", "exit_code": 132}, "cpu-too-old"),
            ({"health": "unhealthy"}, "reranker-hangs"),
            ({"health": "starting", "restart_count": 2}, "start-failed"),
        ],
        ids=str,
    )
    def test_status_has_the_cause(self, stack_up, change, code):
        stack_up.change(RERANKER, **change)
        status = verbs.status(STACK, stack_up)
        assert not status.ok
        assert status.to_json()["problem"]["code"] == code
        assert status.problem.message in str(status)
        assert verbs.next_step(STACK, stack_up).command == "ragops up"

    def test_status_while_loading_is_ok(self, stack_up):
        stack_up.output[RERANKER] = "Loading weights"
        stack_up.change(RERANKER, health="starting")
        status = verbs.status(STACK, stack_up)
        assert status.ok
        assert status.problem.code == "reranker-loading"

    def test_default_engine_is_the_reachable_one(self, fake):
        assert verbs.status(STACK).network is None


class TestConnect:
    def test_network_must_exist(self, fake, ragflow):
        with pytest.raises(NotFoundError, match=f"no network {NET}") as caught:
            verbs.connect(STACK, ragflow, fake)
        assert "ragops up" in caught.value.hint

    def test_any_container_by_name_is_connected_once(self, stack_up):
        stack_up.add_container("other")
        assert len(verbs.connect(STACK, "other", stack_up).actions) == 1
        assert verbs.connect(STACK, "other", stack_up).empty
        assert len(verbs.disconnect(STACK, "other", stack_up).actions) == 1
        assert verbs.disconnect(STACK, "other", stack_up).empty

    def test_refusal_changes_nothing(self, stack_up):
        stack_up.add_container("other", network="host")
        with pytest.raises(RagflowError):
            verbs.connect(STACK, "other", stack_up)
        assert stack_up.calls == []

    def test_disconnect_without_a_network_changes_nothing(self, fake, ragflow):
        assert verbs.disconnect(STACK, ragflow, fake).empty


class TestVerify:
    def test_checks_inside_and_outside_the_network(self, stack_up, ragflow):
        report = verbs.verify(STACK, stack_up)
        assert report.ok
        assert {check.where for check in report.checks} == {ragflow, ""}
        assert report.title == f"verify {STACK.internal_url}"
        assert any("substitute" in note for note in report.notes)

    def test_every_configured_container_is_checked(self, stack_up, ragflow):
        stack_up.add_container("second")
        stack = Stack(gateway=False, ragflow=Ragflow(containers=(ragflow, "second")))
        report = verbs.verify(stack, stack_up)
        assert report.first_failure().where == "second"
        verbs.connect(stack, "second", stack_up)
        assert verbs.verify(stack, stack_up).ok

    def test_without_the_connection_only_outside_checks_run(self, stack_up, ragflow):
        stack_up.disconnect(NET, ragflow)
        results = {check.name: check.status for check in verbs.verify(STACK, stack_up).checks}
        assert results.pop("name resolves") == "fail"
        outside = {name: results.pop(name) for name in (verify.CLOSED, verify.PUBLISHED)}
        assert set(outside.values()) == {"ok"}
        assert set(results.values()) == {"skip"}
        assert {"scores are right", "time is enough"} <= set(results)

    @pytest.fixture
    def here_responds(self, stack_up, monkeypatch):
        """The probe on this host gets what the reranker's container would; returns its inputs."""
        inputs = []

        def run(argv, *, input, **_):  # noqa: A002 - as subprocess names it
            inputs.append(json.loads(input))
            result = stack_up.respond(stack_up.container(RERANKER), ("python3", *argv[1:]), input)
            return subprocess.CompletedProcess(argv, result.exit_code, result.stdout, result.stderr)

        monkeypatch.setattr("subprocess.run", run)
        return inputs

    @pytest.mark.parametrize(("with_ragflow", "release"), [(False, "v0.25.3"), (True, "v1.0.0-rc1")])
    def test_address_is_tested_from_this_host(self, stack_up, here_responds, with_ragflow, release):
        if not with_ragflow:
            stack_up.remove_container("docker-ragflow-cpu-1")
        stack = Stack(gateway=False, ragflow=Ragflow(release=release))
        report = verbs.verify(stack, stack_up, address="http://rerank.example:8123/")
        assert report.ok
        assert report.title == "verify http://rerank.example:8123/v1"
        assert {order["base_url"] for order in here_responds} == {"http://rerank.example:8123/v1"}
        names = {check.name for check in report.checks}
        assert {
            "name resolves",
            "RAGFlow's call",
            "calls end in time",
            verify.CLOSED,
            verify.PUBLISHED,
        } < names
        assert {"scores are right", "time is enough"}.isdisjoint(names)  # no layer was skipped
        assert {check.where for check in report.checks} == {""}
        assert any(f"RAGFlow {release} waits" in check.detail for check in report.checks)
        (note,) = [note for note in report.notes if "not RAGFlow" in note]
        assert "rerank.example" in note

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "own"])
    def test_address_of_this_host_alone_is_noted(self, stack_up, here_responds, host):
        host = stack_up.container(RERANKER).endpoint(NET).address if host == "own" else host
        notes = verbs.verify(STACK, stack_up, budget=False, address=f"http://{host}:8000/v1").notes
        assert any("of this host alone" in note for note in notes)

    def test_address_that_this_host_does_not_reach(self, stack_up, monkeypatch):
        silent = {"ok": False, "error": "timeout", "detail": "timed out", "ms": 3000.0}
        steps = {"dns": {"ok": True, "detail": "192.0.2.1", "ms": 1.0}, "tcp": silent}
        ended = subprocess.CompletedProcess([], 0, json.dumps({"steps": steps, "client": ""}), "")
        monkeypatch.setattr("subprocess.run", lambda *_, **__: ended)
        failure = verbs.verify(STACK, stack_up, address="http://192.0.2.1:8000").first_failure()
        assert (failure.name, "expose = true" in failure.remedy) == ("port answers", True)

    def test_without_ragflow_the_hint_names_the_address(self, stack_up):
        stack_up.remove_container("docker-ragflow-cpu-1")
        with pytest.raises(RagflowError) as caught:
            verbs.verify(STACK, stack_up)
        assert "ragops verify --address URL" in caught.value.hint
        with pytest.raises(StackError) as refused:
            verbs.verify(STACK, stack_up, address="http://[::1")
        assert refused.value.code == "address-refused"

    @pytest.mark.parametrize(
        ("more", "spare"),
        [({}, rules.SPARE), ({"budget": False}, rules.HURRIED), ({"full": True}, 0.0)],
        ids=str,
    )
    def test_more_requests_are_sent_when_there_is_time(self, stack_up, more, spare):
        default, inputs = stack_up.respond, []

        def respond(container, argv, stdin):
            order = json.loads(stdin or "{}")
            if "layers" in order and "posts" in order:
                inputs.append(order)
            return default(container, argv, stdin)

        stack_up.respond = respond
        verbs.verify(STACK, stack_up, **more)
        assert {order["spare"] for order in inputs} == {spare}
        assert {order["needed"] < len(order["posts"]) for order in inputs} == {spare > 0}

    @pytest.mark.parametrize(("full", "most"), [(False, "60 s at most"), (True, "the whole golden set")])
    def test_reports_the_duration_before_a_long_step(self, stack_up, ragflow, full, most, steps):
        verbs.verify(STACK, stack_up, full=full, budget=False)
        assert ragflow in steps[0]
        assert most in steps[0]

    @pytest.mark.parametrize(
        ("end", "cause"),
        [
            (lambda engine: engine.stop(RERANKER), "was stopped"),
            (lambda engine: engine.change(RERANKER, status="exited", exit_code=137), "SIGKILL"),
            (lambda engine: engine.change(RERANKER, status="restarting", exit_code=132), "SIGILL"),
            (lambda engine: engine.pause(RERANKER), "is paused"),
        ],
    )
    def test_state_of_the_reranker_is_its_own_failure(self, stack_up, end, cause):
        end(stack_up)
        stack_up.calls.clear()
        report = verbs.verify(STACK, stack_up)
        (check,) = report.checks
        assert (check.name, check.status) == (connection.RUNS, "fail")
        assert cause in check.detail
        assert check.remedy
        assert stack_up.calls == []  # no probe container

    def test_a_tag_that_moved_does_not_matter(self, stack_up):
        stack_up.add_image("other:1")
        stack_up.tag("other:1", "vllm-cpu:latest")
        assert verbs.verify(STACK, stack_up).ok

    @pytest.mark.parametrize(
        "where", ["connection.target", "plan_requests", "budget.time_calls", "_check_outside"]
    )
    def test_an_error_of_one_check_is_a_failed_check(self, stack_up, monkeypatch, where):
        def fail(*_, **__):
            raise RuntimeError("a defect")

        monkeypatch.setattr(f"ragops.checks.verify.{where}", fail)
        failed = [check for check in verbs.verify(STACK, stack_up).checks if check.status == "fail"]
        assert ["a defect" in check.detail for check in failed] == [True]

    def test_removes_its_containers(self, stack_up, ragflow):
        verbs.verify(STACK, stack_up)
        assert {container.name for container in stack_up.containers()} == {RERANKER, ragflow}

    def test_needs_a_reranker_and_a_ragflow(self, fake):
        with pytest.raises(NotFoundError) as missing:
            verbs.verify(STACK, fake)
        assert missing.value.code == "reranker-missing"
        fake.add_container(RERANKER)
        with pytest.raises(RagflowError) as missing:
            verbs.verify(STACK, fake)
        assert missing.value.code == "ragflow-missing"


class TestDown:
    def test_up_after_down(self, stack_up, ragflow):
        verbs.down(STACK, stack_up)
        assert stack_up.container(RERANKER) is None
        assert stack_up.container(ragflow).status == "running"
        assert verbs.up(STACK, stack_up).ok

    def test_refused_removal_raises_an_error(self, stack_up):
        stack_up.refuse("remove network", "network has active endpoints")
        with pytest.raises(EngineError, match="active endpoints"):
            verbs.down(STACK, stack_up)


def test_score_template_is_copied_to_a_mountable_path(monkeypatch, tmp_path, model_folder):
    config = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 8, "max_position_embeddings": 128}
    (model_folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    (model_folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"yes": 0, "no": 1}}}))
    (model_folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Reranker-0.6B\n---\n")
    (model_folder / "modules.json").unlink()
    renamed = model_folder.rename(tmp_path / "Qwen3-Reranker-tiny")
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(renamed))
    assert describe(renamed).kind == "qwen3-reranker"
    mounts = {mount.target: mount for mount in Deployment.resolve(STACK).spec.mounts}
    template = mounts["/templates/qwen3_reranker.jinja"]
    assert template.source.startswith(str(home()))
    assert template.read_only
    assert not Path(template.source).exists()
    assert Deployment.resolve(STACK).spec == Deployment.resolve(STACK).spec


def test_an_instruction_is_part_of_the_template_and_of_the_plan(monkeypatch, tmp_path, model_folder):
    test_score_template_is_copied_to_a_mountable_path(monkeypatch, tmp_path, model_folder)
    own = Stack(gateway=False, reranker=Reranker(instruction='retrieve "clauses" {{ x }}'))
    spec = Deployment.resolve(own).spec
    assert spec.config_hash() != Deployment.resolve(STACK).spec.config_hash()
    template = next(mount.source for mount in spec.mounts if "/templates/" in mount.target)
    Deployment.resolve(own).write_template()
    assert 'set usual = "retrieve \\"clauses\\" {{ x }}"' in Path(template).read_text()


def test_an_instruction_for_a_model_without_a_place_for_one(model_folder):
    with pytest.raises(StackError) as caught:
        Deployment.resolve(
            Stack(gateway=False, reranker=Reranker(instruction="retrieve clauses", model=model_folder))
        )
    assert caught.value.code == "setting-refused"


def test_public_functions_are_the_verbs():
    assert (ragops.up, ragops.plan, ragops.verify) == (verbs.up, verbs.plan, verbs.verify)


class TestGateway:
    """The default stack: a gateway with the registered name, and replicas behind it."""

    FIRST, SECOND = f"{RERANKER}-1", f"{RERANKER}-2"

    @pytest.fixture
    def gateway_up(self, serving, ragflow):
        verbs.up(Stack(), serving)
        for name in (RERANKER, self.FIRST):
            serving.change(name, health="healthy")
        serving.calls.clear()
        return serving

    def folder(self, engine):
        return reference_folder(Stack(), engine.state())

    def test_reading_verbs_create_nothing(self, serving, ragflow, monkeypatch, tmp_path):
        monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "new"))
        monkeypatch.setattr(options, "known", lambda _: architectures.by_kind("qwen3-reranker"))
        verbs.plan(Stack(), serving)
        verbs.status(Stack(), serving)
        assert not (tmp_path / "new").exists()

    def test_each_engine_has_its_own_reference(self, gateway_up):
        reference = self.folder(gateway_up) / "reference.json"
        (engine := copy.copy(gateway_up)).state = lambda: dataclasses.replace(gateway_up.state(), id="B")
        assert self.folder(engine) != self.folder(gateway_up)
        reference.write_text("{}")
        assert verbs.plan(Stack(), gateway_up).actions
        mount = Session.open(Stack(), engine).deployment.gateway.mounts[0].source
        assert mount == str(self.folder(engine))

    def test_gateway_of_a_deleted_folder_is_replaced(self, gateway_up):
        shutil.rmtree(self.folder(gateway_up))
        assert any(isinstance(one, ReplaceContainer) for one in verbs.plan(Stack(), gateway_up).actions)
        old = gateway_up.container(RERANKER).id
        assert verbs.up(Stack(), gateway_up).ok
        assert gateway_up.container(RERANKER).id != old
        assert gateway_up.container(self.FIRST) is not None
        assert verbs.plan(Stack(), gateway_up).empty

    def test_folder_that_the_engine_does_not_have(self, serving, ragflow):
        serving.hidden = {str(self.folder(serving))}
        with pytest.raises(EngineError) as caught:
            verbs.up(Stack(), serving)
        assert (caught.value.code, caught.value.container) == ("folder-empty", RERANKER)
        assert "RAGOPS_HOME" in caught.value.hint
        assert serving.container(RERANKER) is None

    def test_up_starts_both_and_stores_the_reference(self, serving, ragflow, here, steps):
        status = verbs.up(Stack(), serving)
        assert status.ok
        assert (status.reranker.role, [one.name for one in status.replicas]) == ("gateway", [self.FIRST])
        reference = json.loads((self.folder(serving) / "reference.json").read_text())
        assert len(reference["requests"]) == 4
        assert steps[-1] == f"{RERANKER}: ready"

    def test_second_call_changes_nothing(self, gateway_up):
        assert verbs.up(Stack(), gateway_up).drift.empty
        assert gateway_up.calls == []

    def test_status_is_of_all_containers(self, gateway_up):
        gateway_up.change(self.FIRST, status="exited", exit_code=1, health="")
        status = verbs.status(Stack(), gateway_up)
        assert not status.ok
        assert status.problem.container == self.FIRST
        record = status.to_json()
        assert record["reranker"]["health"] == "healthy"
        (replica,) = record["replicas"]
        assert (replica["name"], replica["status"], replica["admitted"]) == (self.FIRST, "exited", False)

    def test_missing_image_is_a_note_of_plan_and_built_by_up(self, serving, ragflow, monkeypatch):
        tag = gateway.tag()
        serving.remove_image(tag)
        assert any(tag in note for note in verbs.plan(Stack(), serving).notes)
        monkeypatch.setattr(gateway, "ensure", lambda engine, *_: engine.add_image(tag))
        assert verbs.up(Stack(), serving).drift.empty

    def test_first_version_is_migrated_and_back(self, stack_up, ragflow, monkeypatch):
        old, server = stack_up.container(RERANKER).id, stack_up.container(ragflow)
        plan = verbs.plan(Stack(), stack_up)
        assert "the gateway takes its place" in str(plan)
        assert ("reranker", f"{RERANKER}: running healthy") in verbs.status(Stack(), stack_up).table().rows
        assert verbs.up(Stack(), stack_up).ok
        assert stack_up.container(RERANKER).role == "gateway"
        assert stack_up.container(old) is None
        assert stack_up.container(ragflow) == server
        assert verbs.up(STACK, stack_up).ok
        assert stack_up.container(RERANKER).role == "reranker"
        assert stack_up.container(self.FIRST) is None

    def test_a_replica_that_needs_no_score_check_is_waited_for_by_its_log(self, gateway_up, steps):
        for name in (RERANKER, self.FIRST):
            gateway_up.remove_container(name)
        steps.clear()
        verbs.up(Stack(), gateway_up)
        assert steps[-2:] == [f"{self.FIRST}: ready", f"{RERANKER}: ready"]

    def test_scores_of_another_image_are_checked(self, gateway_up):
        image = gateway_up.image(Stack().reranker.image)
        gateway_up.change_image(image.id, tags=())
        gateway_up.add_image(Stack().reranker.image)
        (action,) = verbs.plan(Stack(), gateway_up).actions
        assert isinstance(action, ReplaceContainer)
        assert action.proof.check is not None

    def test_a_key_has_to_be_registered(self, gateway_up, tmp_path):
        key = tmp_path / "key"
        key.write_text("a-key")
        stack = Stack(gateway=Gateway(key_file=key))
        for changes in (verbs.plan(stack, gateway_up), verbs.up(stack, gateway_up).drift):
            assert any("ragops register" in note for note in changes.notes)
        assert any("ragops register" in note for note in verbs.verify(stack, gateway_up).notes)
        assert not any("ragops register" in note for note in verbs.plan(Stack(), gateway_up).notes)

    def test_replicas_of_a_gateway_that_is_configured_off_until_up(self, gateway_up):
        status = verbs.status(STACK, gateway_up)
        assert status.problem is None
        assert [(one.name, one.problem) for one in status.admission] == [(self.FIRST, None)]
        assert [one.name for one in status.replicas] == [self.FIRST]
        (admitted,) = [
            check for check in verbs.verify(STACK, gateway_up).checks if check.name == verify.ADMITTED
        ]
        assert admitted.status == "ok"

    def test_down_removes_all(self, gateway_up, ragflow):
        verbs.down(Stack(), gateway_up)
        assert [one.name for one in gateway_up.containers()] == [ragflow]
        assert not self.folder(gateway_up).exists()

    def test_purge_removes_the_references_of_this_engine(self, gateway_up, here):
        (here / "gateway" / "other-rr").mkdir()
        verbs.purge(gateway_up)
        assert [folder.name for folder in (here / "gateway").iterdir()] == ["other-rr"]


class TestScale:
    FILE = '# ours\n[reranker]\nport = 9000  # free\nname = "rr"\n'

    def test_writes_the_file_and_applies_it(self, serving, ragflow, tmp_path, steps):
        file = tmp_path / "ragops.toml"
        file.write_text(self.FILE)
        status = verbs.scale(2, file, serving)
        assert file.read_text() == f"{self.FILE}replicas = 2\n"
        assert [one.name for one in status.replicas] == ["rr-1", "rr-2"]
        cpus = [serving._specs[one.id].cpuset_cpus for one in status.replicas]
        assert cpus == ["0-1", "2-3"]
        assert [one.name for one in verbs.scale(1, file, serving).replicas] == ["rr-1"]
        assert serving.container("rr-2") is None
        assert load(file).reranker.replicas == 1

    @pytest.mark.parametrize("text", [FILE, None])
    def test_another_process_has_the_lock(self, serving, tmp_path, text):
        file = tmp_path / "ragops.toml"
        if text:
            file.write_text(text)
        name = load(file).reranker.name if text else RERANKER
        with lock(serving.state().id, name), pytest.raises(LockedError):
            verbs.scale(2, engine=serving)
        assert (file.read_text() if file.exists() else None) == text

    def test_creates_the_file(self, serving, ragflow, tmp_path, steps):
        assert len(verbs.scale(2, engine=serving).replicas) == 2
        assert load(tmp_path / "ragops.toml").reranker.replicas == 2
        assert "ragops.toml is created" in steps[0]

    @pytest.mark.parametrize(
        ("text", "count", "code"),
        [
            (FILE, 5, "replicas-many"),
            (FILE, 65, "value-refused"),
            (f"gateway = false\n{FILE}", 2, "value-refused"),
            ("[", 2, "stack-unreadable"),
        ],
    )
    def test_that_is_refused_writes_and_changes_nothing(self, serving, ragflow, tmp_path, text, count, code):
        file = tmp_path / "ragops.toml"
        file.write_text(text)
        serving.calls.clear()
        with pytest.raises(StackError) as caught:
            verbs.scale(count, file, serving)
        assert caught.value.code == code
        assert file.read_text() == text
        assert serving.calls == []
