"""Messages of Docker engines and containers have a remedy."""

import pytest

from ragops.docker import hints
from ragops.docker.objects import EventState
from tests.support.fake_engine import FakeEngine

SAID = {  # docker-py's and the engine's own words
    "Connection aborted., FileNotFoundError(2, 'No such file or directory')": "docker.io",
    "ConnectionRefusedError(111, 'Connection refused')": "start the engine",
    "PermissionError(13, 'Permission denied')": "usermod -aG docker",
    "Invalid bind address protocol: foo://bar": "DOCKER_HOST",
    "Bind for 127.0.0.1:18110 failed: port is already allocated": "set another port",
    "listen tcp4 127.0.0.1:18111: bind: address already in use": "ss -ltnp",
    "Pool overlaps with other one on this address space": "another subnet",
    "could not find an available, non-overlapping IPv4 address pool among the defaults": "network prune",
    "network rdq id 1 has active endpoints": "disconnect them",
    "container sharing network namespace with another container or host "
    "cannot be connected to any other network": "a network of its own",
    "one of the networks in private (none) mode": "a network of its own",
    'invalid mount config for type "bind": bind source path does not exist: /x': "folder",
    'Conflict. The container name "/x" is already in use by container "1".': "rename",
    '"pasta" is not supported: invalid network mode': "--network bridge",
    "failed to set up container networking: endpoint with name X already exists in network Y": (
        "docker network disconnect --force Y X; docker start X; ragops up"
    ),
    "No such image: nope/none:1": "ragops image",
    'plugin "nope" not found': 'driver = "bridge"',
    "This node is not a swarm manager.": "swarm init",
    "rpc error: code = PermissionDenied desc = network x not manually attachable": "another name",
    "write /x: no space left on device": "docker system df",
    'Get "https://registry/v2/": dial tcp: lookup registry: no such host': "ragops image --build",
}

LOGS = {
    "huggingface_hub.errors.HFValidationError: Repo id must use alphanumeric chars": "model folder",
    "api_server.py: error: unrecognized arguments: --nosuchflag": "a newer one",
    "RuntimeError: Insufficient space in /dev/shm": "shm-size",
    "ValueError: Available memory on node 0 (1/2 GiB)": "kv_cache_gib",
    "is larger than the available KV cache memory": "max_model_len",
    "PermissionError: [Errno 13] Permission denied: '/models/x'": "chmod",
    "[Errno 98] Address already in use": "only one",
}


@pytest.mark.parametrize(("said", "remedy"), SAID.items())
def test_engine(said, remedy):
    assert remedy in hints.for_engine(said).remedy


def test_unknown_words_have_no_remedy():
    assert hints.for_engine("something else") == hints.UNKNOWN


def container(**fields):
    engine = FakeEngine()
    engine.add_container("box")
    return engine.change("box", **fields)


def ended(code, *events, **fields):
    """The hint for a container that ended: by its state, and by its ``die`` event after a restart."""
    exited = container(status="exited", exit_code=code, **fields)
    restarted = container(status="running", health="starting", restart_count=2)
    events = [*events, EventState("container", "die", "box", code), EventState("container", "start", "box")]
    return exited, events, restarted


OOM, TERM, KILL, STOP = (
    EventState("container", "oom", "box"),
    EventState("container", "kill", "box", signal=15),
    EventState("container", "kill", "box", signal=9),
    EventState("container", "stop", "box"),
)
START = EventState("container", "start", "box")
KILLED, TERMINATED = (EventState("container", "die", "box", code) for code in (137, 143))
CRASHES = {
    "SIGILL": (132, (), "", "cpu-too-old"),
    "SIGSEGV": (139, (), "", "server-crashed"),
    "docker kill": (137, (KILL,), "", "reranker-killed"),
    "out of memory": (137, (OOM,), "", "out-of-memory"),
    "out of memory in a child process": (1, (OOM,), "unrecognized arguments", "out-of-memory"),
    "the log has the cause": (2, (), "error: unrecognized arguments: --x", "flag-unknown"),
    "an exit code goes before the log": (132, (), "unrecognized arguments", "cpu-too-old"),
    "unknown": (1, (), "Traceback", "start-failed"),
    "the end of an earlier run": (1, (KILL, KILLED, START), "", "start-failed"),
    "a kill that is logged late": (137, (TERMINATED, TERM, START, KILL), "", "reranker-killed"),
}


