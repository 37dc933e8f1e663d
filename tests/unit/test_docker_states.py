"""Responses of a Docker engine (20.10, recorded in ``data/inspect``) become records."""

import json
from pathlib import Path

import pytest

from ragops.docker.objects import (
    COMPOSE_SERVICE,
    LABEL,
    LABEL_MODEL,
    ContainerState,
    EngineState,
    ImageState,
    NetworkState,
    StatsState,
    option_value,
)

FOLDER = Path(__file__).parents[1] / "data" / "inspect"


def recorded(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def state(name):
    return ContainerState.from_api(recorded(f"container-{name}"))


def test_reranker():
    container = state("reranker")
    place = container.endpoint("ragflow-rerank")
    assert (container.name, container.image, container.status, container.health) == (
        "ragflow-vllm-reranker",
        "vllm-cpu:latest",
        "running",
        "healthy",
    )
    assert container.published == (("127.0.0.1", 8123, 8000),)
    assert place.aliases[0] == "ragflow-vllm-reranker"
    assert place.address.startswith("172.")
    assert (container.ours, container.role, len(container.config)) == (True, "reranker", 12)
    assert container.command[:3] == ("python3", "-m", "vllm.entrypoints.openai.api_server")
    assert "HF_HUB_OFFLINE=1" in container.environment
    assert container.running


def test_model_of_a_reranker_without_the_label_is_the_mounted_folder():
    container = state("reranker")
    assert LABEL_MODEL not in container.labels
    assert container.model == Path(container.mounts[option_value(container.command, "--model")])
    assert state("ragflow").model is None


@pytest.mark.parametrize(
    ("folder", "hidden"),
    [("/srv/m", True), ("/home/u/m", False), ("/home/u/.cache/m", True), ("/mnt/m", False), ("/", True)],
)
def test_folders_that_snap_does_not_see(folder, hidden):
    info = {"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}
    version = {"Version": "28.0.0", "ApiVersion": "1.48"}
    assert EngineState.from_api(info, version, "").hides(Path(folder)) is hidden
    assert not EngineState.from_api({"DockerRootDir": "/var/lib/docker"}, version, "").hides(Path(folder))


def test_container_in_two_networks():
    container = state("ragflow")
    assert [place.network for place in container.endpoints] == ["docker_ragflow", "ragflow-rerank"]
    assert all(place.network_id and place.address for place in container.endpoints)
    assert container.labels[COMPOSE_SERVICE] == "ragflow-cpu"
    assert container.endpoint("bridge") is None


def test_one_that_could_not_start():
    container = state("port-taken")
    assert (container.status, container.exit_code, container.running) == ("created", 128, False)
    assert container.error.endswith("Bind for 127.0.0.1:8123 failed: port is already allocated")
    assert container.published == ()


def test_stopped_one_keeps_its_networks_without_address():
    container = state("stopped")
    assert (container.status, container.running) == ("exited", False)
    places = {place.network: place for place in container.endpoints}
    assert places["bridge"].network_id  # it ran there
    assert places["ragflow-rerank"].network_id == ""  # connected since
    assert {place.address for place in container.endpoints} == {""}


def test_restarting_one_does_not_run():
    container = state("restarting")
    assert recorded("container-restarting")["State"]["Running"]  # the engine says otherwise
    assert (container.status, container.running, container.exit_code) == ("restarting", False, 3)
    assert container.restart_count > 0


def test_one_killed_for_memory():
    container = state("oom")
    assert (container.oom_killed, container.exit_code, container.status) == (True, 137, "exited")


def test_one_on_the_hosts_network():
    container = state("host")
    assert container.network_mode == "host"
    assert [place.network for place in container.endpoints] == ["host"]


def test_networks():
    found = {one.name: one for one in map(NetworkState.from_api, recorded("networks"))}
    ours = found["ragflow-rerank"]
    assert (ours.driver, ours.internal, ours.ours) == ("bridge", False, True)
    assert ours.subnets == ("172.20.0.0/16",)
    assert not found["bridge"].ours
    assert found["host"].subnets == ()


def test_image():
    found = ImageState.from_api(recorded("image"))
    assert "vllm-cpu:latest" in found.tags
    assert (found.digests, found.architecture, found.labels[LABEL]) == ((), "amd64", "image")
    assert found.size > 10**9


def test_use():
    used = StatsState.from_api(recorded("stats"))
    raw = recorded("stats")
    assert used.cpu_ns == raw["cpu_stats"]["cpu_usage"]["total_usage"]
    assert used.memory_bytes == 1_762_000_896 - 151_552


def test_use_of_a_stopped_container_is_nothing():
    stopped = {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}}
    assert StatsState.from_api(stopped).memory_bytes == 0


def test_use_under_cgroup_version_2():
    raw = recorded("stats")
    raw["memory_stats"] = {"usage": 100, "stats": {"inactive_file": 30}}
    assert StatsState.from_api(raw).memory_bytes == 70


@pytest.mark.parametrize("missing", ["Health", "OOMKilled", "Error", "StartedAt"])
def test_what_other_engines_leave_out(missing):
    raw = recorded("container-reranker")
    raw["State"].pop(missing)
    assert ContainerState.from_api(raw).name == "ragflow-vllm-reranker"


def test_labels_and_lists_may_be_null():
    raw = recorded("container-reranker")
    raw["Config"] |= {"Labels": None, "Entrypoint": None, "Cmd": None, "Env": None}
    raw["NetworkSettings"] |= {"Networks": None, "Ports": None}
    container = ContainerState.from_api(raw)
    assert (container.labels, container.command, container.endpoints, container.published) == ({}, (), (), ())


def test_port_that_is_exposed_but_not_published():
    raw = recorded("container-reranker")
    raw["NetworkSettings"]["Ports"] = {"8000/tcp": None, "9000/udp": [{"HostIp": "::1", "HostPort": "9"}]}
    assert ContainerState.from_api(raw).published == (("::1", 9, 9000),)
