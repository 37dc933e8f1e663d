"""Checks of one RAGFlow container: connection, scores and response times; and of access from outside.

A container that is not connected to the reranker's network must get no response.
"""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from ragops.checks import Check, Status, budget, connection, failed_check, rules, run_checks
from ragops.checks.connection import ConnectionResult
from ragops.checks.probe import TITLES, parse_output, program
from ragops.checks.questions import Expected, parse_responses, plan_requests
from ragops.checks.ready import ReplicaStatus
from ragops.configuration import is_loopback
from ragops.docker.engine import Engine, sidecar
from ragops.docker.objects import ContainerState, EngineState
from ragops.progress import step
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.request import PLACEHOLDER_KEY
from ragops.reranker import options
from ragops.reranker.gateway import ROLE, GatewayState
from ragops.session import Deployment

OUTSIDE = "bridge"
"""Docker's default network, which every engine has unless it is configured otherwise."""

CLOSED = "closed to other containers"
PUBLISHED = "published on this host only"
ADMITTED = "replicas are admitted"

_CONNECT_TIMEOUT = 1.5
"""Seconds; includes a second try of the kernel. Two containers of one host need milliseconds."""
_TIMEOUT = 60.0


@dataclass(frozen=True)
class VerifyContext:
    """What the checks of all RAGFlow containers share."""

    engine: Engine
    deployment: Deployment
    reranker: ContainerState
    """The container with the reranker's address: the gateway's, or vLLM's."""
    full: bool
    """The whole golden set and all timed calls, however long they take."""
    budget: bool
    address: str = ""
    behind: tuple[ContainerState, ...] = ()
    state: GatewayState | None = None
    key: str = field(default=PLACEHOLDER_KEY, repr=False)
    """What the gateway requires of each request."""

    @property
    def url(self) -> str:
        """The reranker's address as RAGFlow has it."""
        return self.address or self.deployment.stack.internal_url

    @property
    def expected(self) -> Expected:
        """The reranker as it is configured."""
        return Expected.of(self.deployment)

    @property
    def replicas(self) -> tuple[ContainerState, ...]:
        """Containers of vLLM on this machine."""
        return self.behind or (() if self.reranker.role == ROLE else (self.reranker,))

    @property
    def image(self) -> str:
        """Id of an image with Python: vLLM's, of a container where there is one, as a tag may have moved."""
        image = None if self.replicas else self.engine.image(self.deployment.stack.reranker.image)
        return image.id if image else (*self.replicas, self.reranker)[0].image_id


def checks_for(ragflow: RagflowContainer, context: VerifyContext) -> Iterator[Check]:
    """The checks from one RAGFlow container, in the order of :data:`~ragops.checks.probe.TITLES`.

    An exception in one of them is a failed check; those that do not need it go on.
    """
    image, url = context.image, context.url
    try:
        expected = context.expected
        plan = plan_requests(expected, full=context.full)
        spare = rules.SPARE if context.budget else rules.HURRIED
        batch = rules.batch(expected, plan, url, full=context.full, spare=spare)
        duration = "the whole golden set" if context.full else f"{batch.seconds:.0f} s at most"
        step(f"{ragflow.name or 'this host'}: connection and scores, {duration}")
        known = options.known(context.deployment.model)
        target = connection.target(ragflow, url, expected.model, known, trained=expected.trained)
        target = replace(target, key=context.key)
        result = connection.check(context.engine, ragflow, image, target, context.reranker.name, batch)
    except Exception as error:  # noqa: BLE001 - reported as a failed check
        result = ConnectionResult((failed_check(TITLES["rerank"], error),))
    yield from result.checks
    if not result.rerank_succeeded:
        reason = f"it needs: {TITLES['rerank']}"
        yield from (Check(title, "skip", reason) for title in (TITLES["scores"], TITLES["budget"]))
        return
    yield from run_checks(
        (TITLES["scores"], lambda: rules.check_scores(expected, parse_responses(plan, result.responses))),
        (TITLES["budget"], lambda: _budget(ragflow, context)),
    )


def _budget(ragflow: RagflowContainer, context: VerifyContext) -> list[Check]:
    if not context.budget:
        return [Check(TITLES["budget"], "skip", "not requested")]
    model, host, expected = context.deployment.model, context.deployment.host, context.expected
    engine, image, key = context.engine, context.image, context.key
    calls = budget.time_calls(engine, ragflow, image, context.url, expected, full=context.full, key=key)
    profile = budget.call_profile(ragflow, expected, context.state.deadline if context.state else 0.0)
    advice = budget.speed_advice(context.replicas, model, host, budget.shortfall(calls, profile))
    return budget.check_calls(calls, profile, expected, model.max_tokens, advice)


