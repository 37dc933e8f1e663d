"""Messages of Docker engines and containers have a remedy."""

import pytest

from ragops.docker import hints

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
    'invalid mount config for type "bind": bind source path does not exist: /x': "model folder",
    'Conflict. The container name "/x" is already in use by container "1".': "rename",
    "No such image: nope/none:1": "ragops image",
    'plugin "nope" not found': 'driver = "bridge"',
    "This node is not a swarm manager.": "swarm init",
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


@pytest.mark.parametrize(("log", "remedy"), LOGS.items())
def test_container(log, remedy):
    assert remedy in hints.for_container(f"before\n{log}\nafter", exit_code=1, oom_killed=False).remedy


@pytest.mark.parametrize(("code", "killed"), [(137, False), (1, True)])
def test_memory_goes_before_what_the_log_says(code, killed):
    assert (
        "memory_gib"
        in hints.for_container("unrecognized arguments", exit_code=code, oom_killed=killed).remedy
    )


def test_illegal_instruction():
    assert "ragops doctor" in hints.for_container("", exit_code=132, oom_killed=False).remedy


def test_unknown_end_shows_where_to_look():
    assert "docker logs" in hints.for_container("", exit_code=1, oom_killed=False).remedy


def test_every_hint_is_whole_and_none_hides_another():
    for table in (hints.ENGINE, hints.CONTAINER):
        assert all(hint.words and hint.cause.endswith(".") and hint.remedy for hint in table)
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
