"""Registration against the contract server of every family of releases: in, read back, again, and out."""

import json
import sys
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from ragops import registration
from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.access import Access
from ragops.ragflow.answers import Reply
from ragops.ragflow.api import Api
from ragops.ragflow.register import Wanted
from ragops.ragflow.secret import Secret
from ragops.stack import Ragflow, Stack
from ragops.testing.contract import RagflowServer, World
from ragops.testing.contract.world import Instance, Llm, Model
from ragops.testing.stub import Behaviour, StubReranker

MODEL = "qwen3-reranker-0.6b"
FAMILIES = ("v0.18.0", "v0.20.5", "v0.24.0", "v0.25.0", "v0.25.6", "v0.26.0", "v0.26.4", "v0.27.0")
"""One release for each set of routes."""
UNLIKE = ("v0.20.5", "v0.25.6", "v0.26.0", "v0.27.0")
"""Those that differ in how they keep a model."""
TOKEN = Secret("ragflow-EXAMPLE-TOKEN")
LOGIN = Access(TOKEN, "ops@example.com", Secret("Ragops-Test-1"), login=True)
SEQUENCES = Path(__file__).parents[1] / "data" / "ragflow" / "sequences.json"


@pytest.fixture(scope="module")
def reranker():
    with StubReranker(Behaviour(model=MODEL)) as stub:
        yield stub


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ragops.ragflow.api.encrypted", lambda password: password.reveal())
    return tmp_path / "home"


@pytest.fixture(scope="module")
def servers():
    """A server for each family; starting one takes longer than most tests."""
    with ExitStack() as held:
        yield {one: held.enter_context(RagflowServer(one, limit=60)) for one in FAMILIES}


def fresh(server):
    vars(server.world).update(vars(World(server.world.release, limit=60)))
    return server


@pytest.fixture(params=UNLIKE)
def ragflow(request, servers):
    return fresh(servers[request.param])


@pytest.fixture
def newest(servers):
    return fresh(servers["v0.27.0"])


@pytest.fixture
def wanted(reranker):
    return Wanted(MODEL, reranker.base_url, 8192)


def stack(server):
    return Stack(ragflow=Ragflow(release=server.world.release.name))


def register(server, wanted, access=LOGIN, **more):
    return registration.register(stack(server), access, url=server.url, wanted=wanted, **more)


def unregister(server, wanted, access=LOGIN, **more):
    return registration.unregister(stack(server), access, url=server.url, wanted=wanted, **more)


def written(server):
    """What was asked to be changed, without logins."""
    return [
        (one.method, one.path.partition("?")[0])
        for one in server.asked
        if one.method != "GET" and one.path != server.world.release.login
    ]


def used_before(world):
    """The user has another reranker, as default and in a chat; gives its id in chats."""
    if world.before("v0.26.0"):
        world.llms["bge___VLLM"] = Llm(7, "rerank", "theirs", "http://theirs:8000/v1", 512)
        world.tenant["rerank_id"] = "bge___VLLM@VLLM"
        world.chats["c1"] = "bge___VLLM"
    else:
        world.provider = "VLLM"
        model = Model("77", "bge", ["rerank"], 512, {})
        world.instances["mine"] = Instance("7", "mine", "theirs", "http://theirs:8000/v1", {"bge": model})
        world.tenant |= {"rerank_id": "bge@mine@VLLM", "tenant_rerank_id": "77"}
        world.chats["c1"] = "bge@mine@VLLM"
    world.chats["c2"] = ""
    return world.chats["c1"]


def all_of(world):
    return deepcopy((world.provider, world.instances, world.llms, world.tenant, world.chats))


def test_model_is_there_and_ranks(ragflow, wanted):
    ragflow.world.datasets["d1"] = ["a cat", "what is this about"]
    found = register(ragflow, replace(wanted, dataset="d1"))
    assert (found.model, found.address) == (MODEL, wanted.address)
    assert found.rerank_id == releases.rerank_id(ragflow.world.release, MODEL, "ragops")
    assert "dataset d1 was ranked with it" in found.notes
    assert ragflow.asked[-1].answer["data"]["chunks"][0]["content"] == "what is this about"
    assert found.default == ""


