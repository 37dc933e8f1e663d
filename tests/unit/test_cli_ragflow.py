"""ragops register and unregister, as typed: from RAGFlow's container to what is read back."""

import json
import re
from pathlib import Path

import pytest

from ragops import cli
from ragops.configuration import Stack
from ragops.stack import demo
from tests.support.contract.api import RagflowServer
from tests.support.stub import Behaviour, StubReranker

TOKEN = "ragflow-EXAMPLE-TOKEN"  # noqa: S105
MODEL = "tiny"


@pytest.fixture
def reranker(monkeypatch):
    """The stub answers where the stack's address leads to."""
    with StubReranker(Behaviour(model=MODEL)) as stub:
        monkeypatch.setattr(Stack, "internal_url", stub.base_url)
        yield stub


@pytest.fixture
def ragflow(fake, ragflow, reranker, monkeypatch):
    """RAGFlow's container, whose published port leads to a contract server."""
    with RagflowServer("v0.25.3", limit=60) as server:
        port = int(server.url.rpartition(":")[2])
        fake.change(ragflow, published=(("127.0.0.1", port, 9380),))
        monkeypatch.setenv("RAGOPS_RAGFLOW_TOKEN", TOKEN)
        yield server


@pytest.fixture
def run(here, capsys):
    def ragops(*argv):
        code = cli.main(argv)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert TOKEN not in said.out + said.err
        return code, said.out, said.err

    return ragops


def test_register_finds_ragflow_and_says_what_it_did(run, ragflow, reranker):
    code, out, err = run("register", "--default")
    assert code == 0
    assert f"v0.25.3 at {ragflow.url}" in out
    assert f"~ enter {MODEL} at {reranker.base_url}" in out
    assert re.search(rf"default +{MODEL}___VLLM@VLLM", out)
    assert f"enter {MODEL}" in err
    assert reranker.calls[-1].body["query"] == "Hello~ RAGFlower!"


def test_again_and_out(run, ragflow):
    run("register", "--default")
    assert "nothing to change" in run("register", "--default")[1]
    code, out, _ = run("unregister")
    assert code == 0
    assert f"~ remove {MODEL}" in out
    assert re.search("model +not registered", out)
    assert "has no record" in run("unregister")[1]


def test_unregister_needs_no_model_folder(run, ragflow, monkeypatch):
    assert run("register", "--default")[0] == 0
    monkeypatch.setenv("RAGOPS_MODEL_DIR", "/nonexistent")
    assert run("unregister")[0] == 0
    assert ragflow.state.llms == {}


def test_address_where_ragflow_runs(run, ragflow, reranker, monkeypatch):
    monkeypatch.setattr(Stack, "internal_url", "http://unknown.invalid:8000/v1")
    code, out, _ = run("register", "--address", reranker.base_url.removesuffix("/v1") + "/", "--json")
    assert (code, json.loads(out)["base_url"]) == (0, reranker.base_url)


@pytest.mark.parametrize("argv", [(), ("--key-file", "other")])
def test_key_is_that_of_the_gateway_unless_another_is_given(run, ragflow, monkeypatch, argv):
    key = "other-key" if argv else "gateway-key"
    Path("ragops.toml").write_text('[gateway]\nkey_file = "key"\n')
    Path("key").write_text("gateway-key\n")
    Path("other").write_text("other-key\n")
    with StubReranker(Behaviour(model=MODEL, api_key=key)) as locked:
        monkeypatch.setattr(Stack, "internal_url", locked.base_url)
        code, out, err = run("register", *argv)
    assert (code, key in str(ragflow.state.llms), key in out + err) == (0, True, False)


def test_address_of_another_machine_needs_a_key(run, ragflow):
    code, out, _ = run("register", "--address", "http://rerank.example:8123", "--json")
    record = json.loads(out)
    assert (code, record["code"], "key_file" in record["hint"]) == (1, "gateway-open", True)
    assert ragflow.calls == []


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("register", "--url", "http://127.0.0.1:938O"), "address-refused"),
        (("register", "--url", ".."), "address-refused"),
        (("unregister", "--url", ".."), "address-refused"),
        (("register", "--address", "http://[::1"), "address-refused"),
        (("register", "--chat", "../datasets"), "id-refused"),
        (("unregister", "--instance", "x@y"), "id-refused"),
    ],
)
def test_arguments_that_can_not_be_sent(run, ragflow, argv, code):
    status, out, _ = run(*argv, "--json")
    assert (status, json.loads(out)["code"]) == (1, code)
    assert ragflow.calls == []


