"""Connecting to a Docker engine: which addresses are tried, and the error when none responds."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest

from ragops import configuration
from ragops.docker import engine
from ragops.errors import EngineError, NotFoundError


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No engine is named, and the home is empty."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    return tmp_path


def refused(address, **options):
    with pytest.raises(EngineError, match="no Docker engine responds") as caught:
        engine.connect(address, **options)
    return caught.value


class TestCandidates:
    def test_named_one_is_the_only_one(self, alone, monkeypatch):
        monkeypatch.setenv("DOCKER_HOST", "unix:///named.sock")
        assert engine.candidates() == ("unix:///named.sock",)

    def test_default_comes_once(self, alone):
        assert engine.candidates()[-1] == "unix:///var/run/docker.sock"
        assert len(set(engine.candidates())) == len(engine.candidates())

    def test_private_one_comes_first(self, alone):
        configuration.engine_socket().parent.mkdir(parents=True)
        configuration.engine_socket().touch()
        assert engine.candidates()[0] == f"unix://{alone}/engine/docker.sock"


class TestNoneAnswers:
    def test_missing_socket(self, tmp_path):
        error = refused(f"unix://{tmp_path}/none.sock")
        assert str(tmp_path) in error.evidence
        assert "docker.io" in error.hint

    def test_socket_without_a_listener(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "left.sock"))
        error = refused(f"unix://{tmp_path}/left.sock")
        assert "start the engine" in error.hint

    def test_address_that_is_none(self):
        assert "DOCKER_HOST" in refused("foo://bar").hint

    def test_engine_that_hangs(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(tmp_path / "mute.sock"))
            mute.listen()
            assert "timed out" in refused(f"unix://{tmp_path}/mute.sock", timeout=1).evidence.lower()

    def test_all_that_were_tried_are_named(self, alone, monkeypatch):
        monkeypatch.setattr(engine, "candidates", lambda: ("unix:///a.sock", "unix:///b.sock"))
        lines = refused(None).evidence.splitlines()
        assert [line.split(": ")[0] for line in lines] == ["unix:///a.sock", "unix:///b.sock"]


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def answering(tmp_path):
    """An engine that knows its version only, and answers everything else as told."""
    told = {"/version": (200, {"ApiVersion": "1.41", "Version": "20.10.24"}), "/_ping": (200, {})}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.removeprefix("/v1.41").partition("?")[0]
            status, body = told.get(path, (500, {"message": "nothing was told"}))
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def address_string(self):
            return "client"

        def log_message(self, *_):
            pass

    with Server(str(tmp_path / "docker.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = engine.connect(f"unix://{tmp_path}/docker.sock")
        yield found, told
        found.close()
        server.shutdown()
        thread.join()


class TestAnswers:
    def test_state(self, answering, tmp_path):
        found, told = answering
        told["/info"] = (200, {"NCPU": 2, "MemTotal": 4, "Swarm": {"LocalNodeState": "active"}})
        state = found.state()
        assert state.address == f"unix://{tmp_path}/docker.sock"
        assert (state.version, state.api, state.cpus, state.swarm) == ("20.10.24", "1.41", 2, True)

    def test_substrings_of_a_network_name_are_not_it(self, answering):
        found, told = answering
        shape = {"Driver": "bridge", "Labels": {}, "IPAM": {"Config": None}}
        told["/networks"] = (
            200,
            [{"Id": "1", "Name": "rerank-2", **shape}, {"Id": "2", "Name": "r", **shape}],
        )
        assert found.network("rerank") is None
        assert found.network("r").id == "2"

    def test_container_that_goes_while_listing_is_left_out(self, answering):
        found, told = answering
        told["/containers/json"] = (200, [{"Id": "1"}])
        told["/containers/1/json"] = (404, {"message": "No such container: 1"})
        assert found.containers() == ()

    def test_missing_things_are_none_and_refusals_are_errors(self, answering):
        found, told = answering
        told["/images/x/json"] = (404, {"message": "No such image: x"})
        assert found.image("x") is None
        with pytest.raises(EngineError, match="could not inspect image y") as caught:
            found.image("y")
        assert caught.value.evidence == "nothing was told"

    def test_missing_container_in_a_question_is_named(self, answering):
        found, told = answering
        told["/containers/x/json"] = (404, {"message": "No such container: x"})
        with pytest.raises(NotFoundError, match="could not read the log of x"):
            found.logs("x")

    def test_engine_that_goes_away_is_said(self, answering, tmp_path):
        found, _ = answering
        found.close()
        (tmp_path / "docker.sock").unlink()
        with pytest.raises(EngineError, match="did not respond to the request to list its networks"):
            found.networks()
