"""Stub replicas: a reranker's HTTP, with known scores and times, and faults that are switched at run time.

In a test: ``async with Replica(per_byte=1e-6) as replica: ...``, on the test's own loop. In a container, with
nothing but the standard library: ``python3 replicas.py --port 8000 '{"per_byte": 1e-6}'``; then POST a
JSON object with some of :class:`Behaviour`'s fields to ``/behaviour``, and GET ``/counts``. With ``--file``
the object is in a file, which is read again when it is replaced, and after a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

MODEL = "stub"
FAULTS = ("", "500", "reset", "hang", "drip", "wrong", "malformed", "short", "nan", "slow")
"""Of rerank requests; ``hang`` also of health checks, and ``slow`` takes ten times as long."""


@dataclass(frozen=True)
class Behaviour:
    """How a stub replica behaves; times in seconds."""

    fixed: float = 0.0
    """Of each request."""
    per_byte: float = 0.0
    """Of each UTF-8 byte of query and document, for each document."""
    fault: str = ""
    every: int = 1
    """Only each n-th rerank request has the fault."""
    max_tokens: int = 0
    """Longest query and document, in words; 0 for any."""
    template: int = 4
    """Words that a template adds."""
    logits: bool = False
    """Scores from -10 to 10, otherwise from 0 to 1."""
    seed: str = ""
    """Another one is another model."""


def score(query: str, document: str, *, logits: bool = False, seed: str = "") -> float:
    """The right score of a pair."""
    digest = hashlib.sha256(f"{seed}\0{query}\0{document}".encode("utf-8", "surrogatepass")).digest()
    value = int.from_bytes(digest[:6], "big") / 2**48
    return 20 * value - 10 if logits else value


def response(body: dict, behaviour: Behaviour = Behaviour()) -> tuple[int, dict]:
    """Status and JSON of one server's response to a request."""
    query, documents = body.get("query"), body.get("documents")
    documents = [documents] if isinstance(documents, str) else documents
    if not isinstance(query, str) or not isinstance(documents, list) or body.get("model", MODEL) != MODEL:
        status = 400 if body.get("model", MODEL) == MODEL else 404
        return status, _error(status, "1 validation error" if status == 400 else "The model does not exist.")
    if not documents:
        return 400, _error(400, "At least one text_pair element must be given")
    texts = [text if isinstance(text, str) else text["content"][0]["text"] for text in documents]
    if cut := body.get("max_tokens_per_doc", 0):
        texts = [" ".join(text.split()[:cut]) for text in texts]
    tokens = [len(query.split()) + len(text.split()) + behaviour.template for text in texts]
    if behaviour.max_tokens and max(tokens) > behaviour.max_tokens:
        return 400, _error(
            400,
            f"This model's maximum context length is {behaviour.max_tokens} tokens. However, your prompt "
            f"contains at least {behaviour.max_tokens + 1} input tokens, which exceeds this limit even "
            "without any output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
        )
    rows = [
        {
            "index": index,
            "document": {"text": documents[index], "multi_modal": None},
            "relevance_score": score(query, text, logits=behaviour.logits, seed=behaviour.seed),
        }
        for index, text in enumerate(texts)
    ]
    rows.sort(key=lambda row: -row["relevance_score"])
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    identity = f"score-{body.get('request_id', 'x')}"
    top = body.get("top_n") or len(rows)
    return 200, {"id": identity, "model": MODEL, "usage": usage, "results": rows[:top]}


def reference(*, requests: int = 2, identity: str = "1" * 12, logits: bool = False, seed: str = "") -> dict:
    """A reference that a stub replica with this seed passes."""
    items = [
        {"query": f"reference {number}", "documents": [f"one {number}", f"another {number}"]}
        for number in range(requests)
    ]
    for item in items:
        item["scores"] = [score(item["query"], text, logits=logits, seed=seed) for text in item["documents"]]
    return {"id": identity, "trained": True, "tolerance": 0.02, "requests": items}


