"""Registration against the contract server of every kind of release: enter, read back, repeat, undo."""

import json
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ragops.configuration import Gateway, Ragflow, Reranker, Stack
from ragops.errors import EngineError, RagflowError, StackError
from ragops.ragflow import releases
from ragops.ragflow.api import Api, Response, Secret
from ragops.ragflow.providers import RegistrationSpec
from ragops.reranker.options import known
from ragops.session import Deployment
from ragops.stack import registration
from tests.support.contract.api import RagflowServer
from tests.support.contract.state import Instance, Llm, Model, ServerState, not_found, upgrade
from tests.support.served import Served
from tests.support.stub import Behaviour, StubReranker

MODEL = "qwen3-reranker-0.6b"
RELEASES = ("v0.24.0", "v0.25.0", "v0.25.6", "v0.26.0", "v0.26.4", "v0.27.0", "v1.0.0-rc1")
"""One release for each set of routes."""
UNLIKE = ("v0.24.0", "v0.25.6", "v0.26.0", "v0.27.0", "v1.0.0-rc1")
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


def unregister(server, token=TOKEN, **more):
    return registration.unregister(stack(server), token, url=server.url, **more)


def written(server):
    """The requests that change something; a test of the model and a search don't."""
    tests = [one for one in server.calls if (one.body or {}).get("verify") is True]
    reads = ("/api/v1/retrieval", "/api/v1/datasets/search", "/api/v1/providers/VLLM/connection")
    return [
        (one.method, one.path)
        for one in server.calls
        if one.method != "GET" and one not in tests and one.path not in reads
    ]


def records(home):
    return list(home.glob("ragflow/*"))


def foreign(state, url, **changed):
    """The user's own entry in the place of that of ragops; ``changed`` are fields of the model."""
    if state.before("v0.26.0"):
        state.llms[f"{MODEL}___VLLM"] = Llm(1, changed.get("types", ["rerank"])[0], "x", url, 8192)
    else:
        state.provider = "VLLM"
        model = Model(
            **{"id": "1", "name": MODEL, "types": ["rerank"], "max_tokens": 8192, "extra": {}} | changed
        )
        state.instances["ragops"] = Instance("1", "ragops", "ragops-rerank", url, {MODEL: model})


def remove_bge(state):
    state.llms.pop("bge___VLLM", None)
    state.instances.pop("mine", None)


def answer(server, chat):
    """RAGFlow's code for a question in a chat."""
    headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    path = f"/api/v1/chats/{chat}/completions"
    return httpx.post(server.url + path, json={"question": "a cat"}, headers=headers).json()["code"]


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
    assert "dataset d1: 2 chunks were ranked with it" in found.notes
    assert ragflow.calls[-1].response["data"]["chunks"][0]["content"] == "what is this about"
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
    undone = unregister(ragflow)
    assert all_of(ragflow.state) == before
    assert undone.model == ""
    assert undone.notes == ()
    assert records(home) == []
    again = unregister(ragflow)
    assert again.changes == ()
    assert str(home / "ragflow") in again.notes[0]


def test_no_default_before_is_no_default_after(ragflow, spec):
    before = all_of(ragflow.state)
    register(ragflow, replace(spec, default=True))
    assert ragflow.state.tenant["rerank_id"]
    undone = unregister(ragflow)
    assert undone.default == ""
    assert not ragflow.state.tenant["rerank_id"]
    assert all_of(ragflow.state)[:3] == before[:3]


def test_earliest_settings_are_restored_after_several_calls(ragflow, spec):
    was = used_before(ragflow.state)
    for chats in (("c1",), ("c2",), ("c1", "c2")):
        register(ragflow, replace(spec, default=True, chats=chats))
    unregister(ragflow)
    assert ragflow.state.chats == {"c1": was, "c2": ""}
    assert "bge" in ragflow.state.tenant["rerank_id"]


def test_later_choices_of_the_user_stay(ragflow, spec):
    was = used_before(ragflow.state)
    register(ragflow, replace(spec, chats=("c2",)))
    ragflow.state.chats["c2"] = was
    unregister(ragflow)
    assert ragflow.state.chats["c2"] == was


