"""Two containers of which one computes at a time: where a search runs its trials.

They are in Docker's own bridge network, away from the stack's, and published on a free loopback port.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

from ragops import golden, ready, sizing, verbs
from ragops import host as hosts
from ragops import model as models
from ragops.actions import RunContainer
from ragops.bench import Level, load, ragflow, wire, words_for_context
from ragops.bench.counters import between
from ragops.bench.threads import in_any_thread
from ragops.checks import scores as gate
from ragops.checks.questions import Expected
from ragops.errors import BenchError, NotFoundError, StackError
from ragops.telemetry import Sampler
from ragops.tuning.candidates import applied
from ragops.tuning.records import Launch, Size
from ragops.tuning.search import Block
from ragops.vllm import PORT, TEMPLATE_TOKENS, template_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.bench.records import RequestRecord
    from ragops.container import ContainerSpec
    from ragops.engine import Engine
    from ragops.stack import Stack
    from ragops.tuning.candidates import Candidate, Settings
    from ragops.tuning.compare import Scores
    from ragops.tuning.search import Slot
    from ragops.verbs import Desired

SLOTS: tuple[Slot, ...] = ("a", "b")
INSIDE = f"http://127.0.0.1:{PORT}/v1"
"""A reranker's address from inside its own container."""

REQUEST_S = 2.5
"""What a request should take with the first launch, in seconds."""
BLOCK_S = 5.0
"""What a block should take."""
SCORES_S = 20.0
"""What the golden queries may take."""
WINDOW = 64
"""Documents in a request where that is fast enough: what RAGFlow sends most."""
FEW = 4
"""Documents in a request at least, so that there is something to share and to batch."""
TIMEOUT = 300.0
"""Seconds until a request is given up."""


def names(reranker: str) -> tuple[str, ...]:
    """The containers of a search for the stack of that reranker."""
    return tuple(f"{reranker}-tune-{slot}" for slot in SLOTS)


def cache(reranker: str) -> str:
    """The volume that they keep compiled code in, from one trial to the next."""
    return f"{reranker}-tune-cache"


