"""Services, tasks and nodes of a Swarm: bodies of requests, records of responses, and the engine's calls."""

import dataclasses

import docker.errors
import pytest

from ragops.docker import engine as engines
from ragops.docker.objects import LABEL, LABEL_CONFIG, ContainerSpec, EngineState, HealthCheck, Mount
from ragops.docker.swarm import NodeState, ServiceSpec, ServiceState, SwarmState, TaskState
from ragops.errors import EngineError
from tests.support.fake_engine import FakeEngine

CONTAINER = ContainerSpec(
    name="reranker-replicas",
    image="vllm-cpu:latest",
    image_id="sha256:abc",
    entrypoint=("python3", "-m", "server"),
    command=("--port", "8000"),
    environment=(("A", "b"),),
    mounts=(Mount("/srv/model", "/model", read_only=True), Mount("cache", "/cache", "volume")),
    tmpfs=(("/scratch", "rw,noexec,size=256m,mode=1777"),),
    network="net-swarm",
    aliases=("reranker",),
    publish=(("127.0.0.1", 8123, 8000),),
    cpuset_cpus="0-3",
    memory=2**30,
    shm_size=2**28,
    health=HealthCheck(("python3", "-c", "pass")),
    user="1000:1000",
    stop_signal="SIGKILL",
    read_only=True,
)
SPEC = ServiceSpec(
    CONTAINER,
    replicas=2,
    configs=(("reference-1", "/reference.json"),),
    nodes="{}",
    constraints=("node.id!=a",),
)
IDS = {"reference-1": "config-id"}


def test_body_of_a_service():
    body = SPEC.body(IDS)
    task = body["TaskTemplate"]
    container = task["ContainerSpec"]
    assert body["Mode"] == {"Replicated": {"Replicas": 2}}
    assert body["EndpointSpec"] == {"Mode": "dnsrr"}
    assert (body["UpdateConfig"]["FailureAction"], body["UpdateConfig"]["Parallelism"]) == ("rollback", 1)
    assert body["UpdateConfig"]["Order"] == body["RollbackConfig"]["Order"] == "stop-first"
    assert task["Placement"] == {"Constraints": ["node.id!=a"], "MaxReplicas": 1}
    assert task["Networks"] == [{"Target": "net-swarm", "Aliases": ["reranker"]}]
    assert (
        task["Resources"]["Limits"]["MemoryBytes"]
        == task["Resources"]["Reservations"]["MemoryBytes"]
        == 2**30
    )
    assert container["Image"] == "sha256:abc"
    assert container["Env"] == ["A=b", "RAGOPS_NODE={{.Node.ID}}", "RAGOPS_NODES={}"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert container["Configs"][0] | {"File": ""} == {
        "ConfigID": "config-id",
        "ConfigName": "reference-1",
        "File": "",
    }
    sizes = {
        mount["Target"]: mount["TmpfsOptions"] for mount in container["Mounts"] if mount["Type"] == "tmpfs"
    }
    assert sizes == {
        "/scratch": {"SizeBytes": 2**28, "Mode": 0o1777},
        "/dev/shm": {"SizeBytes": 2**28, "Mode": 0o1777},  # noqa: S108 - a mount
    }
    assert "Ports" not in body["EndpointSpec"]


def test_a_job_runs_once_on_each_node():
    body = dataclasses.replace(SPEC, replicas=0).body(IDS)
    assert body["Mode"] == {"Global": {}}
    assert body["TaskTemplate"]["RestartPolicy"] == {"Condition": "none"}
    assert body["TaskTemplate"]["Placement"]["MaxReplicas"] == 0
    assert body["UpdateConfig"] is None


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"replicas": 3}, True),
        ({"nodes": '{"a": 1}'}, True),
        ({"constraints": ()}, True),
        ({"configs": (("reference-2", "/reference.json"),)}, False),
        ({"container": dataclasses.replace(CONTAINER, image_id="sha256:def")}, True),
        ({"container": dataclasses.replace(CONTAINER, command=())}, False),
    ],
)
def test_hash_is_of_what_needs_an_update_of_each_task(changed, same):
    assert (dataclasses.replace(SPEC, **changed).config_hash() == SPEC.config_hash()) is same


def test_service_state_is_what_was_created():
    raw = {"ID": "s", "Version": {"Index": 7}, "Spec": SPEC.body(IDS)}
    raw["UpdateStatus"] = {"State": "rollback_completed", "Message": "update rolled back"}
    state = ServiceState.from_api(raw)
    assert (state.id, state.version, state.name, state.image) == ("s", 7, "reranker-replicas", "sha256:abc")
    assert (state.replicas, state.nodes, state.configs) == (2, "{}", ("reference-1",))
    assert (state.constraints, state.role) == (("node.id!=a",), "reranker")
    assert state.update == "rollback_completed"
    assert state.labels[LABEL_CONFIG] == SPEC.config_hash()


def test_node_and_task_states():
    node = NodeState.from_api(
        {
            "ID": "n",
            "Spec": {"Role": "worker", "Availability": "active"},
            "Status": {"State": "down", "Addr": "10.0.0.2"},
            "Description": {"Hostname": "b", "Resources": {"NanoCPUs": 4 * 10**9, "MemoryBytes": 5}},
        }
    )
    assert node == NodeState("n", "b", "10.0.0.2", "worker", "active", "down", 4.0, 5)
    assert not node.ready
    assert dataclasses.replace(node, state="ready").ready
    task = TaskState.from_api(
        {
            "ID": "t",
            "ServiceID": "s",
            "Slot": 1,
            "NodeID": "n",
            "DesiredState": "shutdown",
            "Spec": {"ContainerSpec": {"Labels": {LABEL_CONFIG: "1"}}},
            "Status": {"State": "failed", "Err": "task: non-zero exit (1)"},
            "NetworksAttachments": [{"Addresses": ["10.0.1.5/24"]}],
        }
    )
    assert (task.addresses, task.config, task.error) == (("10.0.1.5",), "1", "task: non-zero exit (1)")


