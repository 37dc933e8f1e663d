"""Echo server: responds to every rerank request at once, so that ``run.py`` can measure the client itself.

The responses have the form of vLLM's, with the same score for every document. :func:`echo_server` runs this
file as a program in its own process; it needs nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def echo_server() -> Iterator[str]:
    """Run the server; its address ends in ``/v1``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # a first request waits until the process runs
        number = listener.fileno()
        process = subprocess.Popen([sys.executable, "-P", __file__, str(number)], pass_fds=[number])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            process.terminate()
            process.wait()


class Connection(asyncio.Protocol):
    """One connection; :meth:`respond` gets the body of each request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with an empty buffer."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other
        self.transport, self.buffer = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        """Respond when the request is complete."""
        self.buffer += data
        head, end, body = bytes(self.buffer).partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length):
            self.buffer.clear()
            self.respond(body)

    def respond(self, body: bytes) -> None:
        """Send the response."""
        self.transport.write(response(body))


@lru_cache(maxsize=1024)
def response(body: bytes) -> bytes:
    """The response to a rerank request, as HTTP."""
    documents = json.loads(body)["documents"]
    tokens = sum(map(len, documents)) // 5
    rows = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": 0.5}
        for index, text in enumerate(documents)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    content = json.dumps({"id": "echo", "model": "echo", "usage": usage, "results": rows}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def serve(number: int, connection: Callable[[], Connection]) -> None:
    """Serve on the socket with this file descriptor until the process ends."""
    listener = socket.socket(fileno=number)
    server = await asyncio.get_running_loop().create_server(connection, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Connection))