def test_choice_between_two_registrations_is_restored(ragflow, spec):
    was = used_before(ragflow.state)
    register(ragflow, replace(spec, chats=("c2",)))
    ragflow.state.chats["c2"] = was
    register(ragflow, replace(spec, chats=("c2",)))
    unregister(ragflow)
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


def test_correct_entry_is_used_and_stays(ragflow, spec):
    foreign(ragflow.state, spec.base_url)
    before = all_of(ragflow.state)
    assert register(ragflow, replace(spec, default=True)).changes
    undone = unregister(ragflow)
    assert "existed before ragops register" in undone.notes[0]
    assert all_of(ragflow.state)[:3] == before[:3]
    assert ragflow.state.tenant["rerank_id"] == ""


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
    assert records(home) == []


def test_new_address_is_updated(ragflow, spec):
    register(ragflow, replace(spec, default=True))
    with StubReranker(Behaviour(model=MODEL)) as other:
        moved = replace(spec, base_url=other.base_url, default=True)
        found = register(ragflow, moved)
        assert found.base_url == other.base_url
        assert found.default == found.rerank_id
        assert register(ragflow, moved).changes == ()
    unregister(ragflow)
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
        unregister(ragflow)
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
    unregister(newest)
    assert list(newest.state.instances["ragops"].models) == ["theirs"]
    assert newest.state.provider == "VLLM"


def test_provider_in_use_stays(newest, spec):
    register(newest, spec)
    newest.state.instances["later"] = Instance("9", "later")
    unregister(newest)
    assert (newest.state.provider, list(newest.state.instances)) == ("VLLM", ["later"])


def test_missing_chat_does_not_stop_unregister(ragflow, spec):
    used_before(ragflow.state)
    register(ragflow, replace(spec, chats=("c1", "c2")))
    del ragflow.state.chats["c2"]
    unregister(ragflow)
    assert "bge" in ragflow.state.chats["c1"]


def test_missing_chat_is_an_error_before_any_change(ragflow, spec):
    with pytest.raises(RagflowError) as caught:
        register(ragflow, replace(spec, chats=("nobody",)))
    assert caught.value.code == "ragflow-chat-unknown"
    assert written(ragflow) == []


def test_earlier_model_that_is_gone_is_cleared(ragflow, spec, home):
    state = ragflow.state
    used_before(state)
    register(ragflow, replace(spec, default=True, chats=("c1", "c2")))
    remove_bge(state)
    undone = unregister(ragflow)
    assert state.chats == {"c1": "", "c2": ""}
    assert state.tenant["rerank_id"] == undone.default == ""
    assert sorted(note.split(" uses")[0] for note in undone.notes) == ["chat c1", "the default"]
    assert f"{MODEL}" not in str(state.llms) + str(state.instances)
    assert records(home) == []
    assert unregister(ragflow).changes == ()


@pytest.mark.parametrize("path", ["/api/v1/chats/c2", "default"])
def test_model_stays_while_a_setting_could_not_be_restored(ragflow, spec, home, path, monkeypatch):
    was = used_before(ragflow.state)
    before = all_of(ragflow.state)
    register(ragflow, replace(spec, default=True, chats=("c1", "c2")))
    path = ragflow.state.release.default if path == "default" else path
    send, broken = Api.send, Response(500, "<html>broken</html>")
    with monkeypatch.context() as patch:
        patch.setattr(
            Api,
            "send",
            lambda api, one: broken if (one.path, one.method != "GET") == (path, True) else send(api, one),
        )
        with pytest.raises(RagflowError):
            unregister(ragflow)
    assert ragflow.state.chats["c1"] == was
    assert MODEL in str(ragflow.state.llms) + str(ragflow.state.instances)
    assert len(records(home)) == 1
    unregister(ragflow)
    assert all_of(ragflow.state) == before


def test_default_of_a_removed_instance_is_cleared(ragflow, spec):
    register(ragflow, replace(spec, default=True))
    ragflow.state.llms.clear()
    ragflow.state.instances.clear()
    assert unregister(ragflow).default == ""
    assert ragflow.state.tenant["rerank_id"] == ""


