"""Checks of one RAGFlow container: connection, scores and response times; and of access from outside.

A container that is not connected to the reranker's network must get no response.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops.checks import Check, budget, connection, failed_check, rules, run_checks
from ragops.checks.connection import ConnectionResult
from ragops.checks.probe import TITLES, parse_output, program
from ragops.checks.questions import Expected, parse_responses, plan_requests
from ragops.docker.engine import sidecar
from ragops.progress import step
from ragops.reranker import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.checks import Status
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState, EngineState
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.session import Deployment


OUTSIDE = "bridge"
"""Docker's default network, which every engine has unless it is configured otherwise."""

CLOSED = "closed to other containers"
PUBLISHED = "published on this host only"

_CONNECT_TIMEOUT = 1.5
"""Seconds; includes a second try of the kernel. Two containers of one host need milliseconds."""
_TIMEOUT = 60.0


@dataclass(frozen=True)
class VerifyContext:
    """What the checks of all RAGFlow containers share."""

    engine: Engine
    deployment: Deployment
    reranker: ContainerState
    full: bool
    """The whole golden set and all timed calls, however long they take."""
    budget: bool
    """Whether RAGFlow's calls are timed."""
    address: str = ""
    """The reranker's address for a RAGFlow outside of its Docker network."""

    @property
    def url(self) -> str:
        """The reranker's address as RAGFlow has it."""
        return self.address or self.deployment.stack.internal_url

    @property
    def expected(self) -> Expected:
        """The reranker as it is configured."""
        return Expected.of(self.deployment)


def checks_for(ragflow: RagflowContainer, context: VerifyContext) -> list[Check]:
    """The checks from one RAGFlow container, in the order of :data:`~ragops.checks.probe.TITLES`.

    An exception in one of them is a failed check; those that do not need it go on.
    """
    return [replace(check, where=ragflow.name) for check in _checks_for(ragflow, context)]


def _checks_for(ragflow: RagflowContainer, context: VerifyContext) -> Iterator[Check]:
    image, url = context.reranker.image_id, context.url  # a tag may have moved
    try:
        expected = context.expected
        plan = plan_requests(expected, full=context.full)
        spare = rules.SPARE if context.budget else rules.HURRIED
        batch = rules.batch(expected, plan, url, full=context.full, spare=spare)
        duration = "the whole golden set" if context.full else f"{batch.seconds:.0f} s at most"
        step(f"{ragflow.name or 'this host'}: connection and scores, {duration}")
        known = options.known(context.deployment.model)
        target = connection.target(ragflow, url, expected.model, known, trained=expected.trained)
        result = connection.check(context.engine, ragflow, image, target, context.reranker.name, batch)
    except Exception as error:  # noqa: BLE001 - reported as a failed check
        result = ConnectionResult((failed_check(TITLES["rerank"], error),))
    yield from result.checks
    if not result.rerank_succeeded:
        reason = f"it needs: {TITLES['rerank']}"
        yield from (Check(title, "skip", reason) for title in (TITLES["scores"], TITLES["budget"]))
        return
    yield from run_checks(
        (
            TITLES["scores"],
            lambda: rules.check_scores(expected, parse_responses(plan, result.responses)),
        ),
        (TITLES["budget"], lambda: _budget(ragflow, context)),
    )


def _budget(ragflow: RagflowContainer, context: VerifyContext) -> list[Check]:
    if not context.budget:
        return [Check(TITLES["budget"], "skip", "not requested")]
    reranker, model, expected = context.reranker, context.deployment.model, context.expected
    engine, image = context.engine, reranker.image_id
    calls = budget.time_calls(engine, ragflow, image, context.url, expected, full=context.full)
    advice = budget.speed_advice(reranker, model, context.deployment.host)
    profile = budget.call_profile(ragflow, expected)
    return budget.check_calls(calls, profile, expected, model.max_tokens, advice)


