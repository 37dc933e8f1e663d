"""The meaning of each error code, for the page of errors.

An error has the code that is given where it is raised, else that of its class. ``tests/unit/test_errors.py``
compares this table with the calls that raise errors. Codes of messages of Docker engines, containers and
RAGFlow are in ``ragops/data/hints.toml`` and ``ragops/data/ragflow_messages.tsv``.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

from dataclasses import dataclass

from ragops.docker import hints
from ragops.ragflow.api import FAILURES


@dataclass(frozen=True)
class Code:
    """Meaning and remedy of an error code."""

    meaning: str
    remedy: str = ""
    """What to do, where the error itself has no constant hint."""


CODES = {
    # The class defaults, then the codes of each class of errors.
    "unexpected": Code("An exception that ragops does not expect: a fault of ragops."),
    "file-refused": Code("A file or folder can't be read or written."),
    "failed": Code("Something could not be done; the message says what."),
    "stack-refused": Code("The configuration can't be applied here."),
    "engine-refused": Code(
        "The Docker engine refused a request, in words that ragops has no remedy for.",
        "look at the engine's log: ``journalctl --unit docker``",
    ),
    "not-found": Code("The Docker engine has no object of that name."),
    "start-failed": Code(
        "The reranker ended while it started; the end of its log is shown.",
        "``docker logs`` shows the whole log; ``ragops doctor`` checks for most causes",
    ),
    "model-refused": Code("The model folder can't be used."),
    "image-failed": Code("The image could not be built; the end of its log is shown."),
    "ragflow-refused": Code(
        "RAGFlow refused a request; its message is shown.",
        "the page on connecting RAGFlow lists RAGFlow's messages",
    ),
    "bench-failed": Code("The benchmark failed.", "requests that were recorded are kept"),
    "compose-unreadable": Code("The file can't be read, or is not a compose file."),
    "network-in-use": Code("A network that should be removed has containers that ragops did not connect."),
    "locked": Code("Another ragops process is changing or watching the same stack."),
    # StackError
    "stack-unreadable": Code("ragops.toml can't be read."),
    "key-unknown": Code(
        "ragops.toml has an unknown key.",
        "remove the key, or correct its spelling: the hint names the nearest key, the evidence all keys",
    ),
    "settings-refused": Code("ragops.toml has several unknown keys or invalid values."),
    "value-refused": Code("A value in ragops.toml is not valid."),
    "home-unusable": Code("ragops' data folder is not a folder, or this user can't write to it."),
    "port-exposed": Code(
        "The port would be open to other machines, and a published port passes the host's firewall."
    ),
    "estimate-unknown": Code(
        "No recorded machine has the instructions of this one, or the model is not known."
    ),
    "cores-missing": Code("The CPU list is not valid, or names CPUs that this process may not use."),
    "replicas-many": Code("There are more replicas than cores."),
    "nodes-few": Code("There are more replicas than nodes in the Swarm: each has one at most."),
    "node-model": Code("A node of the Swarm does not have the model in the same folder as this machine."),
    "node-image": Code(
        "A node of the Swarm lacks an image that it can't pull: one that was built on this machine."
    ),
    "swarm-missing": Code("Replicas are to be placed by Docker Swarm, and this engine manages none."),
    "reranker-renamed": Code("``ragops watch`` can't follow a reranker to another name."),
    "secret-refused": Code("A key or token can't be read, or is not valid in an HTTP header."),
    "address-refused": Code("The address of RAGFlow, or of a server to measure, is not valid."),
    "length-refused": Code("The model can't read documents of that length."),
    "setting-refused": Code("vLLM would not start with that option, or it has no effect on the model."),
    "kv-cache-small": Code("One document does not fit into the key-value cache."),
    "memory-short": Code("The machine, or its NUMA node, has too little memory."),
    "network-differs": Code("The network exists with other options than configured."),
    # EngineError and NotFoundError
    "engine-silent": Code("No Docker engine responds, or it stopped responding."),
    "engine-ssh": Code("The address of the Docker engine begins with ssh://, which ragops does not support."),
    "context-missing": Code("DOCKER_CONTEXT names a Docker context that does not exist."),
    "engine-not-started": Code("No Docker engine responds, and ragops could not start a private one."),
    "name-taken": Code("The name belongs to a container that ragops did not create."),
    "names-ambiguous": Code("Several networks have the same name: engines before 23 allow duplicates."),
    "command-hangs": Code("A command in a container did not end within its timeout."),
    "build-failed": Code(
        "A step of the image build failed.",
        "read the end of the build log, and ``logs/image.log`` in ragops' folder",
    ),
    "folder-empty": Code("The Docker engine sees another, empty folder in place of the model's."),
    "probe-silent": Code("The probe inside a container gave no result."),
    "reranker-missing": Code("There is no reranker of that name."),
    "network-missing": Code("The network does not exist yet."),
    # LaunchError
    "scores-wrong": Code(
        "The score check found wrong scores in a new container; no request got them.",
        "the evidence names the first rule that failed, the hint its remedy",
    ),
    "start-slow": Code("The server was not ready before the timeout."),
    # ModelError
    "model-unset": Code("No model is configured, and there is no reranker whose model could stay."),
    "model-missing": Code("The model folder does not exist, or the model is not downloaded yet."),
    "model-incomplete": Code("Files are missing, or truncated."),
    "model-pointers": Code("The folder was cloned without git-lfs: its large files are pointers only."),
    "model-unreadable": Code("A file of the model can't be read."),
    "model-runs-code": Code("The model needs its own Python code to run."),
    "model-kind": Code(
        "Models of different kinds have this architecture, and no file says which one it is: "
        "set ``kind`` under ``[reranker]``."
    ),
    "model-pickled": Code("The weights are in pickle files, which run code when they are loaded."),
    "model-links": Code(
        "Links lead out of the folder, as in a hub's cache; the container sees only the folder itself."
    ),
    "model-no-reranker": Code("The model gives no single score for a query and a document."),
    "model-fetch": Code("A model could not be downloaded, or a checksum differs."),
    "hub-silent": Code("The model hub, or its mirror, does not respond, or it broke off a file."),
    "hub-refused": Code("The model hub has no such model or revision, or requires a token for it."),
    "model-not-int": Code("The model, its files or the target folder do not allow an int8 copy."),
    # ImageError
    "image-lacks-library": Code("The image lacks compressed-tensors, which reads and writes int8 weights."),
    "image-missing": Code("The image could not be found, pulled or built."),
    "python-missing": Code("The image with vLLM has no Python, which the images that are built on it need."),
    "build-needs-root": Code("Building the image creates a root file system, which needs root."),
    "build-needs-tool": Code("A program that the build needs is not installed."),
    "wheels-missing": Code("pip's sources lack a wheel that the image needs."),
    # RagflowError
    "ragflow-ambiguous": Code("Several RAGFlow instances run here, and none is named."),
    "cannot-join": Code("Docker can't connect that container to a network."),
    "container-missing": Code("There is no container of that name."),
    "ragflow-missing": Code("No RAGFlow container was found."),
    "ragflow-demo": Code("The demo client has no model settings."),
    "ragflow-release": Code(
        "RAGFlow's release is unknown, or can't use the reranker; nothing is written to it."
    ),
    "ragflow-access": Code("RAGFlow needs an API token."),
    "registration-manual": Code(
        "RAGFlow's release takes no API token for its model settings; none is sent to it.",
        "enter the printed values by hand on RAGFlow's page of model providers",
    ),
    "ragflow-silent": Code("RAGFlow can't be reached."),
    "ragflow-other": Code(
        "The server at that address does not respond like RAGFlow; no token was sent to it."
    ),
    "ragflow-chat-unknown": Code("The user has no chat with that id."),
    "gateway-open": Code("The gateway has no key, and RAGFlow would reach it as every other machine does."),
    "rerank-fell-back": Code("RAGFlow ranked the chunks of the dataset without the reranker."),
    "dataset-empty": Code("RAGFlow found no chunks in the dataset, so it ranked nothing."),
    "id-refused": Code("RAGFlow can't use a name or id: it would refuse it, or cut it."),
    "entry-foreign": Code("RAGFlow has an entry for the model that ragops did not create."),
    "entry-differs": Code("RAGFlow returns another entry than the one that was sent."),
    "undo-unreadable": Code("The record of RAGFlow's earlier settings can't be read."),
    "compose-no-reranker": Code("No service of the compose file serves a reranker with vLLM."),
    "compose-gpu": Code("``check --fix`` renders rerankers on CPUs only."),
    "compose-incomplete": Code("The compose file does not show how its reranker starts vLLM."),
    "compose-model-missing": Code("The model of the compose file is not in a folder of this machine."),
    "compose-value-refused": Code("A value of the compose file is not valid in ragops.toml."),
    "override-excluded": Code("No compose file can add a network to RAGFlow's service."),
    "override-unwritten": Code("The override file can't be written beside RAGFlow's compose files."),
    # BenchError
    "load-refused": Code("The load levels of the benchmark are not valid."),
    "workload-refused": Code("The workload is not valid."),
    "run-unreadable": Code("The folder can't be written, or holds no run that this release can read."),
    "run-too-small": Code("The recorded run has too few requests or samples."),
    "runs-differ": Code("The two runs can't be compared."),
    "run-not-continued": Code("The run is complete, or its workload or reranker has changed."),
    "cores-shared": Code("Another reranker would share the cores."),
    "run-busy": Code("Another process is recording the same run."),
    "disk-full": Code("The disk is full, or can't be written; what a run recorded is kept."),
    "reranker-gone": Code("The reranker stopped responding, so the run ended."),
    "limit-unknown": Code("How fast the machine multiplies matrices is unknown."),
    "verdict-missing": Code("A run of that workload has no verdict."),
    "order-wrong": Code("The server ranks the documents of a known query wrongly."),
    "server-silent": Code("The server under load does not respond."),
    "not-published": Code("Programs on this host have no address of the reranker."),
    # RagopsError
    "code-unknown": Code("``ragops explain`` has no such error code."),
    "extra-missing": Code("An optional library or program is not installed."),
    "wheel-missing": Code("pip could not download a package."),
    "notebook-failed": Code("A notebook ended with an error."),
    "notebook-refused": Code("There are no notebooks, or a parameter of one is unknown or not valid."),
    "run-missing": Code("There is no recorded run to show."),
    "site-refused": Code("The site can't be built."),
}
"""Codes of ragops' own errors."""

