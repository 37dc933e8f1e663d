"""The reranker's compose file has every field of its specification; so has the systemd unit of watch."""

import dataclasses
import io
import shlex
import subprocess
from importlib import resources
from pathlib import Path

import pytest
import yaml

from ragops import cli
from ragops.compose import check_texts, render
from ragops.configuration import Gateway, Reranker, Stack, Swarm
from ragops.docker.objects import ContainerSpec, HealthCheck, Mount, NetworkSpec
from ragops.docker.swarm import ServiceSpec
from ragops.errors import StackError
from ragops.reranker.gateway import tag
from ragops.session import Deployment
from ragops.stack import verbs, watch
from tests.support.command import parse

FULL = ContainerSpec(
    name="my-reranker",
    image="vllm-cpu:latest",
    entrypoint=("python3", "-m", "server"),
    command=("--name", "$HOME ${X}"),
    environment=(("A", "1"), ("B", "$b")),
    mounts=(Mount("/models", "/m", read_only=True), Mount("my-cache", "/cache", "volume")),
    tmpfs=(("/scratch", "rw,mode=1777"),),
    network="net",
    aliases=("pair",),
    publish=(("127.0.0.1", 8123, 8000), ("::1", 8124, 8000)),
    cpuset_cpus="0-3",
    cpuset_mems="0",
    memory=1 << 30,
    shm_size=1 << 20,
    pids_limit=99,
    restart="on-failure:5",
    health=HealthCheck(("true",)),
    user="1000:1000",
    stop_signal="SIGKILL",
    stop_timeout=35,
    read_only=True,
    init=True,
    labels=(("x", "y"),),
)


def parsed(text):
    return yaml.safe_load(io.StringIO(text))


def rendered(spec=FULL):
    return parsed(render.reranker([spec], NetworkSpec("net")))


def test_every_field_of_the_specification_is_in_the_file():
    whole = render.reranker([FULL], NetworkSpec("net"))
    plain = {"name", "image"}  # can't be left out
    for field in dataclasses.fields(ContainerSpec):
        if field.name in plain | {"network", "role", "image_id"}:
            continue
        without = dataclasses.replace(FULL, **{field.name: field.default})
        assert render.reranker([without], NetworkSpec("net")) != whole, field.name


def test_service_has_the_containers_name_and_the_network_is_external():
    document = rendered()
    service = document["services"]["my-reranker"]
    assert service["container_name"] == "my-reranker"
    assert service["networks"] == {"ragops": {"aliases": ["pair"]}}
    assert document["networks"] == {"ragops": {"name": "net", "external": True}}
    assert document["volumes"] == {"my-cache": {"name": "my-cache", "labels": {"org.ragops": "cache"}}}


def test_no_capabilities_and_no_new_privileges():
    service = rendered()["services"]["my-reranker"]
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges"])


def test_labels_make_it_the_one_that_up_would_find():
    assert rendered()["services"]["my-reranker"]["labels"] == FULL.all_labels()


def test_dollar_signs_are_escaped():
    service = rendered()["services"]["my-reranker"]
    assert service["command"] == ["--name", "$$HOME $${X}"]
    assert service["environment"]["B"] == "$$b"


def test_an_option_without_a_compose_key_is_in_a_comment():
    lines = render.reranker([FULL], NetworkSpec("net")).splitlines()
    assert [line for line in lines if line.startswith("#") and "--cpuset-mems 0" in line]


@pytest.mark.parametrize("stack", [Stack(gateway=False), Stack(reranker=Reranker(replicas=2))])
def test_check_finds_no_fault_in_it(here, machine, stack):
    deployment = Deployment.resolve(stack)
    specs = [*filter(None, [deployment.gateway]), *deployment.replicas]
    text = render.reranker(specs, NetworkSpec(stack.network.name))
    checked = check_texts({Path("compose.yml"): text}, machine, {})
    assert {finding.code for finding in checked.findings} <= {"image-unpinned"}, str(checked)
    assert [reranker.name for reranker in checked.rerankers] == list(stack.replica_names)


