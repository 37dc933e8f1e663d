"""Connecting to a Docker engine: which addresses are tried, and the error when none responds."""

import hashlib
import json
import re
import shutil
import socket
import ssl
import struct
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn, UnixStreamServer
from types import SimpleNamespace

import pytest

from ragops import configuration
from ragops.docker import engine
from ragops.errors import EngineError, NotFoundError
from tests.support.tls import write_certificate


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No engine is named, and the home is empty."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    return tmp_path


def refused(address, match="no Docker engine responds", **options):
    with pytest.raises(EngineError, match=match) as caught:
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


def add_context(folder, name, host, *, current=True, tls=None):
    """A context as ``docker context create`` writes it; ``tls`` is a folder of certificates."""
    number = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / number / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    if tls:
        shutil.copytree(tls, folder / "contexts" / "tls" / number / "docker")
    (folder / "config.json").write_text(json.dumps({"currentContext": name} if current else {}))
    return meta


class TestContexts:
    def test_the_current_one_comes_before_the_default(self, alone):
        add_context(alone, "lab", "tcp://127.0.0.1:2375")
        assert engine.candidates() == ("tcp://127.0.0.1:2375", engine.DEFAULT_SOCKET)

    def test_one_that_is_gone_is_left_out(self, alone):
        (alone / "config.json").write_text('{"currentContext": "desktop-linux"}')
        assert engine.candidates() == (engine.DEFAULT_SOCKET,)

    def test_a_damaged_one_is_left_out(self, alone):
        add_context(alone, "lab", "tcp://127.0.0.1:2375").write_text("{")
        assert engine.candidates() == (engine.DEFAULT_SOCKET,)

    def test_the_variable_names_the_only_one(self, alone, monkeypatch):
        add_context(alone, "lab", "tcp://127.0.0.1:2375", current=False)
        monkeypatch.setenv("DOCKER_CONTEXT", "lab")
        assert engine.candidates() == ("tcp://127.0.0.1:2375",)
        monkeypatch.setenv("DOCKER_CONTEXT", "gone")
        assert refused(None, match="no Docker context gone").code == "context-missing"


class TestSsh:
    def test_is_refused_with_a_tunnel(self, alone):
        add_context(alone, "far", "ssh://me@example.org")
        error = refused(None, match="SSH")
        assert error.code == "engine-ssh"
        assert "ssh -fNL /tmp/docker.sock:/var/run/docker.sock me@example.org" in error.hint


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

    @pytest.mark.parametrize(
        "address",
        [
            "foo://bar",
            "tcp://",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:23a",
            f"tcp://{'x' * 300}:2375",
        ],
    )
    def test_address_that_is_none(self, address):
        error = refused(address, timeout=1)
        assert "DOCKER_HOST" in error.hint
        assert error.code in {"engine-address", "engine-silent"}

    def test_engine_that_hangs(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(tmp_path / "mute.sock"))
            mute.listen()
            assert "timed out" in refused(f"unix://{tmp_path}/mute.sock", timeout=0.2).evidence.lower()

    def test_all_candidates_share_the_time(self, alone, monkeypatch):
        timeouts = []

        def client(*, timeout, **_):
            timeouts.append(timeout)
            raise OSError("timed out")

        monkeypatch.setattr("docker.DockerClient", client)
        monkeypatch.setattr(engine, "candidates", lambda: ("unix:///a.sock", "unix:///b.sock"))
        refused(None)
        assert sum(timeouts) == engine.CONNECT_TIMEOUT < engine.TIMEOUT

    def test_all_that_were_tried_are_named(self, alone, monkeypatch):
        monkeypatch.setattr(engine, "candidates", lambda: ("unix:///a.sock", "unix:///b.sock"))
        lines = refused(None).evidence.splitlines()
        assert [line.split(": ")[0] for line in lines] == ["unix:///a.sock", "unix:///b.sock"]


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    """An engine that knows its version only, and responds to everything else with ``server.responses``."""

    def do_GET(self):
        version, path = re.fullmatch(r"(?:/v1\.(\d+))?([^?]*).*", self.path).groups()
        oldest = self.server.responses.get("oldest", 41)  # type: ignore[attr-defined]
        status, body = self.server.responses.get(  # type: ignore[attr-defined]
            path, (500, {"message": "nothing was told"})
        )
        if version and int(version) < oldest:
            words = f"client version 1.{version} is too old. Minimum supported API version is 1.{oldest}"
            status, body = 400, {"message": words}
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