def test_second_time_changes_nothing(ragflow, wanted):
    ragflow.world.chats["c1"] = ""
    all_at_once = replace(wanted, default=True, chats=("c1",))
    assert register(ragflow, all_at_once).changes
    before, sent = all_of(ragflow.world), len(written(ragflow))
    found = register(ragflow, all_at_once)
    assert found.changes == ()
    assert "nothing to change" in str(found)
    assert len(written(ragflow)) == sent
    assert all_of(ragflow.world) == before


def test_unregister_puts_everything_back(ragflow, wanted, home):
    used_before(ragflow.world)
    before = all_of(ragflow.world)
    found = register(ragflow, replace(wanted, default=True, chats=("c1", "c2")))
    assert found.chats == ("c1", "c2")
    assert found.default == found.rerank_id
    assert all_of(ragflow.world) != before
    undone = unregister(ragflow, wanted)
    assert all_of(ragflow.world) == before
    assert undone.model == ""
    assert undone.notes == ()
    assert list((home / "ragflow").iterdir()) == []
    again = unregister(ragflow, wanted)
    assert again.changes == ()
    assert "nothing to undo" in again.notes[0]


def test_no_default_before_is_none_after(ragflow, wanted):
    before = all_of(ragflow.world)
    register(ragflow, replace(wanted, default=True))
    assert ragflow.world.tenant["rerank_id"]
    undone = unregister(ragflow, wanted)
    assert undone.default == ""
    assert not ragflow.world.tenant["rerank_id"]
    assert all_of(ragflow.world)[:3] == before[:3]


def test_what_was_before_outlives_later_calls(ragflow, wanted):
    was = used_before(ragflow.world)
    for chats in (("c1",), ("c2",), ("c1", "c2")):
        register(ragflow, replace(wanted, default=True, chats=chats))
    unregister(ragflow, wanted)
    assert ragflow.world.chats == {"c1": was, "c2": ""}
    assert "bge" in ragflow.world.tenant["rerank_id"]


def test_what_the_user_chose_since_stays(ragflow, wanted):
    was = used_before(ragflow.world)
    register(ragflow, replace(wanted, chats=("c2",)))
    ragflow.world.chats["c2"] = was
    unregister(ragflow, wanted)
    assert ragflow.world.chats["c2"] == was


def test_a_choice_between_two_registrations_is_what_comes_back(ragflow, wanted):
    was = used_before(ragflow.world)
    register(ragflow, replace(wanted, chats=("c2",)))
    ragflow.world.chats["c2"] = was
    register(ragflow, replace(wanted, chats=("c2",)))
    unregister(ragflow, wanted)
    assert ragflow.world.chats["c2"] == was


def test_entry_of_somebody_else_is_not_touched(ragflow, wanted):
    used_before(ragflow.world)
    world = ragflow.world
    theirs = world.llms.get("bge___VLLM") or world.instances["mine"]
    before = all_of(world)
    taken = replace(wanted, model="bge", instance="mine")
    with pytest.raises(RagflowError, match="has an entry for bge already") as caught:
        register(ragflow, taken)
    assert theirs.url in caught.value.evidence
    assert written(ragflow) == []
    assert all_of(world) == before


def test_entry_that_is_right_already_is_used_and_left(ragflow, wanted, reranker):
    world = ragflow.world
    if world.before("v0.26.0"):
        world.llms[f"{MODEL}___VLLM"] = Llm(1, "rerank", "x", reranker.base_url, 8192)
    else:
        world.provider = "VLLM"
        model = Model("1", MODEL, ["rerank"], 8192, {})
        world.instances["ragops"] = Instance(
            "1", "ragops", "ragops-rerank", reranker.base_url, {MODEL: model}
        )
    before = all_of(world)
    assert register(ragflow, replace(wanted, default=True)).changes
    undone = unregister(ragflow, wanted)
    assert "was entered before ragops came, and stays" in undone.notes[0]
    assert all_of(world)[:3] == before[:3]


