"""Which containers are RAGFlow's, of which release, and which can join a network."""

import pytest

from ragops.configuration import Ragflow
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE
from ragops.errors import RagflowError
from ragops.ragflow.discovery import DEMO, RagflowContainer, check_connectable, find, is_ragflow

ANY = Ragflow()


def service(name, project="docker"):
    return {COMPOSE_PROJECT: project, COMPOSE_SERVICE: name}


def names(engine, declared=ANY):
    return [one.name for one in find(engine.containers(), declared)]


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
        ("mirror.test:5000/infiniflow/ragflow:v0.9.0", "v0.9.0"),
        ("infiniflow/ragflow:nightly", ""),
        ("infiniflow/ragflow", ""),
    ],
)
def test_release_is_in_the_tag(fake, image, release):
    fake.add_container("ragflow-server", image=image)
    assert find(fake.containers(), ANY)[0].release == release


def test_only_the_server_is_found(fake, ragflow):
    fake.add_container("docker-mysql-1", labels=service("mysql"))
    found = find(fake.containers(), ANY)[0]
    assert (found.name, found.project, found.service) == (ragflow, "docker", "ragflow-cpu")
    assert names(fake) == [ragflow]


def test_none_is_no_error(fake):
    assert names(fake) == []


def test_replicas_of_one_project_are_all_found_in_order(fake):
    for name in ("docker-ragflow-cpu-2", "docker-ragflow-cpu-1"):
        fake.add_container(name, labels=service("ragflow-cpu"))
    assert names(fake) == ["docker-ragflow-cpu-1", "docker-ragflow-cpu-2"]


def test_two_projects_must_be_told_apart(fake):
    for project in ("blue", "green"):
        fake.add_container(f"{project}-ragflow-1", labels=service("ragflow", project))
    with pytest.raises(RagflowError, match="2 RAGFlows run on this engine") as caught:
        names(fake)
    assert "green: green-ragflow-1" in caught.value.evidence
    assert 'project = "blue"' in caught.value.hint
    assert names(fake, Ragflow(project="green")) == ["green-ragflow-1"]
    assert names(fake, Ragflow(project="red")) == []


def test_declared_ones_are_taken_as_they_are(fake, ragflow):
    ids = {name: fake.add_container(name) for name in ("mine", "other")}
    assert names(fake, Ragflow(containers=("mine", "other"))) == ["mine", "other"]
    assert names(fake, Ragflow(containers=(ids["mine"][:12],))) == ["mine"]


def test_declared_ones_are_found_in_any_iterable(fake):
    for name in ("mine", "other"):
        fake.add_container(name)
    assert len(find(iter(fake.containers()), Ragflow(containers=("mine", "other")))) == 2


@pytest.mark.parametrize("name", ["nobody", "", "a"])
def test_declared_one_that_is_missing_names_what_is_there(fake, ragflow, name):
    with pytest.raises(RagflowError, match=f"no container is named {name}") as caught:
        names(fake, Ragflow(containers=(name,)))
    assert ragflow in caught.value.evidence


def test_name_goes_before_an_id_that_begins_alike(fake):
    number = fake.add_container("first")
    fake.add_container(number[:12])
    assert names(fake, Ragflow(containers=(number[:12],))) == [number[:12]]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("host", "host's network"), ("none", "without a network"), ("container:other", "another container's")],
)
def test_obstacles(fake, mode, reason):
    fake.add_container("other")
    fake.add_container("box", network=mode)
    found = RagflowContainer(fake.container("box"))
    assert reason in found.obstacle
    with pytest.raises(RagflowError, match="can't be connected to a network") as caught:
        check_connectable(found)
    assert "network_mode" in caught.value.hint


@pytest.mark.parametrize("mode", ["bridge", "docker_ragflow"])
def test_no_obstacle(fake, mode):
    fake.add_container("box", network=mode)
    found = RagflowContainer(fake.container("box"))
    assert check_connectable(found) is found


def test_demo_client_says_that_it_is_one(fake):
    labels = {**service("ragflow-cpu"), "org.ragops": DEMO}
    fake.add_container("x", image="infiniflow/ragflow:v0.25.3", labels=labels)
    found = find(fake.containers(), ANY)[0]
    assert (found.demo, found.release) == (True, "")
