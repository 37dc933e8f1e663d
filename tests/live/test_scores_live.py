"""The score gate on real vLLM: it believes all-MiniLM-L6-v2, and no misconfigured Qwen3-Reranker.

The Qwen3 checkpoint has random weights, so its order means nothing; whether it is asked with the
right prompt shows all the same.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ragops import ready, sizing, verbs, vllm
from ragops.checks import scores
from ragops.checks.questions import Expected
from ragops.host import read_host
from ragops.model import describe
from ragops.ragflow import discovery
from ragops.stack import Reranker, Stack
from ragops.testing import checkpoint as made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragops.container import ContainerSpec

NAME = "ragopstest-gate"
SERVED = "qwen3-reranker-random"


@pytest.fixture
def found(engine, declared, client):
    return next(one for one in discovery.find(engine.containers(), declared.ragflow) if one.name == client)


@pytest.fixture
def minilm(declared, running):
    wanted = verbs.desired(declared)
    longest = sizing.max_model_len(declared, wanted.model)
    return Expected(wanted.served, wanted.model.kind, longest, wanted.model.stand_in)


@contextmanager
def started(engine, spec: ContainerSpec) -> Iterator[str]:
    if engine.container(spec.name) is not None:  # else a run before this one was killed
        engine.remove_container(spec.name)
    engine.create_container(spec)
    try:
        engine.start(spec.name)
        yield spec.name
    finally:
        engine.remove_container(spec.name)


@pytest.fixture(scope="module")
def checkpoint(engine, image, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    folder.chmod(0o755)
    return made.make(engine, image.id, folder / "Qwen3-Reranker-random", made.SMALL, tokenizer)


@pytest.fixture(scope="module")
def launch(engine, declared, running, checkpoint) -> Iterator[ContainerSpec]:
    """The product's own launch, in the network that RAGFlow's container has joined."""
    stack = Stack(network=declared.network, reranker=Reranker(name=NAME, port=False))
    engine.create_volume(f"{NAME}-cache", role="test")
    yield vllm.launch(stack, describe(checkpoint), read_host(), image=running.reranker.image)
    engine.remove_volume(f"{NAME}-cache")


def without(spec: ContainerSpec, *flags: str) -> ContainerSpec:
    command = spec.command
    for flag in flags:
        at = command.index(flag)
        command = (*command[:at], *command[at + 2 :])
    return dataclasses.replace(spec, command=command)


def with_one_newline(spec: ContainerSpec, folder: Path) -> ContainerSpec:
    """As vLLM's own example file renders: Jinja drops the newline that ends it."""
    text = (vllm.TEMPLATES / "qwen3_reranker.jinja").read_text()
    file = folder / "one.jinja"
    file.write_text(text.replace(r'{{ "\n\n" }}', r'{{ "\n" }}'))
    mounts = (
        dataclasses.replace(one, source=str(file)) if one.target.startswith("/templates/") else one
        for one in spec.mounts
    )
    return dataclasses.replace(spec, mounts=tuple(mounts))


@pytest.fixture
def judged(engine, found, running):
    """What the gate says to a launch."""

    def judge(spec, expected):
        with started(engine, spec):
            ready.wait(engine, spec.name, SERVED, 600)
            url = f"http://{spec.name}:{vllm.PORT}/v1"
            return scores.check(engine, found, running.reranker.image, url, expected)

    return judge


def failure(checks):
    return next((one for one in checks if one.status == "fail"), None)


def test_minilm_is_believed(engine, declared, found, minilm, running):
    checks = scores.check(engine, found, running.reranker.image, declared.internal_url, minilm)
    assert failure(checks) is None, checks
    assert {one.where for one in checks} == {found.name}
    assert next(one for one in checks if one.name == "right documents come first").status == "ok"


def test_the_whole_set_takes_the_same_verdict(engine, declared, found, minilm, running):
    checks = scores.check(engine, found, running.reranker.image, declared.internal_url, minilm, full=True)
    assert failure(checks) is None, checks
    order = next(one for one in checks if one.name == "right documents come first")
    assert "on 30 queries in English" in order.detail


def test_the_products_launch_has_the_model_cards_prompt(judged, launch):
    checks = judged(launch, Expected(SERVED, "qwen3-reranker", 4096, "random weights"))
    assert failure(checks) is None, checks
    prompt = next(one for one in checks if one.name == "prompt is the model's")
    assert prompt.status == "ok"
    assert "of the model card's prompt" in prompt.detail


def test_the_same_weights_taken_for_trained_ones_are_a_random_head(judged, launch):
    found = failure(judged(launch, Expected(SERVED, "qwen3-reranker", 4096)))
    assert found.name == "right documents come first"
    assert "random" in found.detail


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("template", "template missing"),
        ("newline", "template is not the model card's: as long"),
        ("overrides", "cosine of a generative model"),
    ],
)
def test_a_wrong_launch_is_named_without_trained_weights(judged, launch, tmp_path, fault, cause):
    tmp_path.chmod(0o755)
    spec = {
        "template": without(launch, "--chat-template"),
        "newline": with_one_newline(launch, tmp_path),
        "overrides": without(launch, "--chat-template", "--hf-overrides"),
    }[fault]
    found = failure(judged(spec, Expected(SERVED, "qwen3-reranker", 4096, "random weights")))
    assert found.name == "prompt is the model's"
    assert cause in found.detail
    assert "ragops up" in found.remedy
