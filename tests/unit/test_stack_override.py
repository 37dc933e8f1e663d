"""RAGFlow's override file: from labels alone, with errors, and never over a file of the user."""

import dataclasses
import io

import pytest
import yaml

from ragops.compose import AUTOMATIC
from ragops.configuration import Network
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE
from ragops.errors import RagflowError
from ragops.ragflow.discovery import RagflowContainer
from ragops.stack import override as compose
from tests.support.fake_engine import FakeEngine

NETWORK = Network()
LABEL = "com.docker.compose"


class Project:
    """A RAGFlow that compose created from files in a folder."""

    def __init__(self, folder):
        self.folder, self.engine = folder, FakeEngine()

    def add(self, service="ragflow-cpu", network="docker_ragflow", files=("docker-compose.yml",), **labels):
        named = ",".join(str(self.folder / file) for file in files)
        mine = {
            COMPOSE_PROJECT: "docker",
            COMPOSE_SERVICE: service,
            f"{LABEL}.project.working_dir": str(self.folder),
            **({f"{LABEL}.project.config_files": named} if files else {}),
            **{f"{LABEL}.{key}": value for key, value in labels.items()},
        }
        self.engine.add_container(f"docker-{service}-1", network=network, labels=mine)

    def override(self, network=NETWORK):
        servers = [RagflowContainer(container) for container in self.engine.containers()]
        return compose.override(servers, network, self.engine.networks())


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def parsed(new):
    return yaml.safe_load(io.StringIO(new.text))


def test_connects_the_service_to_an_external_network(project):
    project.add()
    assert repr(project.override()) == str(project.override())
    assert parsed(project.override()) == {
        "services": {"ragflow-cpu": {"networks": {"ragops": {}}}},
        "networks": {"ragops": {"name": "ragflow-rerank", "external": True}},
    }


def test_default_network_of_the_service_stays(project):
    project.add(network="docker_default")
    network = project.engine.network("docker_default")
    labels = {COMPOSE_PROJECT: "docker", f"{LABEL}.network": "default"}
    project.engine._networks[network.id] = dataclasses.replace(network, labels=labels)
    assert parsed(project.override())["services"]["ragflow-cpu"]["networks"] == {"default": {}, "ragops": {}}


def test_command_names_every_file_and_the_override_last(project, tmp_path):
    project.add(files=("docker-compose.yml", "mine.yml"))
    command = project.override().command
    files = [command[at + 1] for at, part in enumerate(command) if part == "-f"]
    assert files == [str(tmp_path / name) for name in ("docker-compose.yml", "mine.yml", compose.DEFAULT)]
    assert command[:4] == ("docker", "compose", "-p", "docker")
    assert command[-4:] == ("up", "-d", "--no-deps", "ragflow-cpu")


def test_command_names_a_different_folder_and_environment_file(project, tmp_path):
    env = {"project.environment_file": "/srv/ragflow.env", "project.working_dir": "/srv/elsewhere"}
    project.add(**env)
    command = " ".join(project.override().command)
    assert "--project-directory /srv/elsewhere --env-file /srv/ragflow.env -f" in command


def test_file_contains_the_command(project):
    project.add()
    new = project.override()
    assert f"# Apply it: {' '.join(new.command)}" in new.text.splitlines()
    assert new.text.startswith(f"# {compose.MARK}\n")


def test_applied_file_is_named_once(project, tmp_path):
    project.add()
    new = project.override()
    compose.write(new)
    applied = Project(tmp_path)
    applied.add(files=("docker-compose.yml", compose.DEFAULT))
    again = applied.override()
    assert again.command.count(str(tmp_path / compose.DEFAULT)) == 1
    assert again.text == new.text
    assert compose.applied(applied.engine.containers(), NETWORK.name) == (tmp_path / compose.DEFAULT,)
    assert compose.applied(applied.engine.containers(), "other") == ()
    assert compose.applied(project.engine.containers(), NETWORK.name) == ()


