"""From inside RAGFlow's container: the name, the connection, the server, the model, RAGFlow's call.

:func:`judge` is pure: a probe's answer in, checks with remedies out. A layer that failed skips
those that depend on it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ragops.checks import Check
from ragops.checks.probe import LAYERS, Answer, Layer, Step, ask
from ragops.ragflow.request import RIGHT, RerankRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer

TITLES: Mapping[Layer, str] = {
    "dns": "name resolves",
    "tcp": "port answers",
    "health": "server is healthy",
    "models": "model is served",
    "rerank": "RAGFlow's call",
}


def check(
    engine: Engine, found: RagflowContainer, image: str, url: str, request: RerankRequest
) -> list[Check]:
    """Ask from inside one RAGFlow container and judge the answer."""
    if found.container.status != "running":
        state = found.container.status
        remedy = f"docker unpause {found.name}" if state == "paused" else f"docker start {found.name}"
        return [Check("container runs", "fail", f"it is {state}", remedy, found.name)]
    return judge(ask(engine, found.name, image, url, request), found.name, url, request)


def judge(answer: Answer, where: str, url: str, request: RerankRequest) -> list[Check]:
    """Checks from a probe's answer.

    Args:
        answer: What the probe saw.
        where: The container that it ran in.
        url: The address that it used.
        request: The rerank call that it made.
    """
    checks = [_layer(name, answer, where, url) for name in LAYERS]
    if answer.steps.get("models", _FAILED).ok and request.model not in answer.models:
        served = ", ".join(answer.models) or "none"
        remedy = f"set served_name under [reranker] to the name in RAGFlow; served now: {served}"
        checks[3] = Check(TITLES["models"], "fail", f"{request.model} is not among: {served}", remedy, where)
    if answer.steps.get("rerank", _FAILED).ok:
        checks[4] = _scores(answer, where, request)
    if proxy := _proxy(answer, url):
        checks.append(Check("no proxy in between", "warn", *proxy, where))
    return checks


_FAILED = Step(ok=False, detail="")


def _layer(name: Layer, answer: Answer, where: str, url: str) -> Check:
    step = answer.steps.get(name)
    if step is None:
        return Check(TITLES[name], "skip", "a layer below failed", "", where)
    if not step.ok:
        return Check(TITLES[name], "fail", step.detail, _remedy(name, step, where, url), where)
    timing = f" in {step.ms:.0f} ms" if step.ms else ""
    names = f": {', '.join(answer.models)}" if name == "models" else ""
    return Check(TITLES[name], "ok", f"{step.detail}{names}{timing} ({answer.vehicle})", "", where)


def _remedy(name: Layer, step: Step, where: str, url: str) -> str:
    if name == "rerank" and "does not exist" in step.detail:
        return "RAGFlow must send the name that is served: ragops status shows it (served_name sets it)"
    if name == "rerank" and "404" in step.detail:
        return "the server has no rerank route: launch it with ragops up (vLLM needs --runner pooling)"
    if "401" in step.detail:
        return "the server wants a key: give RAGFlow the one of its --api-key"
    if "not JSON" in step.detail:
        return "something else answers at this address, a proxy perhaps: see the container's NO_PROXY"
    return {
        "dns": f"the containers share no network: ragops connect {where}",
        "tcp": "the reranker does not listen, or is still loading: ragops status",
        "health": "the server's engine has died: ragops status, then ragops up",
        "models": f"is {url} the reranker's address? it must end in /v1",
        "rerank": "docker logs shows why the server refused RAGFlow's call",
    }[name]


def _scores(answer: Answer, where: str, request: RerankRequest) -> Check:
    wanted, title = len(request.documents), TITLES["rerank"]
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
    if request.documents == RerankRequest(request.model).documents and best != RIGHT:
        detail = f"document {best} is best with {score:.3f}, document {RIGHT} is right ({timing})"
        return Check(title, "warn", detail, "scores look wrong: is the score template in use?", where)
    return Check(title, "ok", f"{wanted} documents, {wanted} scores, best {score:.3f} ({timing})", "", where)


def _proxy(answer: Answer, url: str) -> tuple[str, str] | None:
    host = url.removeprefix("http://").partition(":")[0]
    excepted = [part.strip() for part in answer.proxies.get("no_proxy", "").split(",")]
    proxy = answer.proxies.get("http_proxy") or answer.proxies.get("all_proxy")
    if proxy is None or host in excepted or "*" in excepted:
        return None
    return f"HTTP_PROXY={proxy} would catch {host}", f"add {host} to NO_PROXY in RAGFlow's .env"
