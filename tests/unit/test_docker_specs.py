"""Specifications of containers and networks: request bodies and docker commands."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.docker.objects import (
    LABEL,
    LABEL_CONFIG,
    LABEL_IMAGE,
    LABEL_NAME,
    ContainerSpec,
    HealthCheck,
    Mount,
    NetworkSpec,
)

FULL = ContainerSpec(
    name="container",
    image="image:1",
    entrypoint=("python3", "-m", "server"),
    command=("--port", "8000"),
    environment=(("A", "b c"),),
    mounts=(Mount("/srv/model", "/model", read_only=True), Mount("cache", "/cache", "volume")),
    tmpfs=(("/scratch", "rw,exec"),),
    network="net",
    aliases=("pair",),
    publish=(("127.0.0.1", 8123, 8000),),
    cpuset_cpus="0-3",
    cpuset_mems="0",
    memory=2**30,
    shm_size=2**30,
    pids_limit=99,
    restart="on-failure:5",
    health=HealthCheck(("python3", "-c", "pass"), interval=7),
    user="1000:1000",
    stop_signal="SIGKILL",
    stop_timeout=35,
    read_only=True,
    init=True,
)


def flags(spec, flag):
    argv = spec.docker_command()
    return [argv[number + 1] for number, part in enumerate(argv) if part == flag]


def test_body_says_everything():
    body = FULL.body()
    host = body["HostConfig"]
    assert body["Image"] == "image:1"
    assert (body["Entrypoint"], body["Cmd"]) == (["python3", "-m", "server"], ["--port", "8000"])
    assert body["Env"] == ["A=b c"]
    assert body["Healthcheck"]["Interval"] == 7_000_000_000
    assert body["NetworkingConfig"] == {"EndpointsConfig": {"net": {"Aliases": ["pair"]}}}
    assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8123"}]}
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 5}
    assert host["Mounts"][0] == {
        "Type": "bind",
        "Source": "/srv/model",
        "Target": "/model",
        "ReadOnly": True,
    }
    assert (body["User"], body["StopSignal"], body["StopTimeout"]) == ("1000:1000", "SIGKILL", 35)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert (host["CpusetCpus"], host["CpusetMems"]) == ("0-3", "0")
    assert (host["ReadonlyRootfs"], host["Init"], host["CapDrop"]) == (True, True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]


def test_swap_is_never_given_beyond_memory():
    host = FULL.body()["HostConfig"]
    assert host["MemorySwap"] == host["Memory"] == 2**30


def test_no_quota_is_ever_set():
    assert not {"NanoCpus", "CpuQuota", "CpuPeriod"} & set(FULL.body()["HostConfig"])


def test_command_line_says_the_same():
    argv = FULL.docker_command()
    assert argv[:2] == ("docker", "run")
    assert argv[argv.index("image:1") :] == ("image:1", "-m", "server", "--port", "8000")
    assert flags(FULL, "--publish") == ["127.0.0.1:8123:8000"]
    assert flags(FULL, "--entrypoint") == ["python3"]
    assert flags(FULL, "--mount") == [
        "type=bind,source=/srv/model,target=/model,readonly",
        "type=volume,source=cache,target=/cache",
    ]
    assert flags(FULL, "--health-cmd") == ["python3 -c pass"]
    assert flags(FULL, "--health-interval") == ["7s"]
    assert flags(FULL, "--restart") == ["on-failure:5"]
    assert flags(FULL, "--user") == ["1000:1000"]
    assert flags(FULL, "--network-alias") == ["pair"]
    assert (flags(FULL, "--stop-signal"), flags(FULL, "--stop-timeout")) == (["SIGKILL"], ["35"])
    assert flags(FULL, "--log-opt") == ["max-size=10m", "max-file=3"]
    assert flags(FULL, "--label") == [f"{key}={value}" for key, value in FULL.all_labels().items()]
    assert {"--read-only", "--init"} <= set(argv)


def test_ipv6_address_is_bracketed():
    spec = dataclasses.replace(FULL, publish=(("::1", 8123, 8000),))
    assert flags(spec, "--publish") == ["[::1]:8123:8000"]


def test_plain_container_has_a_plain_command():
    spec = ContainerSpec("container", "image:1")
    plain = ("docker", "run", "--detach", "--name", "container")
    assert spec.docker_command()[:5] == plain
    assert flags(spec, "--network") == flags(spec, "--restart") == flags(spec, "--memory") == []
    assert spec.body()["HostConfig"]["NetworkMode"] == "default"
    assert spec.body()["Healthcheck"] is None


@pytest.mark.parametrize("network", [None, "container:other"])
def test_shared_and_default_networks_have_no_endpoint(network):
    spec = dataclasses.replace(FULL, network=network)
    assert spec.body()["NetworkingConfig"] == {"EndpointsConfig": {}}


@pytest.mark.parametrize("field", [one.name for one in dataclasses.fields(ContainerSpec)])
def test_hash_changes_with_every_field_but_name_and_image(field):
    bare = ContainerSpec("box2", "image:2", "sha256:2", role="demo", labels=(("x", "y"),))
    changed = dataclasses.replace(FULL, **{field: getattr(bare, field)})
    same = changed.config_hash() == FULL.config_hash()
    assert same == (field in {"name", "image", "image_id"})


def test_a_container_of_an_earlier_version_has_the_right_hash():
    spec = ContainerSpec("container", "image:1", network="net", stop_signal="SIGKILL")
    assert spec.config_hash() == "5525545eb430"


def test_container_is_created_from_the_id_of_the_image():
    spec = dataclasses.replace(FULL, image_id="sha256:1")
    assert spec.body()["Image"] == "sha256:1"
    assert "sha256:1" in spec.docker_command()
    assert spec.all_labels()[LABEL_IMAGE] == "image:1"


@given(st.text(max_size=20), st.text(max_size=20))
def test_hash_is_the_same_for_the_same_declaration(name, value):
    made = [ContainerSpec("container", "image:1", environment=((name, value),)) for _ in range(2)]
    assert made[0].config_hash() == made[1].config_hash()
    assert len(made[0].config_hash()) == 12


def test_own_labels_win_over_none_of_ours():
    spec = dataclasses.replace(FULL, labels=(("com.docker.compose.project", "docker"),))
    assert spec.all_labels() == {
        LABEL: "reranker",
        LABEL_CONFIG: spec.config_hash(),
        LABEL_NAME: "container",
        LABEL_IMAGE: "image:1",
        "com.docker.compose.project": "docker",
    }


def test_network_command():
    assert NetworkSpec("net", subnet="10.77.0.0/24", internal=True).command() == (
        "docker", "network", "create", "--driver", "bridge", "--subnet", "10.77.0.0/24",
        "--internal", "--label", f"{LABEL}=network", "net",
    )  # fmt: skip