def test_settings_of_the_user_that_name_the_model_are_cleared_before_it_is_removed(ragflow, spec):
    """RAGFlow removes a model in use; each question in such a chat would fail."""
    state = ragflow.state
    state.datasets["d1"] = ["a cat"]
    state.chats["c1"] = ""
    state.chats["c3"] = register(ragflow, replace(spec, chats=("c1",))).chats and state.chats["c1"]
    state.tenant["rerank_id"] = releases.rerank_id(state.release, MODEL, "ragops")
    assert answer(ragflow, "c3") == 0
    undone = unregister(ragflow)
    assert state.chats == {"c1": "", "c3": ""}
    assert state.tenant["rerank_id"] == ""
    assert answer(ragflow, "c3") == 0
    assert sorted(note.split(" uses")[0] for note in undone.notes) == ["chat c3", "the default"]


def test_chat_that_the_user_set_before_is_undone_too(ragflow, spec):
    ragflow.state.chats["c1"] = ""
    ragflow.state.chats["c2"] = (
        register(ragflow, replace(spec, chats=("c1",))).chats and ragflow.state.chats["c1"]
    )
    assert register(ragflow, replace(spec, chats=("c2",))).changes == ()
    unregister(ragflow)
    assert ragflow.state.chats == {"c1": "", "c2": ""}


def test_chat_of_a_removed_model_fails(newest, spec):
    newest.state.datasets["d1"] = ["a cat"]
    newest.state.chats["c1"] = f"{MODEL}@ragops@VLLM"
    assert answer(newest, "c1") == 100


class Killed(BaseException):
    """The process ends: no handler of an error runs."""


