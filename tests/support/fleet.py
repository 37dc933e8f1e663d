"""Stub replicas and a gateway in containers of one network, and clients whose every response is compared."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from benchmarks import free_port
from ragops.configuration import Gateway, Network, Reranker, Stack, home
from ragops.docker.objects import ContainerSpec, Mount
from ragops.reranker import gateway
from tests.support import replicas
from tests.support.replicas import MODEL, Behaviour, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragops.docker.engine import Engine

PORT = 8000
TIMEOUT = 30.0
"""Seconds that RAGFlow waits."""
DOCUMENTS = 64
"""Documents of one request of RAGFlow."""
STEADY = Behaviour(per_byte=2e-5)
"""A replica of the load tests: about 0.3 s for a request of 64 documents."""


@dataclass(frozen=True)
class Question:
    """One request of RAGFlow's size, and the scores that are right."""

    query: str
    documents: tuple[str, ...]

    @classmethod
    def number(cls, number: int, documents: int = DOCUMENTS) -> Self:
        """The same for the same number; no two numbers share a text."""
        drawn = random.Random(number)  # noqa: S311
        words = [f"{prefix}{letter}" for prefix in ("al", "be", "ca", "de") for letter in "abcdefghijklmnop"]
        query = " ".join([f"q{number}", *drawn.sample(words, 11)])
        texts = (" ".join(drawn.choices(words, k=drawn.randint(30, 60))) for _ in range(documents))
        return cls(query, tuple(f"d{number} {text}" for text in texts))

    def body(self) -> dict[str, Any]:
        """As RAGFlow sends it."""
        return {
            "model": MODEL,
            "query": self.query,
            "documents": list(self.documents),
            "top_n": len(self.documents),
        }

    def problem(self, results: Sequence[dict[str, Any]], ranked: int) -> str:
        """What is wrong with a ranking of which the first ``ranked`` documents were scored; empty if right.

        They come first with their exact scores, ties in their order; the others below, in their order.
        """
        right = [(-score(self.query, self.documents[index]), index) for index in range(ranked)]
        expected = [index for _, index in sorted(right)] + list(range(ranked, len(self.documents)))
        order = [row["index"] for row in results]
        scores = [row["relevance_score"] for row in results]
        if order != expected:
            return f"order {order}, expected {expected}"
        if scores[:ranked] != [-value for value, _ in sorted(right)]:
            return f"scores {scores[:ranked]}"
        tail = scores[max(ranked - 1, 0) :]
        return "" if tail == sorted(tail, reverse=True) else f"scores below the ranked ones rise: {tail}"


@dataclass(frozen=True)
class Sample:
    """One request of a client; times of the monotonic clock."""

    question: Question
    begin: float
    end: float
    status: int
    ranked: int
    """Documents that a replica scored."""
    failure: str
    """Why there is no ranking."""
    wrong: str
    """What is wrong with the ranking."""

    @property
    def seconds(self) -> float:
        """From the send to the response."""
        return self.end - self.begin


def send(client: httpx.Client, question: Question) -> Sample:
    """Send one request, and compare the response with the scores that are right."""
    begin, status, ranked, failure, wrong = time.monotonic(), 0, 0, "", ""
    try:
        response = client.post("/v1/rerank", json=question.body())
    except httpx.HTTPError as error:
        return Sample(question, begin, time.monotonic(), status, ranked, repr(error), wrong)
    end, status = time.monotonic(), response.status_code
    if status == 200:
        ranked = int(response.headers["x-ranked"].partition("/")[0])
        wrong = question.problem(response.json()["results"], ranked)
    else:
        failure = f"{status} {response.text[:200]}"
    return Sample(question, begin, end, status, ranked, failure, wrong)