def _error(status: int, message: str, param: str | None = None) -> dict:
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Replica:
    """A stub replica; one rerank request at a time, as a busy engine."""

    def __init__(
        self, behaviour: Behaviour | None = None, *, port: int = 0, host: str = "127.0.0.1", **fields
    ):
        self.behaviour = behaviour or Behaviour(**fields)
        self.host, self.port = host, port
        self.counts = {"requests": 0, "documents": 0, "aborted": 0, "faults": 0, "most": 0, "now": 0}
        self.file: Path | None = None
        self._inode = 0
        self._engine = asyncio.Lock()
        self._connections: set[asyncio.Task] = set()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def behave(self, **fields) -> None:
        """Change some of the behaviour."""
        self.behaviour = replace(self.behaviour, **fields)

    def read(self) -> None:
        """Behave as the file says, if there is one."""
        with suppress(FileNotFoundError):
            if self.file and (inode := self.file.stat().st_ino) != self._inode:
                self._inode, self.behaviour = inode, Behaviour(**json.loads(self.file.read_text()))

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As if killed: connections are reset."""
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader, writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = path.partition("?")[0]
        self.read()
        if path in {"/v1/rerank", "/rerank", "/v2/rerank"}:
            return await self._rerank(reader, writer, body)
        if path == "/health" and self.behaviour.fault == "hang":
            await asyncio.sleep(3600)
        status, reply = self._other(method, path, body)
        return await _write(writer, status, reply)

    def _other(self, method: str, path: str, body: bytes) -> tuple[int, dict | None]:
        fields = json.loads(body) if body else {}
        if (method, path) == ("POST", "/behaviour"):
            self.behave(**fields)
        limit = self.behaviour.max_tokens or 8192
        words = fields.get("prompt", "").split()
        replies = {
            "/health": None,
            "/counts": self.counts,
            "/behaviour": asdict(self.behaviour),
            "/v1/models": {
                "object": "list",
                "data": [{"id": MODEL, "object": "model", "max_model_len": limit}],
            },
            "/tokenize": {"count": len(words), "max_model_len": limit, "tokens": list(range(len(words)))},
            "/version": {"version": "0.32.0"},
        }
        return (200, replies[path]) if path in replies else (404, _error(404, "Not Found"))

    async def _rerank(self, reader, writer, body: bytes) -> bool:
        self.counts["requests"] += 1
        behaviour = self.behaviour
        fault = behaviour.fault if self.counts["requests"] % behaviour.every == 0 else ""
        self.counts["faults"] += bool(fault)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "500":
            return await _write(writer, 500, _error(500, "engine died"))
        try:
            fields = json.loads(body)
        except ValueError:
            return await _write(writer, 400, _error(400, "1 validation error: JSON decode error"))
        status, reply = response(fields, behaviour)
        if status == 200 and not await self._work(reader, fields, fault):
            return False
        if status == 200:
            reply = _spoiled(reply, fault)
        return await _write(writer, status, reply, drip=fault == "drip")

    async def _work(self, reader, fields: dict, fault: str) -> bool:
        """Take the time of a request; False if the client has left."""
        leaving = asyncio.ensure_future(reader.read(1))
        self.counts["now"] += 1
        self.counts["most"] = max(self.counts["most"], self.counts["now"])
        work = asyncio.ensure_future(self._compute(fields, fault))
        try:
            await asyncio.wait({leaving, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.counts["now"] -= 1
            if not work.done():
                self.counts["aborted"] += 1
            work.cancel()
            leaving.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await leaving
        return work.done() and not work.cancelled()

    async def _compute(self, fields: dict, fault: str) -> None:
        documents = [fields["documents"]] if isinstance(fields["documents"], str) else fields["documents"]
        query = len(fields["query"].encode("utf-8", "surrogatepass"))
        size = sum(query + len(str(text).encode("utf-8", "surrogatepass")) for text in documents)
        async with self._engine:
            seconds = self.behaviour.fixed + self.behaviour.per_byte * size
            seconds = 3600.0 if fault == "hang" else seconds * 10 if fault == "slow" else seconds
            if seconds:
                await asyncio.sleep(seconds)
            self.counts["documents"] += len(documents)


def _spoiled(reply: dict, fault: str) -> dict | bytes:
    rows = reply["results"]
    if fault == "wrong":
        return {**reply, "results": [{**row, "relevance_score": 1 - row["relevance_score"]} for row in rows]}
    if fault == "short":
        return {**reply, "results": rows[1:]}
    if fault == "nan":
        return {**reply, "results": [{**row, "relevance_score": float("nan")} for row in rows]}
    return b"<html>Bad gateway</html>" if fault == "malformed" else reply


async def _write(writer, status: int, reply: dict | bytes | None, *, drip: bool = False) -> bool:
    content = reply if isinstance(reply, bytes) else b"" if reply is None else json.dumps(reply).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode())
    if drip:
        for byte in content:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.5)
    writer.write(b"" if drip else content)
    await writer.drain()
    return True


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("behaviour", nargs="?", default="{}")
    options = parser.parse_args()
    replica = Replica(Behaviour(**json.loads(options.behaviour)), port=options.port, host="0.0.0.0")
    replica.file = options.file
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with replica:
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_main())