@pytest.mark.parametrize("release", ["v0.25.6", "v0.27.0"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("verb", ["register", "unregister"])
def test_killed_at_any_write_and_repeated(servers, spec, release, moment, verb, monkeypatch, home):
    ragflow = fresh(servers[release])
    used_before(ragflow.state)
    wanted, begin = replace(spec, default=True, chats=("c1", "c2")), all_of(ragflow.state)
    calls = {"register": lambda: register(ragflow, wanted), "unregister": lambda: unregister(ragflow)}
    plain, writes = Api.send, 0

    def send(api, request):
        nonlocal left
        left -= request.method != "GET"
        if left == 0 and moment == "before":
            raise Killed
        response = plain(api, request)
        if left == 0:
            raise Killed
        return response

    while True:
        if verb == "unregister":
            calls["register"]()
        writes += 1
        left, killed = writes, False
        with monkeypatch.context() as patch:
            patch.setattr(Api, "send", send)
            try:
                calls[verb]()
            except Killed:
                killed = True
        if verb == "register":
            assert calls["register"]().chats == ("c1", "c2")
        calls["unregister"]()
        assert all_of(ragflow.state) == begin, writes
        assert records(home) == []
        if not killed:
            break
    assert writes > 3


def test_all_pages_of_chats_are_read(newest, spec):
    newest.state.chats |= {f"c{number}": "" for number in range(250)}
    assert register(newest, replace(spec, chats=("c249",))).chats == ("c249",)


def test_chats_of_others_are_not_touched(servers, spec):
    ragflow = fresh(servers["v0.25.6"])
    register(ragflow, spec)
    assert register(ragflow, spec).chats == ()


def test_chat_keeps_its_datasets(servers, spec):
    """RAGFlow v0.24 removes those that an update does not repeat."""
    ragflow = fresh(servers["v0.24.0"])
    ragflow.state.chats["c1"], ragflow.state.chat_datasets["c1"] = "", ["d1", "d2"]
    register(ragflow, replace(spec, chats=("c1",)))
    assert ragflow.state.chat_datasets == {"c1": ["d1", "d2"]}
    unregister(ragflow)
    assert ragflow.state.chat_datasets == {"c1": ["d1", "d2"]}


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
        unregister(ragflow)
    assert all_of(ragflow.state) == before


@pytest.mark.parametrize("old", ["v0.24.0", "v0.25.6"])
@pytest.mark.parametrize("new", ["v0.26.4", "v0.27.0"])
@pytest.mark.parametrize("again", [True, False])
def test_default_and_chats_are_carried_over_an_upgrade(servers, spec, old, new, again):
    """RAGFlow's migration inserts the instance ``default`` into their ids."""
    old, new = fresh(servers[old]), fresh(servers[new])
    used_before(old.state)
    register(old, replace(spec, default=True, chats=("c1", "c2")))
    upgrade(old.state, new.state)
    found = register(new, replace(spec, default=again, chats=("c1", "c2") if again else ()))
    assert (found.default, found.chats) == (f"{MODEL}@ragops@VLLM", ("c1", "c2"))
    unregister(new)
    assert MODEL not in str([new.state.chats, new.state.tenant])
    assert new.state.chats["c2"] == ""


def test_earlier_default_is_restored_after_an_upgrade(servers, spec):
    old, new = fresh(servers["v0.25.6"]), fresh(servers["v0.27.0"])
    used_before(old.state)
    old.state.chats["c1"] = "bge___VLLM@VLLM"
    register(old, replace(spec, default=True, chats=("c1",)))
    upgrade(old.state, new.state)
    new.state.instances["default"].models["bge___VLLM"].types = ["rerank"]
    unregister(new)
    assert new.state.chats["c1"] == new.state.tenant["rerank_id"] == "bge___VLLM@default@VLLM"


@pytest.mark.parametrize(
    ("release", "changed", "difference"),
    [
        *((release, {"types": ["chat"]}, "type: chat instead of rerank") for release in UNLIKE),
        *((release, {"status": "inactive"}, "status: inactive instead of active") for release in UNLIKE[2:]),
        ("v1.0.0-rc1", {"max_tokens": 512}, "max tokens: 512 instead of 8192"),
    ],
)
def test_entry_that_ragflow_would_not_use_differs(servers, spec, release, changed, difference):
    ragflow = fresh(servers[release])
    foreign(ragflow.state, spec.base_url, **changed)
    before = all_of(ragflow.state)
    with pytest.raises(RagflowError) as caught:
        register(ragflow, spec)
    assert (caught.value.code, caught.value.evidence) == ("entry-foreign", difference)
    assert ("--instance" in caught.value.hint) is not ragflow.state.before("v0.26.0")
    assert all_of(ragflow.state) == before


@pytest.fixture
def locked(tmp_path):
    """A gateway's configuration with a key, and a server that requires it."""
    file = tmp_path / "key"
    file.write_text("gateway-key\n")
    with StubReranker(Behaviour(model=MODEL, api_key="gateway-key")) as server:
        yield server, Gateway(key_file=file)


@pytest.mark.parametrize("release", UNLIKE)
def test_key_of_the_gateway_is_registered(servers, spec, locked, release, model_folder, monkeypatch):
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(model_folder))
    ragflow, (server, options) = fresh(servers[release]), locked
    configured = stack(ragflow).model_copy(update={"gateway": options})
    entry = registration.registration_spec(configured, server.base_url)
    entry = replace(entry, model=MODEL)
    assert registration.register(configured, TOKEN, url=ragflow.url, spec=entry).changes
    assert server.calls
    assert "gateway-key" in str(all_of(ragflow.state))


@pytest.mark.parametrize(
    ("address", "gateway", "key", "refused"),
    [
        ("http://reranker.example:8123/v1", Gateway(), "", True),
        ("http://192.0.2.7:8123/v1", Gateway(), "", True),
        ("http://reranker.example:8123/v1", Gateway(), "key-of-a-proxy", False),
        ("http://reranker.example:8123/v1", False, "", False),
        ("http://127.0.0.1:8123/v1", Gateway(), "", False),
        ("http://[::1]:8123/v1", Gateway(), "", False),
        (Stack().internal_url, Gateway(), "", False),
        ("http://MyReranker:8000/v1", Gateway(), "", False),
        ("http://127.0.0.2:8123/v1", Gateway(), "", False),
        ("http://172.18.0.9:8000/v1", Gateway(), "", False),
        ("http://172.18.0.8:8000/v1", Gateway(), "", True),
    ],
)
def test_way_in_from_another_machine_needs_a_key(newest, fake, address, gateway, key, refused):
    name = "MyReranker" if "MyReranker" in address else Stack().reranker.name
    reranker = Reranker(name=name)
    configured = stack(newest).model_copy(update={"gateway": gateway, "reranker": reranker})
    fake.add_container(name)
    (endpoint, *_) = fake.container(name).endpoints
    fake.change(name, endpoints=(replace(endpoint, address="172.18.0.9"),))
    entry = RegistrationSpec(MODEL, address, 8192, **({"key": Secret(key)} if key else {}))
    before = all_of(newest.state)
    with pytest.raises((RagflowError, StackError)) as caught:
        registration.register(configured, TOKEN, url=newest.url, spec=entry, engine=fake)
    assert (caught.value.code == "gateway-open") is refused
    assert all_of(newest.state) == before
    assert (newest.calls == []) is refused


@pytest.mark.parametrize("release", UNLIKE[:-1])
def test_token_limit_of_an_entry_by_hand_stays_where_ragflow_does_not_use_it(servers, spec, release):
    ragflow = fresh(servers[release])
    foreign(ragflow.state, spec.base_url)
    before = all_of(ragflow.state)
    assert register(ragflow, replace(spec, max_tokens=8112)).changes == ()
    assert all_of(ragflow.state) == before


@pytest.mark.parametrize("release", UNLIKE)
def test_own_token_limit_is_updated(servers, spec, release):
    ragflow = fresh(servers[release])
    register(ragflow, replace(spec, max_tokens=8192))
    assert register(ragflow, replace(spec, max_tokens=8112)).changes
    assert "8112" in str(all_of(ragflow.state))


def test_other_key_is_named(newest, spec):
    foreign(newest.state, spec.base_url)
    newest.state.instances["ragops"].key = "secret"
    with pytest.raises(RagflowError) as caught:
        register(newest, spec)
    assert caught.value.evidence == "key: another instead of the given one"


@pytest.mark.parametrize("release", ["v0.26.0", "v0.27.0"])
def test_own_model_is_enabled_again(servers, spec, release):
    ragflow = fresh(servers[release])
    ragflow.state.datasets["d1"] = ["a cat"]
    register(ragflow, spec)
    ragflow.state.instances["ragops"].models[MODEL].status = "inactive"
    assert register(ragflow, replace(spec, dataset="d1")).changes
    assert ragflow.state.instances["ragops"].models[MODEL].status == "active"


IDS = ["../datasets", "", "?id=1", "a/b", "a b", "a?b=1", "x@y", "l" * 129, "ü", "a\n"]


@pytest.mark.parametrize(
    "changed",
    [
        *({"instance": name} for name in (*IDS, "default")),
        *({"chats": (name,)} for name in IDS),
        *({"dataset": name} for name in IDS if name),
        *({"key": Secret(key)} for key in ("", "a b", "a\nb", "ü", "k" * 513)),
        *({"base_url": url} for url in ("", "..", "http://..", "http://h:938O", "ftp://h", "http://u:p@h")),
    ],
    ids=str,
)
def test_what_can_not_be_sent_is_refused_before_anything_is(newest, spec, changed):
    with pytest.raises(StackError) as caught:
        register(newest, replace(spec, **changed))
    assert caught.value.code in {"id-refused", "secret-refused", "address-refused"}
    assert newest.calls == []


@pytest.mark.parametrize(
    ("release", "changed"),
    [
        ("v0.27.0", {"model": "m" * 120}),
        ("v0.27.0", {"instance": "i" * 110}),
        ("v0.25.6", {"model": "a___b"}),
        ("v0.26.0", {"model": "a@b"}),
    ],
)
def test_name_that_ragflow_would_cut_is_refused(servers, spec, release, changed):
    ragflow = fresh(servers[release])
    with pytest.raises(RagflowError) as caught:
        register(ragflow, replace(spec, **changed))
    assert caught.value.code == "id-refused"
    assert [one.authorization for one in ragflow.calls] == [""]


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1//"])
def test_address_is_spelled_as_ragflow_does(ragflow, spec, ending):
    base = spec.base_url.removesuffix("/v1")
    assert register(ragflow, replace(spec, base_url=base + ending)).base_url == spec.base_url
    assert register(ragflow, spec).changes == ()


@pytest.mark.parametrize("verb", [register, lambda server, spec: unregister(server)])
@pytest.mark.parametrize(
    ("status", "content"),
    [(200, "<html>"), (502, "<html>Bad Gateway"), (404, '{"detail": "Not Found"}'), (200, "{}")],
)
def test_server_that_is_not_ragflow_gets_no_token(spec, verb, status, content):
    seen = []

    async def respond(request):
        seen.append(request.headers.get("authorization"))
        return PlainTextResponse(content, status)

    routes = [Route("/{path:path}", respond, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])]
    with Served(Starlette(routes=routes)) as other:
        server = SimpleNamespace(url=other.url, state=ServerState(releases.of("v0.27.0")))
        with pytest.raises(RagflowError) as caught:
            verb(server, spec)
    assert caught.value.code == "ragflow-other"
    assert seen == [None]


