"""Runs inside the containers that Docker Swarm starts. Standard library only.

``node FOLDER`` prints a node's processor, memory and model as one line of JSON, which ``reranker/host.py``
reads. ``start PROGRAM...`` gives a program the CPUs of its node, as Swarm has no sets of CPUs. ``health`` is
the health check; it compares scores until they were right once, so that Swarm stops an update at wrong ones.
"""

import base64
import hashlib
import json
import math
import os
import re
import signal
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

SAMPLED_SIZE, BLOCKS, BLOCK_SIZE = 16 << 20, 256, 4 << 10
MODEL_FILES = {".json", ".safetensors", ".txt", ".model", ".jinja"}
HOST_FILES = (
    *("proc/cpuinfo", "proc/meminfo", "proc/self/status", "sys/devices/system/cpu/online"),
    *("sys/devices/system/cpu/cpu[0-9]*/topology/core_id",),
    *("sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id",),
    *("sys/devices/system/node/node[0-9]*/cpulist", "sys/devices/system/node/node[0-9]*/meminfo"),
    *("sys/fs/cgroup/cpuset.cpus.effective", "sys/fs/cgroup/cpuset/cpuset.effective_cpus"),
)
"""What ``read_host`` reads; not this container's own limits."""
ROWS = re.compile(r"(?:processor|model name|flags|Features|Cpus_allowed_list|(?:Node \d+ )?Mem\w+)\s*:")
"""Rows of files in ``/proc``: a line of a log holds 16 KiB."""
FEW_CORES = 4
"""As in ``reranker/sizing.py``: with more, one is reserved for vLLM's engine process."""


def fingerprint(folder: Path, *, sampled: bool = False) -> str:
    """sha256 over names and contents of all files in the folder that can change a score.

    Reads all weights, a second or two for each gigabyte, unless ``sampled``: of files over 16 MiB that reads
    the size and 256 blocks of 4 KiB at equal distances. Two models or training states differ in them; an edit
    of a single tensor may not.
    """
    total = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in MODEL_FILES and file.is_file()):
        size = file.stat().st_size
        with file.open("rb") as stream:
            if sampled and size > SAMPLED_SIZE:
                digest = hashlib.sha256(str(size).encode())
                for block in range(BLOCKS):
                    stream.seek((size - BLOCK_SIZE) * block // (BLOCKS - 1))
                    digest.update(stream.read(BLOCK_SIZE))
            else:
                digest = hashlib.file_digest(stream, "sha256")
        total.update(f"{file.relative_to(folder).as_posix()} {digest.hexdigest()}\n".encode())
    return total.hexdigest()


def node(folder: str, root: str = "/") -> None:
    """Print the node's record."""
    result = {"node": os.environ.get("RAGOPS_NODE", ""), "fingerprint": "", "error": ""}
    try:
        Path(folder, "config.json").stat()  # else a missing folder would have the hash of no files
        result["fingerprint"] = fingerprint(Path(folder), sampled=True)
    except OSError as error:
        result["error"] = str(error)
    files = {}
    for file in (file for pattern in HOST_FILES for file in Path(root).glob(pattern)):
        with suppress(OSError):
            lines, name = file.read_text(errors="replace").splitlines(), str(file.relative_to(root))
            whole = not name.endswith(("info", "status"))
            files[name] = "\n".join(dict.fromkeys(line for line in lines if whole or ROWS.match(line)))
    packed = base64.b64encode(zlib.compress(json.dumps(files).encode(), 9)).decode()
    print(json.dumps({**result, "files": packed}))


def start(*command: str) -> None:
    """Become the command, on the node's CPUs and with their environment."""
    table = json.loads(os.environ.pop("RAGOPS_NODES", "{}"))
    entry = table.get(os.environ.pop("RAGOPS_NODE", ""), {})
    allowed = os.sched_getaffinity(0)
    ranges = [part.partition("-") for part in entry.get("cores", "").split(",") if part]
    cores = {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}
    if not cores <= allowed:
        sys.exit(f"this node has no CPUs {entry['cores']}, only {sorted(allowed)}: run ragops up")
    cores = sorted(cores or allowed)
    os.sched_setaffinity(0, cores)
    computing = cores if len(cores) <= FEW_CORES else cores[:-1]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, computing))
    os.environ.update(entry.get("environment", {}))
    os.execvp(command[0], command)


def health(
    server: str = "http://127.0.0.1:8000",
    file: str = "/reference.json",
    mark: str = "/tmp/ragops-reference",
    process: str = "1",
) -> None:
    """Exit with 0 if the server is healthy and its scores were right; end a server with wrong ones."""
    urlopen = build_opener(ProxyHandler({})).open  # the server is in this container
    with urlopen(f"{server}/health", timeout=8):
        pass
    if not Path(file).exists():
        return
    reference, passed = json.loads(Path(file).read_text()), Path(mark)
    if passed.exists() and passed.read_text() == reference["id"]:
        return
    for item in reference["requests"]:
        body = json.dumps({"query": item["query"], "documents": item["documents"]}).encode()
        request = Request(f"{server}/v1/rerank", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=110) as response:
            rows = json.load(response)["results"]
        scores = {row["index"]: row["relevance_score"] for row in rows}
        moves = [abs(scores.get(place, math.inf) - right) for place, right in enumerate(item["scores"])]
        if not all(move <= reference["tolerance"] for move in moves):  # also for NaN
            reason = f"scores differ by {max(moves):.3g} from reference {reference['id']}: this replica ends"
            with suppress(OSError):  # the log of the task
                Path(f"/proc/{process}/fd/2").write_text(f"{reason}\n")
            os.kill(int(process), signal.SIGTERM)  # a failure in the start period would not count
            sys.exit(reason)
    passed.write_text(reference["id"])


if __name__ == "__main__":
    {"node": node, "start": start, "health": health}[sys.argv[1]](*sys.argv[2:])
