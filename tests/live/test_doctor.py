"""Doctor on a real engine: each fault is made, found, fixed as the remedy says, and gone."""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ragops
from benchmarks import free_port
from ragops.checks import doctor as checks
from ragops.configuration import Network, Ragflow, Reranker, Stack, home, parse
from ragops.docker.engine import observe
from ragops.docker.objects import ContainerSpec, NetworkSpec
from ragops.errors import EngineError
from ragops.reranker import files
from ragops.stack import plan, planning

PREFIX = f"ragopstest-{secrets.token_hex(4)}"
SLEEP = ["sleep", "300"]
LABELS = {"com.docker.compose.project": PREFIX, "com.docker.compose.service": "ragflow-cpu"}
PACKAGE = Path(ragops.__file__).parent


@pytest.fixture(scope="module")
def stack():
    """Names that nobody has, an open network and a port that is published on each engine."""
    return Stack(
        network=Network(name=f"{PREFIX}-net", internal=False),
        reranker=Reranker(name=f"{PREFIX}-reranker", port=free_port(), expose=True),
        ragflow=Ragflow(project=PREFIX),
    )


@pytest.fixture(autouse=True)
def clean(engine):
    yield
    for item in engine.containers():
        if PREFIX in item.name:  # renamed ones too
            engine.remove_container(item.id)
    for item in engine.networks():
        if item.name.startswith(PREFIX):
            engine.remove_network(item.id)
    for item in engine.volumes():
        if item.name.startswith(PREFIX):
            engine.remove_volume(item.name)
    for name in (f"{PREFIX}:1", f"{PREFIX}:2", f"{PREFIX}/infiniflow/ragflow:v0.27.0"):
        with contextlib.suppress(EngineError):
            engine.remove_image(name)


@pytest.fixture
def doctor(engine, stack):
    """Checks by name; the engine is the same before and after."""

    def look(wanted=stack):
        before = ids(engine)
        report = checks.doctor(wanted, engine)
        assert ids(engine) == before
        return {check.name: check for check in report.checks}

    return look


@pytest.fixture
def stranger(engine, image):
    """A container that ragops did not make."""

    def make(name, **fields):
        made = engine._client.api.create_container(image.tags[0], entrypoint=SLEEP, name=name, **fields)
        engine.start(made["Id"])

    return make


def ids(engine):
    """What there is; the engine lists it in any order."""
    seen = observe(engine)
    names = {item.name for item in seen.volumes}
    return {item.id for item in seen.networks} | {item.id for item in seen.containers} | names


def changed(stack, remedy):
    """The stack with what a remedy asks for: ``key = value under [table]``."""
    result = re.search(r"(\w+) = (?:\"[^\"]*\"|\S+?)(?=,? under| under)", remedy)
    table = re.search(r"under \[(\w+)\]", remedy)[1]
    value = getattr(getattr(parse(f"[{table}]\n{result[0]}\n"), table), result[1])
    part = getattr(stack, table).model_copy(update={result[1]: value})
    return stack.model_copy(update={table: part})


def listing(engine, image, program, **fields):
    """What a program in a container of ours prints."""
    spec = ContainerSpec(f"{PREFIX}-{secrets.token_hex(3)}", image.tags[0], entrypoint=tuple(SLEEP), **fields)
    engine.create_container(spec)
    engine.start(spec.name)
    done = engine.execute(spec.name, ("python3", "-c", program))
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def test_the_engine_is_described(doctor, engine, image):
    seen = doctor()
    state = engine.state()
    assert seen["engine answers"].detail == f"Docker {state.version} at {state.address}"
    assert (seen["engine API"].status, seen["engine API"].detail) == ("ok", state.api)
    assert state.cgroup_driver in {"cgroupfs", "systemd"}
    assert seen["containers' CPU quota"].status in {"ok", "warn", "skip"}
    assert seen["image"].detail.endswith(f"sha256:{image.id.removeprefix('sha256:')}")
    assert {check.status for check in seen.values()} <= {"ok", "warn", "skip"}


