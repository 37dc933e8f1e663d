"""A reranker that fails to start: the error has its code, the end of the log, and the remedy."""

import dataclasses

import pytest

from ragops.checks import ready
from ragops.docker.engine import observe
from ragops.docker.objects import NetworkSpec
from ragops.errors import EngineError, LaunchError
from ragops.session import Deployment
from ragops.stack.plan import ReplaceContainer, RunContainer

NAME = "ragopstest-broken"


@pytest.fixture
def spec(engine, declared, running):
    """The product's launch under another name, in a network of its own, with the stack's warm cache."""
    engine.create_network(NetworkSpec(f"{NAME}-net"))
    wanted = Deployment.resolve(declared).spec
    yield dataclasses.replace(wanted, name=NAME, network=f"{NAME}-net", publish=(), restart="no")
    if engine.container(NAME):
        engine.remove_container(NAME)
    engine.remove_network(f"{NAME}-net")


def waited(engine, spec):
    """The error of a launch that fails."""
    RunContainer(spec).apply(engine)
    with pytest.raises(LaunchError) as caught:
        ready.wait(engine, NAME, "none", timeout=600)
    return caught.value


def test_a_wrong_flag_is_quoted(engine, spec):
    error = waited(engine, dataclasses.replace(spec, command=(*spec.command, "--no-such-flag")))
    assert (error.code, error.container) == ("flag-unknown", NAME)
    assert "--no-such-flag" in error.evidence


def test_too_little_memory_is_named(engine, spec):
    error = waited(engine, dataclasses.replace(spec, memory=300 * 1024**2))
    assert error.code == "out-of-memory"
    assert "memory_gib" in error.hint


def test_too_little_shared_memory_is_named(engine, spec):
    error = waited(engine, dataclasses.replace(spec, shm_size=64 * 1024**2))
    assert error.code == "shm-small"
    assert "Insufficient space in /dev/shm" in error.evidence


def test_a_removed_container_is_no_endless_wait(engine, spec):
    RunContainer(spec).apply(engine)
    engine.remove_container(NAME)
    with pytest.raises(LaunchError) as caught:
        ready.wait(engine, NAME, "none", timeout=600)
    assert caught.value.code == "reranker-removed"


def test_a_replacement_that_fails_gives_the_old_one_back(engine, spec):
    old = dataclasses.replace(spec, entrypoint=("sleep", "600"), command=())
    RunContainer(old).apply(engine)
    before = engine.container(NAME)
    broken = dataclasses.replace(spec, entrypoint=("/no/such/program",), command=())
    with pytest.raises(EngineError):
        ReplaceContainer(broken, before, "test").apply(engine)
    after = engine.container(NAME)
    assert after.id == before.id
    assert after.running
    assert observe(engine).rerankers(NAME) == (after,)
