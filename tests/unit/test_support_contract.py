"""Unexpected behaviour of RAGFlow, recorded on its own servers; the requests of ragops avoid it."""

import threading
import time

import httpx
import pytest

from ragops.configuration import Ragflow, Stack
from ragops.ragflow import providers, releases
from ragops.ragflow.api import Secret, failure_hint
from ragops.ragflow.providers import ModelEntry, RagflowState, RegistrationSpec, changes
from ragops.ragflow.request import over_long
from ragops.stack import registration
from tests.support.contract import upstream
from tests.support.contract.api import RagflowServer
from tests.support.contract.state import Instance, Model, ServerState
from tests.support.stub import Behaviour, StubReranker

MODEL = "qwen3-reranker-0.6b"
TOKEN = "ragflow-EXAMPLE-TOKEN"  # noqa: S105
INFO = {"model_name": MODEL, "model_type": ["rerank"], "max_tokens": 8192}
INSTANCES = "/api/v1/providers/VLLM/instances"
RETRIEVAL = {"question": "a cat", "dataset_ids": ["d1"], "vector_similarity_weight": 1.0}


class Client:
    """A client of one contract server."""

    def __init__(self, server):
        self.server, self.state = server, server.state
        self.http = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60, trust_env=False
        )

    def __call__(self, method, path, body=None):
        return self.http.request(method, path, json=body).json()

    def names(self):
        return [row["instance_name"] for row in self("GET", INSTANCES)["data"]]


@pytest.fixture(scope="module")
def reranker():
    with StubReranker(Behaviour(model=MODEL)) as stub:
        yield stub


@pytest.fixture
def client(request):
    release = getattr(request, "param", "v0.27.0")
    with RagflowServer(release, limit=60) as server:
        yield Client(server)


@pytest.fixture
def instance(reranker):
    return {
        "instance_name": "ragops",
        "api_key": "ragops-rerank",
        "base_url": reranker.base_url,
        "region": "",
        "model_info": [INFO],
    }


@pytest.fixture
def registered(client, instance):
    client("PUT", "/api/v1/providers", {"provider_name": "VLLM"})
    assert client("POST", INSTANCES, instance)["code"] == 0
    return client


def put(instance, **changed):
    return {**instance, **changed}


def test_put_without_extra_fails_after_writing(registered, instance):
    response = registered(
        "PUT", f"{INSTANCES}/ragops", put(instance, base_url="http://dead:1/v1", verify=False)
    )
    assert response == {"code": 102, "message": "Internal server error"}
    assert registered("GET", f"{INSTANCES}/ragops")["data"]["base_url"] == "http://dead:1/v1"
    whole = put(instance, model_info=[{**INFO, "extra": {}}], verify=False)
    assert registered("PUT", f"{INSTANCES}/ragops", whole)["code"] == 0


def test_ragops_always_sends_extra_and_never_skips_the_test():
    release = releases.of("v0.27.0")
    spec = RegistrationSpec(MODEL, "http://new:8000/v1", 8192)
    entry = ModelEntry("http://old:8000/v1", 8192, same_key=True)
    requests = changes(
        providers.registration_api(release), spec, RagflowState(entry, provider=True, default="")
    )
    (update,) = [request for request in requests if request.method == "PUT"]
    assert update.body["model_info"] == [{**INFO, "extra": {}}]
    assert "verify" not in update.body


def test_verification_stops_at_the_first_success(registered, instance, reranker):
    before = len(reranker.calls)
    both = put(instance, model_info=[INFO, {**INFO, "model_name": "wrong"}])
    assert registered("POST", "/api/v1/providers/VLLM/connection", both)["code"] == 0
    assert len(reranker.calls) == before + 1


@pytest.mark.parametrize("name", ["v0.26.0", "v0.27.0"])
def test_ragops_sends_one_model_in_a_request_and_its_type_as_a_list(name):
    spec = RegistrationSpec(MODEL, "http://new:8000/v1", 8192)
    requests = changes(
        providers.registration_api(releases.of(name)), spec, RagflowState(None, provider=False, default="")
    )
    infos = [request.body["model_info"] for request in requests if "model_info" in (request.body or {})]
    assert infos
    assert all(len(info) == 1 and info[0]["model_type"] == ["rerank"] for info in infos)


