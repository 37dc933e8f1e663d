"""The machine: processor, cores, NUMA nodes, memory, cgroup limits and networks.

:func:`read_host` and :func:`read_quota` read files of ``/proc`` and ``/sys``; the parsers are pure.
"""

import base64
import json
import re
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ragops.errors import EngineError, StackError

BF16_FEATURES = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Names in ``/proc/cpuinfo`` of instructions that multiply bfloat16 (the last is Arm's)."""

INT8_FEATURES = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instructions that sum products of int8 in 32 bits (the last two are Arm's)."""

INSTRUCTION_SETS = {
    "amx_bf16": "amx",
    "avx512_bf16": "avx512bf16",
    "avx512_vnni": "avx512vnni",
    "avx512f": "avx512",
    "avx2": "avx2",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "asimd": "neon",
}
"""CPU feature by which vLLM selects its kernels, fastest first, and its part of a machine's label."""
CPU_FEATURES = {*INSTRUCTION_SETS, "avx512_fp16", "amx_int8"}

_NO_LIMIT = 1 << 62
"""cgroup v1 says "no memory limit" with a number just below 2^63."""


@dataclass(frozen=True)
class Core:
    """One logical CPU, and where it sits."""

    cpu: int
    core: int
    """Physical core; two threads of one core share it. Unique within a socket."""
    socket: int = 0
    node: int = 0
    """NUMA node, as in ``--cpuset-mems``."""


@dataclass(frozen=True)
class Node:
    """A NUMA node with its memory in bytes."""

    node: int
    memory: int


@dataclass(frozen=True)
class Host:
    """The machine that containers run on, whatever affinity and cgroup this process has. Memory in bytes."""

    cpu_model: str
    features: frozenset[str]
    """By their names in ``/proc/cpuinfo``."""
    cpus: tuple[Core, ...]
    """Online logical CPUs in ascending order, without those that the cgroup of all processes excludes."""
    nodes: tuple[Node, ...]
    memory: int
    quota: float | None = None
    """CPU quota of this process's cgroup in cores, or None without one."""
    memory_limit: int | None = None
    """Memory limit of all processes, as in a container or a virtual private server, or None without one."""
    process_cpus: tuple[int, ...] = ()
    process_memory: int | None = None
    """Memory limit of this process's cgroup, or None without one."""
    available: int | None = None
    """Free and reclaimable memory now, or None where the kernel doesn't report it."""

    @property
    def architecture(self) -> str:
        """``x86_64`` or ``arm64``, by the names of the features; empty where the kernel gives none."""
        arm = self.features & {"asimd", "fphp", "i8mm", "bf16"}
        return "arm64" if arm else "x86_64" if self.features else ""

    @property
    def has_bf16(self) -> bool:
        """Whether the processor multiplies bfloat16 in hardware."""
        return bool(self.features & BF16_FEATURES)

    @property
    def has_int8(self) -> bool:
        """Whether the processor multiplies int8 in hardware, with sums that do not overflow."""
        return bool(self.features & INT8_FEATURES)

    @property
    def instruction_set(self) -> str:
        """That of vLLM's fastest kernels here, such as ``amx``; empty when no feature is known."""
        return instruction_set(self.features)

    @property
    def note(self) -> str:
        """How this process is limited where containers are not; empty where it has the whole machine."""
        parts, machine = [], {core.cpu for core in self.cpus}
        if self.process_cpus and not machine <= set(self.process_cpus):
            parts.append(f"CPUs {format_cpu_list(self.process_cpus)} of {format_cpu_list(machine)}")
        if (self.process_memory or self.usable_memory) < self.usable_memory:
            parts.append(f"{self.process_memory or 0:,} of {self.usable_memory:,} bytes of memory")
        limits = " and ".join(parts)
        return f"this process may use {limits}; the reranker is sized for the engine's host" if parts else ""

    @property
    def unlimited(self) -> "Host":
        """The same host with memory for every model: of a server that runs elsewhere."""
        nodes = tuple(replace(node, memory=_NO_LIMIT) for node in self.nodes)
        return replace(self, memory=_NO_LIMIT, memory_limit=None, nodes=nodes)

    @property
    def usable_memory(self) -> int:
        """Memory that a container can get: the smaller of memory and limit."""
        return min(self.memory, self.memory_limit or self.memory)


@dataclass(frozen=True)
class NodeRecord:
    """A node of a Swarm as ``data/task.py`` read it there."""

    node: str
    host: Host
    fingerprint: str
    """Of the model folder; empty with an ``error``."""
    error: str = ""


def instruction_set(features: Collection[str]) -> str:
    """Such as ``amx``; empty when no feature is known."""
    return next((name for feature, name in INSTRUCTION_SETS.items() if feature in features), "")


def parse_probe(line: str) -> NodeRecord:
    """The record that ``data/task.py`` printed on a node."""
    try:
        record = json.loads(line)
        files = json.loads(zlib.decompress(base64.b64decode(record["files"])))
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                file = Path(root, name).resolve()
                file.relative_to(Path(root).resolve())  # else an error
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            host = read_host(Path(root))
        return NodeRecord(record["node"], host, record["fingerprint"], record["error"])
    except (ValueError, LookupError, TypeError, AttributeError, OSError, zlib.error) as error:
        message, hint = "a node of the Swarm printed no record", "does its image have a working Python?"
        raise EngineError(message, code="probe-silent", evidence=line[-600:], hint=hint) from error


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read the kernel's list form, so that ``0-2,8`` gives ``(0, 1, 2, 8)``."""
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not (match := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)):
            raise StackError(f"{text!r} is not a CPU list", code="cores-missing", hint="write it like 0-3,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise StackError(
                f"the range {part!r} runs backwards", code="cores-missing", hint=f"write {last}-{first}"
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def format_cpu_list(numbers: Iterable[int]) -> str:
    """The reverse of :func:`parse_cpu_list`: ``(0, 1, 2, 8)`` gives ``0-2,8``."""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def read_host(root: Path = Path("/")) -> Host:
    """Read the machine from ``/proc`` and ``/sys`` below a root folder."""
    cpuinfo, meminfo = _text(root / "proc/cpuinfo"), _text(root / "proc/meminfo")
    memory = parse_meminfo(meminfo)
    processors = tuple(map(int, re.findall(r"^processor\s*:\s*(\d+)", cpuinfo, re.MULTILINE)))
    nodes = _nodes(root, memory)
    return Host(
        cpu_model=_row(cpuinfo, "model name") or "unknown",  # Arm kernels give none
        features=frozenset(_row(cpuinfo, "(?:flags|Features)").split()),  # the second is Arm's
        cpus=tuple(_core(root, cpu, nodes) for cpu in _online(root) or processors),
        nodes=tuple(Node(node, size) for node, _, size in nodes),
        memory=memory,
        quota=_tightest_quota(_cgroup_folders(root, "cpu")),
        memory_limit=_memory_limit(root, ""),
        process_cpus=parse_cpu_list(_row(_text(root / "proc/self/status"), "Cpus_allowed_list")),
        process_memory=_memory_limit(root),
        available=parse_meminfo(meminfo, "MemAvailable") or None,
    )


def read_quota(parent: str, root: Path = Path("/")) -> float | None:
    """CPU quota in cores of all cgroups below ``parent``, such as the Docker engine's ``docker``.

    Raises:
        FileNotFoundError: This process sees no such cgroup.
    """
    folders = tuple(_cgroup_folders(root, "cpu", parent))
    if not folders[0].is_dir():
        raise FileNotFoundError(folders[0])
    return _tightest_quota(folders)


def parse_meminfo(meminfo: str, row: str = "MemTotal") -> int:
    """Bytes in a row of ``/proc/meminfo`` or a node's ``meminfo``; 0 if it doesn't say."""
    match = re.search(rf"{row}:\s*(\d+) kB", meminfo)
    return int(match[1]) * 1024 if match else 0


def parse_cgroups(text: str) -> dict[str, str]:
    """Path by controller in ``/proc/self/cgroup``; cgroup v2 has the controller ``""``."""
    rows = (line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2)
    return {name: path for _, names, path in rows for name in names.split(",")}


def parse_quota(text: str) -> float | None:
    """Cores in a cgroup v2 ``cpu.max``, or in a v1 quota and period joined by a space."""
    parts = text.split()
    limited = len(parts) == 2 and parts[0] not in {"max", "-1"}
    return int(parts[0]) / int(parts[1]) if limited else None


def parse_limit(text: str) -> int | None:
    """Bytes in a cgroup's memory limit, or None for "no limit"."""
    limit = int(text) if text.strip().isdigit() else _NO_LIMIT
    return limit if limit < _NO_LIMIT else None


def _text(file: Path) -> str:
    """Content of a file, or nothing: kernels and sandboxes omit many of these files."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(file: Path, default: int) -> int:
    text = _text(file).strip()
    # Virtual machines report -1 for a socket that they don't know.
    return int(text) if text.isdigit() else default


def _row(text: str, name: str) -> str:
    """Value of the first row of that name in a file of ``/proc``; empty without one."""
    match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _nodes(root: Path, memory: int) -> tuple[tuple[int, tuple[int, ...], int], ...]:
    """(node, its CPUs, its bytes); kernels without NUMA have one node with everything."""
    folder = root / "sys/devices/system/node"
    nodes = [
        (int(path.name[4:]), parse_cpu_list(_text(path / "cpulist")), parse_meminfo(_text(path / "meminfo")))
        for path in folder.glob("node[0-9]*")
    ]
    if len(nodes) <= 1:  # it has all memory; a virtual machine with added memory reports less there
        return ((nodes[0][0] if nodes else 0, (), memory),)
    return tuple(sorted(nodes))


def _core(root: Path, cpu: int, nodes: tuple[tuple[int, tuple[int, ...], int], ...]) -> Core:
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return Core(
        cpu=cpu,
        core=_number(topology / "core_id", cpu),
        socket=_number(topology / "physical_package_id", 0),
        node=next((node for node, cpus, _ in nodes if cpu in cpus), nodes[0][0]),
    )


def _cgroup_folders(root: Path, controller: str, cgroup: str | None = None) -> Iterator[Path]:
    """Folders of a cgroup, by default this process's, and of its parents, whose limits apply too.

    A container may see its host's path in /proc but only its own part mounted; the
    missing folders then read as empty, and the last one, the mount, counts.
    """
    paths = parse_cgroups(_text(root / "proc/self/cgroup"))
    name = controller if controller in paths else ""  # cgroup v1 has folders of its own by controller
    base = root / "sys/fs/cgroup" / name
    path = paths.get(name, "/") if cgroup is None else cgroup
    parts = [part for part in path.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:length])


def _tightest_quota(cgroups: Iterable[Path]) -> float | None:
    folders = list(cgroups)
    texts = [_text(folder / "cpu.max") for folder in folders]
    texts += [f"{_text(f / 'cpu.cfs_quota_us')} {_text(f / 'cpu.cfs_period_us')}" for f in folders]
    return min((quota for quota in map(parse_quota, texts) if quota is not None), default=None)


def _online(root: Path) -> tuple[int, ...]:
    """Online CPUs that the topmost visible cgroup allows; empty where the kernel does not say."""
    (top,) = _cgroup_folders(root, "cpuset", "")
    files = (
        top / "cpuset.cpus.effective",
        top / "cpuset.effective_cpus",
        root / "sys/devices/system/cpu/online",
    )
    return next((parse_cpu_list(text) for text in map(_text, files) if text.strip()), ())


def _memory_limit(root: Path, cgroup: str | None = None) -> int | None:
    """The tightest limit of a cgroup, by default this process's, and its parents."""
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(folder / name) for folder in _cgroup_folders(root, "memory", cgroup) for name in names]
    return min((limit for limit in map(parse_limit, texts) if limit is not None), default=None)