def check_replicas(states: Sequence[ReplicaStatus]) -> list[Check]:
    """Whether the gateway has admitted the replicas; the problem of one is a warning while another serves."""
    errors = [status.problem for status in states if status.problem]
    if not errors:
        names = ", ".join(status.name for status in states)
        return [Check(ADMITTED, "ok", f"all {len(states)}: {names}")] if states else []
    status: Status = "fail" if len(errors) == len(states) else "warn"
    return [Check(ADMITTED, status, error.message, error.hint) for error in errors]


def outside_note(url: str, reranker: ContainerState) -> str:
    """What a request from this host does not show of a RAGFlow that runs elsewhere."""
    host = urlsplit(url).hostname or ""
    if is_local(host, reranker):
        needs = f"{host} is an address of this host alone, and only a RAGFlow on this host reaches it"
    else:
        needs = (
            f"RAGFlow's host must also resolve {host}, reach the port through all firewalls, and except "
            f"{host} from its proxies (NO_PROXY); its response times include its own way here"
        )
    tested = "ragops register --address lets RAGFlow itself test the address"
    return f"this host sent the requests, not RAGFlow: {needs}. {tested}"


def is_local(host: str, reranker: ContainerState | None) -> bool:
    """Whether an address of the reranker is one of this host alone."""
    own = {endpoint.address for endpoint in reranker.endpoints} if reranker else set()
    return host in own or is_loopback(host)


def check_exposure(engine: Engine, stack: Sequence[ContainerState], image: str) -> list[Check]:
    """Connect to a stack's containers from one outside its network, and check the published ports.

    ``image`` is one with Python, for the container outside.
    """
    return list(
        run_checks(
            (CLOSED, lambda: _check_outside(engine, stack, image)),
            (PUBLISHED, lambda: _check_published(stack, engine.state())),
        )
    )


def _check_outside(engine: Engine, stack: Sequence[ContainerState], image: str) -> Check:
    if engine.network(OUTSIDE) is None:
        return Check(CLOSED, "skip", f"the engine has no network {OUTSIDE} to connect from")
    endpoints = [endpoint for container in stack for endpoint in container.endpoints]
    targets = [(endpoint.address, options.PORT) for endpoint in endpoints if endpoint.address]
    own = {f"{address}:{port}" for address, port in targets}
    published = _published(stack)
    ports = [port for _, port in published]
    if engine.state().socket and (address := _own_address()):
        targets += [(address, port) for port in ports]
    stdin = json.dumps({"targets": targets, "gateway_ports": ports, "timeout": _CONNECT_TIMEOUT})
    with sidecar(engine, OUTSIDE, image) as outsider:
        tries: list[dict[str, bool]] = []
        for _ in range(2):  # Docker lifts its rules for a moment when any network is created
            output = engine.execute(outsider, ("python3", "-c", program()), stdin=stdin, timeout=_TIMEOUT)
            tries.append(parse_output(output))
            if not any(tries[-1].values()):
                break
    tried = tries[-1]
    if reached := [target for target, accepted in tried.items() if accepted]:
        remedy = 'publish = "127.0.0.1" under [reranker]'
        if own & set(reached) or all(is_loopback(ip) for ip, _ in published):
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


def _published(stack: Sequence[ContainerState]) -> list[tuple[str, int]]:
    return [(ip or "0.0.0.0", port) for container in stack for ip, port, _ in container.published]


def _check_published(stack: Sequence[ContainerState], engine: EngineState) -> Check:
    published = _published(stack)
    if public := [(ip, port) for ip, port in published if not is_loopback(ip)]:
        addresses = ", ".join(f"{ip}:{port}" for ip, port in public)
        remedy = 'publish = "127.0.0.1" under [reranker]'
        return Check(PUBLISHED, "warn", f"other machines reach {addresses}", remedy)
    addresses = ", ".join(f"{ip}:{port}" for ip, port in published)
    if addresses and not engine.keeps_others_out:
        own = ", ".join(f"{end.address}:{options.PORT}" for container in stack for end in container.endpoints)
        detail = f"{addresses}, and by routing other machines reach {own}: Docker {engine.version}"
        return Check(PUBLISHED, "warn", detail, "ragops up: it publishes nothing there")
    return Check(PUBLISHED, "ok", addresses or "nothing is published")
