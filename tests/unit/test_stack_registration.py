"""Registration against the contract server of every kind of release: enter, read back, repeat, undo."""

import json
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from ragops.configuration import Ragflow, Stack
from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.api import Api, Response, Secret
from ragops.ragflow.providers import RegistrationSpec, manual_entry
from ragops.stack import registration
from tests.support.contract.api import RagflowServer
from tests.support.contract.state import Instance, Llm, Model, ServerState
from tests.support.stub import Behaviour, StubReranker

MODEL = "qwen3-reranker-0.6b"
RELEASES = ("v0.24.0", "v0.25.0", "v0.25.6", "v0.26.0", "v0.26.4", "v0.27.0")
"""One release for each set of routes."""
UNLIKE = ("v0.24.0", "v0.25.6", "v0.26.0", "v0.27.0")
"""Those that differ in how they keep a model."""
TOKEN = Secret("ragflow-EXAMPLE-TOKEN")
SEQUENCES = Path(__file__).parents[1] / "data" / "ragflow" / "sequences.json"


@pytest.fixture(scope="module")
def reranker():
    with StubReranker(Behaviour(model=MODEL)) as stub:
        yield stub


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def servers():
    """A server for each release; starting one takes longer than most tests."""
    with ExitStack() as held:
        yield {one: held.enter_context(RagflowServer(one, limit=60)) for one in RELEASES}


def fresh(server):
    vars(server.state).update(vars(ServerState(server.state.release, limit=60)))
    return server


@pytest.fixture(params=UNLIKE)
def ragflow(request, servers):
    return fresh(servers[request.param])


@pytest.fixture
def newest(servers):
    return fresh(servers["v0.27.0"])


@pytest.fixture
def spec(reranker):
    return RegistrationSpec(MODEL, reranker.base_url, 8192)


def stack(server):
    return Stack(ragflow=Ragflow(release=server.state.release.name))


def register(server, spec, token=TOKEN, **more):
    return registration.register(stack(server), token, url=server.url, spec=spec, **more)


def unregister(server, spec, token=TOKEN, **more):
    return registration.unregister(stack(server), token, url=server.url, spec=spec, **more)


def written(server):
    """The requests that change something."""
    return [(one.method, one.path.partition("?")[0]) for one in server.asked if one.method != "GET"]


def used_before(state):
    """The user has another reranker, as default and in a chat; gives its id in chats."""
    if state.before("v0.26.0"):
        state.llms["bge___VLLM"] = Llm(7, "rerank", "theirs", "http://theirs:8000/v1", 512)
        state.tenant["rerank_id"] = "bge___VLLM@VLLM"
        state.chats["c1"] = "bge___VLLM"
    else:
        state.provider = "VLLM"
        model = Model("77", "bge", ["rerank"], 512, {})
        state.instances["mine"] = Instance("7", "mine", "theirs", "http://theirs:8000/v1", {"bge": model})
        state.tenant |= {"rerank_id": "bge@mine@VLLM", "tenant_rerank_id": "77"}
        state.chats["c1"] = "bge@mine@VLLM"
    state.chats["c2"] = ""
    return state.chats["c1"]


def all_of(state):
    return deepcopy((state.provider, state.instances, state.llms, state.tenant, state.chats))


def test_registered_model_ranks(ragflow, spec):
    ragflow.state.datasets["d1"] = ["a cat", "what is this about"]
    found = register(ragflow, replace(spec, dataset="d1"))
    assert (found.model, found.base_url) == (MODEL, spec.base_url)
    assert found.rerank_id == releases.rerank_id(ragflow.state.release, MODEL, "ragops")
    assert "dataset d1 was ranked with it" in found.notes
    assert ragflow.asked[-1].answer["data"]["chunks"][0]["content"] == "what is this about"
    assert found.default == ""