class Load:
    """Concurrent clients that send one request after the other until the ``with`` block ends."""

    def __init__(self, url: str, clients: int = 4, first: int = 1000) -> None:
        self._url = url
        self._ends = threading.Event()
        self._numbers = count(first)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the requests that are under way end."""
        self._ends.set()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT, trust_env=False) as client:
            while not self._ends.is_set():
                sample = send(client, Question.number(next(self._numbers)))
                self.samples.append(sample)
                if sample.failure:
                    time.sleep(0.05)  # a gateway that is away refuses within a millisecond

    def between(self, begin: float, end: float) -> list[Sample]:
        """Requests that were under way at some time of it, and ended by then."""
        return [sample for sample in list(self.samples) if sample.end >= begin and sample.begin < end]

    def rate(self, begin: float, end: float) -> float:
        """Rankings that were completed in a second."""
        whole = [one for one in list(self.samples) if begin <= one.end < end and not one.failure]
        return len(whole) / (end - begin)

    def full_speed(self, since: float, rate: float, width: float = 1.0) -> float | None:
        """Seconds from ``since`` until the first window in which the clients get this rate; None: not yet."""
        ends = sorted(one.end for one in list(self.samples) if one.end >= since and not one.failure)
        for first, begin in enumerate((since, *ends)):  # cheap: it must not slow the clients of this process
            ended = bisect_left(ends, begin + width) - max(first - 1, 0)
            if ends and begin + width <= ends[-1] and ended >= rate * width:
                return begin - since
        return None


def main() -> None:
    """Print the samples of a load as lines of JSON, until the input is closed."""
    url, clients, first = sys.argv[1:]
    printed = 0
    with Load(url, int(clients), int(first)) as load:
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            printed = _print(load.samples, printed)
    _print(load.samples, printed)


def _print(samples: Sequence[Sample], printed: int) -> int:
    new = samples[printed:]
    for sample in new:
        number = int(sample.question.query.split()[0][1:])
        fields = {name: value for name, value in asdict(sample).items() if name != "question"}
        sys.stdout.write(json.dumps({**fields, "question": number}) + "\n")
    sys.stdout.flush()
    return printed + len(new)


@dataclass
class Fleet:
    """Replicas, which share an alias of one network, and the gateway in front of them."""

    engine: Engine
    image: str
    folder: Path
    """For the program of the stubs, their behaviours, and the reference."""
    name: str
    network: str
    port: int = field(default_factory=free_port)
    """Of this host; 0 publishes none."""

    @property
    def url(self) -> str:
        """The gateway's, for this host."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        """A client of the gateway."""
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False)

    @property
    def alias(self) -> str:
        """The name of all replicas."""
        return f"{self.name}-replicas"

    def replica(self, number: int) -> str:
        """The name of a replica's container."""
        return f"{self.name}-{number}"

    def behave(self, number: int, behaviour: Behaviour) -> None:
        """From now on, also after a restart."""
        folder = self.folder / "behaviours" / self.replica(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "next").write_text(json.dumps(asdict(behaviour)))
        (folder / "next").replace(folder / "now.json")

    def add(self, number: int, behaviour: Behaviour = STEADY, restart: str = "no") -> None:
        """Create and start a replica."""
        self.behave(number, behaviour)
        program = self.folder / "replicas.py"
        shutil.copy(replicas.__file__, program)
        spec = ContainerSpec(
            name=self.replica(number),
            image=self.image,
            entrypoint=("python3", "/replicas.py", "--port", str(PORT), "--file", "/behaviour/now.json"),
            mounts=(
                Mount(str(program), "/replicas.py", read_only=True),
                Mount(str(self.folder / "behaviours" / self.replica(number)), "/behaviour", read_only=True),
            ),
            network=self.network,
            aliases=(self.alias,),
            restart=restart,
            init=True,
            role="test",
        )
        self.engine.start(self.engine.create_container(spec))

    def address(self, number: int) -> str:
        """Address of a replica."""
        (endpoint,) = self.inspect(self.replica(number))["NetworkSettings"]["Networks"].values()
        return str(endpoint["IPAddress"])

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows about a container."""
        return dict(self.engine._client.api.inspect_container(name))

    def restart(self) -> None:
        """Restart the gateway, as ``docker restart`` does."""
        self.engine._client.api.restart(self.name)

    def in_network(self, *argv: str) -> None:
        """Run a program of this host in the network of the gateway's container."""
        space = f"--net=/proc/{self.pid(self.name)}/ns/net"
        subprocess.run(["nsenter", space, *argv], check=True, capture_output=True)

    def serve(self, deadline: float, **constants: float) -> None:
        """Create and start the gateway as ``up`` does; constants of its module ``replicas`` may differ."""
        folder = self.folder / "references" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "reference.json").write_text(json.dumps(replicas.reference(requests=4)))
        stack = Stack(
            network=Network(name=self.network),
            reranker=Reranker(name=self.name),
            gateway=Gateway(deadline=deadline),
        )
        publish = (("127.0.0.1", self.port, PORT),) if self.port else ()
        spec = gateway.container_spec(stack, timeout=TIMEOUT, splits=True, publish=publish, folder=folder)
        image = gateway.ensure(self.engine, self.image, home())
        if constants:
            changed = "".join(f"r.{name} = {value}; " for name, value in constants.items())
            run = "import gateway.replicas as r, runpy; {}runpy.run_module('gateway', run_name='__main__')"
            spec = replace(spec, entrypoint=("python3", "-c", run.format(changed)))
        self.engine.start(self.engine.create_container(replace(spec, image_id=image.id)))

    def remove(self) -> None:
        """Remove everything that exists."""
        for container in self.engine.containers():
            if container.name == self.name or container.name.startswith(f"{self.name}-"):
                self.engine.remove_container(container.id)

    def kill(self, name: str) -> None:
        """SIGKILL of the container's first process, as the kernel sends it: a restart policy applies."""
        process = self.pid(name)
        assert process, f"{name} does not run"  # 0 would be this process and all of its group
        os.kill(process, signal.SIGKILL)
        while (state := self.inspect(name)["State"])["Running"] and state["Pid"] == process:
            time.sleep(0.02)

    def pid(self, name: str) -> int:
        """Process id of a container on this host."""
        return int(self.inspect(name)["State"]["Pid"])

    def states(self) -> list[dict[str, Any]]:
        """The replicas by ``GET /replicas``; empty while the gateway does not respond."""
        with suppress(httpx.HTTPError):
            found = httpx.get(f"{self.url}/replicas", timeout=10, trust_env=False).json()["replicas"]
            return list(found)
        return []

    def admitted(self) -> int:
        """Number of admitted replicas."""
        return sum(one["state"] == "admitted" for one in self.states())

    def wait(self, admitted: int, seconds: float = 240) -> float:
        """Until so many are admitted and no others are known; the time of the monotonic clock."""
        deadline = time.monotonic() + seconds
        while True:
            states = self.states()
            if len(states) == admitted == sum(one["state"] == "admitted" for one in states):
                return time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{admitted} admitted replicas expected: {states}")
            time.sleep(0.05)


if __name__ == "__main__":
    main()