def test_server_in_go_is_noted(run, ragflow, fake):
    fake.change("docker-ragflow-cpu-1", environment=("API_PROXY_SCHEME=hybrid",))
    assert "note: RAGFlow's server in Go" in run("register")[1]


def test_json(run, ragflow):
    code, out, _ = run("register", "--json")
    found = json.loads(out)
    assert (code, found["release"], found["model"], len(found["changes"])) == (0, "v0.25.3", MODEL, 1)


def test_chat_that_is_not_there(run, ragflow):
    code, out, _ = run("register", "--chat", "c9", "--json")
    assert (code, json.loads(out)["code"]) == (1, "ragflow-chat-unknown")


def test_chats_and_dataset(run, ragflow):
    ragflow.state.chats |= {"c1": "", "c2": ""}
    ragflow.state.datasets["d1"] = ["a cat"]
    code, out, _ = run("register", "--chat", "c1", "--chat", "c2", "--dataset", "d1")
    assert code == 0
    assert ragflow.state.chats == dict.fromkeys(("c1", "c2"), f"{MODEL}___VLLM@VLLM")
    assert "dataset d1: 1 chunks were ranked with it" in out


def test_key_and_token_from_files(run, ragflow, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_RAGFLOW_TOKEN", "ragflow-wrong")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "key").write_text("from-a-file\n")
    files = ("--token-file", str(tmp_path / "token"), "--key-file", str(tmp_path / "key"))
    assert run("register", *files)[0] == 0
    assert ragflow.state.llms[f"{MODEL}___VLLM"].key == "from-a-file"


def test_no_token(run, ragflow, monkeypatch):
    monkeypatch.delenv("RAGOPS_RAGFLOW_TOKEN")
    code, out, _ = run("register", "--json")
    assert (code, json.loads(out)["code"]) == (1, "ragflow-access")


def test_older_release_gets_the_values_to_enter_by_hand(run, ragflow, reranker):
    Path("ragops.toml").write_text('[ragflow]\nrelease = "v0.22.1"\n')
    code, out, _ = run("register", "--json")
    error = json.loads(out)
    evidence = error["evidence"]
    assert (code, error["code"]) == (1, "registration-manual")
    assert f"model name: {MODEL}" in evidence
    assert f"base URL: {reranker.base_url}" in evidence
    assert [one.authorization for one in ragflow.calls] == [""]


def test_several_ragflows_are_listed_and_none_is_guessed(run, ragflow, fake):
    labels = {"com.docker.compose.project": "other", "com.docker.compose.service": "ragflow"}
    fake.add_container("other-ragflow-1", labels=labels)
    code, out, _ = run("register", "--json")
    error = json.loads(out)
    assert (code, error["code"]) == (1, "ragflow-ambiguous")
    assert "other-ragflow-1" in error["evidence"]
    assert ragflow.calls == []


def test_no_ragflow(run, reranker):
    code, out, _ = run("register", "--json")
    assert (code, json.loads(out)["code"]) == (1, "ragflow-missing")


def test_the_demo_client_is_named_as_such(run, reranker, fake):
    labels = {"com.docker.compose.project": "docker", "com.docker.compose.service": "ragflow-cpu"}
    fake.add_container(demo.NAME, labels={**labels, "org.ragops": "demo"}, network="docker_ragflow")
    code, out, _ = run("register", "--json")
    assert (code, json.loads(out)["code"]) == (1, "ragflow-demo")


def test_url_alone_needs_no_engine(run, ragflow, monkeypatch):
    def nobody():
        pytest.fail("the engine was asked")

    monkeypatch.setattr("ragops.docker.engine.connect", nobody)
    assert run("register", "--url", ragflow.url)[0] == 0
