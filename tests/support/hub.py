"""A model hub on loopback: the routes that huggingface_hub requests, and the faults of a bad line."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "e61197ed45024b0ed8a2d74b80b4d909f1255473"
LARGE = 100
"""Bytes from which a file is in LFS, and so has a sha256."""


class Hub(ThreadingHTTPServer):
    """One repository, ``name``, with these files; ``requests`` has method, path and range of each request."""

    daemon_threads = True

    def __init__(self, name, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.files, self.commit = name, files, COMMIT
        self.requests = []
        self.break_off = 0
        """Bytes after which connections end, of files that are larger."""
        self.altered = ()
        """Names of files that are sent with another content."""
        self.page = None
        """A page that a proxy sends in place of everything."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def info(self):
        siblings = []
        for name, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": blob}
            if len(content) >= LARGE:
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.name, "sha": self.commit, "siblings": siblings, "tags": [], "private": False}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        hub, path = self.server, urlsplit(self.path).path
        hub.requests.append((path, self.headers.get("Range")))
        _, _, revision = path.partition("/revision/")
        _, _, file = path.partition(f"/resolve/{hub.commit}/")
        if hub.page is not None:
            self._send(200, hub.page, {"Content-Type": "text/html"})
        elif not path.removeprefix("/api/models").startswith(f"/{hub.name}/"):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision in {"main", "v1", hub.commit}:
            self._send(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})
        elif revision:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif file in hub.files:
            self._send_file(file)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _send_file(self, name):
        hub, content = self.server, self.server.files[name]
        content = content.swapcase() if name in hub.altered else content
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        rest, size = content[begin:], len(content)
        ranges = {"Content-Range": f"bytes {begin}-{size - 1}/{size}"} if begin else {}
        part = rest[: hub.break_off] if hub.break_off else rest
        self._send(206 if begin else 200, part, ranges, len(rest))
        if len(part) < len(rest):
            self.close_connection = True

    def _send(self, status, body, headers, length=None):
        self.send_response(status)
        for key, value in (
            {"Content-Length": str(len(body) if length is None else length)} | headers
        ).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(name, files):
    """A running hub."""
    with Hub(name, files) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