def test_systemd_unit_starts_watch_with_the_current_python_files_and_engine(here, tmp_path, monkeypatch):
    file = tmp_path / "100%" / "ragops.toml"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr("sys.executable", "/srv/my $venv/bin/python")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/srv/a$b")
    unit = watch.systemd_unit(file).splitlines()
    (start,) = [line.removeprefix("ExecStart=") for line in unit if line.startswith("ExecStart=")]
    argv = shlex.split(start.replace("%%", "%").replace("$$", "$"))
    assert argv[:3] == ["/srv/my $venv/bin/python", "-m", "ragops"]
    assert parse(argv[3:])["stack_file"] == file
    assert f"Environment=RAGOPS_HOME={here}" in unit
    assert "Environment=DOCKER_HOST=unix:///fake/docker.sock" in unit
    assert any(line.startswith("Environment=RAGOPS_MODEL_DIR=") for line in unit)
    assert "Environment=DOCKER_CERT_PATH=/srv/a$b" in unit  # systemd expands nothing there
    assert not any(line.startswith("Requires=docker") for line in unit)  # it keeps running without the engine


def test_compose_accepts_the_file(tmp_path):
    file = tmp_path / "compose.yml"
    front = dataclasses.replace(FULL, name="front", role="gateway", aliases=(), mounts=())
    file.write_text(render.reranker([front, FULL], NetworkSpec("net")))
    program = resources.files("compose") / "docker-compose"
    argv = [str(program), "--file", str(file), "config", "--no-interpolate"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()


class TestStackFile:
    """What ``docker stack deploy`` creates is what the Engine API would get."""

    TASK = dataclasses.replace(
        FULL, tmpfs=(("/scratch", "rw,size=256m,mode=1777"),), publish=(), image_id="sha256:1f"
    )
    SPEC = ServiceSpec(
        TASK, 3, (("ref-1", "/reference.json"),), '{"node": {"cores": "0-3"}}', ("node.role==worker",)
    )
    NETWORK = NetworkSpec("net-swarm", "overlay", internal=True, encrypted=True)

    def text(self, folder, **changed):
        file = folder / "reference.json"
        file.write_text("{}")
        spec = dataclasses.replace(self.SPEC, **changed)
        return render.stack_file([spec], {"ref-1": file}, self.NETWORK)

    def test_every_field_of_the_service_is_in_the_file(self, tmp_path):
        whole = self.text(tmp_path)
        for field in dataclasses.fields(ServiceSpec)[1:]:
            assert (
                self.text(tmp_path, **{field.name: field.default if field.name != "replicas" else 2}) != whole
            ), field.name
        left_out = {"name", "image", "network", "role", "publish", "cpuset_cpus", "cpuset_mems", "restart"}
        for field in dataclasses.fields(ContainerSpec):
            if field.name in left_out:
                continue
            container = dataclasses.replace(self.TASK, **{field.name: field.default})
            assert self.text(tmp_path, container=container) != whole, field.name

    def test_its_service(self, tmp_path):
        document = parsed(self.text(tmp_path))
        service, body = document["services"]["my-reranker"], self.SPEC.body({"ref-1": ""})
        deploy = service["deploy"]
        assert service["image"] == "sha256:1f"
        assert "RAGOPS_NODE={{.Node.ID}}" in service["environment"]
        assert 'RAGOPS_NODES={"node": {"cores": "0-3"}}' in service["environment"]
        assert (deploy["replicas"], deploy["endpoint_mode"]) == (3, "dnsrr")
        assert deploy["placement"] == {"max_replicas_per_node": 1, "constraints": ["node.role==worker"]}
        assert deploy["labels"] == body["Labels"]
        assert deploy["update_config"]["failure_action"] == "rollback"
        assert deploy["update_config"]["parallelism"] == 1
        assert service["configs"] == [{"source": "ref-1", "target": "/reference.json", "mode": 0o444}]
        assert {item["target"] for item in service["volumes"]} >= {"/dev/shm", "/scratch", "/m", "/cache"}  # noqa: S108
        assert document["networks"]["ragops"]["driver_opts"] == {"encrypted": "true"}
        assert document["networks"]["ragops"]["attachable"]

    @pytest.mark.parametrize("swarm", [None, Swarm(gateways=2)])
    def test_of_a_stack(self, here, fake, swarm):
        fake.join("one", "two", "three")
        stack = Stack(reranker=Reranker(replicas=3), swarm=swarm)
        document = parsed(verbs.stack_file(stack, fake))
        assert fake.calls == []
        replicas, front = document["services"].values()
        assert list(document["services"]) == [stack.replicas_alias, stack.derived_name("gateway")]
        assert replicas["deploy"]["replicas"] == 3
        assert front["deploy"]["replicas"] == (2 if swarm else 1)
        assert front["networks"]["ragops"]["aliases"] == [stack.reranker.name]  # RAGFlow's address
        assert f"GATEWAY_REPLICAS={stack.replicas_alias}:8000" in front["environment"]
        assert "constraints" not in str(front["deploy"]) or not front["deploy"]["placement"]["constraints"]
        assert {config["source"] for config in replicas["configs"]} <= {*document["configs"]}
        assert document["networks"]["ragops"]["name"] == stack.overlay

    @pytest.mark.parametrize("gateway", [False, Gateway(replicas=("10.0.0.9:8000",))])
    def test_of_a_stack_that_swarm_can_not_have(self, here, fake, gateway):
        with pytest.raises(StackError) as caught:
            verbs.stack_file(Stack(gateway=gateway), fake)
        assert caught.value.code == "stack-refused"

    def test_a_file_that_is_missing_is_named(self):
        lines = render.stack_file(
            [self.SPEC], {"ref-1": Path("/none/reference.json")}, self.NETWORK
        ).splitlines()
        assert any(line.startswith("# ") and "/none/reference.json" in line for line in lines)

    def test_compose_accepts_the_file(self, tmp_path):
        file = tmp_path / "stack.yml"
        file.write_text(self.text(tmp_path))
        program = resources.files("compose") / "docker-compose"
        argv = [str(program), "--file", str(file), "config", "--no-interpolate"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestCommand:
    @pytest.fixture
    def run(self, here, capsys):
        def run_command(*argv):
            assert cli.main(argv) == 0
            return capsys.readouterr()

        return run_command

    def test_reranker(self, run):
        document = parsed(run("compose", "reranker").out)
        gateway, replica = document["services"].items()
        assert [gateway[0], replica[0]] == ["ragflow-vllm-reranker", "ragflow-vllm-reranker-1"]
        assert gateway[1]["image"] == tag()
        assert replica[1]["networks"] == {"ragops": {"aliases": ["ragflow-vllm-reranker-replicas"]}}
        assert "ports" not in replica[1]

    def test_reranker_without_a_gateway(self, run):
        Path("ragops.toml").write_text("gateway = false")
        document = parsed(run("compose", "reranker").out)
        assert list(document["services"]) == ["ragflow-vllm-reranker"]

    def test_its_deadline_is_that_of_the_ragflow_found(self, run, fake):
        fake.add_container(
            "docker-ragflow-cpu-1",
            network="docker_ragflow",
            image="infiniflow/ragflow:v0.24.0",
            labels={"com.docker.compose.project": "docker", "com.docker.compose.service": "ragflow-cpu"},
        )
        for release, deadline in (("v0.27.0", "27"), ("v0.24.0", "270")):
            Path("ragops.toml").write_text(f'[ragflow]\nrelease = "{release}"')
            gateway = parsed(run("compose", "reranker").out)["services"]["ragflow-vllm-reranker"]
            assert gateway["environment"]["GATEWAY_DEADLINE"] == deadline

    def test_override(self, run, fake, ragflow):
        output = run("compose", "override")
        assert list(parsed(output.out)["services"]) == ["ragflow-cpu"]
        assert "apply it with: docker compose -p docker" in output.err

    def test_override_is_written(self, run, fake, tmp_path):
        labels = {
            "com.docker.compose.project": "docker",
            "com.docker.compose.service": "ragflow-cpu",
            "com.docker.compose.project.config_files": str(tmp_path / "docker-compose.yml"),
        }
        fake.add_container("docker-ragflow-cpu-1", network="docker_ragflow", labels=labels)
        file = tmp_path / "docker-compose.override.yml"
        assert run("compose", "override", "--write").out == f"{file}\n"
        assert file.exists()

    def test_watch_prints_a_systemd_unit(self, run):
        assert "ragops watch" in run("watch", "--print", "systemd").out
