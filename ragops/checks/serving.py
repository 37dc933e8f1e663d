"""From inside RAGFlow's container: name, port, server, routes, model, RAGFlow's own call.

:func:`judge` is pure: a probe's answer in, checks with causes and remedies out. Which layer stands
on which is the table in ``layers.py``; ``causes.py`` knows what a failure is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops.checks import Check, routes
from ragops.checks.causes import Seen, explain, is_refused
from ragops.checks.layers import TITLES, stopped_by
from ragops.checks.probe import LAYERS, Answer, Step, ask
from ragops.checks.proxies import catcher, settings
from ragops.errors import EngineError
from ragops.ragflow.names import assumed, sent, trouble
from ragops.ragflow.request import RIGHT, RerankRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.checks.causes import Listens
    from ragops.checks.layers import Layer
    from ragops.checks.probe import Reply, Round
    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.releases import Release
    from ragops.vllm import Known

PROXY = "no proxy in between"
_NO_LIST = (404, 405)


@dataclass(frozen=True)
class Asked:
    """What RAGFlow's container is asked to reach, and how RAGFlow would."""

    where: str
    """The container."""
    url: str
    """The reranker's address as RAGFlow is given it, ending in ``/v1``."""
    name: str
    """The model's name as registered in RAGFlow."""
    known: Known
    """What the model needs from vLLM."""
    release: Release
    proxies: Mapping[str, str]
    listens: Listens = ""
    trained: bool = True
    """Whether an order can be expected; random weights have none."""

    @property
    def request(self) -> RerankRequest:
        """The call with the name that RAGFlow makes of the registered one."""
        return RerankRequest(sent(self.name, self.release))

    @property
    def proxy(self) -> str:
        """The proxy that would catch the call; empty for none."""
        return catcher(self.proxies, self.url)


def asked(found: RagflowContainer, url: str, name: str, known: Known, *, trained: bool = True) -> Asked:
    """How one RAGFlow container would reach the reranker."""
    release, _ = assumed(found.release)
    proxies = settings(found.container.environment)
    return Asked(found.name, url, name, known, release, proxies, trained=trained)


@dataclass(frozen=True)
class Reached:
    """How far one RAGFlow container gets."""

    checks: tuple[Check, ...]
    replies: tuple[Reply, ...] | None = None
    """To the questions that were asked beside; None when they were not."""

    @property
    def through(self) -> bool:
        """Whether RAGFlow's own call got through."""
        return any(one.name == TITLES["rerank"] and one.status in {"ok", "warn"} for one in self.checks)


def check(
    engine: Engine,
    found: RagflowContainer,
    image: str,
    about: Asked,
    reranker: str,
    beside: Round | None = None,
) -> Reached:
    """Ask from inside one RAGFlow container and judge the answer.

    Args:
        engine: Where it runs.
        found: The container.
        image: An image with Python, for a container that has none.
        about: What it is asked to reach.
        reranker: Container of the server, in which is looked when it refuses.
        beside: More questions for the reranker; the replies come back as they are.
    """
    if found.container.status != "running":
        state = found.container.status
        remedy = f"docker unpause {found.name}" if state == "paused" else f"docker start {found.name}"
        return Reached((Check("container runs", "fail", f"it is {state}", remedy, found.name),))
    answer = ask(engine, found.name, image, about.url, about.request, beside=beside)
    tcp = answer.steps.get("tcp", _NOTHING)
    listens = _listens(engine, reranker, image) if not tcp.ok and is_refused(tcp) else ""
    return Reached(tuple(judge(answer, about, listens)), answer.replies)


def judge(answer: Answer, about: Asked, listens: Listens = "") -> list[Check]:
    """Checks from a probe's answer.

    Args:
        answer: What the probe saw.
        about: What it was asked to reach.
        listens: Where the server listens in its own container, when the port refused.
    """
    checks: list[Check] = []
    broken: set[Layer] = set()
    for layer in LAYERS:
        step = answer.steps.get(layer)
        if need := stopped_by(layer, broken):
            found = Check(TITLES[layer], "skip", f"it needs: {TITLES[need]}", "", about.where)
        elif step is None:
            found = Check(TITLES[layer], "skip", "not asked: a layer above got no answer", "", about.where)
        else:
            found = _judged(layer, step, answer, about, listens)
        if found.status == "fail" or step is None or need:
            broken.add(layer)
        checks.append(found)
    if about.proxy:
        checks.append(_through(about))
    return checks