def test_newest_task_of_each_slot():
    raw = {"ID": "s", "Version": {"Index": 1}, "Spec": SPEC.body(IDS)}
    task = TaskState("1", "s", 1, "n", "failed", "shutdown", "", ())
    newer = dataclasses.replace(task, id="2", desired="running", created="2")
    other = dataclasses.replace(newer, id="3", slot=2)
    foreign = dataclasses.replace(newer, id="4", service="other")
    state = SwarmState((), (ServiceState.from_api(raw),), (other, foreign, newer, task))
    assert [one.id for one in state.tasks_of("reranker-replicas")] == ["2", "3"]
    assert state.tasks_of("missing") == ()


@pytest.mark.parametrize(
    ("swarm", "expected"),
    [
        ({}, ("inactive", "")),
        ({"LocalNodeState": "inactive"}, ("inactive", "")),
        ({"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n"}, ("manager", "n")),
        ({"LocalNodeState": "active", "NodeID": "n"}, ("worker", "n")),
        ({"LocalNodeState": "locked"}, ("locked", "")),
    ],
)
def test_membership_in_a_swarm(swarm, expected):
    state = EngineState.from_api({"Swarm": swarm}, {"Version": "20.10.24", "ApiVersion": "1.41"}, "unix:///x")
    assert (state.swarm, state.node) == expected


class Api:
    """docker-py's low-level client, with what the calls send."""

    def __init__(self, **responses):
        self.sent, self.responses = [], responses

    def __getattr__(self, name):
        def call(*args, **options):
            self.sent.append((name, args, options))
            response = self.responses.get(name, [])
            if isinstance(response, Exception):
                raise response
            return response

        return call


def connected(**responses):
    api = Api(**responses)
    return api, engines.Engine(type("Client", (), {"api": api})(), "unix:///x")


def test_service_calls_send_whole_bodies():
    api, engine = connected()
    state = ServiceState.from_api({"ID": "s", "Version": {"Index": 7}, "Spec": SPEC.body(IDS)})
    engine.create_service(SPEC, IDS)
    engine.update_service(state, SPEC, IDS)
    body = SPEC.body(IDS)
    (_, created, options), (_, updated, same) = api.sent
    assert (created, updated) == ((), ("s", 7))
    assert options == same
    assert options["task_template"] == body["TaskTemplate"]
    assert (options["mode"], options["update_config"]) == (body["Mode"], body["UpdateConfig"])


def test_only_own_services_are_read():
    api, engine = connected(services=[], nodes=[], configs=[{"ID": "c", "Spec": {"Name": "reference-1"}}])
    assert engine.swarm() == SwarmState((), configs={"reference-1": "c"})
    assert [args for name, args, _ in api.sent if name == "services"] == [({"label": LABEL},)]


@pytest.mark.parametrize(
    ("message", "raises"),
    [
        ("This node is not a swarm manager. Use", False),
        ("Podman does not support service: /v1.41/nodes", False),
        ("Not Found", False),  # also Podman
        ("rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that", True),
        ("rpc error: code = DeadlineExceeded desc = context deadline exceeded", True),
    ],
)
def test_without_a_manager_there_is_no_swarm(message, raises):
    kind = docker.errors.NotFound if message == "Not Found" else docker.errors.APIError
    _, engine = connected(nodes=kind("503", explanation=message))
    if raises:
        with pytest.raises(EngineError) as caught:
            engine.swarm()
        assert caught.value.code == "swarm-leaderless"
    else:
        assert engine.swarm() is None
    assert engine.swarm(needed=False) is None


def test_another_error_of_the_engine_is_no_missing_swarm():
    _, engine = connected(nodes=docker.errors.APIError("500", explanation="disk is full"))
    with pytest.raises(EngineError):
        engine.swarm(needed=False)


class TestFakeSwarm:
    """The fake's Swarm does what the tests of plans need."""

    @pytest.fixture
    def fake(self):
        fake = FakeEngine()
        fake.join("a", "b")
        fake.create_config("reference-1", b"{}")
        return fake

    def test_one_task_on_each_node(self, fake):
        fake.create_service(dataclasses.replace(SPEC, replicas=3, constraints=()), fake.swarm().configs)
        tasks = fake.swarm().tasks_of(SPEC.name)
        assert [task.state for task in tasks] == ["running", "running", "pending"]
        assert fake.state().swarm == "manager"

    def test_constraint_and_version(self, fake):
        fake.create_service(dataclasses.replace(SPEC, constraints=("node.id!=a-id",)), fake.swarm().configs)
        assert [task.node for task in fake.swarm().tasks_of(SPEC.name)] == ["b-id", ""]
        old = fake.swarm().service(SPEC.name)
        fake.update_service(old, dataclasses.replace(SPEC, constraints=()), fake.swarm().configs)
        assert [task.node for task in fake.swarm().tasks_of(SPEC.name)] == ["a-id", "b-id"]
        with pytest.raises(EngineError):
            fake.update_service(old, SPEC, fake.swarm().configs)

    def test_used_config_stays(self, fake):
        fake.create_service(SPEC, fake.swarm().configs)
        with pytest.raises(EngineError):
            fake.remove_config("reference-1")
        fake.remove_service(SPEC.name)
        fake.remove_config("reference-1")
        assert fake.swarm() == SwarmState(tuple(fake.nodes))

    def test_without_nodes_the_engine_is_in_no_swarm(self):
        assert FakeEngine().swarm() is None
        assert FakeEngine().state().swarm == "inactive"
