"""Runs inside a container: what can be reached from there, layer by layer. Standard library only.

Reads a JSON request from standard input and writes a JSON answer to standard output;
``checks/probe.py`` sends the one and reads the other. Works from Python 3.8 on, because it runs
with whatever Python the container has. cohere, RAGFlow's own client, is used where it is there.
"""

import http.client
import json
import os
import socket
import sys
import time
from functools import partial
from urllib.parse import urlsplit

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def main():
    ask = json.load(sys.stdin)
    url = urlsplit(ask["base_url"])
    host, port = url.hostname, url.port or 80
    if "posts" in ask:
        json.dump({"replies": replies(host, port, ask)}, sys.stdout)
        return
    steps = (
        ("dns", lambda: dns(host, port)),
        ("tcp", lambda: tcp(host, port, ask["connect_timeout"])),
        ("health", lambda: health(host, port, ask["timeout"])),
        ("models", lambda: models(host, port, url.path, ask)),
        ("rerank", lambda: rerank(host, port, url.path, ask)),
    )
    answer = {"proxies": proxies(), "steps": {}}
    for name, step in steps[: ask.get("depth", len(steps))]:
        answer["steps"][name] = timed(step)
        if not answer["steps"][name]["ok"]:
            break
    json.dump(answer, sys.stdout)


def timed(step):
    begin = time.perf_counter()
    try:
        result = {"ok": True, **step()}
    except Exception as error:  # every failure is an answer here
        result = {"ok": False, "error": type(error).__name__, "detail": str(error)[:600]}
    result["ms"] = round(1000 * (time.perf_counter() - begin), 1)
    return result


def proxies():
    seen = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES}
    return {name: value for name, value in seen.items() if value}


def dns(host, port):
    found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    return {"detail": ", ".join(sorted({item[4][0] for item in found}))}


def tcp(host, port, timeout):
    with socket.create_connection((host, port), timeout=timeout) as connection:
        return {"detail": "{}:{}".format(*connection.getpeername()[:2])}


def health(host, port, timeout):
    status, _, _ = request(host, port, "GET", "/health", None, {}, timeout)
    if status != 200:
        raise RuntimeError(f"HTTP {status}")
    return {"detail": f"HTTP {status}"}


def models(host, port, path, ask):
    status, kind, body = request(host, port, "GET", path + "/models", None, headers(ask), ask["timeout"])
    data = parsed(status, kind, body)
    return {"detail": "listed", "names": [one["id"] for one in data.get("data", [])]}


def rerank(host, port, path, ask):
    try:
        import cohere
    except ImportError:
        return by_hand(host, port, path, ask)
    from importlib.metadata import version

    client = cohere.Client(api_key=ask["key"], base_url=ask["base_url"], timeout=ask["timeout"])
    documents = ask["documents"]
    found = client.rerank(
        model=ask["model"],
        query=ask["query"],
        documents=documents,
        top_n=len(documents),
        return_documents=False,
    )
    scores = [[one.index, one.relevance_score] for one in found.results]
    return {"detail": "scored", "client": "cohere " + version("cohere"), "scores": scores}


def by_hand(host, port, path, ask):
    body = {
        "model": ask["model"],
        "query": ask["query"],
        "documents": ask["documents"],
        "top_n": len(ask["documents"]),
        "return_documents": False,
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    status, kind, answer = request(host, port, "POST", path + "/rerank", text, headers(ask), ask["timeout"])
    data = parsed(status, kind, answer)
    scores = [[one["index"], one["relevance_score"]] for one in data["results"]]
    return {"detail": "scored", "client": "http.client", "scores": scores}


def replies(host, port, ask):
    """Many questions over one connection, until one has no answer or the time is over."""
    connection = http.client.HTTPConnection(host, port, timeout=ask["timeout"])
    end = time.monotonic() + ask["seconds"]
    found = []
    for path, body in ask["posts"]:
        if time.monotonic() > end:
            break
        found.append(timed(partial(reply, connection, path, body, headers(ask))))
        if not found[-1]["ok"]:
            break
    connection.close()
    return found


def reply(connection, path, body, sent):
    connection.request("POST", path, body.encode(), sent)
    answer = connection.getresponse()
    return {"status": answer.status, "text": slim(answer.read().decode(errors="replace"))}


def slim(text):
    """The answer without what was sent: vLLM repeats the documents, and lists all tokens."""
    try:
        data = json.loads(text)
        data.pop("tokens", None)
        for one in data.get("results", []):
            one.pop("document", None)
    except (ValueError, AttributeError, TypeError):
        return text[:600]
    return json.dumps(data)


def headers(ask):
    return {"Authorization": "Bearer " + ask["key"], "Content-Type": "application/json"}


def request(host, port, method, path, body, sent, timeout):
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type", ""), answer.read()
    finally:
        connection.close()


def parsed(status, kind, body):
    text = body.decode(errors="replace")
    if status != 200:
        raise RuntimeError(f"HTTP {status}: {text[:300]}")
    if "json" not in kind:
        raise RuntimeError(f"not JSON but {kind or 'something without a type'}: {text[:200]}")
    return json.loads(text)


if __name__ == "__main__":
    main()
