"""A small ``/v1/rerank`` server for Qwen3-Reranker without vLLM, to measure beside it.

::

    python3 peer.py FOLDER qwen3-reranker-0.6b 8000

It does what the model card does: the card's prompt, put together from token ids, padding on the left, one
pass through the model for a few documents at a time, and the softmax of the logits of "no" and "yes" at the
last place. Plain transformers in float32 do the arithmetic, or what the last argument names of ``ENGINES``.
One request is computed at a time. It has no queue, no limit and no password.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
LONGEST = 8192
"""Tokens of a prompt; the text between prefix and suffix is cut to it, as in the card."""
THREADS = len(os.sched_getaffinity(0))


def prompts(encode, query, documents, longest=LONGEST):
    """Token ids of each document's prompt; ``encode`` makes ids of a text and adds nothing."""
    prefix, suffix = encode(PREFIX), encode(SUFFIX)
    room = longest - len(prefix) - len(suffix)
    middles = [f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {text}" for text in documents]
    return [[*prefix, *encode(middle)[:room], *suffix] for middle in middles]


def batches(lengths, size):
    """Indices of prompts that are computed together, of similar lengths to reduce padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[first : first + size] for first in range(0, len(order), size)]


def padded(rows, pad):
    """Rows of one length, padded on the left, and the attention mask."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return ids, mask


def answer(model, documents, scores, tokens):
    """The body of vLLM's answer: the best document first."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    results = [{"index": n, "document": {"text": documents[n]}, "relevance_score": scores[n]} for n in order]
    return {
        "id": f"rerank-{time.time_ns():x}",
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results,
    }


class Scorer:
    """The model: documents in, scores and the number of their tokens out."""

    def __init__(self, folder, batch, dtype="float32"):
        from transformers import AutoTokenizer

        self.batch = batch
        self.words = AutoTokenizer.from_pretrained(folder)
        self.answers = [self.words.convert_tokens_to_ids(word) for word in ("no", "yes")]
        self.pad = self.words.convert_tokens_to_ids("<|endoftext|>")
        self.turn = threading.Lock()
        self.load(folder, dtype)

    def load(self, folder, dtype):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def encode(self, text):
        return self.words.encode(text, add_special_tokens=False)

    def __call__(self, query, documents):
        rows = prompts(self.encode, query, documents)
        scores = [0.0] * len(rows)
        with self.turn:
            for places in batches([len(row) for row in rows], self.batch):
                for place, score in zip(places, self.compute([rows[n] for n in places]), strict=True):
                    scores[place] = score
        return scores, sum(map(len, rows))

    def compute(self, rows):
        ids, mask = (self.torch.tensor(table) for table in padded(rows, self.pad))
        with self.torch.inference_mode():
            logits = self.model(ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits
            return self.torch.softmax(logits[:, -1, self.answers].float(), dim=1)[:, 1].tolist()


class OpenVino(Scorer):
    """The same model, converted by OpenVINO; its precision is a hint to the processor's plugin."""

    def load(self, folder, dtype):
        import openvino

        super().load(folder, "float32")
        torch, answers = self.torch, self.model.lm_head.weight[self.answers].detach()

        class Logits(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, ids, mask, places):
                hidden = self.model(ids, attention_mask=mask, position_ids=places, use_cache=False)[0]
                return hidden[:, -1] @ answers.T

        with torch.no_grad():  # tracing rejects tensors of inference mode
            converted = openvino.convert_model(
                Logits(self.model.model), example_input=self.inputs([[1, 2, 3], [4]])
            )
        hints = {"INFERENCE_PRECISION_HINT": dtype, "PERFORMANCE_HINT": "LATENCY"}
        self.model = openvino.compile_model(converted, "CPU", hints)

    def inputs(self, rows):
        """Ids, a mask that is added to the weights of attention, and positions."""
        torch = self.torch
        ids, mask = (torch.tensor(table) for table in padded(rows, self.pad))
        width = ids.shape[1]
        seen = torch.ones(width, width, dtype=torch.bool).tril() & mask.bool()[:, None, :]
        seen = (seen | torch.eye(width, dtype=torch.bool))[:, None]  # padding attends to itself
        hidden = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return ids, hidden, (mask.cumsum(1) - 1).clamp(min=0)

    def compute(self, rows):
        logits = self.model([table.numpy() for table in self.inputs(rows)])[0]
        return self.torch.softmax(self.torch.tensor(logits), dim=1)[:, 1].tolist()


class LlamaCpp(Scorer):
    """The same weights as a GGUF file without vocabulary, one document at a time in llama.cpp."""

    def load(self, folder, dtype):
        import llama_cpp

        self.library = llama_cpp
        file = gguf_file(folder, dtype)
        sizes = {"n_ctx": LONGEST, "n_batch": 2048, "n_ubatch": 2048}
        threads = {"n_threads": THREADS, "n_threads_batch": THREADS}
        self.model = llama_cpp.Llama(file, **sizes, **threads, verbose=False)

    def compute(self, rows):
        scores = []
        for row in rows:
            self.model.reset()
            self.model.eval(row)
            logits = self.library.llama_get_logits_ith(self.model.ctx, -1)
            no, yes = (logits[answer] for answer in self.answers)
            scores.append(1 / (1 + math.exp(no - yes)))
        return scores


def gguf_file(folder, dtype):
    """Write a checkpoint of Qwen3 in llama.cpp's format; ``dtype`` is of matrices, such as BF16."""
    import gguf
    from safetensors.torch import load_file

    sizes = json.loads(Path(folder, "config.json").read_text())
    file, layers = f"/tmp/{dtype}.gguf", sizes["num_hidden_layers"]  # noqa: S108 - inside the container
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_vocab_size(sizes["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_context_length(sizes["max_position_embeddings"])
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_key_length(sizes["head_dim"])
    writer.add_value_length(sizes["head_dim"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    theta = sizes.get("rope_theta") or sizes["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(theta)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for name, tensor in load_file(f"{folder}/model.safetensors").items():
        kind = gguf.GGMLQuantizationType[dtype if tensor.dim() > 1 else "F32"]
        values = gguf.quants.quantize(tensor.float().numpy(), kind)
        writer.add_tensor(names.get_name(name, (".weight",)), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


ENGINES = {"transformers": Scorer, "openvino": OpenVino, "llama.cpp": LlamaCpp}


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection; see :func:`handler`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one write; in two, the second waits for the other side's ack

    def do_GET(self):
        known = {"/health": {}, "/v1/models": {"object": "list", "data": [{"id": self.name}]}}
        self.reply(200 if self.path in known else 404, known.get(self.path, {"error": "no such path"}))

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/v1/rerank":
            self.reply(404, {"error": "no such path"})
            return
        try:
            request = json.loads(content)
            query, documents = request["query"], request["documents"]
            if request["model"] != self.name:
                self.reply(404, {"error": f"the model is {self.name}"})
                return
            if not (
                isinstance(query, str) and documents and all(isinstance(text, str) for text in documents)
            ):
                raise ValueError("query is a text, documents a list of one or more texts")
        except (ValueError, KeyError, TypeError) as error:
            self.reply(400, {"error": repr(error)})
            return
        response = answer(self.name, documents, *self.score(query, documents))
        response["results"] = response["results"][: request.get("top_n") or len(documents)]
        self.reply(200, response)

    def reply(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_):
        pass


def handler(name, score):
    """A request handler: ``score`` takes a query and documents, and returns scores and tokens."""
    return type("Served", (Handler,), {"name": name, "score": staticmethod(score)})


def main(folder, name, port="8000", host="127.0.0.1", batch="8", arithmetic="transformers:float32"):
    """Load the model, then serve; ``batch`` documents are computed together."""
    engine, _, dtype = arithmetic.partition(":")
    score = ENGINES[engine](folder, int(batch), dtype)
    server = ThreadingHTTPServer((host, int(port)), handler(name, score))
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
