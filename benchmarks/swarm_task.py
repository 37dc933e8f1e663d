"""Records vLLM itself as a task of Docker Swarm: Swarm's own tests place stubs, which start at once.

::

    python -m benchmarks.swarm_task docs/_data/swarm_task.json

takes some ten minutes on two cores, most of them vLLM's compilation. One Docker engine of the tests' lab is
the only node. ``ragops up`` places one replica there, with its score check; then a container in RAGFlow's
place sends requests of RAGFlow's size through the gateway; at last the replica is killed, and Swarm starts it
again. The model is the substitute, all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import gateways, write
from benchmarks.alternating import log
from benchmarks.gateways import Machine
from ragops.configuration import home
from ragops.docker import engine as engines
from ragops.progress import Progress, receiver
from ragops.reranker import files
from ragops.reranker import image as images
from tests.support.swarm_fleet import CLIENT, NAME, SwarmFleet, fleet

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.stack import verbs

DOCUMENTS, WORDS, REQUESTS = 64, 40, 5
LIMIT = 1800.0
TEXT = """
[network]
name = "{name}"
[reranker]
name = "{name}"
model = "{model}"
ready_timeout = {limit:.0f}
[gateway]
cache = false
[swarm]
[ragflow]
containers = ["{client}"]
"""
SEND = """
import json, sys, time, urllib.request as r
url, model, documents, words, number = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
for turn in range(number):
    texts = [" ".join(f"word{(turn * 7 + d * 31 + w) % 997}" for w in range(words)) for d in range(documents)]
    body = json.dumps({"model": model, "query": f"query {turn}", "documents": texts, "top_n": documents})
    begin = time.perf_counter()
    request = r.Request(url + "/rerank", body.encode(), {"Content-Type": "application/json"})
    with r.urlopen(request, timeout=60) as response:
        rows, ranked = json.load(response)["results"], response.headers["x-ranked"]
    scores = [row["relevance_score"] for row in rows]
    assert len(rows) == documents and scores == sorted(scores, reverse=True)
    print(json.dumps([time.perf_counter() - begin, ranked]))
"""


@dataclass(frozen=True)
class Measured:
    """The record; times in seconds."""

    machine: Machine
    """``used_by_others`` counts the lab's own containers too."""
    docker: str
    vllm_image: str
    model: str
    substitute: str
    steps: tuple[tuple[float, str], ...]
    """Of ``ragops up``, and when each began."""
    up: float
    """Until the gateway has admitted the replica; vLLM starts twice, first for the score check."""
    documents: int
    request_p50: float
    requests: tuple[float, ...]
    ranked: tuple[str, ...]
    restarted: float
    """From SIGKILL of vLLM until the gateway has admitted its successor."""


class Steps(Progress):
    """When each step of an operation began."""

    def __init__(self) -> None:
        self.began, self.rows = time.monotonic(), list[tuple[float, str]]()

    def step(self, text: str) -> None:
        """Note the step."""
        self.rows.append((time.monotonic() - self.began, text))
        log(f"{self.rows[-1][0]:.0f} s {text}")


def measure() -> Measured:
    """Start the lab, place vLLM, send requests, kill vLLM."""
    watch, model = gateways.Watch(), files.bundled_minilm(home())
    with closing(engines.connect()) as engine, fleet(engine, 1) as stack:
        copy(stack, engine, images.DEFAULT)
        text = TEXT.format(name=NAME, model=model, limit=LIMIT, client=CLIENT)
        stack.file.write_text(text)
        stack.lab.join()
        with receiver(steps := Steps()):
            status = stack.up()
            up = stack.wait(1, LIMIT) - steps.began
        rows = send(stack, status)
        log(f"{up:.0f} s admitted; requests: {rows}")
        killed = time.monotonic()
        stack.replica(stack.node).kill()
        while any(one["state"] == "admitted" for one in stack.states()):  # the gateway has to notice it
            time.sleep(0.1)
        restarted = stack.wait(1, LIMIT) - killed
        log(f"{restarted:.0f} s after SIGKILL admitted again")
        image = engine.image(images.DEFAULT)
        return Measured(
            machine=watch.machine(),
            docker=stack.node.client.version()["Version"],
            vllm_image=image.id if image else "",
            model=status.served_name,
            substitute=status.substitute,
            steps=tuple(steps.rows),
            up=up,
            documents=DOCUMENTS,
            request_p50=median(seconds for seconds, _ in rows),
            requests=tuple(seconds for seconds, _ in rows),
            ranked=tuple(ranked for _, ranked in rows),
            restarted=restarted,
        )


def copy(stack: SwarmFleet, engine: Engine, image: str) -> None:
    """Copy an image from this machine's engine to the lab's, as the page does it."""
    save = subprocess.Popen(
        ["docker", "--host", engine.state().address, "save", image], stdout=subprocess.PIPE
    )
    subprocess.run(["docker", "--host", stack.node.socket, "load"], stdin=save.stdout, check=True)
    if save.wait():
        raise RuntimeError(f"docker save {image} ended with {save.returncode}")


def send(stack: SwarmFleet, status: verbs.Status) -> list[tuple[float, str]]:
    """Seconds of each request from RAGFlow's place, and the share that was ranked."""
    words = map(str, (DOCUMENTS, WORDS, REQUESTS))
    argv = ("python3", "-c", SEND, status.stack.internal_url, status.served_name, *words)
    result = stack.engine.execute(CLIENT, argv, timeout=300)
    if result.exit_code:
        raise RuntimeError(result.stderr)
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


if __name__ == "__main__":
    write(measure(), sys.argv[1], digits=3)
