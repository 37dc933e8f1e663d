"""Runs inside a container: tests layer by layer what can be reached from there. Standard library only.

Reads a JSON request from standard input and writes a JSON result to standard output; ``checks/probe.py``
writes the one and reads the other. Works from Python 3.8 on, as it runs with whatever Python the container
has. The client library of RAGFlow in Python, cohere, is used for such a RAGFlow where it is installed.
"""

import http.client
import json
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUTS = ("TimeoutError", "timeout", "ReadTimeout")


class HttpError(Exception):
    """An HTTP response that is not the expected one."""

    def __init__(self, status, kind, location, text):
        super().__init__(f"HTTP {status}: {text[:300]}".rstrip(": "))
        self.fields = {"status": status, "kind": kind, "location": location, "text": text[:2000]}


def main():
    config = json.loads(sys.stdin.readline())
    if "targets" in config:
        json.dump(open_ports(config), sys.stdout)
        return
    url = urlsplit(config["base_url"])
    host, port = url.hostname, url.port or (443 if url.scheme == "https" else 80)
    if url.scheme == "https":
        http.client.HTTPConnection = http.client.HTTPSConnection  # for all requests of this process
    if "layers" in config:
        result = probe_layers(host, port, url.path, config)
    else:
        result = {"responses": send_all(host, port, config)}
    json.dump(result, sys.stdout)


def open_ports(config):
    """Which of some addresses, and of the ports of this container's gateway, accept a connection."""
    targets = [(host, port) for host, port in config["targets"]]
    targets += [(gateway(), port) for port in config["gateway_ports"]]
    with ThreadPoolExecutor(len(targets) or 1) as pool:  # each may take its whole timeout
        results = pool.map(lambda target: timed(partial(tcp, *target, config["timeout"])), targets)
        return {"{}:{}".format(*targets[number]): result["ok"] for number, result in enumerate(results)}


def gateway():
    """The gateway of this container's default route: the Docker host."""
    rows = (row.split() for row in Path("/proc/net/route").read_text().splitlines())
    row = next(row for row in rows if row[1] == "00000000")
    return socket.inet_ntoa(struct.pack("<L", int(row[2], 16)))


def probe_layers(host, port, path, config):
    """All layers in their order; extra requests, if any, while RAGFlow's client library is imported."""
    tests = {
        "dns": lambda: dns(host, port),
        "tcp": lambda: tcp(host, port, config["connect_timeout"]),
        "health": lambda: health(host, port, config),
        "routes": lambda: routes(host, port, config),
        "models": lambda: models(host, port, path, config),
        "rerank": lambda: rerank(host, port, path, config),
    }
    loading = threading.Thread(target=load, args=(config,))
    steps, extra = {}, {}
    for name, needs in config["layers"]:
        if not all(need in steps and steps[need]["ok"] for need in needs):
            continue
        timed_out = None
        if name == "rerank":
            loading.start()
            if "posts" in config and listed(steps.get("routes", {}), path + "/rerank"):
                extra["responses"] = send_all(host, port, config)
                timed_out = ranking_timeout(config["posts"], extra["responses"])
            loading.join()
        steps[name] = timed_out or timed(tests[name])
        if steps[name].get("error") in TIMEOUTS:
            break  # a server that hangs would cost each of the others its whole timeout
    return {"steps": steps, "client": library(config), **extra}


def load(config):
    """RAGFlow's client library; its import takes half a second, so it has its own thread."""
    try:
        return __import__("cohere") if config["cohere"] else None
    except Exception:
        return None  # rerank() works without it


def ranking_timeout(posts, responses):
    """The timeout of a server that ranked nothing; one that is only slow still gets RAGFlow's call."""
    ranked = [response for response in responses if posts[response["place"]][0].endswith("/rerank")]
    if any(response["ok"] for response in ranked):
        return None
    return next((response for response in ranked if response.get("error") in TIMEOUTS), None)


def listed(routes, path):
    """Whether the server has a route, as far as it lists its routes."""
    return not routes.get("ok") or path in routes["names"]


def timed(test):
    begin = time.perf_counter()
    try:
        result = {"ok": True, **test()}
    except Exception as error:  # every failure is a result here
        result = {"ok": False, "error": type(error).__name__, "detail": str(error)[:600]}
        result.update(getattr(error, "fields", {}))
    result["ms"] = round(1000 * (time.perf_counter() - begin), 1)
    return result


def dns(host, port):
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {"detail": ", ".join(sorted({info[4][0] for info in infos}))}