def test_second_call_changes_nothing(ragflow, spec):
    ragflow.state.chats["c1"] = ""
    all_at_once = replace(spec, default=True, chats=("c1",))
    assert register(ragflow, all_at_once).changes
    before, sent = all_of(ragflow.state), len(written(ragflow))
    found = register(ragflow, all_at_once)
    assert found.changes == ()
    assert "nothing to change" in str(found)
    assert len(written(ragflow)) == sent
    assert all_of(ragflow.state) == before


def test_unregister_restores_all_settings(ragflow, spec, home):
    used_before(ragflow.state)
    before = all_of(ragflow.state)
    found = register(ragflow, replace(spec, default=True, chats=("c1", "c2")))
    assert found.chats == ("c1", "c2")
    assert found.default == found.rerank_id
    assert all_of(ragflow.state) != before
    undone = unregister(ragflow, spec)
    assert all_of(ragflow.state) == before
    assert undone.model == ""
    assert undone.notes == ()
    assert list((home / "ragflow").iterdir()) == []
    again = unregister(ragflow, spec)
    assert again.changes == ()
    assert "nothing to undo" in again.notes[0]


def test_no_default_before_is_no_default_after(ragflow, spec):
    before = all_of(ragflow.state)
    register(ragflow, replace(spec, default=True))
    assert ragflow.state.tenant["rerank_id"]
    undone = unregister(ragflow, spec)
    assert undone.default == ""
    assert not ragflow.state.tenant["rerank_id"]
    assert all_of(ragflow.state)[:3] == before[:3]


def test_earliest_settings_are_restored_after_several_calls(ragflow, spec):
    was = used_before(ragflow.state)
    for chats in (("c1",), ("c2",), ("c1", "c2")):
        register(ragflow, replace(spec, default=True, chats=chats))
    unregister(ragflow, spec)
    assert ragflow.state.chats == {"c1": was, "c2": ""}
    assert "bge" in ragflow.state.tenant["rerank_id"]


def test_later_choices_of_the_user_stay(ragflow, spec):
    was = used_before(ragflow.state)
    register(ragflow, replace(spec, chats=("c2",)))
    ragflow.state.chats["c2"] = was
    unregister(ragflow, spec)
    assert ragflow.state.chats["c2"] == was


def test_choice_between_two_registrations_is_restored(ragflow, spec):
    was = used_before(ragflow.state)
    register(ragflow, replace(spec, chats=("c2",)))
    ragflow.state.chats["c2"] = was
    register(ragflow, replace(spec, chats=("c2",)))
    unregister(ragflow, spec)
    assert ragflow.state.chats["c2"] == was


def test_entry_of_the_user_is_not_changed(ragflow, spec):
    used_before(ragflow.state)
    state = ragflow.state
    theirs = state.llms.get("bge___VLLM") or state.instances["mine"]
    before = all_of(state)
    taken = replace(spec, model="bge", instance="mine")
    with pytest.raises(RagflowError) as caught:
        register(ragflow, taken)
    assert caught.value.code == "entry-foreign"
    assert theirs.url in caught.value.evidence
    assert written(ragflow) == []
    assert all_of(state) == before


def test_correct_entry_is_used_and_stays(ragflow, spec, reranker):
    state = ragflow.state
    if state.before("v0.26.0"):
        state.llms[f"{MODEL}___VLLM"] = Llm(1, "rerank", "x", reranker.base_url, 8192)
    else:
        state.provider = "VLLM"
        model = Model("1", MODEL, ["rerank"], 8192, {})
        state.instances["ragops"] = Instance(
            "1", "ragops", "ragops-rerank", reranker.base_url, {MODEL: model}
        )
    before = all_of(state)
    assert register(ragflow, replace(spec, default=True)).changes
    undone = unregister(ragflow, spec)
    assert "existed before ragops register" in undone.notes[0]
    assert all_of(state)[:3] == before[:3]


