"""RAGFlow's release and address: from the configuration, the image, the server, or the container."""

import pytest

from ragops.configuration import Ragflow, parse
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, ExecResult
from ragops.errors import RagflowError, StackError
from ragops.ragflow import discovery
from ragops.ragflow.discovery import (
    FINGERPRINTS,
    RagflowContainer,
    api_url,
    find,
    is_ragflow,
    matching_releases,
)
from ragops.ragflow.releases import KNOWN
from tests.support.contract.api import RagflowServer

MIRRORS = (
    "infiniflow/ragflow",
    "swr.cn-north-4.myhuaweicloud.com/infiniflow/ragflow",
    "registry.cn-hangzhou.aliyuncs.com/infiniflow/ragflow",
)


@pytest.fixture
def nightly(fake):
    """A container whose image tells nothing."""
    labels = {COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"}
    fake.add_container("docker-ragflow-cpu-1", image="infiniflow/ragflow:nightly", labels=labels)
    return RagflowContainer(fake.container("docker-ragflow-cpu-1"))


def says(fake, code, out="", err=""):
    fake.respond = lambda _box, argv, _stdin: ExecResult(code, out, err) if argv[0] == "cat" else None


@pytest.mark.parametrize("name", ["ragflow-server", "docker-ragflow-cpu-1", "docker-ragflow-1"])
def test_default_container_names_are_found(fake, name):
    fake.add_container(name, image="any:1")
    assert is_ragflow(fake.container(name))


@pytest.mark.parametrize("service", ["ragflow", "ragflow-cpu", "ragflow-gpu"])
def test_compose_services_are_found(fake, service):
    fake.add_container("x", image="any:1", labels={COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: service})
    assert is_ragflow(fake.container("x"))


@pytest.mark.parametrize("image", MIRRORS)
@pytest.mark.parametrize("tag", [":v0.25.3", ":v0.25.3-slim", ":0.25.3", ":v0.25.3@sha256:1"])
def test_mirrors_and_tags(fake, image, tag):
    fake.add_container("x", image=image + tag)
    (found,) = find(fake.containers(), Ragflow())
    assert found.release == "v0.25.3"


def test_executor_is_no_server(fake):
    fake.add_container("ragflow-executor", image="infiniflow/ragflow:v0.20.5")
    fake.change("ragflow-executor", command=("/ragflow/entrypoint_task_executor.sh", "1", "3"))
    assert find(fake.containers(), Ragflow()) == ()


class TestOrder:
    def test_declaration_goes_first(self, nightly):
        found = discovery.detect("v0.26.1", url="http://127.0.0.1:9", container=nightly)
        assert (found.release.name, found.source) == ("v0.26.1", "ragops.toml")

    def test_tag_is_next(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.22.1")
        found = discovery.detect(
            None, url="http://127.0.0.1:9", container=RagflowContainer(fake.container("x"))
        )
        assert (found.release.name, found.source) == ("v0.22.1", "the tag of infiniflow/ragflow:v0.22.1")

    @pytest.mark.parametrize("name", ["v0.25.2", "v0.25.6", "v0.26.4", "v0.27.0"])
    def test_server_tells_it_to_anybody(self, name, nightly, fake):
        with RagflowServer(name) as server:
            found = discovery.detect(None, url=server.url, container=nightly, engine=fake)
        assert found.release.name == name
        assert found.source.endswith("/api/v1/system/version")
        assert all(one.authorization == "" for one in server.asked)

    def test_file_in_the_container_is_last(self, nightly, fake):
        says(fake, 0, "v0.23.1 full\n")
        with RagflowServer("v0.23.1") as server:
            found = discovery.detect(None, url=server.url, container=nightly, engine=fake)
        assert (found.release.name, found.source) == ("v0.23.1", "/ragflow/VERSION in docker-ragflow-cpu-1")

    def test_unknown_tag_is_not_asked_around(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.9.0")
        with pytest.raises(RagflowError) as caught:
            discovery.detect(None, url="http://127.0.0.1:9", container=RagflowContainer(fake.container("x")))
        assert (caught.value.code, "v0.9.0" in caught.value.message) == ("ragflow-release", True)


def test_unknown_release_lists_all_that_was_tried(nightly, fake):
    says(fake, 1, "", "cat: /ragflow/VERSION: No such file or directory")
    with (
        RagflowServer("v0.22.0") as server,
        pytest.raises(RagflowError) as caught,
    ):
        discovery.detect(None, url=server.url, container=nightly, engine=fake)
    seen = caught.value.evidence
    assert "has the routes of v0.21.0 to v0.24.0" in seen
    assert "No such file" in seen
    assert caught.value.code == "ragflow-release"


def test_build_between_releases_is_none_of_them(nightly, fake):
    says(fake, 0, "v0.25.6-31-gabc1234 full")
    with RagflowServer("v0.24.0") as server, pytest.raises(RagflowError) as caught:
        discovery.detect(None, url=server.url, container=nightly, engine=fake)
    assert "v0.25.6-31-gabc1234" in caught.value.evidence


def test_server_that_ran_from_source_says_unknown():
    with RagflowServer("v0.27.0", version="unknown") as server:
        said, seen = discovery.server_release(server.url)
    assert said == ""
    assert "v0.27.0 to v0.27.0; its version route reports unknown" in seen


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("v0.18.0", "v0.17.0", "v0.20.5"),
        ("v0.22.1", "v0.21.0", "v0.24.0"),
        ("v0.25.3", "v0.25.0", "v0.25.6"),
        ("v0.26.2", "v0.26.0", "v0.26.4"),
        ("v0.27.0", "v0.27.0", "v0.27.0"),
    ],
)
def test_routes_narrow_it_down(name, first, last):
    with RagflowServer(name, version="unknown") as server:
        _, seen = discovery.server_release(server.url)
    assert f"the routes of {first} to {last}" in seen


def test_routes_of_no_release():
    assert matching_releases(dict.fromkeys(FINGERPRINTS, 200)) == ()
    assert matching_releases(dict.fromkeys(FINGERPRINTS, 404)) == ()


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

    def test_address_in_a_network(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.25.3", network="docker_ragflow")
        (end,) = fake.container("x").endpoints
        assert api_url(RagflowContainer(fake.container("x"))) == f"http://{end.address}:9380"

    def test_none(self, fake):
        fake.add_container("x", image="infiniflow/ragflow:v0.25.3", network="host")
        with pytest.raises(RagflowError) as caught:
            api_url(RagflowContainer(fake.container("x")))
        assert (caught.value.code, caught.value.container) == ("ragflow-silent", "x")


def test_declared_release_is_checked():
    assert parse('[ragflow]\nrelease = "0.25.6"').ragflow.release == "v0.25.6"
    with pytest.raises(StackError, match=r"ragflow\.release = 'v9\.9\.9' can't be used") as caught:
        parse('[ragflow]\nrelease = "v9.9.9"')
    assert KNOWN[-1] in caught.value.evidence
