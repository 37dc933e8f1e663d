"""Registration of a real vLLM at the contract server, and at one in a container in RAGFlow's place."""

import json
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from benchmarks import free_port
from ragops.configuration import Ragflow
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, ContainerSpec, Mount, NetworkSpec
from ragops.errors import RagflowError, RagopsError
from ragops.ragflow import discovery
from ragops.ragflow.api import Secret
from ragops.stack import registration
from tests.support.container import package, stub_container
from tests.support.contract.api import RagflowServer
from tests.support.names import PROJECT
from tests.support.stub import Behaviour, StubReranker

TOKEN = Secret("ragflow-EXAMPLE-TOKEN")
TEXTS = ["Bread rises because yeast makes gas.", "A text about what this is about."]
RELEASES = ("v0.24.0", "v0.25.6", "v0.26.4", "v0.27.0", "v1.0.0-rc1")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def in_network(declared):
    """What is registered by default; resolved here, since the model is in the home of the whole run."""
    return registration.registration_spec(declared)


@pytest.fixture
def spec(engine, running, declared, in_network):
    """The real server, at the address that the contract server on this host reaches."""
    endpoint = engine.container(declared.reranker.name).endpoint(declared.network.name)
    return replace(in_network, base_url=f"http://{endpoint.address}:8000")


@pytest.fixture(params=RELEASES)
def register(request, declared, engine):
    """Registers at one release's contract server."""
    with RagflowServer(request.param, limit=60) as server:
        token = Secret(server.state.token)
        known = declared.model_copy(update={"ragflow": Ragflow(release=request.param)})

        def call(spec, verb=registration.register):
            more = {"spec": spec} if verb is registration.register else {}
            return verb(known, token, url=server.url, engine=engine, **more)

        yield call, server


def test_real_server_passes_the_test_of_every_release_and_ranks(register, spec):
    register, server = register
    server.state.datasets["d1"] = TEXTS
    result = register(replace(spec, dataset="d1"))
    assert result.model == spec.model
    ranked = server.calls[-1].response["data"]["chunks"]
    assert [item["content"] for item in ranked] == TEXTS[::-1]
    assert all(0 <= item["similarity"] <= 1 for item in ranked)
    assert register(replace(spec, dataset="d1")).changes == ()
    assert register(spec, registration.unregister).model == ""


def test_real_server_refuses_as_the_table_of_failures_knows_it(register, spec):
    register, _ = register
    with pytest.raises(RagflowError) as caught:
        register(replace(spec, model="another"))
    assert caught.value.code == "ragflow-name-unknown"
    with pytest.raises(RagflowError) as caught:
        register(replace(spec, base_url=f"{spec.base_url}/rerank"))
    assert caught.value.code == "ragflow-path"


