"""Registration with a real vLLM behind the contract server, and detection in a real container."""

from dataclasses import replace

import pytest

from ragops.configuration import Ragflow
from ragops.errors import RagflowError
from ragops.ragflow.api import Secret
from ragops.stack import registration
from tests.support.contract.api import RagflowServer

RELEASES = ("v0.24.0", "v0.25.6", "v0.26.4", "v0.27.0")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))


@pytest.fixture
def spec(running, declared):
    """The real server, at the address that the contract server on this host reaches."""
    return replace(registration.registration_spec(declared), base_url=running.stack.host_url)


@pytest.fixture(params=RELEASES)
def register(request, declared):
    """Registers at one release's contract server."""
    with RagflowServer(request.param, limit=60) as server:
        token = Secret(server.state.token)
        known = declared.model_copy(update={"ragflow": Ragflow(release=request.param)})

        def call(spec, verb=registration.register):
            return verb(known, token, url=server.url, spec=spec)

        yield call, server


def test_real_server_passes_the_test_of_every_release_and_ranks(register, spec):
    register, server = register
    texts = ["Bread rises because yeast makes gas.", "A text about what this is about."]
    server.state.datasets["d1"] = texts
    found = register(replace(spec, dataset="d1"))
    assert found.model == spec.model
    ranked = server.asked[-1].answer["data"]["chunks"]
    assert [one["content"] for one in ranked] == [texts[1], texts[0]]
    assert all(0 <= one["similarity"] <= 1 for one in ranked)
    assert register(replace(spec, dataset="d1")).changes == ()
    assert register(spec, registration.unregister).model == ""


def test_real_server_refuses_as_the_table_of_failures_knows_it(register, spec):
    register, server = register
    with pytest.raises(RagflowError) as caught:
        register(replace(spec, model="another"))
    assert caught.value.code == "ragflow-name-unknown"
    if server.state.before("v0.26.0"):  # later ones append /v1, which leads elsewhere
        with pytest.raises(RagflowError) as caught:
            register(replace(spec, base_url=f"{spec.base_url}/rerank"))
        assert caught.value.code == "ragflow-path"