@pytest.mark.parametrize("url", ["http://..", "http://127.0.0.1:938O", "http://[::1", "http://h:99999"])
def test_invalid_address_of_ragflow(spec, url):
    for call in (registration.register, registration.unregister):
        with pytest.raises(StackError) as caught:
            call(Stack(), TOKEN, url=url, **({"spec": spec} if call is registration.register else {}))
        assert caught.value.code == "address-refused"


@pytest.mark.parametrize("token", ["a b", "ü", "a\n"])
def test_token_that_no_header_can_hold(newest, spec, token):
    with pytest.raises(RagflowError) as caught:
        register(newest, spec, Secret(token))
    assert caught.value.code == "ragflow-access"


@pytest.mark.parametrize(
    ("dataset", "code"), [("empty", "dataset-empty"), ("none", "ragflow-dataset-unknown")]
)
def test_dataset_without_a_proof_is_an_error_before_any_change(ragflow, spec, reranker, dataset, code):
    ragflow.state.datasets["empty"] = []
    calls = len(reranker.calls)
    with pytest.raises(RagflowError) as caught:
        register(ragflow, replace(spec, dataset=dataset))
    assert caught.value.code == code
    assert written(ragflow) == []
    assert len(reranker.calls) == calls


def test_each_call_lets_ragflow_ask_the_reranker(ragflow, spec):
    with StubReranker(Behaviour(model=MODEL)) as stopped:
        moved = replace(spec, base_url=stopped.base_url, key=Secret("the-key"))
        register(ragflow, moved)
        calls = len(stopped.calls)
        register(ragflow, moved)
        assert (
            len(
                [
                    call
                    for call in stopped.calls[calls:]
                    if "python-httpx" not in call.headers["user-agent"] or call.headers.get("x-fern-sdk-name")
                ]
            )
            >= 1
        )
    before = all_of(ragflow.state)
    with pytest.raises(RagflowError) as caught:
        register(ragflow, moved)
    assert caught.value.code == "ragflow-reranker-silent"
    assert all_of(ragflow.state) == before