class ContainerRig:
    """A rig on a Docker engine.

    Args:
        engine: Where.
        stack: The declaration without tuning.
        make: Makes the int8 checkpoint of a model folder and gives back its folder.

    Raises:
        StackError: There is too little memory for two, or somebody else's container has the name.
    """

    def __init__(self, engine: Engine, stack: Stack, make: Callable[[Path], Path]) -> None:
        self._engine, self._stack, self._make = engine, stack, make
        self.wanted = verbs.desired(stack)
        self._ports: dict[Slot, int] = {}
        self._awake: dict[Slot, bool] = {}
        self._room()
        for name in names(stack.reranker.name):
            self._vacant(name)

    def launch(self, image_id: str) -> Launch:
        """What the launch without tuning is, so that a continued search can be held against it."""
        spec = self.wanted.spec
        folder = models.fingerprint(self.wanted.model.folder)
        cpu = hosts.read_host().cpu_model
        return Launch(folder, image_id, spec.command, spec.environment, spec.cpuset_cpus, spec.memory, cpu)

    @property
    def expected(self) -> Expected:
        """What the score gate expects."""
        model = self.wanted.model
        longest = sizing.max_model_len(self._stack, model)
        return Expected(self.wanted.served, model.kind, longest, model.stand_in)

    def made(self, candidate: Candidate) -> Settings:
        """The settings of a candidate; int8's checkpoint is made now, while nothing computes.

        The name under which it is served stays, because RAGFlow knows the model by it.
        """
        if candidate.settings:
            return candidate.settings
        self._freeze()
        folder = self._make(self.wanted.model.folder)
        return (("model", str(folder)), ("served_name", self.wanted.served))

    def start(self, slot: Slot, settings: Settings) -> float:
        """Start a launch while the other one is frozen; one request goes before all that is measured."""
        self._freeze()
        wanted = self._desired(settings)
        spec = self._spec(slot, wanted)
        self._engine.create_volume(cache(self._stack.reranker.name), role="cache")
        RunContainer(spec).apply(self._engine)
        self._awake[slot] = True
        return ready.wait(self._engine, spec.name, wanted.served, self._stack.reranker.ready_timeout)

    def sized(self, slot: Slot) -> Size:
        """Requests of some seconds, from the second of two small ones."""
        words = words_for_context(sizing.max_model_len(self._stack, self.wanted.model), self._template)
        small = Size(FEW, 1, words, 0)
        seen = [self.block(slot, number, small) for number in (-2, -1)][-1]
        if seen.error:
            raise BenchError(
                f"{self._url(slot)} did not answer",
                code="server-silent",
                evidence=seen.error,
                hint="docker ps",
            )
        rate = seen.documents / seen.seconds
        documents = min(WINDOW, max(FEW, round(rate * REQUEST_S)))
        requests = max(1, round(BLOCK_S * rate / documents))
        each = len(golden.load()[0].documents)
        return Size(documents, requests, words, min(12, max(3, round(SCORES_S * rate / each))))

    def scores(self, slot: Slot, size: Size) -> Scores:
        """Scores of golden queries, in the language that every model knows."""
        self._only(slot)
        target = self._target(slot)
        asked = [(one.query, one.texts()) for one in golden.subset((("en", size.queries),))]
        replies = _asked(target, asked)
        if error := next((one.error for one in replies if one.error), ""):
            raise BenchError(
                f"{target.url} did not answer", code="server-silent", evidence=error, hint="docker ps"
            )
        return tuple(one.scores for one in replies)

    def gate(self, slot: Slot) -> str:
        """Ask the score gate's questions from inside the container itself."""
        self._only(slot)
        seen = gate.ask(self._engine, self._name(slot), self._stack.reranker.image, INSIDE, self.expected)
        failed = (one for one in gate.judge(self.expected, seen) if one.status == "fail")
        return next((f"{one.name}: {one.detail}" for one in failed), "")

    def block(self, slot: Slot, number: int, size: Size) -> Block:
        """One block with one client, as RAGFlow calls; the first request after a change is not counted.

        Texts carry the number of their block, so that no cache has seen them.
        """
        self._only(slot)
        target, level = self._target(slot), Level.closed(1)
        window = ((size.documents, 1.0),)
        drawn = ragflow(size.requests, number + 1000, window=window, max_words=size.max_words).requests
        jobs = tuple(
            load.Job(
                place,
                "measure",
                wire.encode(target.model, f"{number}. {one.query}", one.documents),
                len(one.documents),
                one.words,
            )
            for place, one in enumerate(drawn)
        )
        warm = wire.encode(target.model, f"warm {number}", tuple(drawn[0].documents[:1]))
        look = Sampler(target.base_url, self._engine, self._name(slot))
        before = look()
        seconds, kept = _played(load.Pass(level, 0, jobs, seed=1), target, warm)
        seen = between(before, look(), len(kept))
        error = next((one.error for one in kept if one.error), "")
        documents = sum(one.documents for one in kept if not one.error)
        tokens, others = sum(one.tokens or 0 for one in kept), (seen.others or 0.0) + seen.stolen
        return Block(documents, seconds, tokens, round(others, 3), error)

    def drop(self, slot: Slot) -> None:
        """Remove the container, if there is one."""
        self._awake.pop(slot, None)
        with suppress(NotFoundError):
            self._engine.remove_container(self._name(slot))

    def close(self) -> None:
        """Remove all that was made: both containers, then their volume."""
        for slot in SLOTS:
            self.drop(slot)
        with suppress(NotFoundError):
            self._engine.remove_volume(cache(self._stack.reranker.name))

    def _desired(self, settings: Settings) -> Desired:
        named = dict(settings).get("model")
        model = models.describe(Path(str(named))) if named else self.wanted.model
        kept = applied(self._stack, settings)
        served = kept.reranker.model_copy(update={"served_name": self.wanted.served})
        return verbs.desired(kept.model_copy(update={"reranker": served}), model)

    def _spec(self, slot: Slot, wanted: Desired) -> ContainerSpec:
        self._ports[slot] = _free_port()
        own = cache(self._stack.reranker.name)
        mounts = (replace(one, source=own) if one.kind == "volume" else one for one in wanted.spec.mounts)
        return replace(
            wanted.spec,
            name=self._name(slot),
            mounts=tuple(mounts),
            network=None,
            aliases=(),
            publish=(("127.0.0.1", self._ports[slot], PORT),),
            restart="no",
            health=None,
            role="tune",
        )

    def _freeze(self) -> None:
        """Let nobody compute."""
        for slot in [slot for slot, awake in self._awake.items() if awake]:
            self._engine.pause(self._name(slot))
            self._awake[slot] = False

    def _only(self, slot: Slot) -> None:
        """Let this one compute, and nobody else."""
        if self._awake[slot]:
            return
        self._freeze()
        self._engine.unpause(self._name(slot))
        self._awake[slot] = True

    def _room(self) -> None:
        """Two have to fit: the frozen one keeps its memory."""
        host, need = hosts.read_host(), 2 * self.wanted.spec.memory
        has = min(host.usable_memory, host.available or host.usable_memory)
        if need > has:
            gib = sizing.GIB
            raise StackError(
                f"two rerankers take turns and need {need / gib:.1f} GiB of memory, "
                f"this machine has {has / gib:.1f} to give",
                code="memory-short",
                evidence=f"each may use {need / gib / 2:.1f} GiB",
                hint="set a smaller kv_cache_gib or memory_gib, or stop what else runs here",
            )

    def _vacant(self, name: str) -> None:
        """Remove what an earlier search left behind."""
        left = self._engine.container(name)
        if left is None:
            return
        if not left.ours:
            raise StackError(
                f"a container that ragops did not make is named {name}",
                code="name-taken",
                evidence=f"image {left.image}, {left.status}",
                hint=f"docker rm --force {name}",
            )
        self._engine.remove_container(left.id)

    def _name(self, slot: Slot) -> str:
        return names(self._stack.reranker.name)[SLOTS.index(slot)]

    @property
    def _template(self) -> int:
        return TEMPLATE_TOKENS if template_file(self.wanted.model) else 0

    def _url(self, slot: Slot) -> str:
        return f"http://127.0.0.1:{self._ports[slot]}/v1"

    def _target(self, slot: Slot) -> wire.Target:
        return wire.Target(self._url(slot), self.wanted.served, timeout=TIMEOUT)


async def _ask(target: wire.Target, asked: list[tuple[str, tuple[str, ...]]]) -> tuple[wire.Reply, ...]:
    """The replies to some queries with their documents, one after the other."""
    async with wire.client() as http:
        replies = [
            await wire.post(http, target, wire.encode(target.model, query, texts), len(texts))
            for query, texts in asked
        ]
    return tuple(replies)


async def _play(turn: load.Pass, target: wire.Target, warm: bytes) -> tuple[float, tuple[RequestRecord, ...]]:
    """Seconds that all of a pass took, and its requests."""
    kept: list[RequestRecord] = []
    async with wire.client() as http:
        await wire.post(http, target, warm, 1)
        begin = perf_counter_ns()
        await load.play(turn, http, target, kept.append)
        return (perf_counter_ns() - begin) / 1e9, tuple(kept)


_asked = in_any_thread(_ask)
_played = in_any_thread(_play)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
