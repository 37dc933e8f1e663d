"""reranker/host.py reads machines from recorded files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.errors import StackError
from ragops.reranker.host import (
    Core,
    Node,
    format_cpu_list,
    parse_cgroups,
    parse_cpu_list,
    parse_limit,
    parse_quota,
    read_host,
)

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def machine(root: Path, cpus: list[tuple[int, int, int]], nodes: dict[int, str], **more: str) -> Path:
    """A machine with (cpu, core, socket) rows, the CPUs of each node, and 16 GiB in all."""
    rows = "\n".join(
        f"processor\t: {cpu}\nmodel name\t: Some CPU @ 2.5GHz\nflags\t\t: fpu avx2 amx_bf16\n"
        for cpu, *_ in cpus
    )
    files = {
        "proc/cpuinfo": rows,
        "proc/meminfo": f"MemTotal:       {16 * GIB // 1024} kB\nMemFree: 1 kB\n",
        "proc/self/status": f"Name:\tx\nCpus_allowed_list:\t0-{len(cpus) - 1}\nMems_allowed_list:\t0\n",
    }
    for cpu, core, socket in cpus:
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology"
        files |= {f"{topology}/core_id": f"{core}\n", f"{topology}/physical_package_id": f"{socket}\n"}
    for node, listed in nodes.items():
        folder = f"sys/devices/system/node/node{node}"
        share = 16 * GIB // 1024 // len(nodes)
        files |= {
            f"{folder}/cpulist": f"{listed}\n",
            f"{folder}/meminfo": f"Node {node} MemTotal: {share} kB\n",
        }
    return write(root, files | {name.replace("__", "/"): text for name, text in more.items()})


def physical_cores(host):
    return len({(cpu.socket, cpu.core) for cpu in host.cpus})


def test_two_cores_without_threads(tmp_path):
    host = read_host(machine(tmp_path, [(0, 0, 0), (1, 1, 0)], {0: "0-1"}))
    assert host.cpu_model == "Some CPU @ 2.5GHz"
    assert host.cpus == (Core(0, 0), Core(1, 1))
    assert host.nodes == (Node(0, 16 * GIB),)
    assert host.memory == host.usable_memory == 16 * GIB
    assert physical_cores(host) == 2
    assert host.has_bf16
    assert host.quota is None
    assert host.memory_limit is None


def test_two_threads_share_a_core(tmp_path):
    host = read_host(machine(tmp_path, [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 0)], {0: "0-3"}))
    assert len(host.cpus) == 4
    assert physical_cores(host) == 2


def test_core_numbers_repeat_in_a_second_socket(tmp_path):
    cpus = [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]
    host = read_host(machine(tmp_path, cpus, {0: "0-1", 1: "2-3"}))
    assert physical_cores(host) == 4
    assert [cpu.node for cpu in host.cpus] == [0, 0, 1, 1]
    assert host.nodes == (Node(0, 8 * GIB), Node(1, 8 * GIB))


def test_a_machine_that_shows_almost_nothing(tmp_path):
    host = read_host(write(tmp_path, {"proc/cpuinfo": "processor : 0\nprocessor : 1\nFeatures : fp bf16\n"}))
    assert host.cpu_model == "unknown"
    assert host.has_bf16
    assert host.cpus == (Core(0, 0), Core(1, 1))


def test_a_lone_node_has_all_memory_whatever_it_says(tmp_path):
    root = machine(tmp_path, [(0, 0, 0)], {0: "0"})
    write(root, {"sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 1024 kB\n"})
    assert read_host(root).nodes == (Node(0, 16 * GIB),)


def test_a_virtual_machine_does_not_know_its_socket(tmp_path):
    assert read_host(machine(tmp_path, [(0, 0, -1)], {0: "0"})).cpus[0].socket == 0


def test_cgroup_v2_takes_the_tightest_limit_on_the_way_up(tmp_path):
    root = machine(tmp_path, [(0, 0, 0)], {0: "0"})
    write(
        root,
        {
            "proc/self/cgroup": "0::/user.slice/work\n",
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user.slice/work/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/work/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
        },
    )
    host = read_host(root)
    assert host.quota == 1.5
    assert (host.process_memory, host.memory_limit) == (4 * GIB, None)


def test_affinity_and_cgroup_of_this_process_only_give_a_note(tmp_path):
    cpus = [(0, 0, 0), (1, 1, 0)]
    free = read_host(machine(tmp_path / "free", cpus, {0: "0-1"}))
    own = {
        "proc/self/status": "Cpus_allowed_list:\t0\n",
        "proc/self/cgroup": "0::/user.slice\n",
        "sys/fs/cgroup/user.slice/memory.max": f"{GIB}\n",
    }
    limited = read_host(write(machine(tmp_path / "limited", cpus, {0: "0-1"}), own))
    assert dataclasses.replace(limited, process_cpus=(0, 1), process_memory=None) == free
    assert free.note == ""
    assert "CPUs 0 of 0-1" in limited.note


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sys/devices/system/cpu/online", "0,2"),
        ("sys/fs/cgroup/cpuset.cpus.effective", "0,2"),
        ("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0,2"),
    ],
)
def test_cpus_are_those_of_the_topmost_cgroup(tmp_path, file, text):
    root = machine(tmp_path, [(0, 0, 0), (1, 1, 0), (2, 2, 0)], {0: "0-2"})
    v1 = {"proc/self/cgroup": "3:cpuset:/\n"} if "/cpuset/" in file else {}
    write(root, {file: f"{text}\n", **v1})
    assert [core.cpu for core in read_host(root).cpus] == [0, 2]


def test_cgroup_v1_in_a_container_that_sees_its_hosts_path(tmp_path):
    root = machine(tmp_path, [(0, 0, 0)], {0: "0"})
    write(
        root,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        },
    )
    host = read_host(root)
    assert host.quota == 0.5
    assert host.memory_limit == 2 * GIB


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("200000 100000", 2.0), ("-1 100000", None), ("", None), ("50000 ", None)],
)
def test_quota(text, quota):
    assert parse_quota(text) == quota


@pytest.mark.parametrize(
    ("text", "limit"), [("max\n", None), ("9223372036854771712\n", None), ("", None), ("1048576\n", 1048576)]
)
def test_limit(text, limit):
    assert parse_limit(text) == limit


def test_cgroups_by_controller():
    assert parse_cgroups("5:cpu,cpuacct:/a\n0::/b:c\n") == {"cpu": "/a", "cpuacct": "/a", "": "/b:c"}


def test_affinity_is_what_the_kernel_says(tmp_path):
    status = "Cpus_allowed:\tff\nCpus_allowed_list:\t0-1,6\n"
    assert read_host(write(tmp_path, {"proc/self/status": status})).process_cpus == (0, 1, 6)


@pytest.mark.parametrize("row", ["flags", "Features"])
def test_features_are_whole_words(tmp_path, row):
    cpuinfo = f"{row}\t: avx512f amx_bf16\n{row}\t: other\n"
    assert read_host(write(tmp_path, {"proc/cpuinfo": cpuinfo})).features == {"avx512f", "amx_bf16"}


@given(st.sets(st.integers(min_value=0, max_value=300)))
def test_cpu_lists_survive_writing_and_reading(numbers):
    assert set(parse_cpu_list(format_cpu_list(numbers))) == numbers


def test_cpu_lists_are_written_short():
    assert format_cpu_list([8, 0, 1, 2, 10, 11]) == "0-2,8,10-11"


@pytest.mark.parametrize("text", ["3-1", "a", "1-", "0;1"])
def test_wrong_cpu_lists_are_refused(text):
    with pytest.raises(StackError):
        parse_cpu_list(text)


def test_each_recorded_host(each_host):
    assert each_host.has_bf16 == each_host.has_int8 == ("avx512f" in each_host.features)
    assert ("amx_bf16" in each_host.features) == ("Xeon" in each_host.cpu_model)
    assert physical_cores(each_host) == 2
    assert (each_host.quota, each_host.memory_limit) == (None, None)