@contextmanager
def serving(server):
    server.responses = {
        "/version": (200, {"ApiVersion": "1.41", "Version": "20.10.24"}),
        "/_ping": (200, {}),
        "/info": (200, {"NCPU": 2, "MemTotal": 4, "Swarm": {"LocalNodeState": "active"}}),
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with server:
        yield server.responses
        server.shutdown()
    thread.join()


@pytest.fixture
def answering(tmp_path):
    with (
        serving(Server(str(tmp_path / "docker.sock"), Handler)) as responses,
        closing(engine.connect(f"unix://{tmp_path}/docker.sock")) as found,
    ):
        yield found, responses


@pytest.fixture
def certificates(tmp_path):
    """A folder with ca.pem, cert.pem and key.pem, for 127.0.0.1; server and client share them."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    write_certificate(folder)
    return folder


@pytest.fixture
def tls_engine(certificates, alone):
    """The address of an engine that requires TLS and a certificate of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield f"tcp://127.0.0.1:{server.server_address[1]}"


class TestTls:
    """The address that the state reports connects again, as watch does."""

    @staticmethod
    def connects(address=None):
        with (
            closing(engine.connect(address)) as first,
            closing(engine.connect(first.state().address)) as again,
        ):
            return again.state().address

    def test_of_the_environment(self, tls_engine, certificates, monkeypatch):
        monkeypatch.setenv("DOCKER_HOST", tls_engine)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
        assert self.connects() == tls_engine

    def test_of_a_context(self, tls_engine, certificates, alone):
        add_context(alone, "lab", tls_engine, tls=certificates)
        assert self.connects() == tls_engine

    def test_without_certificates(self, tls_engine, tmp_path, monkeypatch):
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        assert refused(tls_engine).code == "engine-tls"


class TestAnswers:
    def test_state(self, answering, tmp_path):
        found, _ = answering
        state = found.state()
        assert state.address == f"unix://{tmp_path}/docker.sock"
        assert (state.version, state.api) == ("20.10.24", "1.41")

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


DIGEST = f"sha256:{'d' * 64}"
DOCKER_29 = {
    "/version": {"ApiVersion": "1.52", "MinAPIVersion": "1.44", "Version": "29.0.1"},
    "/info": {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]], "NCPU": 2},
    "/images/vllm-cpu:latest/json": {
        "Id": DIGEST,
        "RepoTags": ["vllm-cpu:latest"],
        "RepoDigests": [f"vllm-cpu@{DIGEST}"],
        "Size": 1,
        "Config": {},
        "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": DIGEST},
    },
    "/containers/a/json": {
        "Id": "a",
        "Name": "/a",
        "Image": DIGEST,
        "ImageManifestDescriptor": {"digest": f"sha256:{'e' * 64}"},
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {"Image": "vllm-cpu:latest"},
        "HostConfig": {"NetworkMode": "n"},
        "NetworkSettings": {"Networks": {"n": {"NetworkID": "1", "IPAddress": "172.18.0.2"}}, "Ports": {}},
    },
}
"""Responses of API 1.52, which omits empty fields, with containerd's image store.

Source: moby's ``api/docs/CHANGELOG.md``.
"""


def test_docker_29_refuses_older_versions_of_the_api_and_has_ids_of_containerd(answering, tmp_path):
    server, responses = answering[0], answering[1]
    assert server.state().release == 20
    responses.update({path: (200, body) for path, body in DOCKER_29.items()})
    responses["oldest"] = 44
    with closing(engine.connect(f"unix://{tmp_path}/docker.sock")) as found:
        state = found.state()
        assert (state.release, state.keeps_others_out, state.too_old, state.product) == (
            29,
            True,
            False,
            "Docker",
        )
        image, container = found.image("vllm-cpu:latest"), found.container("a")
        assert (image.id, image.labels, container.image_id) == (DIGEST, {}, DIGEST)
        assert (container.host_url(8000), container.role) == ("http://172.18.0.2:8000", "")


def test_podman_is_named(answering):
    found, responses = answering
    version = {"ApiVersion": "1.41", "Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}
    responses["/version"] = (200, version)
    state = found.state()
    assert (state.product, state.release, state.keeps_others_out) == ("Podman", 0, False)


def test_a_missing_program_that_reads_no_input_is_not_an_engine_that_does_not_respond():
    """Docker closes the stream; a large input is then a broken pipe, and a smaller one is not."""
    ours, theirs = socket.socketpair()
    text = b"executable file not found in $PATH"
    theirs.sendall(struct.pack(">BxxxI", 1, len(text)) + text)
    theirs.close()
    api = SimpleNamespace(
        exec_create=lambda *_, **__: {"Id": "1"},
        exec_start=lambda *_, **__: ours,
        exec_inspect=lambda _: {"ExitCode": 126},
    )
    found = engine.Engine(SimpleNamespace(api=api), "")
    output = found.execute("container", ("python3",), stdin="x" * 10_000_000)
    assert (output.exit_code, output.stdout) == (126, text.decode())