def outside_note(url: str, reranker: ContainerState) -> str:
    """What a request from this host does not show of a RAGFlow that runs elsewhere."""
    host, own = urlsplit(url).hostname or "", {endpoint.address for endpoint in reranker.endpoints}
    if host in {"localhost", "::1", *own} or host.startswith("127."):
        needs = f"{host} is an address of this host alone, and only a RAGFlow on this host reaches it"
    else:
        needs = (
            f"RAGFlow's host must also resolve {host}, reach the port through all firewalls, and except "
            f"{host} from its proxies (NO_PROXY); its response times include its own way here"
        )
    tested = "ragops register --address lets RAGFlow itself test the address"
    return f"this host sent the requests, not RAGFlow: {needs}. {tested}"


def check_exposure(engine: Engine, reranker: ContainerState, image: str) -> list[Check]:
    """Connect to the reranker from a container outside its network, and check the published ports.

    ``image`` is one with Python, for the container outside.
    """
    return list(
        run_checks(
            (CLOSED, lambda: _check_outside(engine, reranker, image)),
            (PUBLISHED, lambda: _check_published(reranker, engine.state())),
        )
    )


def _check_outside(engine: Engine, reranker: ContainerState, image: str) -> Check:
    """Try the reranker's addresses, and its published ports at those of the host; by address, without DNS."""
    if engine.network(OUTSIDE) is None:
        return Check(CLOSED, "skip", f"the engine has no network {OUTSIDE} to connect from")
    targets = [(endpoint.address, options.PORT) for endpoint in reranker.endpoints if endpoint.address]
    own = {f"{address}:{port}" for address, port in targets}
    ports = [port for _, port, _ in reranker.published]
    if engine.state().socket and (address := _own_address()):
        targets += [(address, port) for port in ports]
    stdin = json.dumps({"targets": targets, "gateway_ports": ports, "timeout": _CONNECT_TIMEOUT})
    with sidecar(engine, OUTSIDE, image) as outsider:
        output = engine.execute(outsider, ("python3", "-c", program()), stdin=stdin, timeout=_TIMEOUT)
    tried: dict[str, bool] = parse_output(output)
    if reached := [target for target, accepted in tried.items() if accepted]:
        remedy = 'publish = "127.0.0.1" under [reranker]'
        if own & set(reached) or all(_is_loopback(ip) for ip, _, _ in reranker.published):
            remedy = (
                f"docker network inspect {OUTSIDE} shows whether the reranker is connected to it; if it is "
                "not, another engine or a firewall tool has replaced Docker's rules: restart the engine"
            )
        status: Status = "warn" if remedy.startswith("publish") else "fail"  # configured, by expose = true
        return Check(CLOSED, status, f"an unconnected container reaches {', '.join(reached)}", remedy)
    return Check(CLOSED, "ok", f"tried from an unconnected container: {', '.join(tried) or 'no address'}")


def _own_address() -> str:
    """This host's address in the network of its default route; empty without one. Nothing is sent."""
    with suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as unconnected:
        unconnected.connect(("192.0.2.1", 9))
        return str(unconnected.getsockname()[0])
    return ""


def _check_published(reranker: ContainerState, engine: EngineState) -> Check:
    public = [(ip or "0.0.0.0", port) for ip, port, _ in reranker.published if not _is_loopback(ip)]
    if public:
        addresses = ", ".join(f"{ip}:{port}" for ip, port in public)
        remedy = 'publish = "127.0.0.1" under [reranker]'
        return Check(PUBLISHED, "warn", f"other machines reach {addresses}", remedy)
    addresses = ", ".join(f"{ip}:{port}" for ip, port, _ in reranker.published)
    if addresses and not engine.keeps_others_out:
        own = ", ".join(f"{end.address}:{options.PORT}" for end in reranker.endpoints)
        detail = f"{addresses}, and by routing other machines reach {own}: Docker {engine.version}"
        return Check(PUBLISHED, "warn", detail, "ragops up: it publishes nothing there")
    return Check(PUBLISHED, "ok", addresses or "nothing is published")


def _is_loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address).is_loopback