def test_a_type_as_text_reaches_no_reranker(registered, instance, reranker):
    before = len(reranker.calls)
    text = put(instance, model_info=[{**INFO, "model_type": "rerank"}])
    assert registered("POST", INSTANCES, text)["message"] == "No model passed verification"
    assert len(reranker.calls) == before


def test_a_second_post_leaves_an_empty_duplicate(registered, instance):
    response = registered("POST", INSTANCES, instance)
    assert response["message"] == f"Model '{MODEL}' already exists for provider 'VLLM' and instance 'ragops'"
    assert registered.names() == ["ragops(1)", "ragops"]
    assert registered("GET", f"{INSTANCES}/ragops(1)/models")["data"] == []


def test_an_unknown_key_leaves_an_empty_instance_and_a_failed_test_none(registered, instance):
    odd = put(instance, instance_name="odd", model_info=[{**INFO, "foo": 1}])
    assert registered("POST", INSTANCES, odd)["message"] == "Internal server error"
    dead = put(instance, instance_name="dead", base_url="http://127.0.0.1:9/v1")
    assert "Connection refused" in registered("POST", INSTANCES, dead)["message"]
    assert registered.names() == ["odd", "ragops"]


def test_an_unknown_name_prevents_all_deletions(registered):
    response = registered("DELETE", INSTANCES, {"instances": ["ragops", "never"]})
    assert response["message"] == "No instance found for provider 'VLLM' and instance '['never']'"
    assert registered.names() == ["ragops"]


def test_an_unknown_default_is_an_internal_error(registered):
    body = {"model_type": "rerank", "model_provider": "VLLM", "model_instance": "ragops", "model_name": "no"}
    response = registered("PATCH", "/api/v1/models/default", body)
    assert response == {"code": 102, "message": "Internal server error"}
    assert "may have written part" in failure_hint(response["message"]).cause


def test_the_list_has_no_address_and_the_instance_has_the_key_in_clear_text(registered):
    listed = registered("GET", INSTANCES)["data"][0]
    shown = registered("GET", f"{INSTANCES}/ragops")["data"]
    assert "base_url" not in listed
    assert shown["api_key"] == "ragops-rerank"


FORMS = {
    "v0.27.0": {"NAME@ragops@VLLM": True, "NAME___VLLM@VLLM": False, "NAME": False},
    "v0.25.6": {
        "NAME___VLLM@VLLM": True,
        "NAME___VLLM": True,
        "NAME@VLLM": True,
        "NAME@ragops@VLLM": False,
        "NAME": False,
    },
}


