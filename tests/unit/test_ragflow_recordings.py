"""The contract server answers as RAGFlow's own servers did, and its client calls as theirs."""

import json
import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from ragops.ragflow import releases
from tests.support.contract import upstream
from tests.support.contract.api import RagflowServer
from tests.support.contract.state import Instance, ServerState
from tests.support.served import Served
from tests.support.stub import Behaviour, StubReranker

DATA = Path(__file__).parents[1] / "data" / "ragflow"
MODEL = "qwen3-reranker-0.6b"
ELSEWHERE = {  # beyond registration: embeddings, documents
    *("providers_available", "add_embed", "embed_instance", "list_rerank"),
    *("dataset", "dataset:stub-embed___VLLM@VLLM", *(f"chunk{n}" for n in range(5)), "dataset_search"),
}
TEXTS = [
    "a librari card can be renew onlin or at ani front desk",
    "the cafeteria close at 18 00 on weekday",
    "card expir after 24 month renew befor then",
    "how do i renew a librari card ask the desk",
    "park is free for member",
]


FAILING = {"bad_key_401": "18200", "wrong_model": "18203", "generative_200_error": "18201"}
"""Recorded failures of the client, and which of today's servers makes them."""


def steps(name):
    return json.loads((DATA / f"{name}.json").read_text())["steps"]


def cases(name):
    return json.loads((DATA / f"{name}.json").read_text())["cases"]


def generator():
    """A server that serves the model as a text generator: HTTP 200 with an error in it."""

    async def answer(_):
        return JSONResponse({"object": "error", "message": "The model does not support Rerank (Score) API"})

    return Starlette(routes=[Route("/v1/rerank", answer, methods=["POST"])])


@pytest.fixture(scope="module")
def upstreams():
    """Address by recorded port, and the calls that arrive at the first."""
    ours = Behaviour(model=MODEL, api_key="ragops-rerank")
    with (
        StubReranker(ours) as good,
        Served(generator()) as wrong,
        StubReranker(Behaviour(model=MODEL, fixed_s=1.0)) as slow,
        StubReranker(Behaviour(model=MODEL)) as free,
        StubReranker(Behaviour()) as closed,
    ):
        ports = {"18200": good.base_url, "18201": f"{wrong.url}/v1", "18202": slow.base_url}
        ports |= {"18203": free.base_url, "18999": closed.base_url}
        found = {port: url.removesuffix("/v1").rpartition(":")[2] for port, url in ports.items()}
        closed.__exit__()
        yield found, good.calls


def moved(value, ports):
    """The recorded ports replaced by those of today."""
    text = json.dumps(value)
    return json.loads(re.sub(r":(18\d\d\d)", lambda one: f":{ports.get(one[1], one[1])}", text))


def sent(http, step, server, ports):
    """One recorded request, sent to the contract server."""
    body = moved(step["request"]["body"], ports)
    server.state.limit = 0.2 if "slow" in step["id"] else 60.0
    request, headers = step["request"], dict(step["request"]["headers"])
    if step["id"] == "providers_badtoken":
        headers["Authorization"] = "Bearer ragflow-another"
    return http.request(request["method"], server.url + request["path"], json=body, headers=headers)


def is_number(name):
    return name.endswith("id") and name != "rerank_id"


