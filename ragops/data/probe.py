"""Runs inside a container: what can be reached from there, layer by layer. Standard library only.

Reads a JSON request from standard input and writes a JSON answer to standard output;
``checks/probe.py`` sends the one and reads the other. Works from Python 3.8 on, because it runs
with whatever Python the container has. cohere, RAGFlow's own client, is used where it is there.
"""

import http.client
import json
import socket
import sys
import threading
import time
from functools import partial
from urllib.parse import urlsplit

TIMEOUTS = ("TimeoutError", "timeout", "ReadTimeout")


class HttpError(Exception):
    """An HTTP answer that is not the wanted one."""

    def __init__(self, status, kind, location, text):
        super().__init__(f"HTTP {status}: {text[:300]}".rstrip(": "))
        self.seen = {"status": status, "kind": kind, "location": location, "text": text[:2000]}


def main():
    ask = json.load(sys.stdin)
    url = urlsplit(ask["base_url"])
    host, port = url.hostname, url.port or 80
    said = look(host, port, url.path, ask) if "layers" in ask else {"replies": replies(host, port, ask)}
    json.dump(said, sys.stdout)


def look(host, port, path, ask):
    """All layers in their order; more questions, if there are any, while RAGFlow's client is loaded."""
    steps = {
        "dns": lambda: dns(host, port),
        "tcp": lambda: tcp(host, port, ask["connect_timeout"]),
        "health": lambda: health(host, port, ask),
        "routes": lambda: routes(host, port, ask),
        "models": lambda: models(host, port, path, ask),
        "rerank": lambda: rerank(host, port, path, ask),
    }
    loading = threading.Thread(target=load)
    answers, said = {}, {}
    for name, needs in ask["layers"]:
        if not all(need in answers and answers[need]["ok"] for need in needs):
            continue
        hung = None
        if name == "rerank":
            loading.start()
            if "posts" in ask and listed(answers.get("routes", {}), path + "/rerank"):
                said["replies"] = replies(host, port, ask)
                hung = silent(ask["posts"], said["replies"])
            loading.join()
        answers[name] = hung or timed(steps[name])
        if answers[name].get("error") in TIMEOUTS:
            break  # a server that hangs would cost each of the others its whole time
    return {"steps": answers, "client": library(), **said}


def load():
    """RAGFlow's client library takes half a second; a thread of its own, so that nobody waits for it."""
    try:
        import cohere  # noqa: F401
    except Exception:
        return  # whoever needs it says so


def silent(posts, replies):
    """The time-out of a server that ranked nothing; one that is only slow still gets RAGFlow's call."""
    ranked = [one for place, one in enumerate(replies) if posts[place][0].endswith("/rerank")]
    if any(one["ok"] for one in ranked):
        return None
    return next((one for one in ranked if one.get("error") in TIMEOUTS), None)


def listed(routes, path):
    """Whether the server has a route, as far as it says which ones it has."""
    return not routes.get("ok") or path in routes["names"]


def timed(step):
    begin = time.perf_counter()
    try:
        result = {"ok": True, **step()}
    except Exception as error:  # every failure is an answer here
        result = {"ok": False, "error": type(error).__name__, "detail": str(error)[:600]}
        result.update(getattr(error, "seen", {}))
    result["ms"] = round(1000 * (time.perf_counter() - begin), 1)
    return result


def dns(host, port):
    found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    return {"detail": ", ".join(sorted({item[4][0] for item in found}))}


def tcp(host, port, timeout):
    with socket.create_connection((host, port), timeout=timeout) as connection:
        return {"detail": "{}:{}".format(*connection.getpeername()[:2])}


def health(host, port, ask):
    status, kind, location, body = request(host, port, "GET", "/health", b"", {}, ask["look_timeout"])
    if status != 200 or "html" in kind:
        raise HttpError(status, kind, location, body)
    return {"detail": f"HTTP {status}"}


def routes(host, port, ask):
    data = parsed(request(host, port, "GET", "/openapi.json", b"", ask["headers"], ask["look_timeout"]))
    return {"detail": "listed", "names": sorted(data["paths"])}


def models(host, port, path, ask):
    data = parsed(request(host, port, "GET", path + "/models", b"", ask["headers"], ask["look_timeout"]))
    return {"detail": "listed", "names": [one["id"] for one in data.get("data", [])]}


def library():
    """RAGFlow's client library, or what stands in for it."""
    try:
        from importlib.metadata import version

        return "cohere " + version("cohere")
    except Exception:  # no library, or a Python without that module's data
        return "http.client"


def rerank(host, port, path, ask):
    try:
        import cohere
    except ImportError:
        return by_hand(host, port, path, ask)
    body = json.loads(ask["body"])
    client = cohere.Client(api_key=ask["key"], base_url=ask["base_url"], timeout=ask["timeout"])
    try:
        found = client.rerank(**body)
        scores = [[one.index, one.relevance_score] for one in found.results]
    except Exception as error:
        if type(error).__name__ not in TIMEOUTS:
            by_hand(host, port, path, ask)  # says more of what came, when it fails too
        error.seen = {"status": getattr(error, "status_code", 0), "text": str(getattr(error, "body", ""))}
        raise
    return {"detail": "scored", "scores": scores}


def by_hand(host, port, path, ask):
    """The same bytes without the library."""
    sent = request(host, port, "POST", path + "/rerank", ask["body"].encode(), ask["headers"], ask["timeout"])
    data = parsed(sent)
    if not isinstance(data.get("results"), list):
        raise HttpError(sent[0], sent[1], "", sent[3])
    scores = [[one["index"], one["relevance_score"]] for one in data["results"]]
    return {"detail": "scored", "scores": scores}


def replies(host, port, ask):
    """Many questions, some of them at once, until one has no answer or the time is over.

    Those behind the needed ones have less time. Replies stand in the order of the questions; none of
    them is left out in between.
    """
    waiting = iter(enumerate(ask["posts"]))
    found, taking = {}, threading.Lock()
    begun = time.monotonic()

    def work():
        connection = http.client.HTTPConnection(host, port, timeout=ask["timeout"])
        while True:
            with taking:
                failed = any(not one["ok"] for one in found.values())
                place, post = next(waiting, (None, None))
            if post is None or failed or time.monotonic() - begun > patience(place, ask):
                break
            found[place] = timed(partial(reply, connection, *post, ask["headers"]))
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(ask["at_once"])]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    said = [found[place] for place in sorted(found)]
    kept = next((place for place, one in enumerate(said) if not one["ok"]), len(said))
    return said[: kept + 1]


def patience(place, ask):
    return ask["seconds"] if place < ask["needed"] else min(ask["spare"], ask["seconds"])


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


def request(host, port, method, path, body, sent, timeout):
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        kind, location = answer.getheader("content-type", ""), answer.getheader("location", "")
        return answer.status, kind, location, answer.read().decode(errors="replace")
    finally:
        connection.close()


def parsed(answer):
    status, kind, _, text = answer
    if status != 200 or "json" not in kind:
        raise HttpError(*answer)
    try:
        data = json.loads(text)
    except ValueError:
        raise HttpError(*answer) from None
    if not isinstance(data, dict):
        raise HttpError(*answer)
    return data


if __name__ == "__main__":
    main()
