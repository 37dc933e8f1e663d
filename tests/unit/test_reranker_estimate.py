"""The estimate: the recorded machines against each other, what it says, and what would make a call fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

import ragops
from ragops.configuration import Reranker, Stack
from ragops.docker.objects import ExecResult
from ragops.errors import BenchError, ModelError, StackError
from ragops.ragflow import releases
from ragops.reranker import estimate as estimates
from ragops.reranker import hub
from ragops.reranker import model as models
from ragops.reranker.estimate import DEFAULT, MODELS, RECORDED, Machine, estimate, left_out, nearest
from ragops.reranker.host import Core, Host, Node

ROOT = Path(__file__).parents[2]
FEATURES = {
    "avx2": {"avx2"},
    "avx512bf16": {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"},
    "amx": {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"},
    "bf16": {"asimd", "bf16"},
}


def machine(instruction_set, cores=2, memory=64 << 30):
    cpus = tuple(Core(cpu, cpu) for cpu in range(cores))
    return Host(instruction_set, frozenset(FEATURES[instruction_set]), cpus, (Node(0, memory),), memory)


@pytest.fixture(autouse=True)
def _no_model(monkeypatch, tmp_path):
    monkeypatch.delenv("RAGOPS_MODEL_DIR", raising=False)
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "home"))


def test_with_a_probe_each_steady_machine_is_estimated_from_the_others_within_a_quarter():
    (spread,) = [max(speeds) / min(speeds) for name, _, speeds in recorded() if name == "bfloat16"]
    assert spread > 1.5  # its requests, and so all estimates of this machine, are not steady
    floats = [(row, error) for row, error in left_out(probed=True) if row.arithmetic != "int8"]
    steady = {row.machine: error for row, error in floats if "machine.json" not in row.source}
    assert len(steady) >= 3
    assert max(steady.values()) <= 0.25
    assert Machine("amx", (2,), {"bfloat16": 1.0}).error("bfloat16") == max(error for _, error in floats)


def recorded():
    """Arithmetic, rates of matrix multiplication and tokens a second of the record of this machine."""
    for run in json.loads((ROOT / "docs/_data/machine.json").read_text())["variants"]:
        rates = (
            [] if run["limited"] else run["tflops"]
        )  # the limit is that of oneDNN, torch has another library
        yield run["arithmetic"], rates, [item["computed"] / item["seconds"] for item in run["requests"]]


def test_an_estimate_shows_the_error_of_its_kind_of_machine():
    errors = {(row.instruction_set, row.arithmetic): [] for row in RECORDED}
    for row, error in left_out(probed=False):
        errors[row.instruction_set, row.arithmetic].append(error)
    for name, kind in (("avx2", "float32"), ("avx512bf16", "bfloat16"), ("amx", "bfloat16")):
        result = estimate(host=machine(name))
        assert (result.arithmetic, result.error) == (kind, max(errors[name, kind], default=None))
        margin = Machine(name, (2,)).margin(kind)
        assert result.usual.high == pytest.approx(result.usual.seconds * margin)


def test_the_error_of_int8_is_that_of_int8():
    errors = [error for row, error in left_out(probed=True) if row.arithmetic == "int8"]
    assert len(errors) >= 2
    assert Machine("avx512bf16", (2,), {"int8": 1.0}).error("int8") == max(errors)


def test_values_of_measured_requests_are_those_of_their_record():
    rows = {row.arithmetic: row for row in RECORDED if "machine.json" in row.source}
    assert len(rows) == 3
    for arithmetic, rates, speeds in recorded():
        assert rows[arithmetic].tokens_per_s == round(median(speeds))
        assert rows[arithmetic].tflops == (median(rates) if rates else 0.0)


def test_the_estimate_does_not_know_the_machine_that_is_left_out(monkeypatch):
    (first, error), *_ = left_out(probed=True)
    changed = [
        replace(row, tokens_per_s=row.tokens_per_s / 2) if row.machine == first.machine else row
        for row in RECORDED
    ]
    monkeypatch.setattr(estimates, "RECORDED", changed)
    (_, doubled), *_ = left_out(probed=True)
    assert any(
        doubled == pytest.approx(max(2 * ratio, 0.5 / ratio) - 1) for ratio in (1 + error, 1 / (1 + error))
    )


def test_recorded_values_are_those_of_their_records():
    for row in RECORDED:
        if not row.source.endswith(".json"):
            continue
        record = json.loads((ROOT / row.source).read_text())
        if "limit" not in record:
            continue
        assert record["limit"]["flop_per_token"] == row.flop
        tflops = {item["dtype"]: item["tflops"] for item in record["limit"]["gemms"]}
        assert tflops[row.arithmetic] == pytest.approx(row.tflops, rel=0.01)


def test_the_usual_call_of_the_recorded_machine_without_bfloat16():
    result = estimate(host=machine("avx2"))
    assert (result.model, result.arithmetic, result.cores) == ("Qwen3-Reranker-0.6B", "float32", 2)
    assert result.usual.seconds == pytest.approx(157, rel=0.15)  # as docs/_data/launches.json estimates it
    assert result.usual.fits is False
    assert result.basis == "recorded runs"
    assert [call.fits for call in result.calls if call.timeout == 300 and call.name == "usual"] == [True]


def test_every_supported_release_has_a_usual_and_a_heavy_call():
    result = estimate(host=machine("avx2"))
    known = [release for name in releases.KNOWN if not (release := releases.of(name)).obstacle]
    for name in ("usual", "heavy"):
        calls = [call for call in result.calls if call.name == name]
        for release in known:
            (call,) = [call for call in calls if _covers(call.releases, release.name)]
            assert call.timeout == release.timeout


def _covers(spans, name):
    for span in spans.split(", "):
        first, _, last = span.partition(" to ")
        if releases.order(first) <= releases.order(name) <= releases.order(last or first):
            return True
    return False


def test_what_would_make_it_fit_comes_in_order():
    result = estimate(host=machine("avx512bf16"))
    assert result.usual.fits is not True
    actions = [remedy.action for remedy in result.remedies]
    assert actions[:2] == ["int8 weights", "more cores"]
    assert actions[-2:] == ["the gateway's deadline", "a smaller model"]
    assert all(remedy.seconds < result.usual.seconds for remedy in result.remedies)
    assert not estimate(host=machine("avx512bf16", cores=64)).remedies
    assert "int8 weights" not in [
        r.action for r in estimate(host=machine("avx2")).remedies
    ]  # its sums overflow


def test_more_cores_are_faster_but_never_in_proportion():
    seconds = [estimate(host=machine("amx", cores)).usual.seconds for cores in (1, 2, 4, 16)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] / seconds[1] < 2


@pytest.mark.parametrize("name", list(MODELS))
def test_a_published_model_needs_no_folder(name):
    stack = Stack(reranker=Reranker(model=name))
    result = estimate(stack, host=machine("amx", memory=256 << 30))
    assert result.model == name.partition("/")[2]
    assert result.memory > MODELS[name].weight_bytes // 2
    assert result.download > MODELS[name].weight_bytes
    assert bool(result.substitute) == ("all-MiniLM" in name)
    assert f"{result.model} in bfloat16" in str(result)


def test_a_named_model_is_estimated_in_place_of_the_configured_one(model_folder, monkeypatch):
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(model_folder))
    named = estimate(host=machine("amx"), name=DEFAULT)
    assert named.model == DEFAULT.partition("/")[2]
    assert named.flop_per_token > 100 * estimate(host=machine("amx")).flop_per_token


@pytest.mark.parametrize("named", [True, False], ids=["named", "not configured"])
def test_a_pulled_folder_counts_and_not_the_published_shape(model_folder, named):
    shutil.copytree(model_folder, hub.folder(DEFAULT, "main"))
    result = estimate(host=machine("amx"), name=DEFAULT if named else "")
    assert result.model == DEFAULT.partition("/")[2]
    assert result.flop_per_token == models.describe(model_folder).shape.flop_per_token
    assert result.download == estimates.IMAGE_BYTES


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_published_shape_has_the_parameters_of_its_weights(model):
    shape, size = model.shape, 2 if model.dtype == "bfloat16" else 4
    layers = sum(rows * columns * count for rows, columns, count in shape.linear_layers)
    matrices = 2 if model.name == "Qwen3-Reranker-8B" else 1  # of the vocabulary: embedding, and output apart
    assert (layers + matrices * shape.vocabulary * shape.hidden) * size == pytest.approx(
        model.weight_bytes, rel=0.02
    )


def test_the_published_shape_is_that_of_the_model():
    assert MODELS[DEFAULT].shape.flop_per_token == pytest.approx(0.8808e9, rel=0.001)


def test_a_named_model_that_is_not_known():
    with pytest.raises(ModelError) as error:
        estimate(host=machine("amx"), name="nothing/known")
    assert error.value.code == "estimate-unknown"


def test_a_configured_folder_is_read(model_folder):
    stack = Stack(reranker=Reranker(model=model_folder))
    result = estimate(stack, host=machine("amx"))
    assert result.model == model_folder.name
    assert result.tokens_per_s > estimate(host=machine("amx")).tokens_per_s


def test_a_machine_of_a_kind_that_is_not_recorded():
    assert not nearest(RECORDED, "bf16", "bfloat16")
    with pytest.raises(StackError) as error:
        estimate(host=machine("bf16"))
    assert error.value.code == "estimate-unknown"


def test_the_probe_measures_this_machine(fake):
    fake.add_image("vllm-cpu:latest")
    gemms = {
        "float32": {"median": 0.1},
        "bfloat16": {"tflops": 1.5, "median": 1.0},
        "int8": {"error": "no kernel"},
    }
    fake.respond = lambda *_: ExecResult(0, json.dumps({"threads": 2, "gemms": gemms}), "")
    result = estimate(Stack(), fake, host=machine("bf16"))
    assert result.basis == "probe"
    assert result.tokens_per_s == pytest.approx(1e12 * result.share / result.flop_per_token, rel=0.02)
    assert result.error == Machine("", (2,), {"bfloat16": 1.0}).error("bfloat16")
    assert fake.containers() == ()


def test_an_image_without_torch(fake):
    fake.add_image("vllm-cpu:latest")
    fake.respond = lambda *_: ExecResult(1, "", "ModuleNotFoundError: No module named 'torch'")
    with pytest.raises(BenchError) as error:
        estimate(Stack(), fake, host=machine("amx"))
    assert (error.value.code, "torch" in error.value.evidence) == ("limit-unknown", True)


def test_as_json():
    from ragops.cli.output import as_json

    record = json.loads(as_json(ragops.estimate(host=machine("avx2"))))
    assert [call["fits"] for call in record["calls"] if (call["name"], call["timeout"]) == ("usual", 30)] == [
        False
    ]
    assert record["records"]
