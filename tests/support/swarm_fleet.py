"""A stack whose replicas Swarm places on the machines of a lab, with stubs for vLLM, and RAGFlow's clients.

The first machine has RAGFlow and the stack; all is done with the product and with Docker, as operators do it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from ragops.configuration import load
from ragops.docker.objects import NetworkSpec
from ragops.reranker import gateway
from ragops.reranker.model import SUBSTITUTE_FILE
from ragops.stack import demo, verbs
from tests.support.fault_table import LIMIT
from tests.support.fleet import Load, Question, Sample
from tests.support.names import PROJECT
from tests.support.replicas import MODEL
from tests.support.swarm_lab import BEHAVIOUR, STUB, SwarmLab, images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.docker.engine import Engine
    from tests.support.replicas import Behaviour
    from tests.support.swarm_lab import Node

ROOT = Path(__file__).parents[2]
NAME = f"{PROJECT}-swarm"
CLIENT = f"{PROJECT}-ragflow-cpu-1"
TEXT = """
[network]
name = "{name}"
[reranker]
name = "{name}"
image = "{image}"
model = "{model}"
served_name = "{served}"
memory_gib = 1
[ragflow]
project = "{project}"
"""


class Clients(Load):
    """Clients with the network and the DNS of a container; a process of this machine."""

    def __init__(self, node: Node, container: str, url: str, clients: int = 4, first: int = 1000) -> None:
        super().__init__(url, 0)
        state = node.client.api.inspect_container(container)
        argv = [sys.executable, "-m", "tests.support.fleet", url, str(clients), str(first)]
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        enter = ["nsenter", f"--target={state['State']['Pid']}", "--net"]
        self._argv = node.argv("unshare", "--mount", "sh", "-c", script, "sh", state["ResolvConfPath"])
        self._argv += [*enter, *argv]

    def __enter__(self) -> Self:
        """Start."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the requests that are under way end."""
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(240) == 0
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            fields = json.loads(line)
            self.samples.append(Sample(**fields | {"question": Question.number(fields["question"])}))