def test_difference_between_this_host_and_ragflow_is_explained(newest, spec, monkeypatch):
    async def fails(*_):
        return "[Errno -2] Name or service not known"

    monkeypatch.setattr("tests.support.contract.upstream.tested", fails)
    with pytest.raises(RagflowError) as caught:
        register(newest, spec)
    assert f"this host reaches {spec.base_url}" in caught.value.evidence
    assert "--address" in caught.value.hint

    async def succeeds(*_):
        return ""

    monkeypatch.setattr("tests.support.contract.upstream.tested", succeeds)
    closed = "http://127.0.0.1:9/v1"
    found = register(newest, replace(spec, base_url=closed))
    assert f"this host does not reach {closed}" in found.notes[0]


def test_record_alone_is_sufficient_to_unregister(servers, spec, monkeypatch):
    def none():
        raise EngineError("no engine")

    ragflow = fresh(servers["v0.24.0"])  # it does not report its release
    before = all_of(ragflow.state)
    register(ragflow, replace(spec, default=True))
    monkeypatch.setattr("ragops.docker.engine.connect", none)
    registration.unregister(Stack(), TOKEN)
    assert all_of(ragflow.state) == before
    with pytest.raises(EngineError):
        registration.unregister(Stack(), TOKEN)


def test_v0_26_keeps_an_instance_with_models_of_the_user(servers, spec, home):
    ragflow = fresh(servers["v0.26.4"])
    register(ragflow, replace(spec, default=True))
    ragflow.state.instances["ragops"].models["theirs"] = Model("9", "theirs", ["chat"], 1, {})
    undone = unregister(ragflow)
    assert undone.notes
    assert sorted(ragflow.state.instances["ragops"].models) == [MODEL, "theirs"]
    assert ragflow.state.tenant["rerank_id"] == ""
    assert records(home) == []