class TestPort:
    def test_of_another_container(self, doctor, engine, image, stranger, stack):
        port = stack.reranker.port
        settings = engine._client.api.create_host_config(port_bindings={80: ("127.0.0.1", port)})
        stranger(f"{PREFIX}-other", ports=[80], host_config=settings)
        result = doctor()["port"]
        assert result.detail == f"127.0.0.1:{port} is taken by {PREFIX}-other"
        wants = (("127.0.0.1", port, 8000),)
        taken = ContainerSpec(stack.reranker.name, image.tags[0], entrypoint=tuple(SLEEP), publish=wants)
        engine.create_container(taken)
        with pytest.raises(EngineError) as caught:
            engine.start(taken.name)
        assert caught.value.code == "port-taken"
        assert doctor(changed(stack, result.remedy))["port"].status == "ok"

    def test_of_a_process(self, doctor, stack):
        with socket.socket() as server:
            server.bind(("127.0.0.1", stack.reranker.port))
            server.listen()
            result = doctor()["port"]
            assert (result.status, "a process of this host" in result.detail) == ("fail", True)
            assert doctor(changed(stack, result.remedy))["port"].status == "ok"


class TestNames:
    def test_container(self, doctor, engine, image, stranger, stack):
        stranger(stack.reranker.name)
        if image.labels:  # one that ragops built: the container inherits its label
            assert engine.container(stack.reranker.name).labels == image.labels
        result = doctor()["names"]
        assert result.status == "fail"
        engine.rename(*re.search(r"docker rename (\S+) (\S+),", result.remedy).groups())
        assert doctor()["names"].status == "ok"

    def test_volume(self, doctor, engine, stack):
        engine._client.api.create_volume(f"{stack.reranker.name}-compiled")
        result = doctor()["names"]
        assert result.status == "warn"
        engine.remove_volume(re.search(r"docker volume rm (\S+),", result.remedy)[1])
        assert doctor()["names"].status == "ok"

    def test_network_that_differs(self, doctor, engine, stack):
        engine.create_network(NetworkSpec(stack.network.name, internal=True))
        result = doctor()["network"]
        assert (result.status, result.remedy) == ("fail", "ragops down, then ragops up")
        plan.apply(planning.plan_down(stack, observe(engine)), engine)
        assert doctor()["network"].detail == f"{stack.network.name} will be created"

    def test_overlapping_subnet(self, doctor, engine, stack):
        engine.create_network(NetworkSpec(f"{PREFIX}-there", subnet="10.213.8.0/24"))
        wanted = stack.model_copy(update={"network": Network(name=f"{PREFIX}-net", subnet="10.213.8.0/25")})
        assert doctor(wanted)["network"].status == "fail"
        with pytest.raises(EngineError) as caught:
            engine.create_network(plan.network_spec(wanted.shared_network))
        assert caught.value.code == "subnet-overlaps"


def test_a_name_that_moved_and_the_way_back(doctor, engine, image, stack, tmp_path):
    name = f"{PREFIX}:1"
    engine.tag(image.id, name)
    wanted = stack.model_copy(update={"reranker": stack.reranker.model_copy(update={"image": name})})
    spec = ContainerSpec(stack.reranker.name, name, entrypoint=tuple(SLEEP), role="reranker")
    engine.create_container(spec)
    assert doctor(wanted)["image"].status == "ok"
    empty = tmp_path / "empty.tar"
    subprocess.run(["tar", "--create", "--file", empty, "--files-from", "/dev/null"], check=True)
    engine.import_image(empty, f"{PREFIX}:2", role="test")
    engine.tag(f"{PREFIX}:2", name)
    result = doctor(wanted)["image"]
    assert (result.status, f"{name} has moved to" in result.detail) == ("warn", True)
    old, back = re.search(r"docker tag (\S+) (\S+)", result.remedy).groups()
    engine.tag(old, back)
    assert doctor(wanted)["image"].status == "ok"


class TestInside:
    """What is said of containers, asked from inside one."""

    @pytest.mark.parametrize(
        ("limit", "quota"),
        [({"nano_cpus": 500_000_000}, "0.5"), ({"cpuset_cpus": "0"}, "None"), ({}, "None")],
        ids=["--cpus 0.5", "--cpuset-cpus 0", "none"],
    )
    def test_quota_of_a_container_is_read_in_it(self, engine, image, stranger, tmp_path, limit, quota):
        """ragops' own process in a container; whole CPUs, as the remedy says, are no quota."""
        package = tmp_path / "ragops"
        (package / "reranker").mkdir(parents=True)
        for name in ("errors", "reranker/__init__", "reranker/host"):
            (package / f"{name}.py").write_text((PACKAGE / f"{name}.py").read_text())
        (package / "__init__.py").write_text("")
        name = f"{PREFIX}-quota"
        bind = {str(tmp_path): {"bind": "/here", "mode": "ro"}}
        stranger(name, host_config=engine._client.api.create_host_config(binds=bind, **limit))
        program = "import sys; sys.path.insert(0, '/here'); from ragops.reranker.host import read_host; "
        done = engine.execute(name, ("python3", "-c", f"{program}print(read_host().quota)"))
        assert (done.stdout.strip(), done.stderr) == (quota, "")

    def test_our_image_was_compiled_for_avx2_too(self, engine, image):
        program = """
            import importlib.util, pathlib
            folder = pathlib.Path(importlib.util.find_spec("vllm").origin).parent
            print(*sorted(file.name.partition(".")[0] for file in folder.glob("_C*.so")))
        """
        assert "_C_AVX2" in listing(engine, image, textwrap.dedent(program)).split()