@pytest.mark.parametrize("wrong", ["model", "address", "key"])
def test_refused_entry_is_removed(ragflow, spec, wrong, home):
    with StubReranker(Behaviour(model=MODEL, api_key="secret-key")) as locked:
        closed = "http://127.0.0.1:9/v1"
        changed = {
            "model": {"model": "another"},
            "address": {"base_url": closed},
            "key": {"base_url": locked.base_url},
        }
        before = all_of(ragflow.state)
        with pytest.raises(RagflowError) as caught:
            register(ragflow, replace(spec, **changed[wrong]))
    codes = {"model": "ragflow-name-unknown", "address": "ragflow-reranker-silent", "key": "ragflow-key"}
    assert caught.value.code == codes[wrong]
    assert all_of(ragflow.state) == before
    assert list((home / "ragflow").iterdir()) == []


def test_new_address_is_updated(ragflow, spec):
    register(ragflow, replace(spec, default=True))
    with StubReranker(Behaviour(model=MODEL)) as other:
        moved = replace(spec, base_url=other.base_url, default=True)
        found = register(ragflow, moved)
        assert found.base_url == other.base_url
        assert found.default == found.rerank_id
        assert register(ragflow, moved).changes == ()
    unregister(ragflow, spec)
    assert (ragflow.state.llms, ragflow.state.instances) == ({}, {})


def test_new_model_replaces_the_one_that_ragops_entered(ragflow, spec, reranker):
    was = used_before(ragflow.state)
    before = all_of(ragflow.state)
    register(ragflow, replace(spec, default=True, chats=("c1",)))
    with StubReranker(Behaviour(model="other")) as other:
        changed = replace(spec, model="other", base_url=other.base_url, default=True, chats=("c1",))
        found = register(ragflow, changed)
        assert "other" in found.default
        names = [
            *ragflow.state.llms,
            *(one for each in ragflow.state.instances.values() for one in each.models),
        ]
        assert not [name for name in names if name.startswith(MODEL)]
        unregister(ragflow, changed)
    assert ragflow.state.chats["c1"] == was
    assert all_of(ragflow.state) == before


def test_key_is_sent_and_read_back_where_possible(ragflow, spec):
    with StubReranker(Behaviour(model=MODEL, api_key="secret-key")) as locked:
        register(ragflow, replace(spec, base_url=locked.base_url, key=Secret("secret-key")))
    state = ragflow.state
    assert [one.key for one in (*state.llms.values(), *state.instances.values())] == ["secret-key"]


def test_other_models_of_the_instance_stay(newest, spec):
    register(newest, spec)
    newest.state.instances["ragops"].models["theirs"] = Model("9", "theirs", ["chat"], 1, {})
    with (
        StubReranker(Behaviour(model=MODEL)) as other,
        pytest.raises(RagflowError) as caught,
    ):
        register(newest, replace(spec, base_url=other.base_url))
    assert caught.value.code == "entry-foreign"
    unregister(newest, spec)
    assert list(newest.state.instances["ragops"].models) == ["theirs"]
    assert newest.state.provider == "VLLM"


def test_provider_in_use_stays(newest, spec):
    register(newest, spec)
    newest.state.instances["later"] = Instance("9", "later")
    unregister(newest, spec)
    assert (newest.state.provider, list(newest.state.instances)) == ("VLLM", ["later"])


def test_missing_chat_does_not_stop_unregister(ragflow, spec):
    used_before(ragflow.state)
    register(ragflow, replace(spec, chats=("c1", "c2")))
    del ragflow.state.chats["c2"]
    unregister(ragflow, spec)
    assert "bge" in ragflow.state.chats["c1"]


def test_missing_chat_is_an_error_before_any_change(ragflow, spec):
    with pytest.raises(RagflowError) as caught:
        register(ragflow, replace(spec, chats=("nobody",)))
    assert caught.value.code == "ragflow-chat-unknown"
    assert written(ragflow) == []


