"""An engine behind TLS: requests and commands in containers work over its connection."""

import pytest

from ragops.docker import engine as engines
from ragops.docker.engine import sidecar
from ragops.errors import EngineError
from tests.support.tls import proxy, write_certificate

ECHO = "import sys; print('x' * 200_000); print(sys.stdin.readline().strip(), file=sys.stderr)"


@pytest.fixture
def address(engine, tmp_path, monkeypatch):
    write_certificate(tmp_path)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with proxy(tmp_path, engine.state().socket) as port:
        yield f"tcp://127.0.0.1:{port}"


def test_commands_get_their_input_and_end_at_once(address, engine, image):
    encrypted = engines.connect(address)
    assert encrypted.state().id == engine.state().id
    assert encrypted.state().address == address
    with sidecar(encrypted, "none", image.id) as container:
        result = encrypted.execute(container, ("python3", "-c", ECHO), stdin="a line", timeout=60)
        assert (result.exit_code, len(result.stdout), result.stderr.strip()) == (0, 200_001, "a line")
        with pytest.raises(EngineError) as caught:
            encrypted.execute(container, ("sleep", "60"), timeout=1)
        assert caught.value.code == "command-hangs"
    encrypted.close()