def tcp(host, port, timeout):
    with socket.create_connection((host, port), timeout=timeout) as connection:
        return {"detail": "{}:{}".format(*connection.getpeername()[:2])}


def health(host, port, config):
    status, kind, location, body = request(host, port, "GET", "/health", b"", {}, config["get_timeout"])
    if status != 200 or "html" in kind:
        raise HttpError(status, kind, location, body)
    return {"detail": f"HTTP {status}"}


def routes(host, port, config):
    sent = request(host, port, "GET", "/openapi.json", b"", config["headers"], config["get_timeout"])
    return {"detail": "listed", "names": sorted(parsed(sent)["paths"])}


def models(host, port, path, config):
    sent = request(host, port, "GET", path + "/models", b"", config["headers"], config["get_timeout"])
    return {"detail": "listed", "names": [model["id"] for model in parsed(sent).get("data", [])]}


def library(config):
    """RAGFlow's client library, or what is used in its place."""
    try:
        from importlib.metadata import version

        return "cohere " + version("cohere") if config["cohere"] else "http.client"
    except Exception:  # no library, or a Python without that module's data
        return "http.client"


def rerank(host, port, path, config):
    cohere = load(config)
    if cohere is None:
        return rerank_without_library(host, port, path, config)
    client = cohere.Client(api_key=config["key"], base_url=config["base_url"], timeout=config["timeout"])
    try:
        results = client.rerank(**json.loads(config["body"])).results
        scores = [[row.index, row.relevance_score] for row in results]
    except Exception as error:
        if type(error).__name__ not in TIMEOUTS:
            rerank_without_library(host, port, path, config)  # its error has more details, when it fails too
        error.fields = {"status": getattr(error, "status_code", 0), "text": str(getattr(error, "body", ""))}
        raise
    return {"detail": "scored", "scores": scores}


def rerank_without_library(host, port, path, config):
    """Send the same bytes without the library."""
    body, timeout = config["body"].encode(), config["timeout"]
    response = request(host, port, "POST", path + "/rerank", body, config["headers"], timeout)
    data = parsed(response)
    if not isinstance(data.get("results"), list):
        raise HttpError(response[0], response[1], "", response[3])
    scores = [[row["index"], row["relevance_score"]] for row in data["results"]]
    return {"detail": "scored", "scores": scores}


def send_all(host, port, config):
    """Send the requests, some of them concurrently, until one has no response or the time is over.

    Those after the needed ones have less time. Each response has the place of its request.
    """
    posts, responses, lock = config["posts"], [], threading.Lock()
    headers = {**config["headers"], **config.get("post_headers", {})}
    begin, timeout = time.monotonic(), config.get("post_timeout", config["timeout"])

    def work(_):
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        while True:
            with lock:
                place, seconds = len(responses), time.monotonic() - begin
                failed = any(not response.get("ok", True) for response in responses)
                limit = config["seconds"]
                if place >= config["needed"]:
                    limit = min(config["spare"], limit)
                if place == len(posts) or failed or seconds > limit:
                    break
                responses.append({"place": place})
            response = timed(partial(send, connection, *posts[place], headers))
            with lock:
                responses[place].update(response)
        connection.close()

    with ThreadPoolExecutor(config["at_once"]) as pool:
        list(pool.map(work, range(config["at_once"])))
    return responses


def send(connection, path, body, headers):
    connection.request("POST", path, body.encode(), headers)
    response = connection.getresponse()
    return {
        "status": response.status,
        "text": shortened(response.read().decode(errors="replace")),
        "ranked": response.getheader("x-ranked"),
        "truncated": response.getheader("x-truncated"),
    }


def shortened(text):
    """The response without what was sent: vLLM repeats the documents, and lists all tokens."""
    try:
        data = json.loads(text)
        data.pop("tokens", None)
        for row in data.get("results", []):
            row.pop("document", None)
    except (ValueError, AttributeError, TypeError):
        return text[:600]
    return json.dumps(data)


def request(host, port, method, path, body, headers, timeout):
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        kind, location = response.getheader("content-type", ""), response.getheader("location", "")
        return response.status, kind, location, response.read().decode(errors="replace")
    finally:
        connection.close()


def parsed(response):
    status, kind, _, text = response
    if status != 200 or "json" not in kind:
        raise HttpError(*response)
    try:
        data = json.loads(text)
    except ValueError:
        raise HttpError(*response) from None
    if not isinstance(data, dict):
        raise HttpError(*response)
    return data


if __name__ == "__main__":
    main()