class TestRagflow:
    def test_release_and_the_way_back_from_stopped(self, doctor, engine, image):
        name = f"{PREFIX}/infiniflow/ragflow:v0.27.0"
        engine.tag(image.id, name)
        container = f"{PREFIX}-ragflow-cpu-1"
        engine._client.api.create_container(name, entrypoint=SLEEP, name=container, labels=LABELS)
        result = doctor()["RAGFlow"]
        assert result.status == "warn"
        assert result.detail.startswith(f"{container} (v0.27.0) is created")
        engine.start(re.fullmatch(r"docker start (\S+)", result.remedy)[1])
        assert doctor()["RAGFlow"].detail == f"{container} (v0.27.0), running"

    def test_one_on_the_hosts_network(self, doctor, engine, stranger):
        settings = engine._client.api.create_host_config(network_mode="host")
        stranger(f"{PREFIX}-ragflow-cpu-1", labels=LABELS, host_config=settings)
        assert doctor()["RAGFlow"].status == "fail"

    def test_a_route_that_would_move_does_move(self, doctor, engine, stack, stranger):
        table = (
            "print(next(row.split()[0] for row in open('/proc/net/route') if row.split()[1] == '00000000'))"
        )
        engine.create_network(NetworkSpec(f"{PREFIX}-b"))
        container = f"{PREFIX}-ragflow-cpu-1"
        settings = engine._client.api.create_host_config(network_mode=f"{PREFIX}-b")
        stranger(container, labels=LABELS, host_config=settings)
        for name, moves in ((f"{PREFIX}-c", False), (f"{PREFIX}-a", True)):
            wanted = stack.model_copy(update={"network": Network(name=name, internal=False)})
            assert ("moves its default route" in doctor(wanted)["RAGFlow"].detail) is moves
            before = engine.execute(container, ("python3", "-c", table)).stdout
            engine.create_network(plan.network_spec(wanted.shared_network))
            engine.connect(name, container)
            after = engine.execute(container, ("python3", "-c", table)).stdout
            assert (before != after) is moves


class TestPermission:
    """The engine's own socket, asked by a user who has no right to it; needs root, to become that user."""

    LOOK = "import sys; from ragops.docker.engine import connect; print(connect(sys.argv[1]).state().api)"

    def ask(self, address, *groups):
        """The call of another user, who may enter every folder: the checkout may be below a private one."""
        user = ["--reuid=nobody", "--regid=nogroup", f"--groups={groups[0]}" if groups else "--clear-groups"]
        user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        argv = ["setpriv", *user, sys.executable, "-c", self.LOOK, address]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def test_the_group_is_what_it_takes(self, engine):
        state = engine.state()
        refused = self.ask(state.address)
        assert "Permission denied" in refused.stderr
        assert "see: ragops explain engine-permission" in refused.stderr
        group = state.socket.stat().st_gid
        allowed = self.ask(state.address, group)
        assert allowed.stdout.strip() == state.api, allowed.stderr

    def test_remedy_names_the_sockets_group(self, engine, monkeypatch):
        state = engine.state()
        message = f"{state.address}: PermissionError(13, 'Permission denied')"
        monkeypatch.setattr(os, "getgroups", list)
        result = checks.connection_failure(EngineError("no Docker engine answers", evidence=message))
        assert f"-aG {state.socket.group()} " in result.remedy


def test_no_engine_at_all(tmp_path, stack, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    report = checks.doctor(stack)
    result = report.first_failure()
    assert (result.name, "docker.io" in result.remedy) == ("engine answers", True)


def test_files_that_another_library_wrote_are_whole():
    result = checks.check_files(files.bundled_minilm(home()))
    assert result.status == "ok", result
    assert re.search(r"1 safetensors, 0\.09 GB, \d+ tensors", result.detail)
