"""The program that compares launches: what it starts, what it sends, and how the site shows its record."""

import dataclasses
import importlib
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import alternating, checkpoint, launches, targets
from benchmarks.targets import Series, Timed
from ragops.bench import wire
from ragops.bench.records import Gemm, GemmPeak, Provenance
from ragops.bench.workload import synthetic
from ragops.checks.traffic import TOKENS_PER_WORD
from ragops.configuration import Stack
from ragops.docker.objects import ExecResult
from ragops.errors import BenchError, LaunchError, ModelError
from ragops.reranker import model as models

ROOT = Path(__file__).parents[2]
LIMIT = GemmPeak("float32", 0.88e9, 2, (Gemm("float32", 0.13), Gemm("int8", None, "no kernel")))
CALL = Timed(20.0, 5, 1775, 1700, (0.9, 0.5, 0.1, 0.2, 0.3), 0.25)


@pytest.fixture
def runner(here, fake, machine, model_folder):
    model = models.describe(model_folder)
    return alternating.LaunchRunner(fake, "vllm-cpu:latest", machine, model, model)


class TestRecipe:
    def test_it_uses_the_same_image_and_cores(self, runner):
        recipe, ours = runner.recipe_spec(), runner.default_spec("default", runner.model)
        said = " ".join(recipe.command)
        assert "--dtype float32" in said
        assert f"--max-model-len {runner.model.max_tokens}" in said  # the recipe's 8192 would be refused
        assert "--chat-template" not in said
        assert dict(recipe.environment)["VLLM_HF_OVERRIDES"].startswith("{")
        assert "VLLM_CPU_OMP_THREADS_BIND" not in dict(recipe.environment)
        assert recipe.cpuset_cpus == ours.cpuset_cpus
        assert recipe.image == ours.image

    def test_its_changes_are_recorded(self):
        assert "--task" not in alternating.RECIPE
        assert "--task score" in alternating.RECIPE_CHANGES


class TestServer:
    def send(self, fake, monkeypatch, reply):
        fake.add_container(name := "one", network="n", image="vllm-cpu:latest")
        fake.pause(name)

        async def sent(*_):
            assert fake.container(name).status == "running"
            return reply

        monkeypatch.setattr(alternating, "_post", sent)
        server = alternating.Server(fake, name, "http://127.0.0.1:9/v1", "m", 1.0)
        request = type("R", (), {"documents": ("a", "b")})()
        try:
            return server.send(request)
        finally:
            assert fake.container(name).status == "paused"

    def test_it_is_paused_except_during_its_requests(self, fake, monkeypatch):
        reply = wire.RerankResponse(0, 2_000_000_000, 200, 700, (0.9, 0.1))
        found = self.send(fake, monkeypatch, reply)
        assert (found.seconds, found.documents, found.tokens) == (2.0, 2, 700)

    def test_a_failed_request_is_an_error(self, fake, monkeypatch):
        with pytest.raises(BenchError, match="did not respond"):
            self.send(fake, monkeypatch, wire.RerankResponse(0, 1, error="timeout"))


def test_calls_are_of_the_length_that_targets_name():
    (request,) = synthetic(1, 40, launches._words(280)).requests
    words = request.words + len(request.query.split())
    assert words * TOKENS_PER_WORD == pytest.approx(280, rel=0.03)


def test_no_launch_gets_a_text_twice_as_its_prefix_cache_would_answer(runner, monkeypatch):
    seen = {}

    @contextmanager
    def up(_, spec, model=""):
        def send(request):
            seen.setdefault(spec.name, []).extend(request.documents)
            return dataclasses.replace(CALL, scores=tuple(range(len(request.documents))))

        yield SimpleNamespace(name=spec.name, ready=9.0, send=send)

    monkeypatch.setattr(alternating.LaunchRunner, "started", up)
    monkeypatch.setattr(alternating.LaunchRunner, "gemm_peak", lambda *_: LIMIT)
    monkeypatch.setattr(alternating.LaunchRunner, "provenance", lambda *_: None)
    assert len(launches.measured(runner).series) >= 4
    assert {name.removeprefix(f"{alternating.PREFIX}-") for name in seen} == {"default", "recipe", "int8"}
    assert all(len(texts) == len(set(texts)) for texts in seen.values())


def test_a_server_that_does_not_start_is_an_answer(runner, monkeypatch):
    def refuse(*_):
        raise LaunchError("int8 ended", evidence="no kernel")

    monkeypatch.setattr(alternating.LaunchRunner, "started", refuse)
    assert launches._int8(runner, None, ()) == ((), (), "int8 ended - no kernel")


class TestCheckpoint:
    def test_a_failure_leaves_nothing(self, fake, tmp_path):
        fake.respond = lambda *_: ExecResult(1, "", "not the tokenizer of Qwen3")
        with pytest.raises(ModelError, match="checkpoint was not created") as caught:
            checkpoint.make(fake, "vllm-cpu:latest", tmp_path / "m", checkpoint.SMALL, b"ranks")
        assert "not the tokenizer" in caught.value.evidence
        assert list(tmp_path.iterdir()) == []
        assert fake.containers() == ()

    def test_it_is_made_once(self, here, fake, monkeypatch):
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        made = []
        monkeypatch.setattr(checkpoint, "tokenizer", lambda: b"ranks")
        monkeypatch.setattr(
            checkpoint, "make", lambda _, __, folder, *___: (folder.mkdir(), made.append(folder))
        )
        assert launches._folder(fake, "i") == launches._folder(fake, "i") == made[0]
        assert len(made) == 1
        assert models.named_folder(Stack()) is None


class TestPage:
    @pytest.fixture
    def page(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
        return importlib.import_module("performance")

    @pytest.fixture
    def record(self):
        default, recipe = (
            Series("default", (CALL,) * 3),
            Series("recipe", (dataclasses.replace(CALL, seconds=40.0),)),
        )
        made = launches.Measured(
            date="2026-01-02",
            origin=Provenance(cpu_model="A CPU", memory_bytes=2**34, model="m", model_is_stand_in="random"),
            seconds=600,
            limit=LIMIT,
            recipe_is_mended=alternating.RECIPE_CHANGES,
            launches=(launches.Launch("default", ("--dtype", "float32"), (90.0, 40.0)),),
            series=(default, recipe),
            targets=(targets.against_recipe(default, recipe, LIMIT), targets.second_start(90, 40)),
        )
        return json.loads(json.dumps(dataclasses.asdict(made)))

    def said(self, page, record, part):
        return " ".join("\n".join(page.PARTS[part](record)).split())

    def test_it_names_machine_day_and_substitute(self, page, record):
        said = self.said(page, record, "provenance")
        assert "Recorded on 2026-01-02 on A CPU" in said
        assert "Model: m, a substitute model: random." in said
        assert "float32 0.130 TFLOP/s; int8: no kernel" in said

    def test_every_target_has_its_answer(self, page, record):
        said = self.said(page, record, "targets")
        assert "*beyond this machine.* 2.0 times" in said
        assert "*met.* 44%: 40 s after 90 s" in said

    def test_without_a_record_it_says_so(self, page, monkeypatch, tmp_path):
        monkeypatch.setattr(page, "FILE", tmp_path / "none.json")
        assert not any("*met.*" in line for line in page.part("targets"))

    def test_every_call_and_start_is_shown(self, page, record):
        assert "20.0, 20.0, 20.0 - 85 - 0.25" in self.said(page, record, "requests")
        starts = self.said(page, record, "starts")
        assert "90 s, then 40 s" in starts
        assert ".. code-block:: text --dtype float32" in starts