@pytest.mark.parametrize("wrong", ["model", "address", "key"])
def test_failed_test_leaves_nothing_behind(ragflow, wanted, wrong, home):
    with StubReranker(Behaviour(model=MODEL, api_key="secret-key")) as locked:
        closed = "http://127.0.0.1:9/v1"
        changed = {
            "model": {"model": "another"},
            "address": {"address": closed},
            "key": {"address": locked.base_url},
        }
        before = all_of(ragflow.world)
        with pytest.raises(RagflowError) as caught:
            register(ragflow, replace(wanted, **changed[wrong]))
    remedies = {"model": "status shows the name", "address": "ragops status", "key": "RAGOPS_RERANKER_KEY"}
    assert remedies[wrong] in caught.value.hint
    assert all_of(ragflow.world) == before
    assert list((home / "ragflow").iterdir()) == []


def test_new_address_is_brought_up_to_date(ragflow, wanted):
    register(ragflow, replace(wanted, default=True))
    with StubReranker(Behaviour(model=MODEL)) as other:
        moved = replace(wanted, address=other.base_url, default=True)
        found = register(ragflow, moved)
        assert found.address == other.base_url
        assert found.default == found.rerank_id
        assert register(ragflow, moved).changes == ()
    unregister(ragflow, wanted)
    assert (ragflow.world.llms, ragflow.world.instances) == ({}, {})


def test_new_model_replaces_the_one_that_ragops_entered(ragflow, wanted, reranker):
    was = used_before(ragflow.world)
    before = all_of(ragflow.world)
    register(ragflow, replace(wanted, default=True, chats=("c1",)))
    with StubReranker(Behaviour(model="other")) as other:
        changed = replace(wanted, model="other", address=other.base_url, default=True, chats=("c1",))
        found = register(ragflow, changed)
        assert "other" in found.default
        names = [
            *ragflow.world.llms,
            *(one for each in ragflow.world.instances.values() for one in each.models),
        ]
        assert not [name for name in names if name.startswith(MODEL)]
        unregister(ragflow, changed)
    assert ragflow.world.chats["c1"] == was
    assert all_of(ragflow.world) == before


def test_given_key_is_sent_and_read_back_where_it_can_be(ragflow, wanted):
    with StubReranker(Behaviour(model=MODEL, api_key="secret-key")) as locked:
        register(ragflow, replace(wanted, address=locked.base_url, key=Secret("secret-key")))
    world = ragflow.world
    assert [one.key for one in (*world.llms.values(), *world.instances.values())] == ["secret-key"]


def test_other_models_of_the_instance_are_never_lost(newest, wanted):
    register(newest, wanted)
    newest.world.instances["ragops"].models["theirs"] = Model("9", "theirs", ["chat"], 1, {})
    with (
        StubReranker(Behaviour(model=MODEL)) as other,
        pytest.raises(RagflowError, match="not by ragops alone"),
    ):
        register(newest, replace(wanted, address=other.base_url))
    unregister(newest, wanted)
    assert list(newest.world.instances["ragops"].models) == ["theirs"]
    assert newest.world.provider == "VLLM"


def test_provider_stays_when_somebody_else_uses_it(newest, wanted):
    register(newest, wanted)
    newest.world.instances["later"] = Instance("9", "later")
    unregister(newest, wanted)
    assert (newest.world.provider, list(newest.world.instances)) == ("VLLM", ["later"])


def test_chat_that_is_gone_does_not_stop_the_undoing(ragflow, wanted):
    used_before(ragflow.world)
    register(ragflow, replace(wanted, chats=("c1", "c2")))
    del ragflow.world.chats["c2"]
    unregister(ragflow, wanted)
    assert "bge" in ragflow.world.chats["c1"]


def test_chat_that_is_not_there_is_told_before_anything_is_sent(ragflow, wanted):
    with pytest.raises(RagflowError, match="read chat nobody") as caught:
        register(ragflow, replace(wanted, chats=("nobody",)))
    assert "address of the chat's page" in caught.value.hint
    assert written(ragflow) == []


def test_refused_undoing_can_be_tried_again(newest, wanted, home, monkeypatch):
    was = used_before(newest.world)
    register(newest, replace(wanted, default=True, chats=("c2",)))
    models = newest.world.instances["mine"].models
    there = models.pop("bge")
    with pytest.raises(RagflowError, match="make bge@mine@VLLM the default"):
        unregister(newest, wanted)
    assert newest.world.chats == {"c1": was, "c2": ""}, "what could be put back was"
    assert len(list((home / "ragflow").iterdir())) == 1
    models["bge"] = there
    unregister(newest, wanted)
    assert list(newest.world.instances) == ["mine"]
    assert list((home / "ragflow").iterdir()) == []