@pytest.mark.parametrize("mode", ["host", "none", "bridge", "container:other"])
def test_network_mode_is_refused(project, mode):
    project.engine.add_container("other")
    project.add(network=mode)
    servers = [RagflowContainer(project.engine.container("docker-ragflow-cpu-1"))]
    with pytest.raises(RagflowError, match="network_mode") as caught:
        compose.override(servers, NETWORK, ())
    assert "network_mode excludes networks" in caught.value.evidence


def test_container_without_compose_labels_is_refused(project):
    project.engine.add_container("ragflow-server")
    with pytest.raises(RagflowError, match="compose did not create"):
        project.override()


def test_no_container_is_refused(project):
    with pytest.raises(RagflowError, match="no RAGFlow container found"):
        project.override()


def test_two_projects_are_refused(project):
    project.add("ragflow-cpu")
    project.add("ragflow-gpu", project="second")
    with pytest.raises(RagflowError, match="2 RAGFlows run here"):
        project.override()


def test_both_servers_of_a_project_are_connected(project):
    project.add("ragflow-gpu")
    project.add("ragflow-cpu")
    new = project.override()
    assert list(parsed(new)["services"]) == ["ragflow-cpu", "ragflow-gpu"]
    assert new.command[-2:] == ("ragflow-cpu", "ragflow-gpu")


class TestNotes:
    def test_name_the_effect_of_applying(self, project):
        project.add()
        assert "recreates ragflow-cpu once" in project.override().notes[0]

    def test_missing_network(self, project):
        project.add()
        assert any("ragops up creates it" in note for note in project.override().notes)
        project.engine.add_network(NETWORK.name)
        assert not any("ragops up creates it" in note for note in project.override().notes)

    def test_default_route(self, project):
        project.add()
        assert any("route moves" in note for note in project.override(Network(name="aaa")).notes)
        assert not any("route moves" in note for note in project.override().notes)

    def test_unknown_files(self, project):
        project.add(files=())
        new = project.override()
        assert new.file is None
        assert any("add -f for each" in note for note in new.notes)


class TestWriting:
    def test_written_beside_the_compose_file(self, project, tmp_path):
        project.add()
        new = project.override()
        assert compose.write(new) == (tmp_path / "docker-compose.override.yml", None)
        assert (tmp_path / "docker-compose.override.yml").read_text() == new.text

    def test_twice_changes_nothing(self, project, tmp_path):
        project.add()
        compose.write(project.override())
        assert compose.write(project.override())[1] is None
        assert [file.name for file in tmp_path.iterdir()] == ["docker-compose.override.yml"]

    def test_different_file_of_ragops_is_saved_as_a_backup(self, project, tmp_path):
        project.add()
        compose.write(project.override(Network(name="former")))
        file, backup = compose.write(project.override())
        assert "former" in backup.read_text()
        assert "ragflow-rerank" in file.read_text()
        assert {one.name for one in tmp_path.iterdir()} == {file.name, backup.name}

    @pytest.mark.parametrize("name", AUTOMATIC)
    def test_file_of_the_user_stays_and_another_name_is_used(self, project, tmp_path, name):
        (tmp_path / name).write_text("services: {}\n")
        project.add(files=("docker-compose.yml", name))
        new = project.override()
        file, backup = compose.write(new)
        assert (file.name, backup) == (compose.ALTERNATIVE, None)
        assert (tmp_path / name).read_text() == "services: {}\n"
        assert any(
            f"COMPOSE_FILE=docker-compose.yml:{name}:{compose.ALTERNATIVE}" in note for note in new.notes
        )

    def test_file_with_the_alternative_name_is_saved_as_a_backup(self, project, tmp_path):
        (tmp_path / compose.DEFAULT).write_text("services: {}\n")
        (tmp_path / compose.ALTERNATIVE).write_text("precious\n")
        project.add()
        _, backup = compose.write(project.override())
        assert backup.read_text() == "precious\n"

    def test_folder_on_another_machine_is_refused(self, project):
        project.folder = project.folder / "gone"
        project.add()
        with pytest.raises(RagflowError, match="not on this machine"):
            compose.write(project.override())

    def test_folder_that_is_a_file_writes_nothing(self, project, tmp_path):
        project.add(files=())
        with pytest.raises(RagflowError, match="not on this machine"):
            compose.write(project.override())
        assert list(tmp_path.iterdir()) == []