def agrees(ours, theirs, at=""):
    """Where our answer says what theirs doesn't; ids differ, and theirs may say more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            if name not in theirs:
                yield f"{at}.{name} is not in theirs"
            elif (not is_number(name) and name not in {"name", "version"}) or isinstance(value, (dict, list)):
                yield from agrees(value, theirs[name], f"{at}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield f"{at}: {len(ours)} instead of {len(theirs)}"
        for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from agrees(one, other, f"{at}[{number}]")
    elif ours != theirs:
        yield f"{at}: {ours!r} instead of {theirs!r}"


def plain(body, ports):
    """Our answer as it would have been recorded."""
    text = json.dumps(body).replace("'param': None, 'code': 404", "'param': 'model', 'code': 404")
    for recorded, today in ports.items():
        text = text.replace(f":{today}", f":{recorded}")
    return json.loads(text)


def learned(ours, theirs, ids):
    """Their ids of models, and ours."""
    if isinstance(theirs, dict) and isinstance(theirs.get("data"), list):
        for row, other in zip(ours["data"], theirs["data"], strict=False):
            if isinstance(other, dict) and "model_id" in other:
                ids[other["model_id"]] = row["model_id"]


def replayed(name, release, upstreams):
    ports, calls = upstreams
    found, ids = [], {}
    with RagflowServer(release) as server, httpx.Client(timeout=60, trust_env=False) as http:
        if release == "v0.27.0":
            server.state.version = "unknown"  # it ran from source
        for step in steps(name):
            if step["id"] == "embed_instance":
                server.state.instances["emb"] = Instance("0", "emb")
            if step["id"] in ELSEWHERE:
                continue
            body = step["request"]["body"] or {}
            for dataset in body.get("dataset_ids", ()):
                server.state.datasets.setdefault(dataset, TEXTS)
            body |= {key: ids[body[key]] for key in ("model_id", "rerank_id") if body.get(key) in ids}
            before = len(calls)
            reply = sent(http, step, server, ports)
            try:
                answer = plain(reply.json(), ports)
                learned(answer, step["response"]["body"], ids)
            except json.JSONDecodeError:
                answer = reply.text
            found.append((step, reply.status_code, answer, calls[before:]))
    return found


RECORDED = {"api-v0.27.0": "v0.27.0", "api-v0.27.0-retrieval": "v0.27.0", "api-v0.25.6": "v0.25.6"}


@pytest.fixture(scope="module", params=RECORDED)
def replay(request, upstreams):
    """Each recorded step with our HTTP status, our answer and the calls of the reranker."""
    return replayed(request.param, RECORDED[request.param], upstreams)


def test_every_recorded_step_is_answered_alike(replay):
    wrong = []
    for step, status, body, _ in replay:
        theirs = step["response"]
        if status != theirs["http_status"]:
            wrong.append(f"{step['id']}: HTTP {status} instead of {theirs['http_status']}")
        if "retrieval" not in step["id"] or body["code"]:  # the order of texts is compared below
            wrong += [f"{step['id']}{one}" for one in agrees(body, theirs["body"])]
    assert wrong == []
    assert len(replay) > 20


def test_every_recorded_step_reaches_the_reranker_alike(replay):
    for step, _, _, calls in replay:
        theirs = [one for one in step["upstream"] if one["path"] in {"/v1/rerank", "/rerank"}]
        shut_out = any(word in step["id"] for word in ("wrong_key", "no_key", "bad_key"))
        if not shut_out or step["id"] == "add_llm_no_key":  # the stub keeps no call that it shuts out
            assert [{"path": call.path, "body": call.body} for call in calls] == theirs, step["id"]


def test_texts_come_back_in_the_recorded_order(replay):
    for step, _, body, _ in replay:
        if "retrieval" in step["id"] and body["code"] == 0 and "rerank_id" in step["request"]["body"]:
            theirs = [one["content_ltks"] for one in step["response"]["body"]["data"]["chunks"]]
            assert body["data"]["chunks"][0]["content"] == theirs[0], step["id"]


def rank(release, call, url=""):
    """What the client gives back for a recorded call, or the text of its error."""
    state = ServerState(release=releases.of(release))
    asked = (call["api_key"], call["model_name"], call["query"], call["texts"])
    try:
        return upstream.scores(state, url or call["base_url"], *asked)
    except upstream.ClientError as error:
        return str(error)


SAME_HEADERS = (
    *("x-fern-language", "x-fern-sdk-name", "x-fern-sdk-version"),
    *("authorization", "content-type"),
)


@pytest.mark.parametrize("release", ["v0.20.5", "v0.25.6", "v0.27.0"])
def test_client_puts_on_the_wire_what_theirs_did(release, upstreams):
    closed = upstreams[0]["18999"]
    for case in cases(f"client-{release}"):
        if case["id"] in {"slow_32s", "raw_logits", *FAILING}:
            continue
        with StubReranker(Behaviour(model=MODEL)) as stub:
            port = closed if case["id"] == "connection_refused" else stub.base_url.split(":")[2][:-3]
            said = rank(release, case["call"], re.sub(r":18\d\d\d", f":{port}", case["call"]["base_url"]))
        if "text" in case["client_result"]:
            assert said == case["client_result"]["text"], case["id"]
        arrived = [one for one in case["http"] if "rerank/rerank" not in one["path"]]
        ours = [(one.path, one.body) for one in stub.calls]
        assert ours == [(one["path"], one["body_json"]) for one in arrived], case["id"]
        for one, other in zip(stub.calls, arrived, strict=True):
            named = {name.lower(): value for name, value in other["headers"]}
            assert [one.headers[name] for name in SAME_HEADERS] == [named[name] for name in SAME_HEADERS]


@pytest.mark.parametrize("release", ["v0.20.5", "v0.25.6", "v0.27.0"])
def test_client_normalises_as_theirs_did(release):
    case = next(one for one in cases(f"client-{release}") if one["id"] == "raw_logits")
    results = case["http"][0]["response"]["body"]["results"]

    async def answer(_):
        return JSONResponse({"results": results})

    with Served(Starlette(routes=[Route("/v1/rerank", answer, methods=["POST"])])) as raw:
        found = rank(release, case["call"], f"{raw.url}/v1")
    assert found == pytest.approx(case["client_result"]["scores"])


@pytest.mark.parametrize("release", ["v0.20.5", "v0.25.6", "v0.27.0"])
def test_client_fails_as_theirs_did(release, upstreams):
    ports, _ = upstreams
    for case in cases(f"client-{release}"):
        if port := FAILING.get(case["id"]):
            said = rank(release, case["call"], f"http://127.0.0.1:{ports[port]}/v1")
            assert plain(said, ports) == case["client_result"]["text"]
