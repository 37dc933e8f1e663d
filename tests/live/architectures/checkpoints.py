"""Runs in the vLLM image, imported by ``reference.py``: writes a tiny checkpoint of each architecture.

The weights are random. All else that decides a number is as in the released model: the architecture's name,
the names of the tensors, the special tokens and how they surround a pair, the activation that ``config.json``
declares. The tokenizers are BERT's, a part of Qwen's, and three that are trained on the golden set.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers.convert_slow_tokenizer import TikTokenConverter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SEED = 16
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER = {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096}
ONE_LABEL = {"num_labels": 1}
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
PAIRS = 12_000
"""Byte pairs of Qwen's tokenizer that the checkpoints have: enough for the tokens of all scores."""
CARDS = {
    "qwen3-reranker": "Qwen/Qwen3-Reranker-0.6B",
    "zerank": "zeroentropy/zerank-2",
    "ctxl-rerank": "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b",
    "mxbai-rerank-v2": "mixedbread-ai/mxbai-rerank-base-v2",
    "bge-reranker-v2-gemma": "BAAI/bge-reranker-v2-gemma",
}
"""The base model that a model card names, by the beginning of the folder's name."""
QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>"),
    *("</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
"""Special tokens of Qwen3 in the order of their ids, from 151643 on."""
LISTWISE_TOKENS = ("<|score_token|>", "<|embed_token|>", "<|rerank_token|>")
"""Further ones of jina-reranker-v3, of which vLLM knows the last two by their ids 151670 and 151671."""
JINA_NAMES = (
    ("embeddings.LayerNorm", "emb_ln"),
    ("attention.output.LayerNorm", "norm1"),
    ("attention.output.dense", "mixer.out_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.LayerNorm", "norm2"),
    ("output.dense", "mlp.fc2"),
    ("encoder.layer.", "encoder.layers."),
)
"""Parts of XLM-RoBERTa's tensor names, and those of jina-reranker-v2 in their place."""


def fast(tokenizer: Tokenizer, length: int, **tokens: str) -> transformers.PreTrainedTokenizerBase:
    """A tokenizer of transformers."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=length,
        **{f"{role}_token": token for role, token in tokens.items()},
    )


def qwen(ranks: Path, *more: str) -> transformers.PreTrainedTokenizerBase:
    """Qwen3's tokenizer, with more special tokens behind its own."""
    vocabulary, merges = TikTokenConverter(str(ranks)).extract_vocab_merges_from_model(str(ranks))
    words = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    words.add_tokens([AddedToken(token, special=True, normalized=False) for token in (*QWEN_TOKENS, *more)])
    return words


def sentencepiece(texts: Iterable[str]) -> transformers.PreTrainedTokenizerBase:
    """As XLM-RoBERTa's: a unigram model, ``<s> query </s></s> document </s>``."""
    words = Tokenizer(models.Unigram())
    words.normalizer = normalizers.NFKC()
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=2000, special_tokens=special, unk_token=special[3])
    words.train_from_iterator(texts, trainer)
    words.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return fast(words, 512, bos="<s>", eos="</s>", cls="<s>", sep="</s>", pad="<pad>", unk="<unk>")


def byte_pairs(texts: Iterable[str]) -> transformers.PreTrainedTokenizerBase:
    """As ModernBERT's: byte pairs, ``[CLS] query [SEP] document [SEP]``."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet)
    )
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
    )
    return fast(words, 2048, cls="[CLS]", sep="[SEP]", pad="[PAD]", unk="[UNK]", mask="[MASK]")


def gemma(texts: Iterable[str]) -> transformers.PreTrainedTokenizerBase:
    """As Gemma's: byte pairs with a visible space, ``<bos>`` before the text, newlines alone."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = Tokenizer(models.BPE(byte_fallback=True, unk_token=special[3]))
    words.normalizer = normalizers.Replace(" ", "▁")
    newline, space = pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split("▁", "merged_with_next")
    words.pre_tokenizer = pre_tokenizers.Sequence([newline, space])
    words.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=special)
    words.train_from_iterator([*texts, *["Yes", "No", "\n"] * 1000], trainer)
    words.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return fast(words, 4096, bos="<bos>", eos="<eos>", pad="<pad>", unk="<unk>")


def made(
    kind: str, config: transformers.PreTrainedConfig, head: str = "model.embed_tokens.weight"
) -> transformers.PreTrainedModel:
    """A model with seeded random weights, so large that scores lie far apart.

    Args:
        kind: Its class in transformers.
        config: Its sizes.
        head: The tensor that the scores are made of.
    """
    model = getattr(transformers, kind)(config).eval()
    random = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=random)
            if name == head:
                parameter.copy_(drawn * 0.4)
            elif "embed" in name and parameter.dim() > 1:
                parameter.copy_(drawn * 0.3)
            elif parameter.dim() > 1:
                parameter.copy_(drawn * parameter.shape[1] ** -0.5)
            else:
                parameter.copy_(drawn * 0.1 + (0 if "bias" in name else 1))
    return model