@pytest.mark.parametrize(("code", "events", "log", "expected"), CRASHES.values(), ids=CRASHES)
def test_cause_of_a_crash_is_the_same_after_docker_restarted_it(code, events, log, expected):
    exited, events, restarted = ended(code, *events)
    for state in (exited, restarted):
        hint = hints.for_container(state, events, log)
        assert hint.code == expected
        assert f"code {code}" in hint.words
        assert hint.remedy
    assert "restarted 2 times" in hint.words


@pytest.mark.parametrize(
    ("code", "events", "expected"),
    [
        (0, (TERM,), "reranker-stopped"),
        (143, (TERM,), "reranker-stopped"),
        (137, (TERM, KILL), "reranker-stopped"),  # it did not end within the timeout of docker stop
        (137, (KILL, STOP), "reranker-stopped"),  # docker stop, of a container whose signal is SIGKILL
        (0, (), "reranker-stopped"),
        (137, (), "reranker-killed"),
    ],
)
def test_stopped_and_killed(code, events, expected):
    exited, events, _ = ended(code, *events)
    assert hints.for_container(exited, events, "").code == expected
    if not any(event.signal for event in events):
        assert hints.for_container(exited, (), "").code == expected  # the engine has forgotten its events


def test_out_of_memory_without_events():
    exited, *_ = ended(137, oom_killed=True)
    assert hints.for_container(exited, (), "").code == "out-of-memory"


LEFT = "failed to set up container networking: endpoint with name box already exists in network net"
MOUNT = 'error mounting "/m" to rootfs: permission denied'
LISTENS = "non-default args: {}\nApplication startup complete."
LOADS = f"{LISTENS}\nnon-default args: {{}}\nStarting to load model"


@pytest.mark.parametrize(
    ("fields", "events", "log", "expected"),
    [
        ({"status": "paused", "health": "unhealthy"}, (), "", "reranker-paused"),
        ({"status": "created", "error": "Bind for :8123: port is already allocated"}, (), "", "port-taken"),
        ({"status": "created"}, (), "", "reranker-stopped"),
        ({"status": "exited", "error": LEFT}, (), "", "endpoint-left"),
        ({"status": "created", "error": MOUNT}, (), "", "start-failed"),
        ({"status": "exited", "error": MOUNT}, (), "", "reranker-stopped"),
        ({"status": "removing"}, (), "", "reranker-missing"),
        ({"status": "running", "health": "starting"}, (), "", "reranker-loading"),
        ({"status": "running", "health": "starting"}, (), LOADS, "reranker-loading"),
        ({"status": "running", "health": "starting"}, (), LISTENS, ""),
        ({"status": "running", "health": "unhealthy"}, (), LISTENS, "reranker-hangs"),
        ({"status": "running", "health": "unhealthy"}, (), "GET /health", "reranker-hangs"),
        ({"status": "running", "health": "unhealthy"}, (OOM,), LISTENS, "out-of-memory"),
        ({"status": "running", "health": "healthy", "restart_count": 3}, (OOM,), "", ""),
        ({"status": "running", "health": ""}, (), "", ""),
    ],
)
def test_states_of_a_container(fields, events, log, expected):
    hint = hints.for_container(container(**fields), events, log)
    assert hint.code == expected
    assert bool(hint.words) == bool(expected)
    assert "CONTAINER" not in hint.remedy


def test_no_container():
    assert hints.for_container(None, (), "").code == "reranker-missing"


@pytest.mark.parametrize(("log", "remedy"), LOGS.items())
def test_log(log, remedy):
    exited, *_ = ended(1)
    assert remedy in hints.for_container(exited, (), f"before\n{log}\nafter").remedy


def test_phase_is_that_of_the_last_start():
    phases = [hints.phase_of(log) for log in ("", LISTENS, LOADS, f"{LOADS}\nWarming up model")]
    assert phases == ["start", "listen", "load", "compile"]


def test_every_hint_is_whole_and_none_hides_another():
    for table in (hints.ENGINE, hints.CONTAINER):
        assert all(hint.words and hint.code and hint.remedy for hint in table)
        for number, hint in enumerate(table):
            assert hints_before(table, number, hint.words) == []


def hints_before(table, number, words):
    return [one.words for one in table[:number] if one.words in words]


def test_telling_lines_are_the_known_ones_and_the_last():
    log = "\n".join(["HFValidationError: x", *map(str, range(10)), "HFValidationError: x"])
    assert hints.relevant_lines(log, last=2).splitlines() == ["9", "HFValidationError: x"]
    lines = hints.relevant_lines("HFValidationError\n1\n2\n3", last=2).splitlines()
    assert lines == ["HFValidationError", "2", "3"]
    assert hints.relevant_lines("") == ""
