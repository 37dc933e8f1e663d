"""``docker stack deploy`` takes the file of ``ragops compose stack``: two nodes of a lab, stubs for vLLM."""

import json
import time

from ragops.cli import main
from ragops.configuration import load
from ragops.reranker import gateway
from ragops.session import create_folder, reference_folder
from tests.support import replicas
from tests.support.swarm_fleet import fleet

SECONDS = 240


def test_replicas_and_gateway_of_the_file_serve(engine, image, capsys, monkeypatch):
    monkeypatch.delenv("RAGOPS_MODEL_DIR")  # the file has the lab's
    with fleet(engine, 2) as stack:
        stack.lab.join()
        stack.write("memory_gib = 1", "memory_gib = 1\nreplicas = 2")
        configured, state = load(stack.file), stack.engine.state()
        create_folder(configured, state)
        reference = reference_folder(configured, state) / "reference.json"
        reference.write_text(json.dumps(replicas.reference()))
        capsys.readouterr()
        assert main(["compose", "stack", "--stack", str(stack.file)]) == 0
        file = stack.folder / "stack.yml"
        file.write_text(capsys.readouterr().out)
        printed = next(line for line in file.read_text().splitlines() if line.startswith("# docker "))
        argv = [str(file) if word == "FILE" else word for word in printed.split()[2:]]
        stack.node.docker(*argv)
        name = argv[-1]
        until(lambda: admitted(stack) == 2, lambda: stack.node.docker("stack", "ps", name))
        (own,) = [task for task in stack.node.client.services.list() if task.name.endswith("-replicas")]
        assert len({task["NodeID"] for task in own.tasks({"desired-state": "running"})}) == 2
        stack.node.docker("stack", "rm", name)


def admitted(stack):
    """Number of replicas that the gateway has admitted, wherever it runs."""
    name = load(stack.file).derived_name("gateway")
    for node in stack.lab.nodes:
        for container in node.containers(name):
            state = gateway.read_state(node.engine(), container.name)
            return len(state.admitted) if state else 0
    return 0


def until(condition, problem):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, problem()
        time.sleep(0.2)
