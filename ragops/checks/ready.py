"""Wait until the reranker responds, or raise the reason why it does not.

The container's log shows the phases of its start, and a rerank of one document inside the container that it
is ready: ``/health`` alone also responds when the server hangs. :func:`wait_admitted` waits for the gateway.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ragops.checks.probe import probe_input, program
from ragops.docker import hints
from ragops.docker.engine import Engine
from ragops.docker.objects import ContainerState, EventState
from ragops.errors import EngineError, LaunchError
from ragops.progress import step
from ragops.ragflow.request import RerankRequest
from ragops.reranker.gateway import GatewayState, Replica, read_state
from ragops.reranker.options import PORT

_COUNT_REQUESTS = """
from urllib.request import urlopen
lines = urlopen("http://127.0.0.1:8000/metrics", timeout=5).read().decode().splitlines()
print(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_")))
"""
_PHASES = {"start": "start", "load": "load the model", "compile": "compile", "listen": "compile"}
_TAIL = 400
_INTERVAL = 1.0
_SHORTEST = 1.0
"""Seconds that a request needs; with less time left none is sent."""
_TIMEOUT = 60.0
_LASTS = 10.0
"""Seconds after which the problem of a replica is final: the gateway has read a new reference by then."""
_PASSING = {
    hints.STATES[name].code
    for name in ("down", "checking", "unknown", "unresolved", "silent", "loading", "hangs")
}


def wait(engine: Engine, name: str, served_name: str, timeout: float, *, begin: float | None = None) -> float:
    """Wait for the first rerank response; returns the seconds until then.

    The wait ends ``timeout`` seconds after ``begin``, a time of the monotonic clock; by default it is
    now. It is an error if the container exits, within two seconds.
    """
    begin, shown = time.monotonic() if begin is None else begin, ""
    first = engine.container(name)
    restarts = first.restart_count if first else 0  # earlier restarts do not count
    while True:
        container = engine.container(name)
        if container and container.restart_count > restarts:
            container = replace(container, health="starting")  # it may have no health check
        elif container:
            container = replace(container, restart_count=0)
        if container is None or container.status != "running" or container.restart_count:
            raise problem(engine, name, container) or LaunchError(f"{name} restarted", container=name)
        try:
            log = engine.logs(name, tail=_TAIL)
        except EngineError as error:
            now = None if "marked for removal" in error.evidence else engine.container(name)
            if now and now.status == container.status:
                raise
            continue  # it was just removed, or is: its state shows that later
        phase, left = hints.phase_of(log), begin + timeout - time.monotonic()
        listens = phase == "listen" or container.health == "healthy"  # a long log may lack the line
        if listens and responds(engine, name, served_name, timeout=max(_SHORTEST, min(left, _TIMEOUT))):
            step(f"{name}: ready")
            return time.monotonic() - begin
        if _PHASES[phase] != shown:
            shown = _PHASES[phase]
            step(f"{name}: {shown}")
        left = begin + timeout - time.monotonic()
        if left < _SHORTEST:
            state = hints.STATES["hangs" if listens else "loading"]
            progress = f"docker logs --follow {name} shows the progress; raise ready_timeout if it continues"
            raise LaunchError(
                f"{name} {state.words} after {timeout:g} s",
                code=state.code if listens else "start-slow",
                evidence="\n".join(log.splitlines()[-8:]),
                hint=state.remedy.replace("CONTAINER", name) if listens else progress,
                container=name,
            )
        time.sleep(min(_INTERVAL, left - _SHORTEST))


def responds(engine: Engine, name: str, served_name: str, *, timeout: float = _TIMEOUT) -> bool:
    """Whether a rerank of one document, sent inside the container, gets a response in ``timeout`` seconds."""
    request = RerankRequest(served_name, documents=RerankRequest(served_name).documents[:1])
    stdin = probe_input("http://127.0.0.1:8000/v1", request, connect_timeout=5, timeout=timeout)
    try:
        result = engine.execute(name, ("python3", "-c", program()), stdin=stdin, timeout=timeout)
        return bool(json.loads(result.stdout)["steps"]["rerank"]["ok"])
    except (EngineError, ValueError, KeyError):
        return False  # the container may just have exited


@dataclass(frozen=True)
class ReplicaStatus:
    """A replica, by the name of its container, and why the gateway sends it no requests; None if it does."""

    name: str
    problem: LaunchError | None

    @property
    def condition(self) -> str:
        """State and place of one that is no container of this machine."""
        return ""

    @property
    def fields(self) -> dict[str, str]:
        """What is known of one that is no container of this machine."""
        return {"name": self.name}


def wait_server(engine: Engine, gateway: str, servers: Sequence[str], timeout: float) -> str:
    """Wait until the gateway's container reaches one of the servers elsewhere; returns its address."""
    begin, shown = time.monotonic(), ""
    while True:
        state = read_state(engine, gateway)
        for row in state.replicas if state else ():
            if row.state == "admitted" or _reaches(engine, gateway, row.address):
                return row.address
        errors = [status.problem for status in server_states(servers, state) if status.problem]
        if errors[0].message != shown:
            shown = errors[0].message
            step(f"{gateway}: {shown}")
        if time.monotonic() - begin > timeout:
            words = f"reaches none of {', '.join(servers)} after {timeout:.0f} s"
            raise _not_admitted(gateway, words, errors[0], errors)
        time.sleep(_INTERVAL)


def _reaches(engine: Engine, gateway: str, address: str) -> bool:
    program = f"import urllib.request as r; r.urlopen('http://{address}/health', timeout=8)"
    with suppress(EngineError):
        return not engine.execute(gateway, ("python3", "-ISc", program), timeout=15).exit_code
    return False


def _not_admitted(gateway: str, words: str, first: LaunchError, errors: Sequence[LaunchError]) -> LaunchError:
    evidence = "\n".join([*(error.message for error in errors), first.evidence]).strip()
    return LaunchError(
        f"{gateway} {words}", code=first.code, evidence=evidence, hint=first.hint, container=first.container
    )


def wait_admitted(
    engine: Engine,
    gateway: str,
    replicas: Sequence[str],
    timeout: float,
    servers: Sequence[str] = (),
    *,
    placed: Callable[[GatewayState | None], Sequence[ReplicaStatus]] | None = None,
) -> None:
    """Wait until the gateway has admitted these replicas, by the names of their containers.

    Of ``servers`` elsewhere one address is enough: something else starts them; ``placed`` reads Swarm's.
    """
    begin, shown = time.monotonic(), -1
    since = begin
    while True:
        state = read_state(engine, gateway)
        local = server_states(servers, state) if servers else replica_states(engine, replicas, state)
        states = placed(state) if placed else local
        errors = [status.problem for status in states if status.problem]
        if not errors or (servers and len(errors) < len(states)):
            step(f"{gateway}: ready")
            return
        if len(states) - len(errors) != shown:
            shown = len(states) - len(errors)
            step(f"{gateway}: {shown} of {len(states)} replicas admitted")
        if state is None and (error := problem(engine, gateway, engine.container(gateway))):
            errors = [error]
        final = next((error for error in errors if error.code not in _PASSING), None)
        if servers and any(error.code in _PASSING for error in errors):
            final = None
        now = time.monotonic()
        since = since if final else now
        if now - since > _LASTS or now - begin > timeout:
            words = f"has admitted {shown} of {len(states)} replicas after {now - begin:.0f} s"
            raise _not_admitted(gateway, words, final or errors[0], errors)
        time.sleep(_INTERVAL)


def replica_states(
    engine: Engine, replicas: Iterable[str], state: GatewayState | None
) -> tuple[ReplicaStatus, ...]:
    """Each replica, and why the gateway, whose state this is, does not send it requests."""
    rows = {row.address: row for row in state.replicas} if state else {}
    states = []
    for name in replicas:
        container = engine.container(name)
        addresses = [f"{endpoint.address}:{PORT}" for endpoint in container.endpoints] if container else []
        row = next((rows[address] for address in addresses if address in rows), None)
        error = refusal(name, row, state)
        if error:
            error = problem(engine, name, container) or error
        states.append(ReplicaStatus(name, error))
    return tuple(states)


def server_states(servers: Iterable[str], state: GatewayState | None) -> tuple[ReplicaStatus, ...]:
    """Each address of servers elsewhere, and why the gateway, whose state this is, sends it no requests."""
    rows = {row.address: row for row in state.replicas} if state else {}
    states = []
    for server in servers:
        addresses = state.hosts.get(server, ()) if state else (server,)
        for address in addresses:
            name = server if server == address else f"{server} ({address})"
            states.append(ReplicaStatus(name, refusal(name, rows.get(address), state, "server-")))
        if not addresses:
            hint = hints.STATES["unresolved"]
            error = LaunchError(f"{server} {hint.words}", code=hint.code, hint=hint.remedy, container=server)
            states.append(ReplicaStatus(server, error))
    return tuple(states)


def refusal(name: str, row: Replica | None, state: GatewayState | None, kind: str = "") -> LaunchError | None:
    """Why a gateway of this state does not send requests to a replica, its row; None if it does.

    Hints of a ``kind`` of replica, such as ``server-``, are in place of those for a container.
    """
    key = row.state if row else "unknown" if state else "silent"
    if key == "admitted":
        return None
    hint = hints.STATES.get(kind + key, hints.STATES[key])
    reason = f" ({row.address}: {row.reason})" if row and row.reason else ""
    remedy = hint.remedy.replace("CONTAINER", name)
    return LaunchError(f"{name} {hint.words}{reason}", code=hint.code, hint=remedy, container=name)


def drain(engine: Engine, name: str, timeout: float = 30) -> None:
    """Wait until a reranker without new requests has responded to all, for at most ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            result = engine.execute(name, ("python3", "-c", _COUNT_REQUESTS), timeout=timeout)
        except EngineError:
            return
        if result.exit_code or float(result.stdout or 0) == 0:
            return
        time.sleep(_INTERVAL)


def problem(engine: Engine, name: str, container: ContainerState | None) -> LaunchError | None:
    """Why a container does not respond, as far as its state, events and log show it; else None."""
    events, log = tuple[EventState, ...](), ""
    if container is not None and not container.serves:
        with suppress(EngineError):  # the state alone shows most causes; it may just have been removed
            events = engine.ends(container.id)
            log = engine.logs(container.id, tail=_TAIL)
    hint = hints.for_container(container, events, log)
    if not hint.code:
        return None
    evidence = hints.relevant_lines(log) or (container.error if container else "")
    message = f"{name} {hint.words}"
    return LaunchError(message, code=hint.code, evidence=evidence, hint=hint.remedy, container=name)
