"""The stub reranker in a container: what runs there, and that nothing is left of it."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict

import httpx
import pytest

from ragops.docker.objects import ExecResult, NetworkSpec
from ragops.errors import EngineError
from tests.support import container
from tests.support.container import Switched, stub_container
from tests.support.stub import Behaviour


def asked(*calls):
    """Answers of one switched stub to several calls."""

    async def ask():
        transport = httpx.ASGITransport(app=Switched())
        async with httpx.AsyncClient(transport=transport, base_url="http://stub") as client:
            return [await client.request(method, path, content=body) for method, path, body in calls]

    return asyncio.run(ask())


def test_a_request_makes_it_another_one():
    other = json.dumps(asdict(Behaviour(model="other", fault="dead")))
    before, switched, after, models = asked(
        ("GET", "/health", ""),
        ("POST", container._SWITCH, other),
        ("GET", "/health", ""),
        ("GET", "/v1/models", ""),
    )
    assert (before.status_code, switched.status_code, after.status_code) == (200, 204, 503)
    assert models.json()["data"][0]["id"] == "other"


def test_the_copy_of_the_package_has_what_the_image_lacks(tmp_path):
    """The Docker library is copied; those of compose files, charts and notebooks are not needed."""
    folder = container.package(tmp_path)
    missing = "yaml", "matplotlib", "pandas", "ipywidgets"
    hide = f"import sys; sys.modules |= dict.fromkeys({missing})"
    program = f"{hide}; from tests.support import container as c; c.Switched(); print(c.__file__)"
    argv, env = [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{folder}/tests/support/container.py"


@pytest.fixture
def options(fake):
    fake.create_network(NetworkSpec("net"))
    fake.add_image("vllm-cpu:latest")
    return {"name": "stub", "network": "net", "publish": ("127.0.0.1", 8123)}


def test_a_container_that_answers_is_given_and_removed(fake, options):
    fake.respond = lambda *_: ExecResult(0, "", "")
    with stub_container(fake, "vllm-cpu:latest", **options, listen="127.0.0.1") as made:
        there = fake.container("stub")
        assert there.running
        assert there.published == (("127.0.0.1", 8123, 8000),)
        assert (made.name, made.port) == ("stub", 8123)
    assert fake.container("stub") is None


def test_one_that_does_not_answer_is_told_with_its_log_and_removed(fake, options, monkeypatch):
    monkeypatch.setattr(container, "_PATIENCE", 0.0)
    fake.output["stub"] = "ModuleNotFoundError: uvicorn"
    with (
        pytest.raises(EngineError, match="does not answer") as caught,
        stub_container(fake, "vllm-cpu:latest", **options),
    ):
        pass
    assert "uvicorn" in caught.value.evidence
    assert fake.container("stub") is None