def test_unknown_form_of_the_settings_is_an_error(newest, spec, monkeypatch):
    send = Api.send
    odd = Response(200, '{"code": 0, "data": {"chats": [{"name": "no id"}]}}')
    monkeypatch.setattr(Api, "send", lambda api, one: odd if "/chats" in one.path else send(api, one))
    with pytest.raises(RagflowError) as caught:
        register(newest, spec)
    assert caught.value.code == "ragflow-release"
    assert written(newest) == []


@pytest.mark.parametrize("path", ["/api/v1/providers/VLLM/instances/ragops", "/api/v1/users/me/models"])
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


@pytest.mark.parametrize("release", ["v0.18.0", "v0.23.1"])
def test_older_releases_get_the_values_to_enter_by_hand_and_no_token(release, spec):
    keyed = replace(spec, key=Secret("secret-key"))
    with RagflowServer(release) as server:
        with pytest.raises(RagflowError) as caught:
            register(server, keyed)
        with pytest.raises(RagflowError) as refused:
            unregister(server)
    assert caught.value.code == refused.value.code == "registration-manual"
    rows = dict(line.split(": ", 1) for line in caught.value.evidence.splitlines())
    assert rows == {
        "provider": "VLLM",
        "model type": "rerank",
        "model name": MODEL,
        "base URL": spec.base_url,
        "API key": str(Secret("secret-key")),
        "max tokens": "8192",
    }
    assert release in caught.value.message
    assert server.calls == []


def test_no_token(newest, spec):
    with pytest.raises(RagflowError) as caught:
        register(newest, spec, Secret(""))
    assert caught.value.code == "ragflow-access"
    assert [one.authorization for one in newest.calls] == [""]


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
    assert server.calls == []


class TestGo:
    """RAGFlow v1.0, as far as its source could be read."""

    @pytest.fixture
    def server(self, servers):
        return fresh(servers["v1.0.0-rc1"])

    @pytest.mark.parametrize("falls_back", [True, False])
    def test_a_search_without_the_reranker_is_no_proof(self, server, spec, falls_back):
        """The test of the registration succeeds, the third call fails, and RAGFlow responds all the same."""
        server.state.datasets["d1"] = ["a cat", "a dog"]
        server.state.falls_back = falls_back
        failing = StubReranker(Behaviour(model=MODEL, fail_every=3))
        with failing, pytest.raises(RagflowError) as caught:
            register(server, replace(spec, base_url=failing.base_url, dataset="d1"))
        assert caught.value.code == ("rerank-fell-back" if falls_back else "ragflow-model-refused")

    def test_an_instance_that_is_listed_but_not_found_is_not_entered_again(self, server, spec):
        register(server, spec)
        server.state.case_sensitive = True
        before = deepcopy(server.state.instances)
        with pytest.raises(RagflowError) as caught:
            register(server, replace(spec, max_tokens=512))
        assert (caught.value.code, list(server.state.instances)) == ("entry-differs", list(before))

    def test_an_entry_that_can_not_be_read_back_can_be_undone(self, server, spec):
        server.state.case_sensitive = True
        with pytest.raises(RagflowError) as caught:
            register(server, spec)
        assert (caught.value.code, "unregister" in caught.value.hint) == ("entry-differs", True)
        unregister(server)
        assert (server.state.instances, server.state.provider) == ({}, "")

    def test_a_route_that_is_gone_is_not_an_absent_object(self, spec):
        gone = Starlette(exception_handlers={404: not_found})
        with Served(gone) as other, pytest.raises(RagflowError) as caught:
            registration.register(
                Stack(ragflow=Ragflow(release="v1.0.0-rc1")), TOKEN, url=other.url, spec=spec
            )
        assert "404" in caught.value.evidence

    @pytest.mark.parametrize(
        ("changed", "behaviour", "code"),
        [
            ({"model": "another"}, {}, "ragflow-name-unknown"),
            ({"base_url": "/rerank"}, {}, "ragflow-path"),
            ({}, {"api_key": "secret"}, "ragflow-key"),
            ({}, {"max_tokens": 1}, "ragflow-too-long"),
            ({}, {"fault": "html"}, "ragflow-page"),
            ({"base_url": "http://127.0.0.1:1"}, {}, "ragflow-reranker-silent"),
            ({"base_url": "http://no.such.host.invalid:8000", "key": Secret("a")}, {}, "ragflow-no-network"),
        ],
    )
    def test_its_messages_have_causes(self, server, spec, changed, behaviour, code):
        with StubReranker(Behaviour(model=MODEL, **behaviour)) as stub:
            address = changed.get("base_url", "")
            url = address if "//" in address else stub.base_url + address
            with pytest.raises(RagflowError) as caught:
                register(server, replace(spec, **{**changed, "base_url": url}))
        assert caught.value.code == code
        assert written(server) == []


