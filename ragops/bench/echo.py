"""Echo server: responds in no time or in a known time, so that the load generator itself can be measured.

The responses have the form of vLLM's, with the same score for every document. :class:`EchoProcess` runs this
file as a program in its own process; it needs nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import zlib
from contextlib import closing
from functools import lru_cache, partial
from http.client import HTTPConnection
from typing import Any, Self

MODEL = "stub-reranker"

_TIMEOUT_S = 20.0


class EchoProcess:
    """The server in its own process.

    ::

        with EchoProcess(least=0.2, most=0.6) as echo:
            httpx.post(echo.base_url + "/rerank", json={...})

    Args:
        least: Shortest time of a response in seconds.
        most: Longest; each request's time lies between, see :func:`delay`. The same as ``least`` when None.
    """

    def __init__(self, least: float = 0.0, most: float | None = None) -> None:
        self.least, self.most = least, least if most is None else most
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Start; the socket is open already, so that a first request waits for the server."""
        number = self._listener.fileno()
        argv = [sys.executable, "-P", __file__, str(number), str(self.least), str(self.most)]
        self._process = subprocess.Popen(argv, pass_fds=[number])
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and close the port."""
        self._process.terminate()
        self._process.wait(_TIMEOUT_S)
        self._listener.close()

    def durations(self) -> list[int]:
        """Time from the last byte of each request to its response by the server's clock, ns, in order."""
        host, port = self._listener.getsockname()
        with closing(HTTPConnection(host, port, timeout=_TIMEOUT_S)) as connection:
            connection.request("GET", "/durations")
            durations: list[int] = json.load(connection.getresponse())
        return durations


def delay(body: bytes, least: float, most: float) -> float:
    """Seconds that the response to this body takes."""
    return least + (most - least) * zlib.crc32(body) / 0xFFFFFFFF


@lru_cache(maxsize=1024)
def _response(body: bytes) -> bytes:
    documents = json.loads(body)["documents"]
    words = sum(map(len, documents)) // 5
    results = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": 0.5}
        for index, text in enumerate(documents)
    ]
    usage = {"prompt_tokens": words, "total_tokens": words}
    return _http({"id": "echo", "model": MODEL, "usage": usage, "results": results})


def _http(content: Any) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, least: float, most: float, durations: list[int]) -> None:
        self.least, self.most, self.durations = least, most, durations
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        _, _, after = head.lower().partition(b"content-length:")
        length = int(after.partition(b"\r\n")[0] or 0)
        if end and len(rest) >= length:
            self.buffer.clear()
            self._respond(head, rest[:length])

    def _respond(self, head: bytes, body: bytes) -> None:
        begun = time.perf_counter_ns()
        if head.startswith(b"GET"):
            self.transport.write(_http(self.durations))
            return
        send = partial(self._send, _response(body), begun)
        if self.most:
            elapsed = (time.perf_counter_ns() - begun) / 1e9
            asyncio.get_running_loop().call_later(delay(body, self.least, self.most) - elapsed, send)
        else:
            send()

    def _send(self, response: bytes, begun: int) -> None:
        self.durations.append(time.perf_counter_ns() - begun)
        self.transport.write(response)


async def _serve(number: int, least: float, most: float) -> None:
    durations: list[int] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(least, most, durations), sock=socket.socket(fileno=number)
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