@pytest.mark.parametrize("client", FORMS, indirect=True)
def test_forms_of_the_rerank_id(client, reranker, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    release = client.state.release
    known = Stack(ragflow=Ragflow(release=release.name))
    spec = RegistrationSpec(MODEL, reranker.base_url, 8192)
    registration.register(known, Secret(TOKEN), url=client.server.url, spec=spec)
    client.state.datasets["d1"] = ["a cat"]
    accepted = {}
    for form in FORMS[release.name]:
        response = client(
            "POST", "/api/v1/retrieval", {**RETRIEVAL, "rerank_id": form.replace("NAME", MODEL)}
        )
        accepted[form] = response["code"] == 0
        assert response["code"] in {0, 100}
        assert response["code"] == 0 or "no model of this user" in failure_hint(response["message"]).cause
    assert accepted == FORMS[release.name]
    known_forms = {form.format(name="NAME", instance="ragops") for form in release.rerank_ids}
    assert {form for form, works in accepted.items() if works} == known_forms


@pytest.mark.parametrize(("name", "calls"), [("v0.20.5", 1), ("v0.25.6", 0)])
def test_the_old_client_sends_requests_without_documents(name, calls):
    with StubReranker(Behaviour(model=MODEL)) as stub:
        assert upstream.scores(ServerState(releases.of(name)), stub.base_url, "x", MODEL, "q", []) == []
        assert [call.body["documents"] for call in stub.calls] == [[]] * calls


def test_the_old_client_waits_longer_than_30_s():
    assert releases.of("v0.20.5").timeout == 300


@pytest.mark.parametrize("client", ["v0.25.6"], indirect=True)
def test_names_have_a_suffix_and_a_missing_key_is_unchanged(client, reranker):
    body = {"llm_factory": "VLLM", "model_type": "rerank", "llm_name": MODEL, "max_tokens": 8192}
    body |= {"api_base": reranker.base_url, "api_key": "earlier-key"}
    assert client("POST", "/v1/llm/add_llm", body)["code"] == 0
    assert client("POST", "/v1/llm/add_llm", {**body, "api_key": "earlier-key"})["code"] == 0
    del body["api_key"]
    assert client("POST", "/v1/llm/add_llm", body)["code"] == 0
    (row,) = client("GET", "/v1/llm/my_llms?include_details=true")["data"]["VLLM"]["llm"]
    assert row["name"] == f"{MODEL}___VLLM"
    assert client.state.llms[row["name"]].key == "earlier-key"


@pytest.mark.parametrize("client", ["v0.25.6"], indirect=True)
def test_the_timeout_of_a_test_has_an_empty_reason(client):
    client.state.limit = 0.05
    with StubReranker(Behaviour(model=MODEL, fixed_s=0.5)) as slow:
        body = {"llm_factory": "VLLM", "model_type": "rerank", "llm_name": MODEL, "max_tokens": 8192}
        response = client("POST", "/v1/llm/add_llm", {**body, "api_base": slow.base_url, "api_key": "x"})
    assert response["message"] == f"\nFail to access model(VLLM/{MODEL})."
    assert "timeout of 10 s" in failure_hint(response["message"]).cause


def test_the_health_route_always_reports_ok(client):
    assert client("GET", "/api/v1/system/healthz")["storage"] == "ok"


def test_a_wrong_key_has_two_messages_and_a_stopped_reranker_no_fallback(registered, instance):
    registered.state.datasets["d1"] = ["a cat"]
    ask = {**RETRIEVAL, "rerank_id": f"{MODEL}@ragops@VLLM"}
    with StubReranker(Behaviour(model=MODEL, api_key="secret-key")) as locked:
        entry = registered.state.instances["ragops"]
        entry.url = locked.base_url
        response = registered.http.post("/api/v1/retrieval", json=ask)
        assert (response.status_code, response.json()["message"]) == (401, "Unauthorized")
        moved = put(instance, base_url=locked.base_url)
        response = registered.http.post("/api/v1/providers/VLLM/connection", json=moved)
        assert (response.status_code, response.json()["code"]) == (200, 102)
        assert "the reranker's key" in failure_hint(response.json()["message"]).remedy
    entry.url = "http://127.0.0.1:9/v1"
    response = registered.http.post("/api/v1/retrieval", json=ask)
    assert (response.status_code, response.json()["code"]) == (200, 100)
    assert "ConnectError" in response.json()["message"]


@pytest.mark.parametrize(
    ("path", "first"), [("/api/v1/retrieval", "slow"), ("/api/v1/providers/VLLM/connection", "ping")]
)
def test_a_retrieval_blocks_the_whole_api_and_a_connection_test_does_not(registered, instance, path, first):
    registered.state.datasets["d1"] = ["a cat"]
    with StubReranker(Behaviour(model=MODEL, fixed_s=3.0)) as slow:
        registered.state.instances["ragops"].url = slow.base_url
        ask = {**RETRIEVAL, "rerank_id": f"{MODEL}@ragops@VLLM"}
        body = ask if "retrieval" in path else put(instance, base_url=slow.base_url)
        waiting = threading.Thread(target=Client(registered.server), args=("POST", path, body))
        waiting.start()
        while not slow.calls:
            time.sleep(0.001)
        registered.http.get("/api/v1/system/ping")
        waiting.join()
    order = [
        "ping" if request.path.endswith("ping") else "slow" for request in registered.state.answered[-2:]
    ]
    assert order[0] == first


@pytest.mark.parametrize("client", ["v0.26.0", "v0.26.4"], indirect=True)
def test_add_llm_succeeds_on_v0_26_and_is_read_nowhere(client, reranker):
    body = {"llm_factory": "VLLM", "model_type": "rerank", "llm_name": MODEL, "max_tokens": 8192}
    response = client("POST", "/v1/llm/add_llm", {**body, "api_base": reranker.base_url, "api_key": "x"})
    assert response["code"] == 0
    client.state.datasets["d1"] = ["a cat"]
    response = client("POST", "/api/v1/retrieval", {**RETRIEVAL, "rerank_id": f"{MODEL}___VLLM@VLLM"})
    assert response["code"] == 100
    release = client.state.release
    requests = changes(
        providers.registration_api(release),
        RegistrationSpec(MODEL, "http://a:8000/v1", 1),
        RagflowState(None, False, ""),
    )
    assert not [request for request in requests if "add_llm" in request.path]


@pytest.mark.parametrize("client", ["v0.26.0", "v0.26.1"], indirect=True)
def test_v0_26_0_takes_no_key_twice(registered, instance):
    response = registered("POST", INSTANCES, put(instance, instance_name="second"))
    assert (response["code"] == 0) is (registered.state.release.name != "v0.26.0")
    if response["code"]:
        assert "another key" in failure_hint(response["message"]).remedy


@pytest.mark.parametrize(
    ("client", "mode", "code", "words"),
    [
        ("v0.27.1", "truncate", 100, "maximum context length"),
        ("v0.27.2", "", 0, ""),
        ("v0.27.2", "passthrough", 100, "maximum context length"),
        ("v0.27.2", "raise_error", 100, "exceeding the configured maximum of 20"),
        ("v1.0.0-rc1", "", 0, ""),
    ],
    indirect=["client"],
)
def test_a_long_document_follows_the_token_limit(client, mode, code, words):
    """The registered limit is the model's without the tokens of its template."""
    client.state.datasets["d1"] = ["a cat " * 50, "a dog"]
    client.state.token_limit_mode, client.state.provider = mode, "VLLM"
    with StubReranker(Behaviour(model=MODEL, max_tokens=24)) as reranker:
        model = Model("1", MODEL, ["rerank"], 20, {})
        client.state.instances["ragops"] = Instance("1", "ragops", "k", reranker.base_url, {MODEL: model})
        path = client.state.release.search
        response = client("POST", path, {**RETRIEVAL, "rerank_id": f"{MODEL}@ragops@VLLM"})
    assert response["code"] == code
    assert words in str(response.get("message"))
    found = over_long(str(response.get("message")))
    assert (found is not None) == (words == "maximum context length")


@pytest.mark.parametrize(
    ("client", "code"), [("v0.27.0", 0), ("v0.27.1", 100), ("v1.0.0-rc1", 100)], indirect=["client"]
)
def test_a_page_larger_than_the_window_is_refused(client, code):
    client.state.datasets["d1"] = ["a cat"]
    body = {**RETRIEVAL, "page_size": 65}
    path = client.state.release.search
    assert client("POST", path, body)["code"] == code
    assert client("POST", path, {**body, "rerank_candidates_count": 65})["code"] == 0


def test_a_retrieval_without_a_rerank_id_does_not_use_the_default_model(registered, reranker):
    registered.state.datasets["d1"] = ["a cat"]
    body = {"model_type": "rerank", "model_provider": "VLLM", "model_instance": "ragops", "model_name": MODEL}
    assert registered("PATCH", "/api/v1/models/default", body)["code"] == 0
    before = len(reranker.calls)
    assert registered("POST", "/api/v1/retrieval", RETRIEVAL)["code"] == 0
    assert len(reranker.calls) == before


def test_instance_may_not_be_called_default(registered, instance):
    assert registered("POST", INSTANCES, put(instance, instance_name="default"))["code"] == 102


@pytest.mark.parametrize("ending", ["", "/v1", "/v1/"])
def test_address_is_normalised(registered, instance, reranker, ending):
    base = reranker.base_url.removesuffix("/v1") + ending
    assert registered("PUT", f"{INSTANCES}/ragops", put(instance, base_url=base))["code"] == 0
    assert registered("GET", f"{INSTANCES}/ragops")["data"]["base_url"] == reranker.base_url


def test_address_with_the_whole_path_is_not_found(registered, instance, reranker):
    response = registered("PUT", f"{INSTANCES}/ragops", put(instance, base_url=f"{reranker.base_url}/rerank"))
    assert "end the address with /v1" in failure_hint(response["message"]).remedy


DEFAULT = "/api/v1/models/default"
OURS = {"model_type": "rerank", "model_provider": "VLLM", "model_instance": "ragops", "model_name": MODEL}
NONE = {"model_type": "rerank", "model_provider": "", "model_instance": "", "model_name": ""}


def user_default(client):
    return client("GET", "/api/v1/users/me/models")["data"]["rerank_id"]


@pytest.mark.parametrize("client", ["v0.26.0", "v0.26.4", "v0.27.0"], indirect=True)
def test_empty_names_clear_the_default(registered):
    assert registered("PATCH", DEFAULT, OURS)["code"] == 0
    assert user_default(registered) == f"{MODEL}@ragops@VLLM"
    assert registered("PATCH", DEFAULT, NONE)["code"] == 0
    assert user_default(registered) == ""


def test_default_of_a_removed_instance_is_hidden_and_comes_back_with_the_name(registered, instance):
    registered.state.chats["c1"] = f"{MODEL}@ragops@VLLM"
    assert registered("PATCH", DEFAULT, OURS)["code"] == 0
    assert registered("DELETE", INSTANCES, {"instances": ["ragops"]})["code"] == 0, "though a chat uses it"
    assert registered("GET", DEFAULT)["data"]["models"] == []
    assert user_default(registered) == f"{MODEL}@ragops@VLLM"
    registered.state.datasets["d1"] = ["a cat"]
    failed = registered("POST", "/api/v1/chats/c1/completions", {"question": "a cat"})
    assert (failed["code"], "LookupError" in failed["message"]) == (100, True)
    assert registered("POST", INSTANCES, instance)["code"] == 0
    assert registered("GET", DEFAULT)["data"]["models"][0]["model_instance"] == "ragops"
    assert registered("POST", "/api/v1/chats/c1/completions", {"question": "a cat"})["code"] == 0


@pytest.mark.parametrize(("field", "value"), [("status", "inactive"), ("types", ["chat"])])
def test_model_that_is_disabled_or_of_another_type_is_refused(registered, field, value):
    setattr(registered.state.instances["ragops"].models[MODEL], field, value)
    (row,) = registered("GET", f"{INSTANCES}/ragops/models")["data"]
    assert row["model_type" if field == "types" else field] == value
    registered.state.datasets["d1"] = ["a cat"]
    assert (
        registered("POST", "/api/v1/retrieval", {**RETRIEVAL, "rerank_id": f"{MODEL}@ragops@VLLM"})["code"]
        == 100
    )
    assert registered("PATCH", DEFAULT, OURS)["code"] == 102


def test_long_name_of_an_instance_is_cut_and_its_row_stays(registered, instance):
    assert registered("POST", INSTANCES, put(instance, instance_name="i" * 200))["code"] == 102
    assert registered.names() == ["i" * 128, "ragops"]


@pytest.mark.parametrize("client", ["v0.25.6", "v0.27.0"], indirect=True)
def test_dataset_without_chunks_reaches_no_reranker(client, reranker):
    client.state.datasets["d1"] = []
    before = len(reranker.calls)
    response = client("POST", "/api/v1/retrieval", {**RETRIEVAL, "rerank_id": "x@ragops@VLLM"})
    assert (response["code"], response["data"]["chunks"]) == (0, [])
    assert len(reranker.calls) == before


@pytest.mark.parametrize("client", ["v0.26.0", "v0.27.0"], indirect=True)
def test_connection_is_tested_without_the_provider(client, instance):
    assert client("POST", "/api/v1/providers/VLLM/connection", instance)["code"] == 0
