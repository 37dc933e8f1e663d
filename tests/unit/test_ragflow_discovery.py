"""RAGFlow's containers, their release and address, and which can be connected to a network."""

import pytest

from ragops.configuration import Ragflow, parse
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE
from ragops.errors import RagflowError, StackError
from ragops.ragflow import discovery, releases
from ragops.ragflow.discovery import (
    DEMO,
    VERSION_ROUTE,
    RagflowContainer,
    api_url,
    check_connectable,
    find,
    is_ragflow,
)
from ragops.ragflow.releases import KNOWN, NEWEST
from tests.support.contract.api import RagflowServer
from tests.support.fake_engine import FakeEngine

ANY = Ragflow()
MIRRORS = (
    "infiniflow/ragflow",
    "swr.cn-north-4.myhuaweicloud.com/infiniflow/ragflow",
    "registry.cn-hangzhou.aliyuncs.com/infiniflow/ragflow",
)


def service(name, project="docker"):
    return {COMPOSE_PROJECT: project, COMPOSE_SERVICE: name}


def names(engine, configured=ANY):
    return [ragflow.name for ragflow in find(engine.containers(), configured)]


@pytest.mark.parametrize(
    ("name", "image", "labels", "expected"),
    [
        ("docker-ragflow-cpu-1", "any:1", service("ragflow-cpu"), True),  # v0.22 and later
        ("docker-ragflow-gpu-1", "any:1", service("ragflow-gpu"), True),
        ("x", "any:1", service("ragflow"), True),
        ("ragflow-server", "any:1", {}, True),  # before v0.22
        ("x", "infiniflow/ragflow:v0.20.5-slim", {}, True),
        ("x", "mirror.test:5000/infiniflow/ragflow@sha256:1", {}, True),
        ("x", "infiniflow/ragflow", {}, True),
        ("x", "infiniflow/ragflow-sandbox:1", {}, False),
        ("x", "notinfiniflow/ragflow:1", {}, False),
        ("ragflow-mysql", "mysql:8", service("mysql"), False),
        ("docker-tei-cpu-1", "infiniflow/text-embeddings-inference:1", service("tei-cpu"), False),
    ],
)
def test_is_ragflow(fake, name, image, labels, expected):
    fake.add_container(name, image=image, labels=labels)
    assert is_ragflow(fake.container(name)) is expected


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("infiniflow/ragflow:v0.25.3", "v0.25.3"),
        ("infiniflow/ragflow:0.20.5-slim", "v0.20.5"),
        ("infiniflow/ragflow:v1.0.0-rc1", "v1.0.0-rc1"),
        ("mirror.test:5000/infiniflow/ragflow:v0.9.0", "v0.9.0"),
        ("infiniflow/ragflow:nightly", ""),
        ("infiniflow/ragflow", ""),
    ],
)
def test_release_is_in_the_tag(fake, image, release):
    fake.add_container("ragflow-server", image=image)
    assert find(fake.containers(), ANY)[0].release == release


@pytest.mark.parametrize(
    ("tag", "environment", "in_go", "contract"),
    [
        ("v1.0.0-rc1", (), True, "v1.0.0-rc1"),
        ("v0.27.0", (), False, "v0.27.0"),
        ("v0.27.0", ("API_PROXY_SCHEME=go",), True, "v0.27.0"),
        ("nightly", ("API_PROXY_SCHEME=go",), True, "v1.0.0-rc1"),
        ("nightly", ("API_PROXY_SCHEME=python",), False, NEWEST),
    ],
)
def test_a_server_in_go(fake, tag, environment, in_go, contract):
    fake.add_container("ragflow-server", image=f"infiniflow/ragflow:{tag}")
    fake.change("ragflow-server", environment=environment)
    (server,) = find(fake.containers(), ANY)
    assert (server.has_go_server, server.contract.name) == (in_go, contract)


def test_only_the_server_is_returned(fake, ragflow):
    fake.add_container("docker-mysql-1", labels=service("mysql"))
    server = find(fake.containers(), ANY)[0]
    assert (server.name, server.project, server.service) == (ragflow, "docker", "ragflow-cpu")
    assert names(fake) == [ragflow]


def test_no_ragflow_is_no_error(fake):
    assert names(fake) == []


def test_replicas_of_one_project_are_sorted_by_name(fake):
    for name in ("docker-ragflow-cpu-2", "docker-ragflow-cpu-1"):
        fake.add_container(name, labels=service("ragflow-cpu"))
    assert names(fake) == ["docker-ragflow-cpu-1", "docker-ragflow-cpu-2"]


def test_two_projects_are_ambiguous(fake):
    for project in ("blue", "green"):
        fake.add_container(f"{project}-ragflow-1", labels=service("ragflow", project))
    with pytest.raises(RagflowError) as caught:
        names(fake)
    assert caught.value.code == "ragflow-ambiguous"
    assert "green: green-ragflow-1" in caught.value.evidence
    assert 'project = "blue"' in caught.value.hint
    assert names(fake, Ragflow(project="green")) == ["green-ragflow-1"]
    assert names(fake, Ragflow(project="red")) == []


