"""A running reranker is replaced: it responds meanwhile where both fit, and after every failure."""

import dataclasses
import json
import time

import pytest

from ragops.checks import ready
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker.engine import observe, sidecar
from ragops.errors import LaunchError
from ragops.session import Session
from ragops.stack import verbs
from ragops.stack.plan import ReplaceContainer
from tests.support.names import PROJECT

NAME = f"{PROJECT}-replaced"
RERANKER = Reranker(name=NAME, port=False, eager=True)
STACK = Stack(network=Network(name=f"{NAME}-net"), reranker=RERANKER, ragflow=Ragflow(project=NAME))
CLIENT = """
import json, sys, time, urllib.request
body = json.dumps({"model": sys.argv[2], "query": "q", "documents": ["a", "b"]}).encode()
request = urllib.request.Request(sys.argv[1], body, {"content-type": "application/json"})
while True:
    begin = time.time()
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            error = "" if len(json.load(response)["results"]) == 2 else "results"
    except Exception as exception:
        error = repr(exception)
    print(json.dumps([begin, time.time() - begin, error]), flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def up(engine, image):
    with pytest.MonkeyPatch.context() as patched:
        try:
            status = verbs.up(STACK, engine)
            patched.delenv("RAGOPS_MODEL_DIR")  # the later verbs continue with the recorded model
            yield status
        finally:
            verbs.down(STACK, engine)
    assert observe(engine).rerankers(NAME) == ()


def is_as_before(engine, old):
    (left,) = observe(engine).rerankers(NAME)
    return (left.id, left.name, left.running) == (old.id, NAME, True)


@pytest.mark.parametrize("obstacle", ["", "the test has one"], ids=["both fit", "one fits"])
def test_a_new_vllm_that_dies_while_loading_leaves_the_old_one(engine, up, obstacle):
    old = engine.container(NAME)
    spec = Session(STACK, engine).deployment.spec
    broken = dataclasses.replace(spec, command=(*spec.command, "--no-such-flag"), image_id=old.image_id)
    with pytest.raises(LaunchError) as caught:
        ReplaceContainer(broken, old, "test", obstacle).apply(engine)
    assert caught.value.code == "flag-unknown"
    assert is_as_before(engine, old)
    if not obstacle:
        assert ready.responds(engine, NAME, up.served_name)
    ready.wait(engine, NAME, up.served_name, 600)
    assert verbs.plan(STACK, engine).empty


def test_old_container_responds_during_the_whole_replacement(engine, up, image, record_property):
    """Calls without a pause from the network: none fails but those in the 5 ms between the two renames."""
    old = engine.container(NAME)
    changed = STACK.model_copy(update={"reranker": RERANKER.model_copy(update={"max_num_seqs": 64})})
    (replacement,) = verbs.plan(changed, engine).actions
    assert isinstance(replacement, ReplaceContainer)
    assert replacement.obstacle == ""
    with sidecar(engine, STACK.network.name, image.id, seconds=900) as client:
        command = ("python3", "-c", CLIENT, f"{STACK.internal_url}/rerank", up.served_name)
        engine.execute(client, ("sh", "-c", 'nohup "$@" > /calls 2>&1 &', "sh", *command))
        time.sleep(2)
        begin = time.time()
        status = verbs.up(changed, engine)
        end = time.time()
        time.sleep(2)
        lines = engine.execute(client, ("cat", "/calls")).stdout.splitlines()
    calls = [json.loads(line) for line in lines]
    assert status.ok
    assert engine.container(NAME).id != old.id
    assert observe(engine).rerankers(NAME) == (engine.container(NAME),)
    failed = [call for call in calls if call[2]]
    slowest = max(seconds for _, seconds, _ in calls)
    record_property("replacement", f"{end - begin:.1f} s, {len(calls)} calls, slowest {slowest:.2f} s")
    assert calls[0][0] < begin < end < calls[-1][0]
    assert len(failed) <= 1, failed
    assert {error for *_, error in failed} <= {"URLError(gaierror(-2, 'Name or service not known'))"}
