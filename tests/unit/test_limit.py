"""What the machine can do at most is asked with the model's own shapes, on the reranker's CPUs."""

import json

import pytest

from ragops.bench import measure
from ragops.docker.objects import ExecResult
from ragops.errors import BenchError
from ragops.reranker import model as models

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151669,
}


@pytest.fixture
def qwen3(model_folder):
    (model_folder / "config.json").write_text(json.dumps(QWEN3))
    (model_folder / "tokenizer.json").write_text('{"model": {"vocab": {"yes": 9693, "no": 2152}}}')
    return models.describe(model_folder)


def test_shapes_are_those_of_the_model(qwen3):
    assert measure.shapes(qwen3) == (
        (1024, 2048 + 2 * 1024, 28),
        (2048, 1024, 28),
        (1024, 2 * 3072, 28),
        (3072, 1024, 28),
    )
    assert measure.flop_per_token(measure.shapes(qwen3)) == pytest.approx(2 * 440.4e6, rel=0.001)


def test_an_encoder_has_no_gate(model_folder):
    model = models.describe(model_folder)
    assert measure.shapes(model) == ((64, 192, 2), (64, 64, 2), (64, 256, 2), (256, 64, 2))


def test_it_is_measured_on_the_rerankers_cpus_and_nothing_is_left(fake, qwen3):
    image = fake.add_image("vllm-cpu:latest")
    asked = []

    def respond(box, argv, stdin):
        asked.append((fake._specs[box.id], argv, json.loads(stdin)))
        gemms = {"float32": {"tflops": 0.4}, "bfloat16": {"tflops": 2.6}, "int8": {"error": "no kernel"}}
        return ExecResult(0, json.dumps({"threads": 3, "gemms": gemms}), "")

    fake.respond = respond
    found = measure.measure(fake, "vllm-cpu:latest", qwen3, "bfloat16", "1-3", 3)
    ((spec, argv, order),) = asked
    assert (spec.cpuset_cpus, spec.network, spec.role) == ("1-3", "none", "probe")
    assert argv[:2] == ("python3", "-c")
    assert order["threads"] == 3
    assert [tuple(shape) for shape in order["shapes"]] == list(measure.shapes(qwen3))
    assert found.tokens_per_s == pytest.approx(2.6e12 / 0.8808e9, rel=0.001)
    assert [(one.dtype, one.tflops, one.error) for one in found.gemms][2] == ("int8", None, "no kernel")
    assert found.threads == 3
    assert fake.containers() == ()
    assert image


def test_an_image_without_torch_is_told(fake, qwen3):
    fake.add_image("busy:1")
    fake.respond = lambda *_: ExecResult(1, "", "ModuleNotFoundError: No module named 'torch'")
    with pytest.raises(BenchError, match="limit could not be measured") as caught:
        measure.measure(fake, "busy:1", qwen3, "bfloat16", "0", 1)
    assert "torch" in caught.value.evidence
    assert fake.containers() == ()


def test_a_model_that_does_not_tell_its_shape(model_folder):
    model = models.describe(model_folder)
    config = json.loads((model_folder / "config.json").read_text())
    del config["num_attention_heads"]
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchError, match="shape"):
        measure.shapes(model)