def test_refused_unregister_can_be_repeated(newest, spec, home, monkeypatch):
    was = used_before(newest.state)
    register(newest, replace(spec, default=True, chats=("c2",)))
    models = newest.state.instances["mine"].models
    there = models.pop("bge")
    with pytest.raises(RagflowError) as caught:
        unregister(newest, spec)
    assert caught.value.code == "ragflow-failed"
    assert newest.state.chats == {"c1": was, "c2": ""}, "what could be put back was"
    assert len(list((home / "ragflow").iterdir())) == 1
    models["bge"] = there
    unregister(newest, spec)
    assert list(newest.state.instances) == ["mine"]
    assert list((home / "ragflow").iterdir()) == []


@pytest.mark.parametrize("change", ["address", "model"])
def test_default_and_chats_of_an_earlier_call_stay(ragflow, spec, change):
    was = used_before(ragflow.state)
    before = all_of(ragflow.state)
    register(ragflow, replace(spec, default=True, chats=("c1",)))
    name = "other" if change == "model" else MODEL
    with StubReranker(Behaviour(model=name)) as other:
        found = register(ragflow, replace(spec, model=name, base_url=other.base_url))
        assert found.default == found.rerank_id
        assert found.chats == ("c1",)
        assert ragflow.state.chats["c1"] != was
        unregister(ragflow, spec)
    assert all_of(ragflow.state) == before


def test_registration_after_an_upgrade_recognizes_earlier_ids(servers, spec):
    newest, old = fresh(servers["v0.27.0"]), fresh(servers["v0.25.6"])
    old.state.chats["c1"] = ""
    register(old, replace(spec, default=True, chats=("c1",)))
    newest.state.chats["c1"] = old.state.chats["c1"]
    found = register(newest, replace(spec, default=True, chats=("c1",)))
    assert found.rerank_id == f"{MODEL}@ragops@VLLM" == newest.state.chats["c1"]
    unregister(newest, spec)
    assert newest.state.chats["c1"] == ""


@pytest.mark.parametrize("path", ["/api/v1/providers/VLLM/instances/ragops", "/api/v1/models/default"])
def test_unreadable_object_is_not_a_missing_one(newest, spec, path, monkeypatch):
    """Else a server that stumbles would be given a second instance."""
    register(newest, spec)
    sent = len(written(newest))
    send = Api.send
    broken = Response(200, '{"code": 102, "message": "Internal server error"}')
    monkeypatch.setattr(Api, "send", lambda api, one: broken if one.path == path else send(api, one))
    with pytest.raises(RagflowError) as caught:
        register(newest, spec)
    assert caught.value.code == "ragflow-failed"
    assert len(written(newest)) == sent


@pytest.mark.parametrize("release", RELEASES)
def test_token_is_sufficient(servers, spec, release):
    assert register(fresh(servers[release]), spec).model == MODEL


@pytest.mark.parametrize("verb", [register, unregister])
@pytest.mark.parametrize("release", ["v0.18.0", "v0.23.1"])
def test_older_releases_get_the_values_to_enter_by_hand_and_no_request(release, verb, spec):
    with RagflowServer(release) as server, pytest.raises(RagflowError) as caught:
        verb(server, spec)
    assert caught.value.code == "registration-manual"
    rows = dict(line.split(": ", 1) for line in caught.value.evidence.splitlines())
    assert rows == {
        "provider": "VLLM",
        "model type": "rerank",
        "model name": MODEL,
        "base URL": spec.base_url,
        "API key": "ragops-rerank",
        "max tokens": "8192",
    }
    assert release in caught.value.message
    assert server.asked == []


def test_values_to_enter_by_hand_have_no_key(spec):
    assert ("API key", str(Secret("secret-key"))) in manual_entry(replace(spec, key=Secret("secret-key")))


def test_no_token(newest, spec):
    with pytest.raises(RagflowError) as caught:
        register(newest, spec, Secret(""))
    assert caught.value.code == "ragflow-access"
    assert newest.asked == []