def test_configured_containers_are_used_without_a_check(fake, ragflow):
    ids = {name: fake.add_container(name) for name in ("mine", "other")}
    assert names(fake, Ragflow(containers=("mine", "other"))) == ["mine", "other"]
    assert names(fake, Ragflow(containers=(ids["mine"][:12],))) == ["mine"]


def test_any_iterable_of_containers_is_accepted(fake):
    for name in ("mine", "other"):
        fake.add_container(name)
    assert len(find(iter(fake.containers()), Ragflow(containers=("mine", "other")))) == 2


@pytest.mark.parametrize("name", ["missing", "ab"])
def test_a_missing_container_is_an_error_with_the_similar_ones(fake, ragflow, name):
    with pytest.raises(RagflowError) as caught:
        names(fake, Ragflow(containers=(name,)))
    assert (caught.value.code, caught.value.container) == ("container-missing", name)
    assert ragflow in caught.value.evidence


def test_a_name_goes_before_the_same_short_id(fake):
    number = fake.add_container("first")
    fake.add_container(number[:12])
    assert names(fake, Ragflow(containers=(number[:12],))) == [number[:12]]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("host", "host's network"), ("none", "without a network"), ("container:other", "another container's")],
)
def test_obstacles(fake, mode, reason):
    fake.add_container("other")
    fake.add_container("container", network=mode)
    ragflow = RagflowContainer(fake.container("container"))
    assert reason in ragflow.obstacle
    with pytest.raises(RagflowError) as caught:
        check_connectable(ragflow)
    assert caught.value.code == "cannot-join"


@pytest.mark.parametrize("mode", ["bridge", "docker_ragflow"])
def test_no_obstacle(fake, mode):
    fake.add_container("container", network=mode)
    ragflow = RagflowContainer(fake.container("container"))
    assert check_connectable(ragflow) is ragflow


def test_the_demo_client_has_no_release(fake):
    labels = {**service("ragflow-cpu"), "org.ragops": DEMO}
    fake.add_container("x", image="infiniflow/ragflow:v0.25.3", labels=labels)
    client = find(fake.containers(), ANY)[0]
    assert (client.demo, client.release) == (True, "")