@pytest.mark.parametrize("change", ["address", "model"])
def test_default_and_chats_of_an_earlier_call_go_on(ragflow, wanted, change):
    was = used_before(ragflow.world)
    before = all_of(ragflow.world)
    register(ragflow, replace(wanted, default=True, chats=("c1",)))
    name = "other" if change == "model" else MODEL
    with StubReranker(Behaviour(model=name)) as other:
        found = register(ragflow, replace(wanted, model=name, address=other.base_url))
        assert found.default == found.rerank_id
        assert found.chats == ("c1",)
        assert ragflow.world.chats["c1"] != was
        unregister(ragflow, wanted)
    assert all_of(ragflow.world) == before


def test_after_an_upgrade_register_enters_it_anew_and_old_ids_are_known_as_ours(servers, wanted):
    newest, old = fresh(servers["v0.27.0"]), fresh(servers["v0.25.6"])
    old.world.chats["c1"] = ""
    register(old, replace(wanted, default=True, chats=("c1",)))
    newest.world.chats["c1"] = old.world.chats["c1"]
    found = register(newest, replace(wanted, default=True, chats=("c1",)))
    assert found.rerank_id == f"{MODEL}@ragops@VLLM" == newest.world.chats["c1"]
    unregister(newest, wanted)
    assert newest.world.chats["c1"] == ""


@pytest.mark.parametrize("path", ["/api/v1/providers/VLLM/instances/ragops", "/api/v1/models/default"])
def test_what_cannot_be_read_is_not_taken_for_what_is_not_there(newest, wanted, path, monkeypatch):
    """Else a server that stumbles would be given a second instance."""
    register(newest, wanted)
    sent = len(written(newest))
    ask = Api.ask
    broken = Reply(200, '{"code": 102, "message": "Internal server error"}')
    monkeypatch.setattr(Api, "ask", lambda api, one: broken if one.path == path else ask(api, one))
    with pytest.raises(RagflowError, match="refused: read the"):
        register(newest, wanted)
    assert len(written(newest)) == sent


class TestAccess:
    @pytest.mark.parametrize("release", FAMILIES)
    def test_token_is_enough_from_v0_24_on(self, servers, wanted, release):
        ragflow = fresh(servers[release])
        if not ragflow.world.release.token:
            with pytest.raises(RagflowError, match="takes no API token") as caught:
                register(ragflow, wanted, Access(TOKEN))
            assert "--allow-login" in caught.value.hint
            assert ragflow.asked == []
        else:
            register(ragflow, wanted, Access(TOKEN))
            assert ragflow.world.sessions == 0

    def test_login_is_announced(self, servers, wanted):
        told = []
        server = fresh(servers["v0.20.5"])
        register(server, wanted, told=told.append)
        assert server.world.sessions == 1
        assert "ends this user's session in every browser" in told[0]

    def test_login_without_a_token(self, ragflow, wanted):
        register(ragflow, wanted, replace(LOGIN, token=Secret("")))
        assert ragflow.world.sessions == 1

    def test_nothing_given(self, newest, wanted):
        with pytest.raises(RagflowError, match="asks for an API token"):
            register(newest, wanted, Access())
        with pytest.raises(RagflowError, match="needs an e-mail address"):
            register(newest, wanted, Access(login=True))
        assert newest.asked == []

    def test_old_chats_need_a_token(self, servers, wanted):
        server = fresh(servers["v0.20.5"])
        with pytest.raises(RagflowError, match="by API token alone"):
            register(server, replace(wanted, chats=("c1",)), replace(LOGIN, token=Secret("")))

    @pytest.mark.parametrize(
        ("email", "word"), [("who@example.com", "--email"), ("ops@example.com", "PASSWORD")]
    )
    def test_refused_login(self, newest, wanted, email, word):
        with pytest.raises(RagflowError, match="refused: log in") as caught:
            register(newest, wanted, Access(email=email, password=Secret("wrong-password"), login=True))
        assert word in caught.value.hint

    def test_refused_token(self, newest, wanted):
        with pytest.raises(RagflowError) as caught:
            register(newest, wanted, Access(Secret("ragflow-wrong")))
        assert "RAGOPS_RAGFLOW_TOKEN" in caught.value.hint
        assert "HTTP 401" in caught.value.evidence

    def test_nobody_answers(self, wanted):
        known = Stack(ragflow=Ragflow(release="v0.27.0"))
        with pytest.raises(RagflowError, match="did not answer"):
            registration.register(known, LOGIN, url="http://127.0.0.1:9", wanted=wanted)