def test_refused_token(newest, spec):
    with pytest.raises(RagflowError) as caught:
        register(newest, spec, Secret("ragflow-wrong"))
    assert caught.value.code == "ragflow-token"


def test_no_response(spec):
    known = Stack(ragflow=Ragflow(release="v0.27.0"))
    with pytest.raises(RagflowError) as caught:
        registration.register(known, TOKEN, url="http://127.0.0.1:9", spec=spec)
    assert (caught.value.code, caught.value.url) == ("ragflow-silent", "http://127.0.0.1:9")


@pytest.mark.parametrize("release", ["v0.17.0", "v0.17.2"])
def test_releases_that_cannot_use_it_are_refused(release, spec):
    with (
        RagflowServer(release) as server,
        pytest.raises(RagflowError) as caught,
    ):
        register(server, spec)
    assert caught.value.code == "ragflow-release"
    assert server.asked == []


def test_unknown_release_is_refused_with_evidence(newest, spec):
    newest.state.version = "v0.99.0"
    with pytest.raises(RagflowError) as caught:
        registration.register(Stack(), TOKEN, url=newest.url, spec=spec)
    assert (caught.value.code, "v0.99.0" in caught.value.message) == ("ragflow-release", True)
    assert written(newest) == []


def test_undo_record_is_private_and_has_no_secret(newest, spec, home):
    register(newest, replace(spec, key=Secret("canary-key"), default=True))
    (file,) = (home / "ragflow").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "canary" not in text
    assert TOKEN.get_secret_value() not in text


def test_broken_undo_record_is_an_error(newest, spec, home):
    register(newest, spec)
    (file,) = (home / "ragflow").iterdir()
    file.write_text("{")
    with pytest.raises(RagflowError) as caught:
        register(newest, spec)
    assert (caught.value.code, caught.value.file) == ("undo-unreadable", file)


def test_different_entry_after_registration_is_an_error(newest, spec, monkeypatch):
    monkeypatch.setattr("tests.support.contract.providers._normalised", lambda url: url + "/other")
    with pytest.raises(RagflowError):
        register(newest, spec)


def sequence(server, address):
    """Everything that register and unregister send, the chat and the default included."""
    server.state.chats["c1"] = ""
    spec = RegistrationSpec(MODEL, address, 8192, default=True, chats=("c1",))
    register(server, spec)
    turn = len(server.asked)
    unregister(server, spec)
    rows = [
        " ".join([one.method, one.path, json.dumps(one.body).replace(address, "ADDRESS")]).removesuffix(
            " null"
        )
        for one in server.asked
    ]
    return {"register": rows[:turn], "unregister": rows[turn:]}


@pytest.mark.parametrize("release", RELEASES)
def test_requests_match_the_recorded_ones(release, servers, reranker):
    on_record = json.loads(SEQUENCES.read_text())[release]
    assert sequence(fresh(servers[release]), reranker.base_url) == on_record


def test_recording_has_every_family_of_releases():
    assert tuple(json.loads(SEQUENCES.read_text())) == RELEASES


def test_nothing_but_http_200_is_seen_though_much_fails(newest, spec):
    """The status says nothing: a failed test of the model is HTTP 200 with a code."""
    with pytest.raises(RagflowError):
        register(newest, replace(spec, model="another"))
    assert {one.status for one in newest.asked} == {200}
    assert 102 in {one.answer["code"] for one in newest.asked}


if __name__ == "__main__":
    import os
    import tempfile

    os.environ["RAGOPS_HOME"] = tempfile.mkdtemp()
    made = {}
    with StubReranker(Behaviour(model=MODEL)) as served:
        for name in RELEASES:
            with RagflowServer(name) as running:
                made[name] = sequence(running, served.base_url)
    SEQUENCES.write_text(json.dumps(made, indent=1) + "\n")