CAUSES = {
    ("FileNotFoundError", "engine-missing"): "The socket of the Docker engine does not exist.",
    ("Connection refused", "engine-stopped"): "The socket exists, but no Docker engine listens on it.",
    (
        "Permission denied",
        "engine-permission",
    ): "The user has no permission for the socket of the Docker engine.",
    ("Invalid bind address", "engine-address"): "DOCKER_HOST is not a valid address.",
    ("HTTP request to an HTTPS server", "engine-tls"): "The Docker engine requires TLS.",
    ("TLS configurations should map", "engine-tls"): "DOCKER_CERT_PATH lacks a file.",
    (
        "CERTIFICATE_VERIFY_FAILED",
        "engine-tls",
    ): "The certificate of the Docker engine is not signed by ca.pem, or is for another host name.",
    ("port is already allocated", "port-taken"): "Another container publishes the port.",
    ("address already in use", "port-taken"): "A process of the host listens on the port.",
    ("Pool overlaps", "subnet-overlaps"): "The subnet overlaps another network's.",
    (
        "could not find an available, non-overlapping IPv4 address pool",
        "addresses-used-up",
    ): "The address pools of the Docker engine are used up.",
    ("has active endpoints", "network-in-use"): "Containers still run in the network.",
    (
        "cannot be connected to any other network",
        "cannot-join",
    ): "The container shares the host's or another container's network.",
    ("private (none) mode", "cannot-join"): "The container was started without a network.",
    (
        "is not supported: invalid network mode",
        "podman-network",
    ): "Rootless Podman connects containers of its bridge networks only.",
    (
        "not manually attachable",
        "network-differs",
    ): "An overlay network of that name was created without --attachable.",
    (
        "already exists in network",
        "endpoint-left",
    ): "The container's endpoint of its last run is left: Docker 29 does that with several networks.",
    (
        "bind source path does not exist",
        "folder-not-there",
    ): "A folder to mount does not exist on the Docker host.",
    ("is already in use by container", "name-taken"): "A container that ragops did not create has the name.",
    ("No such image", "image-missing"): "The Docker engine does not have the image.",
    ('plugin "', "driver-unknown"): "The Docker engine has no such network driver.",
    ("not a swarm manager", "swarm-missing"): "Overlay networks need Docker Swarm.",
    (
        "does not have a leader",
        "swarm-leaderless",
    ): "Most managers of the Swarm do not run, or can't be reached.",
    ("code = DeadlineExceeded", "swarm-leaderless"): "The Swarm has just lost its leader, or elects one.",
    ("no space left on device", "disk-full"): "The disk of the Docker engine is full.",
    ("dial tcp", "registry-silent"): "The Docker engine can't reach the image registry.",
    ("SafetensorError", "model-incomplete"): "A file of weights is truncated, or not a safetensors file.",
    (
        "Insufficient space in /dev/shm",
        "shm-small",
    ): "vLLM's processes exchange data through shared memory, and it is too small.",
    (
        "HFValidationError",
        "folder-not-there",
    ): "vLLM used the model's path as a name on a model hub, because the folder does not exist.",
    (
        "were not initialized from checkpoint",
        "overrides-missing",
    ): "A language model was started as a classifier (--convert classify) without its overrides.",
    ("unrecognized arguments", "flag-unknown"): "This vLLM release lacks one of the flags.",
    ("Available memory on node", "memory-short"): "The key-value cache does not fit into the free memory.",
    (
        "larger than the available KV cache memory",
        "kv-cache-small",
    ): "One document of the greatest length does not fit into the key-value cache.",
    ("Permission denied", "model-unreadable"): "The server may not read the model or write its cache.",
    ("out of memory", "out-of-memory"): "The machine or the container ran out of memory.",
    ("Address already in use", "server-twice"): "Another process listens on port 8000 inside the container.",
    ("does not exist", "reranker-missing"): "The container was removed, or not created yet.",
    ("is paused", "reranker-paused"): "All processes of the container are paused.",
    (
        "was stopped",
        "reranker-stopped",
    ): "The server ended on request: of docker stop, or of the Docker engine when that ended.",
    ("is still loading its model", "reranker-loading"): "The server does not listen yet.",
    (
        "listens, but does not respond",
        "reranker-hangs",
    ): "The server accepts connections, and sends no response.",
    (
        "is rejected by the gateway: its scores are others than those that the score check found right",
        "replica-rejected",
    ): "A replica gave other scores than the reference, so that the gateway sends it no requests.",
    (
        "does not respond to the gateway",
        "replica-down",
    ): "Two health checks of the gateway, or its last request, had no response.",
    ("is checked by the gateway", "replica-checking"): "The gateway compares the replica's scores just now.",
    (
        "is not known to the gateway",
        "replica-unknown",
    ): "The replica's address is not among those of its name in the network.",
    (
        "has no address that the gateway can resolve",
        "replica-unresolved",
    ): "A name in gateway.replicas has no IPv4 address in the DNS of the gateway's container.",
    (
        "waits for the gateway, which does not respond",
        "gateway-silent",
    ): "The gateway runs, and sends no response about its replicas.",
    (
        "exited with code 137 (SIGKILL): out of memory",
        "out-of-memory",
    ): "The kernel killed a process of the server, because the container's memory was used up.",
    (
        "exited with code 137 (SIGKILL)",
        "reranker-killed",
    ): "The server was killed: by docker kill, or by the kernel because the machine's memory was used up.",
    (
        "exited with code 132 (SIGILL)",
        "cpu-too-old",
    ): "The server ended at an instruction that this processor does not have.",
    (
        "exited with code 139 (SIGSEGV)",
        "server-crashed",
    ): "The server crashed in native code, at an address that is not its own.",
    ("exited with code 1", "start-failed"): "The server ended while it started; the end of its log is shown.",
}
"""Causes of the messages of ``ragops/data/hints.toml``, by words and code."""

HINTS = (*hints.ENGINE, *hints.STATES.values(), *hints.CONTAINER, *FAILURES)
EXPLAINED = {
    hint.code: Code(hint.cause or CAUSES[hint.words, hint.code], hint.remedy) for hint in reversed(HINTS)
} | CODES
"""All codes, with those of known messages of Docker engines, containers and RAGFlow."""