@pytest.mark.parametrize("release", ["v0.17.0", "v0.17.2"])
def test_releases_that_cannot_use_it_are_refused(release, wanted):
    with (
        RagflowServer(release) as server,
        pytest.raises(RagflowError, match="can't use a vLLM reranker") as caught,
    ):
        register(server, wanted)
    assert "v0.18.0" in caught.value.hint
    assert server.asked == []


def test_unknown_release_is_refused_with_what_was_seen(newest, wanted):
    newest.world.version = "v0.99.0"
    with pytest.raises(RagflowError, match=r"v0\.99\.0 is not a release") as caught:
        registration.register(Stack(), LOGIN, url=newest.url, wanted=wanted)
    assert "nothing was changed" in caught.value.evidence
    assert written(newest) == []


def test_kept_file_is_its_owners_alone_and_holds_no_secret(newest, wanted, home):
    register(newest, replace(wanted, key=Secret("canary-key"), default=True))
    (file,) = (home / "ragflow").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "canary" not in text
    assert TOKEN.reveal() not in text


def test_broken_kept_file_is_told(newest, wanted, home):
    register(newest, wanted)
    (file,) = (home / "ragflow").iterdir()
    file.write_text("{")
    with pytest.raises(RagflowError, match="what was in RAGFlow before") as caught:
        register(newest, wanted)
    assert str(file) in caught.value.evidence


def test_read_back_that_differs_is_told(newest, wanted, monkeypatch):
    monkeypatch.setattr("ragops.testing.contract.providers._normalised", lambda url: url + "/other")
    with pytest.raises(RagflowError):
        register(newest, wanted)


def sequence(server, address):
    """Everything that register and unregister send, the chat and the default included."""
    server.world.chats["c1"] = ""
    wanted = Wanted(MODEL, address, 8192, default=True, chats=("c1",))
    register(server, wanted)
    turn = len(server.asked)
    unregister(server, wanted)
    rows = [
        " ".join([one.method, one.path, json.dumps(one.body).replace(address, "ADDRESS")])
        .removesuffix(" null")
        .replace('"password": "Ragops-Test-1"', '"password": "ENCRYPTED"')
        for one in server.asked
    ]
    return {"register": rows[:turn], "unregister": rows[turn:]}


@pytest.mark.parametrize("release", FAMILIES)
def test_requests_are_those_on_record(release, servers, reranker):
    on_record = json.loads(SEQUENCES.read_text())[release]
    assert sequence(fresh(servers[release]), reranker.base_url) == on_record


def test_record_holds_every_family():
    assert tuple(json.loads(SEQUENCES.read_text())) == FAMILIES


def test_nothing_but_http_200_is_seen_though_much_fails(newest, wanted):
    """The status says nothing: a failed test of the model is HTTP 200 with a code."""
    with pytest.raises(RagflowError):
        register(newest, replace(wanted, model="another"))
    assert {one.status for one in newest.asked} == {200}
    assert 102 in {one.answer["code"] for one in newest.asked}


if __name__ == "__main__":
    import os
    import tempfile

    os.environ["RAGOPS_HOME"] = tempfile.mkdtemp()
    vars(sys.modules["ragops.ragflow.api"])["encrypted"] = lambda password: password.reveal()
    made = {}
    with StubReranker(Behaviour(model=MODEL)) as served:
        for name in FAMILIES:
            with RagflowServer(name) as running:
                made[name] = sequence(running, served.base_url)
    SEQUENCES.write_text(json.dumps(made, indent=1) + "\n")