def test_unknown_release_is_refused_with_evidence(newest, spec):
    newest.state.version = "v0.99.0"
    with pytest.raises(RagflowError) as caught:
        registration.register(Stack(), TOKEN, url=newest.url, spec=spec)
    assert (caught.value.code, "v0.99.0" in caught.value.message) == ("ragflow-release", True)
    assert written(newest) == []


@pytest.mark.parametrize("tag", ["v0.27.9", "v0.26.5"])
def test_unknown_patch_is_registered_as_its_minor_with_a_note(newest, spec, tag):
    newest.state.version = tag
    result = registration.register(Stack(), TOKEN, url=newest.url, spec=spec)
    assert any(f"release {tag} is unknown" in note for note in result.notes)
    registration.unregister(Stack(), TOKEN, url=newest.url)
    assert newest.state.instances == {}


def test_unknown_patch_without_the_routes_of_its_minor_is_refused_before_any_change(servers, spec):
    server = fresh(servers["v0.25.6"])
    server.state.version = "v0.27.9"
    with pytest.raises(RagflowError) as caught:
        registration.register(Stack(), TOKEN, url=server.url, spec=spec)
    assert "/api/v1/providers" in caught.value.evidence
    assert written(server) == []


def test_registered_limit_leaves_room_for_the_template(model_folder, monkeypatch):
    """RAGFlow cuts query and document together to the registered limit, and does not count the template."""
    own = Stack(reranker=Reranker(model=str(model_folder), max_model_len=96))
    monkeypatch.setattr(Deployment, "pair_tokens", 80)
    assert registration.registration_spec(own).max_tokens == 96 - 80


@pytest.mark.parametrize(("pair_tokens", "splits", "limit"), [(96, True, 1), (32, False, 7)])
def test_registered_limit_is_that_of_one_document(model_folder, monkeypatch, pair_tokens, splits, limit):
    row = replace(
        known(Deployment.resolve(Stack(reranker=Reranker(model=str(model_folder)))).model), splits=splits
    )
    monkeypatch.setattr(registration, "known", lambda _model: row)
    monkeypatch.setattr(Deployment, "pair_tokens", pair_tokens)
    own = Stack(reranker=Reranker(model=str(model_folder), max_model_len=64 if splits else 480))
    assert registration.registration_spec(own).max_tokens == limit


def test_undo_record_is_private_and_has_no_secret(newest, spec, home):
    register(newest, replace(spec, key=Secret("canary-key"), default=True))
    (file,) = records(home)
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "canary" not in text
    assert TOKEN.get_secret_value() not in text


def test_broken_undo_record_is_an_error(newest, spec, home):
    register(newest, spec)
    (file,) = records(home)
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
    turn = len(server.calls)
    unregister(server)
    rows = [
        " ".join([one.method, one.path, json.dumps(one.body).replace(address, "ADDRESS")]).removesuffix(
            " null"
        )
        for one in server.calls
    ]
    return {"register": rows[:turn], "unregister": rows[turn:]}


@pytest.mark.parametrize("release", RELEASES)
def test_requests_match_the_recorded_ones(release, servers, reranker):
    on_record = json.loads(SEQUENCES.read_text())[release.replace("v1.0.0-rc1", "v0.27.0")]  # the same routes
    assert sequence(fresh(servers[release]), reranker.base_url) == on_record


def test_recording_has_every_family_of_releases():
    assert tuple(json.loads(SEQUENCES.read_text())) == RELEASES[:-1]


def test_nothing_but_http_200_is_seen_though_much_fails(newest, spec):
    """The status says nothing: a failed test of the model is HTTP 200 with a code."""
    with pytest.raises(RagflowError):
        register(newest, replace(spec, model="another"))
    assert {one.status for one in newest.calls} == {200}
    assert 102 in {call.response["code"] for call in newest.calls}


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
