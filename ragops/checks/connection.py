"""Which flags were missing when a server has no rerank route, judged from the routes that it has; pure.

vLLM 0.32 adds routes by what the model was loaded as (``entrypoints/pooling/factories.py``): rerank
stands beside ``/classify`` for a head with one label, and beside ``/v1/embeddings`` as a cosine.

From inside RAGFlow's container: name, port, server, routes, model, RAGFlow's own call.

:func:`judge` is pure: a probe's answer in, checks with causes and remedies out. Which layer stands
on which is the table in ``layers.py``; ``causes.py`` knows what a failure is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops.checks import Check
from ragops.checks.causes import Seen, catcher, explain, is_refused, settings
from ragops.checks.probe import LAYERS, TITLES, Answer, Step, ask, stopped_by
from ragops.errors import EngineError
from ragops.ragflow.request import RELEVANT, RerankRequest, name_problem, release_or_newest, sent_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ragops.checks.causes import Listens
    from ragops.checks.probe import Layer, Reply, Round
    from ragops.docker.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.releases import Release
    from ragops.reranker.options import Known

_GENERATES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_TITLE = TITLES["routes"]


def judge_route(paths: Collection[str], wanted: str, known: Known, where: str) -> Check:
    """Whether the server ranks, and ranks as this kind of model does.

    Args:
        paths: Routes that the server lists in ``/openapi.json``.
        wanted: The route that RAGFlow calls, such as ``/v1/rerank``.
        known: What the model needs from vLLM.
        where: RAGFlow's container.
    """
    ranks = sorted(path for path in paths if path.endswith("/rerank"))
    if wanted not in paths:
        return Check(_TITLE, "fail", *(_elsewhere(wanted, ranks) if ranks else _missing(paths, known)), where)
    if known.kind != "embedding" and "/v1/embeddings" in paths and "/classify" not in paths:
        detail = f"{wanted} is there, but as a cosine: this model is served as one of embeddings"
        return Check(_TITLE, "fail", detail, f"missing: {_flags(known, '')}; ragops up gives them", where)
    return Check(_TITLE, "ok", f"{wanted} is one of {len(paths)} routes", "", where)


def unknown(detail: str, where: str) -> Check:
    """When there is no list of routes: RAGFlow's call tells by itself."""
    return Check(_TITLE, "skip", f"the server lists no routes ({detail})", "", where)


def _elsewhere(wanted: str, ranks: list[str]) -> tuple[str, str]:
    detail = f"wrong path: RAGFlow would call {wanted}, the server has {', '.join(ranks)}"
    return detail, "the base URL in RAGFlow ends in /v1 and nothing behind it"


def _missing(paths: Collection[str], known: Known) -> tuple[str, str]:
    give = "; ragops up gives them"
    if _GENERATES & set(paths):
        detail = f"no rerank route: the server writes text ({_shown(paths, '/v1/chat/completions')})"
        return detail, f"missing: {_flags(known, '--runner pooling')}{give}"
    if "/classify" in paths:
        detail = "no rerank route: the model is loaded as a classifier, and not of one label (/classify)"
        return detail, f"missing: {_flags(known, '--convert classify')}{give}"
    if "/v1/embeddings" in paths or "/embed" in paths:
        detail = "no rerank route: the server gives embeddings only (/v1/embeddings)"
        return detail, f"missing: {_flags(known, '--runner pooling')}{give}"
    if "/pooling" in paths:
        detail = "no rerank route: the model gives a vector for each token (/pooling)"
        return detail, f"missing: {_flags(known, '--convert classify')}{give}"
    detail = f"no rerank route: another kind of server, with {', '.join(sorted(paths)[:5]) or 'no routes'}"
    return detail, "is this the reranker's address? ragops status shows it"


def _flags(known: Known, first: str) -> str:
    """The flags that this kind of model needs; those of the model replace a bare ``--convert``."""
    overrides = f"--hf-overrides '{known.overrides}'" if known.overrides else ""
    template = f"--chat-template {known.template}" if known.template else ""
    own = [one for one in (overrides, template) if one]
    if first == "--convert classify" and own:
        first = ""
    return " ".join(one for one in (first, *own) if one) or "--runner pooling"


def _shown(paths: Collection[str], usual: str) -> str:
    return usual if usual in paths else min(_GENERATES & set(paths))


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
        return RerankRequest(sent_name(self.name, self.release))

    @property
    def proxy(self) -> str:
        """The proxy that would catch the call; empty for none."""
        return catcher(self.proxies, self.url)


def asked(found: RagflowContainer, url: str, name: str, known: Known, *, trained: bool = True) -> Asked:
    """How one RAGFlow container would reach the reranker."""
    release, _ = release_or_newest(found.release)
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
    return Reached(tuple(judge_service(answer, about, listens)), answer.replies)


def judge_service(answer: Answer, about: Asked, listens: Listens = "") -> list[Check]:
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
            return unknown(step.detail[:80], where)
        return judge_route(answer.paths, f"{urlsplit(about.url).path}/rerank", about.known, where)
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
    if reason := name_problem(about.name, about.release):
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
    if best != RELEVANT and about.trained:
        detail = f"document {best} is best with {score:.3f}, document {RELEVANT} is right ({timing})"
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
