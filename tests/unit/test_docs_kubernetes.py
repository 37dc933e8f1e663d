"""The Deployment of the page about Kubernetes starts vLLM as ragops does."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from ragops.configuration import parse
from ragops.reranker import options
from tests.unit.test_reranker_options import QWEN3, host, launch

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "kubernetes.rst").read_text()
SPEC = launch(QWEN3, host(8))


@pytest.fixture(scope="module")
def objects():
    return {
        item["kind"]: item
        for item in yaml.safe_load_all((DOCS / "_data/kubernetes/reranker.yaml").read_text())
    }


@pytest.fixture(scope="module")
def pod(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


def values(words):
    """Values of options by their names; JSON is parsed."""
    pairs = [word.partition("=")[::2] for word in words]
    return {name: json.loads(text) if text.startswith("{") else text for name, text in pairs}


def test_vllm_is_started_as_by_ragops(container):
    words = [*SPEC.command]
    names = [place for place, word in enumerate(words) if word.startswith("--")]
    own = ["=".join(words[first:last]) for first, last in zip(names, [*names[1:], None], strict=True)]
    expected = values(own) | {"--chat-template": "/ragops/qwen3_reranker.jinja"}
    assert values(container["args"]) == expected
    start = options.ENTRYPOINT
    assert container["command"] == ["python3", "-IS", "/ragops/task.py", "start", *start]
    environment = {item["name"]: item["value"] for item in container["env"]}
    assert environment == {
        name: value for name, value in SPEC.environment if name != "VLLM_CPU_OMP_THREADS_BIND"
    }


def test_its_limits_and_folders_are_those_of_ragops(pod, container):
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests == limits
    assert int(limits["memory"].removesuffix("Gi")) << 30 >= SPEC.memory
    user = pod["securityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == SPEC.user
    mounted = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert volumes.keys() == {*mounted.values()}
    assert {mount.target for mount in SPEC.mounts} - {f"/templates/{options.known(QWEN3).template}"} <= {
        *mounted
    }
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{SPEC.shm_size >> 30}Gi"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": options.PORT}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == SPEC.health.start_period


def test_each_address_of_the_page_is_one_replica(objects, pod):
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    service = objects["Service"]["spec"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == service["selector"] == labels
    (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"] == labels
    assert service["externalTrafficPolicy"] == "Local"
    text = re.search(r"   :caption: ragops.toml\n\n((?:   .*\n|\n)+)", PAGE)[1].replace("\n   ", "\n").strip()
    assert tomllib.loads(text)
    servers = parse(text).servers
    assert len(servers) == objects["Deployment"]["spec"]["replicas"]
    assert {server.rpartition(":")[2] for server in servers} == {
        str(port["nodePort"]) for port in service["ports"]
    }


def test_the_config_map_has_the_files_that_are_mounted(pod):
    data = Path(options.TEMPLATES).parent
    names = re.findall(r"--from-file=(\S+)", PAGE)
    assert all((data / name).is_file() for name in names)
    assert {Path(name).name for name in names} == {"task.py", "qwen3_reranker.jinja"}
    (config,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert f"create configmap {config} " in PAGE