class SwarmFleet:
    """The stack in a lab."""

    def __init__(self, lab: SwarmLab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.node = lab.manager
        self.file = folder / "ragops.toml"
        self.engine = self.node.engine()
        self.output = ""
        """All that the command printed."""
        model = _model(folder / "model")
        text = TEXT.format(name=NAME, image=STUB, model=model, served=MODEL, project=PROJECT)
        self.file.write_text(text)

    def ragflow(self) -> None:
        """Start the container that replaces RAGFlow's."""
        self.engine.create_network(NetworkSpec(f"{PROJECT}_ragflow"))
        wait = ("python3", "-c", "import signal; signal.pause()")
        spec = replace(demo.spec(CLIENT, PROJECT), image=STUB, entrypoint=wait)
        self.engine.start(self.engine.create_container(spec))

    def clients(self, clients: int = 4) -> Clients:
        """Clients of the stack in RAGFlow's container."""
        return Clients(self.node, CLIENT, load(self.file).internal_url.removesuffix("/v1"), clients)

    def write(self, before: str, after: str) -> None:
        """Change the configuration's text."""
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after, 1))

    def up(self) -> verbs.Status:
        """``ragops up``."""
        return verbs.up(load(self.file), self.engine)

    def ragops(self, *argv: str, code: int = 0, json: bool = True, host: str = "") -> str:
        """Output of the command, which has to end with this code; ``host`` is another machine's daemon."""
        options = ["--json"] if json else []
        command = [sys.executable, "-m", "ragops", *argv, *options, "--stack", str(self.file)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), **({"DOCKER_HOST": host} if host else {})}
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd="/"
        )
        self.output += result.stdout + result.stderr
        assert result.returncode == code, (argv, result.returncode, result.stdout, result.stderr)
        return result.stdout

    def tasks(self) -> list[dict[str, Any]]:
        """Swarm's tasks of the replicas that are to run, by slot."""
        name = load(self.file).replicas_alias
        found = self.node.client.api.tasks({"service": name, "desired-state": "running"})
        return sorted(found, key=lambda task: task.get("Slot", 0))

    def placed(self, expected: int, seconds: float = LIMIT) -> list[str]:
        """Names of the nodes that run a replica, once so many do: a removed one ends its requests first."""
        deadline = time.monotonic() + seconds
        prefix = f"{load(self.file).replicas_alias}."
        while True:
            nodes = [node.name for node in self.lab.nodes if node.containers(prefix)]
            if len(nodes) == expected or time.monotonic() > deadline:
                return nodes
            time.sleep(0.2)

    def left(self, seconds: float = LIMIT) -> dict[str, list[str]]:
        """Containers of the stack by node, as soon as there are none: a worker removes its own afterwards."""
        deadline = time.monotonic() + seconds
        while True:
            names = {
                node.name: [
                    container.name
                    for container in node.client.containers.list(all=True)
                    if container.name.startswith(NAME)
                ]
                for node in self.lab.nodes
            }
            if not any(names.values()) or time.monotonic() > deadline:
                return names
            time.sleep(0.2)

    def replica(self, node: Node) -> Any:
        """The container of a machine's replica, once it is the only one: a former one may still end."""
        deadline = time.monotonic() + LIMIT
        while len(found := node.containers(f"{load(self.file).replicas_alias}.")) != 1:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found[0]

    def behave(self, node: Node, behaviour: Behaviour) -> None:
        """How a machine's replica behaves from now on, also after a restart."""
        program = f"import os, sys; open('{BEHAVIOUR}.new', 'w').write(sys.argv[1]); "
        program += f"os.replace('{BEHAVIOUR}.new', '{BEHAVIOUR}')"
        node.client.containers.run(
            STUB,
            ["-c", program, json.dumps(asdict(behaviour))],
            entrypoint=["python3"],
            volumes={f"{NAME}-compiled": {"bind": str(Path(BEHAVIOUR).parent)}},
            user=0,
            remove=True,
            network_mode="none",
        )

    def states(self) -> list[dict[str, Any]]:
        """The replicas as the gateway knows them; empty while it does not respond."""
        state = gateway.read_state(self.engine, NAME)
        return [asdict(replica) for replica in state.replicas] if state else []

    def wait(self, admitted: int, seconds: float = LIMIT) -> float:
        """Until so many are admitted and no others are known; the time of the monotonic clock."""
        deadline = time.monotonic() + seconds
        while True:
            states = self.states()
            if len(states) == admitted == sum(one["state"] == "admitted" for one in states):
                return time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{admitted} admitted replicas expected: {states}, {self.tasks()}")
            time.sleep(0.2)

    def swarm(self) -> dict[str, Any]:
        """All that the Swarm holds."""
        api = self.node.client.api
        return {
            "nodes": sorted(node["ID"] for node in api.nodes()),
            "services": sorted(service["Spec"]["Name"] for service in api.services()),
            "configs": sorted(config["Spec"]["Name"] for config in api.configs()),
            "networks": sorted(network["Name"] for network in api.networks(filters={"scope": "swarm"})),
        }


def _model(folder: Path) -> Path:
    """A folder that passes for a small sentence encoder with random weights."""
    folder.mkdir()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    shape = {"architectures": ["BertForSequenceClassification"], "num_labels": 1, **sizes}
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((56).to_bytes(8, "little") + b"{}".ljust(56))
    (folder / SUBSTITUTE_FILE).write_text("a stub without a model\n")
    return folder


@contextmanager
def fleet(engine: Engine, nodes: int) -> Iterator[SwarmFleet]:
    """Machines with the images, the first with RAGFlow, all in one network but no Swarm yet.

    ``ragops`` works as if on the first machine, with a data folder there.
    """
    _, saved = images(engine)
    with SwarmLab(nodes) as lab, pytest.MonkeyPatch.context() as patched:
        folder = lab.folder / "stack"
        folder.mkdir()
        patched.setenv("RAGOPS_HOME", str(folder / "home"))
        patched.setenv("DOCKER_HOST", lab.manager.socket)
        patched.delenv("RAGOPS_MODEL_DIR", raising=False)  # before the one of the configuration
        lab.load(saved)
        with lab.manager.inside():
            stack = SwarmFleet(lab, folder)
            stack.ragflow()
            yield stack
            stack.engine.close()