_NOTHING = Step(ok=True, detail="")


def _listens(engine: Engine, reranker: str, image: str) -> Listens:
    """Whether the port is open to the server's own container alone."""
    try:
        own = ask(engine, reranker, image, "http://127.0.0.1:8000/v1", RerankRequest(""), depth=2)
    except EngineError:  # it does not run
        return "nowhere"
    return "loopback" if own.steps.get("tcp", Step(ok=False, detail="")).ok else "nowhere"


def _judged(layer: Layer, step: Step, answer: Answer, about: Asked, listens: Listens) -> Check:
    title, where = TITLES[layer], about.where
    if layer == "routes":
        if not step.ok:
            return routes.unknown(step.detail[:80], where)
        return routes.judge(answer.paths, f"{urlsplit(about.url).path}/rerank", about.known, where)
    if not step.ok:
        if layer in {"health", "models"} and step.status in _NO_LIST:
            return Check(title, "warn", f"no such route here ({step.detail[:80]})", _OTHER_SERVER, where)
        host = urlsplit(about.url).hostname or ""
        seen = Seen(layer, step, where, host, about.proxy, answer.client, listens, about.release.timeout)
        return Check(title, "fail", *explain(seen), where)
    if layer in {"models", "rerank"}:
        return _named(answer, about) if layer == "models" else _scored(answer, about)
    timing = f" in {step.ms:.0f} ms" if step.ms else ""
    return Check(title, "ok", f"{step.detail}{timing} ({answer.vehicle})", "", where)


_OTHER_SERVER = "another server than vLLM, or a gateway, answers: RAGFlow's call below tells whether it ranks"


def _named(answer: Answer, about: Asked) -> Check:
    title, wanted = TITLES["models"], about.request.model
    served = ", ".join(answer.models) or "none"
    if reason := trouble(about.name, about.release):
        remedy = "set served_name under [reranker] without ___ and @, and register that"
        return Check(title, "fail", f"{reason}; served: {served}", remedy, about.where)
    if wanted not in answer.models:
        renamed = "" if wanted == about.name else f" (RAGFlow {about.release.name} makes it of {about.name})"
        remedy = f"set served_name under [reranker] to the name in RAGFlow; served now: {served}"
        return Check(title, "fail", f"{wanted}{renamed} is not among: {served}", remedy, about.where)
    return Check(title, "ok", f"RAGFlow sends {wanted}, served: {served}", "", about.where)


def _scored(answer: Answer, about: Asked) -> Check:
    request, where, title = about.request, about.where, TITLES["rerank"]
    wanted = len(request.documents)
    indices = sorted(index for index, _ in answer.scores)
    if indices != list(range(wanted)):
        detail = f"{wanted} documents went out, scores for {indices} came back"
        return Check(title, "fail", detail, "the server is no vLLM reranker, or cuts documents off", where)
    if not all(math.isfinite(score) for _, score in answer.scores):
        return Check(
            title, "fail", f"scores {answer.scores}", "the model computes NaN: try dtype float32", where
        )
    best, score = max(answer.scores, key=lambda pair: pair[1])
    timing = f"{answer.steps['rerank'].ms:.0f} ms, {answer.client}"
    if best != RIGHT and about.trained:
        detail = f"document {best} is best with {score:.3f}, document {RIGHT} is right ({timing})"
        return Check(title, "warn", detail, "scores look wrong: the checks of the scores say why", where)
    return Check(title, "ok", f"{wanted} documents, {wanted} scores, best {score:.3f} ({timing})", "", where)


def _through(about: Asked) -> Check:
    host = urlsplit(about.url).hostname or ""
    excepted = about.proxies.get("no", "")
    detail = f"HTTP_PROXY={about.proxy} would catch {host}" + (
        f", NO_PROXY={excepted} does not except it" if excepted else ""
    )
    remedy = f"add {host} to NO_PROXY and no_proxy in RAGFlow's .env, then recreate {about.where}"
    return Check(PROXY, "warn", detail, remedy, about.where)