@pytest.fixture
def nightly(fake):
    """A container whose image has no release in its tag."""
    labels = {COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"}
    fake.add_container("docker-ragflow-cpu-1", image="infiniflow/ragflow:nightly", labels=labels)
    return RagflowContainer(fake.container("docker-ragflow-cpu-1"))


@pytest.mark.parametrize("image", MIRRORS)
@pytest.mark.parametrize("tag", [":v0.25.3", ":v0.25.3-slim", ":0.25.3", ":v0.25.3@sha256:1"])
def test_mirrors_and_tags(fake, image, tag):
    fake.add_container("x", image=image + tag)
    (ragflow,) = find(fake.containers(), ANY)
    assert ragflow.release == "v0.25.3"


def test_executor_is_no_server(fake):
    fake.add_container("ragflow-executor", image="infiniflow/ragflow:v0.20.5")
    fake.change("ragflow-executor", command=("/ragflow/entrypoint_task_executor.sh", "1", "3"))
    assert find(fake.containers(), ANY) == ()


class TestDetect:
    def test_the_configuration_goes_first(self, nightly):
        with RagflowServer("v0.27.0") as server:
            assert discovery.detect("v0.26.1", server.url, nightly).name == "v0.26.1"

    def test_the_tag_is_next(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.22.1")
        with RagflowServer("v0.22.1") as server:
            assert discovery.detect(None, server.url, RagflowContainer(fake.container("x"))).name == "v0.22.1"

    def test_the_record_of_a_registration_is_last(self):
        with RagflowServer("v0.24.0") as server:
            assert discovery.detect(None, server.url, recorded=["v0.24.0"]).name == "v0.24.0"

    @pytest.mark.parametrize("name", ["v0.25.2", "v0.25.6", "v0.26.4", "v0.27.0"])
    def test_the_server_needs_no_token(self, name, nightly):
        with RagflowServer(name) as server:
            assert discovery.detect(None, server.url, nightly).name == name
        assert all(request.authorization == "" for request in server.calls)

    def test_an_unknown_tag_is_an_error(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.9.0")
        container = RagflowContainer(fake.container("x"))
        with RagflowServer("v0.27.0") as server, pytest.raises(RagflowError) as caught:
            discovery.detect(None, server.url, container)
        assert (caught.value.code, "v0.9.0" in caught.value.message) == ("ragflow-release", True)


@pytest.mark.parametrize("release", ["v0.22.0", "v0.27.0"])
def test_an_unknown_release_is_an_error(nightly, release):
    with RagflowServer(release, version="unknown") as server, pytest.raises(RagflowError) as caught:
        discovery.detect(None, server.url, nightly)
    assert VERSION_ROUTE in caught.value.evidence
    assert caught.value.code == "ragflow-release"


class TestAddress:
    @pytest.mark.parametrize(
        ("published", "url"),
        [
            ((("0.0.0.0", 8880, 80), ("0.0.0.0", 9380, 9380)), "http://127.0.0.1:9380"),
            ((("::", 80, 80),), "http://127.0.0.1:80"),
            ((("192.0.2.7", 81, 80),), "http://192.0.2.7:81"),
            ((("::1", 81, 80),), "http://[::1]:81"),
        ],
    )
    def test_published_port(self, fake, published, url):
        fake.add_container("x", image="infiniflow/ragflow:v0.25.3")
        fake.change("x", published=published)
        assert api_url(RagflowContainer(fake.container("x"))) == url

    def test_nginx_comes_before_the_port_that_a_server_in_go_may_not_have(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v1.0.0-rc1")
        fake.change("x", published=(("0.0.0.0", 9380, 9380), ("0.0.0.0", 9384, 9384)))
        assert api_url(RagflowContainer(fake.container("x"))) == "http://127.0.0.1:9384"
        fake.change("x", published=(("0.0.0.0", 9380, 9380), ("0.0.0.0", 8880, 80)))
        assert api_url(RagflowContainer(fake.container("x"))) == "http://127.0.0.1:8880"

    def test_address_in_a_network(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.25.3", network="docker_ragflow")
        (endpoint,) = fake.container("x").endpoints
        assert api_url(RagflowContainer(fake.container("x"))) == f"http://{endpoint.address}:9380"

    def test_none(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.25.3", network="host")
        with pytest.raises(RagflowError) as caught:
            api_url(RagflowContainer(fake.container("x")))
        assert (caught.value.code, caught.value.container) == ("ragflow-silent", "x")


def test_the_configured_release_is_checked():
    with RagflowServer("v0.25.6") as server:
        release = discovery.detect(parse('[ragflow]\nrelease = "0.25.6"').ragflow.release, server.url)
        with pytest.raises(RagflowError) as caught:
            discovery.detect("v9.9.9", server.url)
    assert release.name == "v0.25.6"
    assert caught.value.code == "ragflow-release"
    assert KNOWN[-1] in caught.value.evidence
    with pytest.raises(StackError):
        parse('[ragflow]\nrelease = "newest"')


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("infiniflow/ragflow:v0.27.2-slim", "v0.27.2"),
        ("infiniflow/ragflow:v0.27.2@sha256:" + 64 * "a", "v0.27.2"),
        ("registry.example:5000/infiniflow/ragflow:v1.0.0-rc1", "v1.0.0-rc1"),
        ("infiniflow/ragflow:v0.27.9", "v0.27.9"),
        ("infiniflow/ragflow:nightly", ""),
        ("infiniflow/ragflow:latest", ""),
        ("infiniflow/ragflow", ""),
        ("infiniflow/ragflow@sha256:" + 64 * "a", ""),
        ("infiniflow/ragflow:v0.23.1-312-g38289084a", ""),
    ],
)
def test_release_of_an_image(fake, image, release):
    fake.add_container("ragflow-server", image=image)
    assert RagflowContainer(fake.container("ragflow-server")).release == release


@pytest.mark.parametrize("tag", ["v0.28.0", "v2.0.0"])
def test_release_of_an_unknown_minor_is_refused_as_newer(fake, tag):
    fake.add_container("ragflow-server", image=f"infiniflow/ragflow:{tag}")
    with RagflowServer("v0.27.0") as server, pytest.raises(RagflowError) as caught:
        discovery.detect(None, server.url, RagflowContainer(fake.container("ragflow-server")))
    assert "newer" in caught.value.message


def test_release_of_a_moving_tag_is_that_of_the_server(fake):
    fake.add_container("ragflow-server", image="infiniflow/ragflow:nightly")
    with RagflowServer("v0.27.2") as server:
        release = discovery.detect(None, server.url, RagflowContainer(fake.container("ragflow-server")))
    assert release == releases.of("v0.27.2")


@pytest.mark.parametrize("names", ["", 'containers = ["ragflow-server"]\n'])
def test_configured_release_is_that_of_the_container(fake, names):
    fake.add_container("ragflow-server", image="infiniflow/ragflow:nightly")
    configured = parse(f'[ragflow]\nrelease = "0.25.6"\n{names}').ragflow
    (found,) = discovery.find(fake.containers(), configured)
    assert found.release == "v0.25.6"
    assert found.contract == releases.of("v0.25.6")


@pytest.mark.parametrize(
    ("error", "start"),
    [
        ('exec: "./entrypoint.sh": permission denied: unknown', "docker start"),
        ("Bind for 0.0.0.0:80 failed: port is already allocated", "docker start"),
        ("endpoint with name box already exists in network net", "docker network disconnect"),
    ],
)
def test_start_of_a_container_that_docker_could_not_start(error, start):
    engine = FakeEngine()
    engine.add_container("box")
    state = engine.change("box", status="exited", error=error)
    assert RagflowContainer(state).start.startswith(start)
