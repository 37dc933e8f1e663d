"""A small ``/v1/rerank`` server for Qwen3-Reranker with plain transformers, to measure beside vLLM.

It needs torch and transformers only::

    python3 peer.py FOLDER qwen3-reranker-0.6b 8000

It does what the model card does: the card's prompt, put together from token ids, padding on the left, one
pass through the model for a few documents at a time, and the softmax of the logits of "no" and "yes" at the
last place. Arithmetic is float32. One request is computed at a time. It has no queue, no limit
and no password.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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

    def __init__(self, folder, batch):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch, self.batch = torch, batch
        self.words = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.answers = [self.words.convert_tokens_to_ids(word) for word in ("no", "yes")]
        self.pad = self.words.convert_tokens_to_ids("<|endoftext|>")
        self.turn = threading.Lock()

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
            return self.torch.softmax(logits[:, -1, self.answers], dim=1)[:, 1].tolist()


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


def main(folder, name, port="8000", host="127.0.0.1", batch="8"):
    """Load the model, then serve; ``batch`` documents are computed together."""
    server = ThreadingHTTPServer((host, int(port)), handler(name, Scorer(folder, int(batch))))
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