def jina_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an XLM-RoBERTa by the names of jina-reranker-v2; queries, keys and values are one."""
    renamed = {}
    for name, tensor in tensors.items():
        before, attention, part = name.partition("attention.self.")
        for old, new in JINA_NAMES:
            before = before.replace(old, new)
        if not attention:
            renamed[before] = tensor
        elif part.startswith("query"):
            parts = [tensors[name.replace("query", other)] for other in ("query", "key", "value")]
            renamed[f"{before}mixer.Wqkv{part.removeprefix('query')}"] = torch.cat(parts)
    return renamed


def write(folder: Path, model: transformers.PreTrainedModel, tokenizer: Any, **declared: Any) -> None:
    """Save a checkpoint, with further keys in its ``config.json``."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | declared, indent=1))
    (folder / "ragops-substitute.txt").write_text("random weights\n")
    if base := next((base for name, base in CARDS.items() if folder.name.startswith(name)), ""):
        (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n")


def with_prompts(root: Path, ranks: Path, texts: Iterable[str]) -> None:
    """Models that read a prompt."""
    few = root / "few.tiktoken"
    few.write_bytes(b"".join(ranks.read_bytes().splitlines(keepends=True)[:PAIRS]))
    words, sizes = qwen(few), SIZES | DECODER | {"tie_word_embeddings": True}
    few.unlink()
    causal = made("Qwen3ForCausalLM", transformers.Qwen3Config(**sizes, vocab_size=len(words)))
    for name in ("qwen3-reranker-random", "zerank-random", "ctxl-rerank-random"):
        write(root / name, causal, words)
    labelled = transformers.Qwen3Config(**sizes, **ONE_LABEL, vocab_size=len(words), pad_token_id=PAIRS)
    head = made("Qwen3ForSequenceClassification", labelled, "score.weight")
    write(root / "qwen3-reranker-random-seq-cls", head, words)
    qwen2 = transformers.Qwen2Config(**sizes, vocab_size=len(words))
    write(root / "mxbai-rerank-v2-random", made("Qwen2ForCausalLM", qwen2), words)

    words = gemma(texts)
    config = transformers.GemmaConfig(
        **sizes, vocab_size=len(words), hidden_activation="gelu_pytorch_tanh", pad_token_id=0
    )
    write(root / "bge-reranker-v2-gemma-random", made("GemmaForCausalLM", config), words)

    words = qwen(ranks, *LISTWISE_TOKENS)  # all byte pairs: vLLM knows its tokens by their ids
    listwise = made("Qwen3ForCausalLM", transformers.Qwen3Config(**sizes, vocab_size=len(words)))
    folder, code = root / "jina-reranker-v3-random", {"AutoModel": "modeling.JinaForRanking"}
    write(folder, listwise, words, architectures=["JinaForRanking"], auto_map=code)
    random = torch.Generator().manual_seed(SEED)
    projector = {
        "projector.0.weight": torch.randn((32, 64), generator=random) * 0.2,
        "projector.2.weight": torch.randn((512, 32), generator=random) * 0.2,
    }
    file = folder / "model.safetensors"
    save_file(load_file(file) | projector, file, {"format": "pt"})


def with_pairs(root: Path, bert: Path, texts: Iterable[str]) -> None:
    """Models that read a pair of texts."""
    words = sentencepiece(texts)
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": len(words)}
    sizes = SIZES | ONE_LABEL | tokens | {"max_position_embeddings": 514, "type_vocab_size": 1}
    sizes["layer_norm_eps"] = 1e-5
    kind, head = "RobertaForSequenceClassification", "classifier.out_proj.weight"
    write(root / "cross-encoder-roberta-random", made(kind, transformers.RobertaConfig(**sizes), head), words)
    xlm = made(f"XLM{kind}", transformers.XLMRobertaConfig(**sizes), head)
    write(root / "bge-reranker-random", xlm, words)
    code = {"AutoModelForSequenceClassification": f"modeling_xlm_roberta.XLM{kind}"}
    write(root / "jina-reranker-v2-random", xlm, words, auto_map=code)
    file = root / "jina-reranker-v2-random" / "model.safetensors"
    save_file(jina_names(load_file(file)), file, {"format": "pt"})

    words = transformers.AutoTokenizer.from_pretrained(bert)
    sizes = SIZES | ONE_LABEL | {"vocab_size": len(words), "max_position_embeddings": 512}
    kind, head = "BertForSequenceClassification", "classifier.weight"
    minilm = made(kind, transformers.BertConfig(**sizes), head)
    write(root / "ms-marco-minilm-random", minilm, words, **IDENTITY)
    electra = transformers.ElectraConfig(**sizes, embedding_size=SIZES["hidden_size"])
    kind, head = "ElectraForSequenceClassification", "classifier.out_proj.weight"
    write(root / "ms-marco-electra-random", made(kind, electra, head), words, **IDENTITY)

    words = byte_pairs(texts)
    tokens = {"pad_token_id": 1, "cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 2, "eos_token_id": 2}
    sizes = SIZES | ONE_LABEL | tokens | {"num_hidden_layers": 4, "max_position_embeddings": 2048}
    modern = transformers.ModernBertConfig(**sizes, vocab_size=len(words), classifier_pooling="mean")
    kind, head = "ModernBertForSequenceClassification", "classifier.weight"
    write(root / "gte-reranker-modernbert-random", made(kind, modern, head), words)


def without_a_class(root: Path) -> None:
    """Architectures that vLLM has no class for; their weights are never read."""
    for name, architecture, model_type in (
        ("mxbai-rerank-v1-random", "DebertaV2", "deberta-v2"),
        ("gte-multilingual-random", "New", "new"),
    ):
        shutil.copytree(root / "ms-marco-minilm-random", root / name)
        file = root / name / "config.json"
        changed = {
            "architectures": [f"{architecture}ForSequenceClassification"],
            "model_type": model_type,
        }
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def make(root: Path, *, ranks: Path, bert: Path, texts: Iterable[str]) -> None:
    """Write all checkpoints.

    Args:
        root: The folder to make them in.
        ranks: The file of Qwen's byte pairs.
        bert: A folder with BERT's tokenizer.
        texts: What the other tokenizers are trained on.
    """
    with_prompts(root, ranks, texts)
    with_pairs(root, bert, texts)
    without_a_class(root)
    owner = root.stat()
    for path in root.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o755 if path.is_dir() else 0o644)