class RagflowContainer:
    """The contract server in a container: found by its labels, and inspected by its own API."""

    def __init__(self, stack, url, release, spec):
        self.stack, self.url, self.release = stack, url, release
        self.spec = replace(spec, base_url=stack.internal_url)

    def __call__(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
        return httpx.request(
            method, self.url + path, json=body, headers=headers, timeout=60, trust_env=False
        ).json()

    def used(self):
        """The default and the rerank id of each chat."""
        chats = {row["id"]: row["rerank_id"] for row in self("GET", "/api/v1/chats")["data"]["chats"]}
        return self("GET", "/api/v1/users/me/models")["data"]["rerank_id"], chats


@pytest.fixture(scope="module")
def stubbed(engine, image, declared, in_network):
    """The stack with a stub that scores at once in the reranker's place, in a network of its own."""
    name = f"{PROJECT}-contract"
    network, reranker = declared.network, declared.reranker
    stack = declared.model_copy(
        update={
            "gateway": False,
            "network": network.model_copy(update={"name": name}),
            "reranker": reranker.model_copy(update={"name": f"{name}-stub"}),
        }
    )
    publish = ("127.0.0.1", free_port())
    engine.create_network(NetworkSpec(name))
    try:
        with stub_container(engine, image.id, name=f"{name}-stub", network=name, publish=publish) as stub:
            stub.behave(Behaviour(model=in_network.model))
            yield stack
    finally:
        engine.remove_network(name)


@pytest.fixture(params=["v0.25.6", "v0.27.0", "v1.0.0-rc1"])
def ragflow(request, engine, image, stubbed, in_network):
    """A RAGFlow with two chats and two datasets, in the reranker's network."""
    name = f"{PROJECT}-contract-ragflow"
    fields = {"release": request.param, "chats": {"c1": "", "c2": ""}, "datasets": {"d1": TEXTS, "empty": []}}
    with tempfile.TemporaryDirectory(prefix="ragops-contract-") as folder:
        server = "tests.support.contract.api:from_environment"
        scheme, port = ("go", "80") if request.param == "v1.0.0-rc1" else ("python", "9380")
        command = ("python3", "-m", "uvicorn", "--factory", server, "--host", "0.0.0.0", "--port", port)
        spec = ContainerSpec(
            name=name,
            image=image.id,
            entrypoint=(*command, "--lifespan", "off", "--ws", "none"),
            environment=(
                ("PYTHONPATH", "/contract"),
                ("CONTRACT", json.dumps(fields)),
                ("API_PROXY_SCHEME", scheme),
            ),
            mounts=(Mount(str(package(Path(folder))), "/contract", read_only=True),),
            network=stubbed.network.name,
            init=True,
            role="test",
            labels=((COMPOSE_PROJECT, name), (COMPOSE_SERVICE, "ragflow-cpu")),
        )
        made = engine.create_container(spec)
        try:
            engine.start(made)
            stack = stubbed.model_copy(update={"ragflow": Ragflow(containers=(name,))})
            (result,) = discovery.find(engine.containers(), stack.ragflow)
            ragflow = RagflowContainer(stack, discovery.api_url(result), request.param, in_network)
            _wait(ragflow.url, lambda: engine.logs(name))
            yield ragflow
        finally:
            engine.remove_container(made)


def _wait(url, logs):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            httpx.get(url + "/api/v1/system/ping", trust_env=False)
            return
        time.sleep(0.2)
    pytest.fail(logs())


def test_container_of_ragflow_is_found_ranks_and_gets_everything_back(ragflow, engine):
    stack, spec = ragflow.stack, replace(ragflow.spec, default=True, chats=("c1",))
    before = ragflow.used()
    result = registration.register(stack, TOKEN, spec=replace(spec, dataset="d1"), engine=engine)
    assert (result.release, result.base_url, result.chats) == (ragflow.release, stack.internal_url, ("c1",))
    assert result.default == result.rerank_id == ragflow.used()[0]
    assert ragflow("POST", "/api/v1/chats/c1/completions", {"question": "a text"})["code"] == 0
    assert registration.register(stack, TOKEN, spec=spec, engine=engine).changes == ()
    undone = registration.unregister(stack, TOKEN, engine=engine)
    assert (undone.model, undone.notes) == ("", ())
    assert ragflow.used() == before
    assert ragflow("POST", "/api/v1/chats/c1/completions", {"question": "a text"})["code"] == 0


def test_container_of_ragflow_refuses_before_anything_is_entered(ragflow, engine):
    spec = ragflow.spec
    with StubReranker(Behaviour(model=spec.model)) as here:  # this host reaches it, the container does not
        cases = {
            "ragflow-reranker-silent": replace(spec, base_url=here.base_url),
            "ragflow-no-network": replace(spec, base_url="http://unknown-reranker:8000/v1"),
            "ragflow-name-unknown": replace(spec, model="another"),
            "dataset-empty": replace(spec, dataset="empty"),
            "ragflow-chat-unknown": replace(spec, chats=("c9",)),
            "id-refused": replace(spec, chats=("../datasets",)),
        }
        errors = {}
        for code, wrong in cases.items():
            with pytest.raises(RagopsError) as caught:
                registration.register(ragflow.stack, TOKEN, spec=wrong, engine=engine)
            errors[code] = caught.value
    assert [error.code for error in errors.values()] == list(cases)
    assert f"this host reaches {here.base_url}" in errors["ragflow-reranker-silent"].evidence
    assert "--address" in errors["ragflow-reranker-silent"].hint
    undone = registration.unregister(ragflow.stack, TOKEN, engine=engine)
    assert (undone.model, undone.changes) == ("", ())
