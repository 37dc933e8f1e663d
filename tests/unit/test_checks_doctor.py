"""Doctor: what it sees on machines of every kind, and that it changes nothing."""

import dataclasses
import grp
import gzip
import os
import platform
import pwd
import re
import shlex
import socket
from pathlib import Path

import pytest

from ragops.checks import doctor as checks
from ragops.configuration import Gateway, Network, Reranker, Stack, Swarm, parse
from ragops.docker.objects import LABEL
from ragops.errors import EngineError
from ragops.reranker import host as hosts
from ragops.reranker import options
from ragops.reranker.host import Core, Node

STACK = Stack()
GIB = 1 << 30
LISTENS = checks._listens
RERANKER = STACK.reranker.name


@pytest.fixture
def doctor(here, fake, monkeypatch, machine):
    """Checks by name; the machine and the stack may be changed."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def look(stack=STACK, **changed):
        monkeypatch.setattr(checks, "read_host", lambda: dataclasses.replace(machine, **changed))
        fake.calls.clear()
        report = checks.doctor(stack, fake)
        assert fake.calls == []
        assert all(check.remedy for check in report.checks if check.status in {"warn", "fail"})
        return {check.name: check for check in report.checks}

    return look


@pytest.fixture
def engine(fake):
    """Changes what the fake engine says of itself."""
    plain = fake.state()

    def say(**fields):
        fake.state = lambda: dataclasses.replace(plain, **fields)

    return say


def reranker(**fields):
    return Stack(reranker=Reranker(**fields))


def declared(remedy):
    """The stack that a remedy asks for: its ``key = value under [table]``, as ragops.toml has it."""
    found = re.search(r"(\w+ = (?:\"[^\"]*\"|\S+)) under \[(\w+)\]", remedy)
    assert found, remedy
    return parse(f"[{found[2]}]\n{found[1]}\n")


def test_everything_is_looked_at(doctor, ragflow, monkeypatch):
    monkeypatch.setattr(checks, "read_quota", lambda _: None)
    seen = doctor()
    assert list(seen) == [
        "architecture", "CPU instructions", "cores", "CPU quota", "model", "model files", "memory",
        "estimate", "engine answers", "engine API", "containers' CPU quota", "image", "disk", "port",
        "names", "network", "RAGFlow", "deadline",
    ]  # fmt: skip
    assert {check.status for name, check in seen.items() if name not in {"model", "disk"}} == {"ok"}


@pytest.mark.parametrize(
    ("function", "title"),
    [
        ("_architecture", "architecture"),
        ("_instructions", "CPU instructions"),
        ("_cores", "cores"),
        ("_quota", "CPU quota"),
        ("check_model", "model"),
        ("check_files", "model files"),
        ("_memory", "memory"),
        ("check_engine", "engine API"),
        ("check_image", "image"),
        ("check_disk", "disk"),
        ("_port", "port"),
        ("_names", "names"),
        ("_network", "network"),
        ("check_ragflow", "RAGFlow"),
        ("_deadline", "deadline"),
    ],
)
def test_an_exception_in_a_check_is_a_failed_check(doctor, ragflow, monkeypatch, function, title):
    def broken(*_, **__):
        raise OSError("broken")

    expected = set(doctor())
    monkeypatch.setattr(checks, function, broken)
    results = doctor()
    assert results[title].status == "fail"
    assert "broken" in results[title].detail
    assert {"architecture", "model", "image", "RAGFlow"} <= set(results) <= expected | {title}


def test_a_data_folder_that_is_unusable_is_a_failed_check(doctor, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", "~nosuchuser/x")
    assert {check.status for check in checks.doctor(STACK).checks} >= {"ok", "fail"}


class TestProcessor:
    @pytest.mark.parametrize(
        ("features", "status", "words"),
        [
            ({"amx_bf16", "avx512f", "avx2"}, "ok", "amx_bf16, so bfloat16; the image needs avx2"),
            ({"avx512_bf16", "avx512f", "avx2"}, "ok", "avx512_bf16"),
            ({"avx512f", "avx2"}, "ok", "float32"),
            ({"avx2"}, "warn", "AVX2 only"),
            (set(), "fail", "no avx2, which vllm-cpu:latest needs: vLLM would end with SIGILL"),
        ],
    )
    def test_instructions(self, doctor, features, status, words):
        found = doctor(features=frozenset(features))["CPU instructions"]
        assert (found.status, words in found.detail) == (status, True)

    @pytest.mark.parametrize(
        ("name", "needs"),
        [
            ("vllm/vllm-openai-cpu:v0.16.0-x86_64", "avx512f"),
            ("registry.example/q9/vllm-cpu-release-repo:v0.8.5.post1", "avx512f"),
            ("vllm/vllm-openai-cpu:v0.17.0-x86_64", "avx2"),
            ("vllm/vllm-openai-cpu:v1.0.0", "avx2"),
            ("vllm/vllm-openai-cpu:latest-x86_64", "avx2"),
            ("vllm-cpu:latest", "avx2"),
            ("mine:v0.1", "avx2"),
        ],
    )
    def test_what_an_image_needs(self, name, needs):
        assert checks.required_instructions(name) == needs

    def test_an_old_image_on_an_old_processor_is_told_beforehand_and_its_remedy_helps(self, doctor):
        old = reranker(image="vllm/vllm-openai-cpu:v0.16.0-x86_64")
        found = doctor(old, features=frozenset({"avx2"}))["CPU instructions"]
        assert (found.status, "SIGILL" in found.detail) == ("fail", True)
        newer = declared(found.remedy)
        assert doctor(newer, features=frozenset({"avx2"}))["CPU instructions"].status == "warn"

    def test_arm(self, doctor, fake, monkeypatch):
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        arm = frozenset({"asimd", "bf16"})
        assert doctor(features=arm)["architecture"].status == "fail"
        assert "linux/arm64" in doctor(features=arm)["architecture"].remedy
        fake.remove_image("vllm-cpu:latest")
        assert doctor(features=arm)["architecture"].status == "warn"
        assert doctor(features=arm)["CPU instructions"].detail == "Test CPU: bf16, so bfloat16"
        assert (
            doctor(features=arm - {"bf16"})["CPU instructions"].detail == "Test CPU: no bfloat16, so float32"
        )


class TestCores:
    NODES = (Node(0, 8 * GIB), Node(1, 8 * GIB))
    CPUS = tuple(Core(number, number, node=number // 4) for number in range(8))

    def test_few_are_a_warning(self, doctor):
        found = doctor(cpus=(Core(0, 0), Core(1, 1)))["cores"]
        assert (found.status, found.detail) == ("warn", "0-1 of 2 CPUs")

    def test_some_that_are_not_there_fail(self, doctor):
        found = doctor(reranker(cores="7"))["cores"]
        assert found.status == "fail"
        assert "CPU 7" in found.detail

    def test_one_node_of_two_is_chosen_and_why(self, doctor):
        found = doctor(cpus=self.CPUS[1:], nodes=self.NODES)["cores"]
        assert found.status == "ok"
        assert found.detail.startswith("4-7 of 7 CPUs, all on NUMA node 1 of 2 (it has the most allowed CPUs")

    def test_cores_of_two_nodes_are_a_warning_and_its_remedy_helps(self, doctor):
        found = doctor(reranker(cores="2-7"), cpus=self.CPUS, nodes=self.NODES)["cores"]
        assert (found.status, "NUMA nodes 0-1" in found.detail) == ("warn", True)
        fixed = doctor(declared(found.remedy), cpus=self.CPUS, nodes=self.NODES)["cores"]
        assert (fixed.status, "node 1 of 2 (set in ragops.toml" in fixed.detail) == ("ok", True)


class TestQuota:
    @pytest.mark.parametrize(("cores", "still"), [(1.0, "75%"), (3.0, "25%"), (0.5, "88%")])
    def test_its_effect_on_the_threads_is_said(self, doctor, cores, still):
        found = doctor(quota=cores)["CPU quota"]
        assert found.status == "warn"
        assert found.detail.startswith(f"{cores:g} cores for 4 threads: they stand still {still} of the time")

    def test_one_that_suffices(self, doctor):
        assert doctor(quota=4.0)["CPU quota"].detail == "4 cores, enough for 4 threads"

    @pytest.mark.parametrize("cores", [1.5, 2.0, 3.9])
    def test_fewer_cores_as_the_remedy_says_help(self, doctor, cores):
        found = doctor(quota=cores)["CPU quota"]
        assert doctor(declared(found.remedy), quota=cores)["CPU quota"].status == "ok"

    @pytest.mark.parametrize(
        ("driver", "files"),
        [
            (
                "cgroupfs",
                {
                    "proc/self/cgroup": "2:cpu,cpuacct:/elsewhere\n",
                    "sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us": "150000\n",
                    "sys/fs/cgroup/cpu/docker/cpu.cfs_period_us": "100000\n",
                },
            ),
            (
                "systemd",
                {
                    "proc/self/cgroup": "0::/user.slice/elsewhere\n",
                    "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
                },
            ),
            (
                "cgroupfs",  # a limit above: the engine itself is in a container
                {
                    "proc/self/cgroup": "0::/\n",
                    "sys/fs/cgroup/docker/cpu.max": "max 100000\n",
                    "sys/fs/cgroup/cpu.max": "150000 100000\n",
                },
            ),
        ],
        ids=["v1", "v2", "v2-above"],
    )
    def test_the_one_of_the_engines_containers(self, doctor, engine, monkeypatch, tmp_path, driver, files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(checks, "read_quota", lambda parent: hosts.read_quota(parent, tmp_path))
        engine(cgroup_driver=driver)
        found = doctor()["containers' CPU quota"]
        assert found.detail == "1.5 cores for 4 threads: they stand still 62% of the time"
        assert doctor(declared(found.remedy))["containers' CPU quota"].status == "ok"

    def test_one_that_can_not_be_seen_is_skipped(self, doctor, monkeypatch, tmp_path):
        monkeypatch.setattr(checks, "read_quota", lambda parent: hosts.read_quota(parent, tmp_path))
        assert doctor()["containers' CPU quota"].status == "skip"


class TestMemory:
    def test_parts_are_shown(self, doctor):
        detail = doctor()["memory"].detail
        assert re.fullmatch(
            r"\d\.\d of 16\.0 GiB \(weights 0\.0, activations 0\.0, processes \d\.\d, page cache 1\.0\)",
            detail,
        )

    def test_too_little_fails(self, doctor):
        assert doctor(memory=GIB)["memory"].status == "fail"
        assert doctor(memory_limit=GIB)["memory"].status == "fail"

    def test_too_little_on_the_node_fails(self, doctor):
        found = doctor(nodes=(Node(0, GIB), Node(1, 15 * GIB)))["memory"]
        assert (found.status, "this machine offers 1.0" in found.detail) == ("fail", True)

    def test_what_others_hold_is_a_warning_until_the_reranker_runs(self, doctor, fake):
        found = doctor(available=GIB)["memory"]
        assert (found.status, found.detail.endswith("but 1.0 GiB are free now")) == ("warn", True)
        fake.add_container(RERANKER, labels={LABEL: "reranker"})
        assert doctor(available=GIB)["memory"].status == "ok"

    def test_a_named_limit_below_the_parts_is_a_warning_and_its_remedy_helps(self, doctor):
        found = doctor(reranker(memory_gib=1))["memory"]
        assert found.status == "warn"
        assert doctor(declared(found.remedy))["memory"].status == "ok"


class TestModel:
    def test_a_substitute_is_named(self, doctor):
        assert "cosine similarities" in doctor()["model"].detail

    def test_none_named_fails(self, doctor, monkeypatch):
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        seen = doctor()
        assert seen["model"].status == "fail"
        assert "RAGOPS_MODEL_DIR" in seen["model"].remedy
        assert seen["memory"].status == "skip"

    def test_substitute_is_checked_once_it_is_downloaded(self, doctor, monkeypatch, here, model_folder):
        monkeypatch.setenv("RAGOPS_MODEL_DIR", "substitute")
        (here / "models").mkdir(parents=True)
        model_folder.rename(here / "models" / "all-MiniLM-L6-v2")
        assert doctor()["memory"].status == "ok"

    def test_folder_that_is_no_model_fails(self, doctor, monkeypatch, tmp_path):
        monkeypatch.setenv("RAGOPS_MODEL_DIR", str(tmp_path / "no"))
        assert doctor()["model"].status == "fail"

    def test_files_are_counted(self, doctor, model_folder, safetensors):
        safetensors(model_folder / "model.safetensors", a=10, b=20)
        found = doctor()["model files"]
        assert found.detail == "1 safetensors, 0.00 GB, 2 tensors; there are no checksums"

    @pytest.mark.parametrize(("name", "status"), [("model.safetensors", "fail"), ("tokenizer.json", "warn")])
    def test_a_file_that_differs_from_its_checksum(self, doctor, model_folder, name, status):
        (model_folder / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
        found = doctor()["model files"]
        assert (found.status, name in found.detail) == (status, True)

    @pytest.mark.parametrize("index", ["{}", "[]", "no", '{"weight_map": {"a": "model.safetensors"}}'])
    def test_an_index_that_does_not_fit(self, doctor, model_folder, index):
        (model_folder / "model.safetensors.index.json").write_text(index)
        seen = doctor()
        assert "fail" in {seen["model"].status, seen.get("model files", seen["model"]).status}

    def test_pointers_name_their_remedy(self, doctor, model_folder):
        (model_folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        found = doctor()["model"]
        assert (found.status, found.remedy) == ("fail", f"git -C {model_folder} lfs pull")


class TestEngine:
    def test_none_skips_the_rest(self, here, monkeypatch):
        def nobody():
            raise EngineError("no Docker engine answers", evidence="a socket\nanother", hint="start one")

        monkeypatch.setattr("ragops.docker.engine.connect", nobody)
        report = checks.doctor(STACK)
        found = report.first_failure()
        assert (found.name, found.remedy) == ("engine answers", "start one")
        assert found.detail == "no Docker engine answers - a socket"
        skipped = [check.name for check in report.checks if check.status == "skip"]
        assert skipped == ["image", "disk", "port", "names", "network", "RAGFlow", "deadline"]

    def test_one_that_ends_in_between_is_a_failure(self, doctor, fake, monkeypatch):
        def gone():
            raise EngineError("it did not answer", hint="docker info")

        monkeypatch.setattr(fake, "networks", gone)
        assert doctor()["engine answers"].remedy == "docker info"

    @pytest.mark.parametrize(
        ("api", "status"), [("1.40", "fail"), ("1.9", "fail"), ("1.41", "ok"), ("1.54", "ok")]
    )
    def test_an_old_one_is_named(self, doctor, engine, api, status):
        engine(api=api)
        found = doctor()["engine API"]
        assert (found.status, api in found.detail) == (status, True)

    @pytest.mark.parametrize(
        ("fields", "status", "words"),
        [
            ({"version": "28.5.2"}, "ok", ""),
            ({"version": "29.0.1"}, "warn", "network disconnect --force"),
            ({"version": "4.3.1", "product": "Podman"}, "warn", "--network bridge"),
            ({"version": "dev"}, "ok", ""),
        ],
    )
    def test_one_with_a_known_limit_is_a_warning(self, doctor, engine, fields, status, words):
        engine(**fields)
        answers = doctor()["engine answers"]
        assert (answers.status, fields["version"] in answers.detail) == (status, True)
        assert words in answers.remedy

    def test_folder_that_snap_does_not_see_fails(self, doctor, engine, fake, monkeypatch, model_folder):
        engine(root="/var/snap/docker/common/var-lib-docker")
        assert doctor()["engine sees the model"].status == "fail"
        monkeypatch.setattr(type(fake.state()), "hides", lambda *_: False)
        assert "engine sees the model" not in doctor()

    def test_remote_one_is_a_warning(self, doctor, engine):
        engine(address="http://192.0.2.1:2375")
        seen = doctor()
        assert seen["engine is local"].status == "warn"
        assert seen["disk"].status == "skip"

    def test_missing_image_is_a_warning(self, doctor, fake):
        fake.remove_image("vllm-cpu:latest")
        assert doctor()["image"].status == "warn"
        assert "pulled or built" in doctor()["image"].remedy
        assert "built" not in doctor(reranker(image="mine:1"))["image"].remedy

    @pytest.mark.parametrize(("there", "needs"), [(False, checks.IMAGE_SPACE), (True, checks.CACHE_SPACE)])
    def test_room_on_the_disk(self, doctor, fake, engine, monkeypatch, tmp_path, there, needs):
        if not there:
            fake.remove_image("vllm-cpu:latest")
        engine(root=str(tmp_path))
        for free, status in ((needs, "ok"), (needs - 1, "fail")):
            usage = dataclasses.make_dataclass("Usage", ("free",))(free)
            monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
            seen = doctor()
            assert seen["disk"].status == status
            assert ("disk for building" in seen) is not there

    def test_digest_is_shown_whole(self, doctor, fake):
        digest = f"sha256:{'d' * 64}"
        fake.remove_image("vllm-cpu:latest")
        fake.add_image("vllm-cpu:latest", digests=(f"vllm/vllm-openai-cpu@{digest}",))
        assert doctor()["image"].detail.endswith(digest)

    def test_a_name_that_moved_away_from_what_runs(self, doctor, fake):
        fake.add_container(RERANKER, image="vllm-cpu:latest", labels={LABEL: "reranker"})
        assert doctor()["image"].status == "ok"
        runs = fake.container(RERANKER).image_id
        fake.add_image("other:1")
        fake.tag("other:1", "vllm-cpu:latest")
        found = doctor()["image"]
        assert (found.status, found.detail.startswith("vllm-cpu:latest has moved to ")) == ("warn", True)
        assert f"{RERANKER} runs {runs[7:19]}" in found.detail
        _, old, name = shlex.split(found.remedy.partition("to go back: docker ")[2])
        fake.tag(old, name)
        assert doctor()["image"].status == "ok"


class TestPermission:
    EVIDENCE = "unix://{}: ('Connection aborted.', PermissionError(13, 'Permission denied'))"

    @pytest.fixture
    def listening(self, tmp_path):
        path = tmp_path / "docker.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            yield path

    @pytest.fixture
    def someone(self, monkeypatch, listening):
        """A user who is not in the socket's group, which is called docker."""

        def named(*members):
            made = grp.struct_group(("docker", "x", 105, list(members)))
            monkeypatch.setattr(grp, "getgrgid", lambda _: made)

        monkeypatch.setattr(os, "getgroups", lambda: [100])
        monkeypatch.setattr(
            pwd, "getpwuid", lambda _: pwd.struct_passwd(("ana", "x", 1000, 100, "", "/", "/"))
        )
        named()
        listening.chmod(0o660)
        return named

    def remedy(self, path):
        return checks.connection_failure(
            EngineError("no engine", evidence=self.EVIDENCE.format(path), hint="h")
        ).remedy

    def test_group_and_command(self, someone, listening):
        said = "sudo usermod -aG docker ana, then log in again (or: newgrp docker)"
        assert self.remedy(listening) == said

    def test_a_member_whose_session_is_older(self, someone, listening):
        someone("ana")
        assert self.remedy(listening) == "ana is in group docker, but since this log-in: newgrp docker"

    def test_a_socket_for_root_alone(self, someone, listening):
        listening.chmod(0o600)
        assert "sudo" in self.remedy(listening)

    def test_a_socket_that_is_gone_keeps_the_errors_hint(self, tmp_path):
        assert self.remedy(tmp_path / "no") == "h"

    def test_another_refusal_keeps_its_hint(self):
        assert (
            checks.connection_failure(EngineError("m", evidence="Connection refused", hint="h")).remedy == "h"
        )


class TestPort:
    @pytest.fixture(autouse=True)
    def publishing(self, fake):
        fake.version = "28.2.2"

    def test_nothing_is_published_where_other_machines_would_reach_it(self, doctor, fake):
        fake.version = "27.5.1"
        fake.add_container("clickhouse", publish=(("127.0.0.1", 8123, 8123),))
        assert (doctor()["port"].status, doctor()["port"].detail) == ("ok", "nothing is published")

    @pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::"])
    def test_held_by_another_container_and_the_remedy_helps(self, doctor, fake, address):
        fake.add_container("clickhouse", publish=((address, 8123, 8123),))
        found = doctor()["port"]
        assert (found.status, found.detail) == ("fail", "127.0.0.1:8123 is taken by clickhouse")
        assert doctor(declared(found.remedy))["port"].status == "ok"

    def test_the_same_port_of_another_address_is_no_clash(self, doctor, fake):
        fake.add_container("other", publish=(("192.0.2.7", 8123, 80),))
        assert doctor()["port"].status == "ok"

    def test_held_by_a_process(self, doctor, monkeypatch):
        monkeypatch.setattr(checks, "_listens", lambda _, port: port == 8123)
        found = doctor()["port"]
        assert (found.status, "ss -ltnp" in found.remedy) == ("fail", True)
        assert doctor(declared(found.remedy))["port"].status == "ok"

    def test_held_by_ourselves(self, doctor, fake):
        fake.add_container(RERANKER, publish=(("127.0.0.1", 8123, 8000),), labels={LABEL: "reranker"})
        assert doctor()["port"].detail == "127.0.0.1:8123 is ours"

    def test_not_wanted(self, doctor):
        assert doctor(reranker(port=False))["port"].detail == "nothing is published"

    @pytest.mark.parametrize(
        ("release", "status"), [("v0.26.9", "ok"), ("v0.27.0", "warn"), ("v1.0.0", "warn"), ("nightly", "ok")]
    )
    def test_clickhouse_is_told_of_before_it_comes(self, doctor, fake, release, status):
        fake.add_container("r", image=f"infiniflow/ragflow:{release}", network="docker_ragflow")
        found = doctor()["port"]
        assert found.status == status
        if status == "warn":
            assert f"RAGFlow {release}'s profile clickhouse" in found.detail
            assert doctor(declared(found.remedy))["port"].status == "ok"

    def test_listening_is_seen(self):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
            assert not LISTENS("127.0.0.1", port)
            server.listen()
            assert LISTENS("127.0.0.1", port)


class TestReplicas:
    """CPUs, memory and names of all replicas; what the deadline means for RAGFlow."""

    def test_cores_and_memory_are_those_of_all(self, doctor):
        one, two = doctor(), doctor(reranker(replicas=2))
        assert ", for 2 replicas" in two["cores"].detail
        assert two["cores"].detail.startswith("0-1; 2-3 of 4 CPUs")
        assert "for each of 2 replicas: " in two["memory"].detail
        sizes = [float(checks_["memory"].detail.split()[0]) for checks_ in (one, two)]
        assert 1.5 * sizes[0] < sizes[1] <= 2 * sizes[0]

    def test_more_than_there_are_cores(self, doctor):
        assert doctor(reranker(replicas=64))["cores"].status == "fail"

    def test_one_on_each_node(self, doctor):
        nodes = (Node(0, 64 * GIB), Node(1, 64 * GIB))
        cpus = tuple(Core(cpu, cpu, node=cpu // 4) for cpu in range(8))
        found = doctor(reranker(replicas=2), cpus=cpus, nodes=nodes)["cores"]
        assert (found.status, "NUMA" in found.detail) == ("ok", False)

    @pytest.mark.parametrize("name", [f"{RERANKER}-2", f"{RERANKER}-replicas"])
    def test_name_of_another_container(self, doctor, fake, name):
        assert f"{RERANKER}-1, {RERANKER}-2" in doctor(reranker(replicas=2))["names"].detail
        fake.add_container(name)
        found = doctor(reranker(replicas=2))["names"]
        assert (found.status, name in found.detail) == ("fail", True)

    @pytest.mark.parametrize(
        ("deadline", "status", "words"),
        [
            ("auto", "ok", "27 s, as RAGFlow"),
            (12.5, "ok", "12.5 s, as RAGFlow"),
            (30.0, "fail", "30 s are too late: RAGFlow"),
            (False, "ok", "none: RAGFlow"),
        ],
    )
    def test_deadline(self, doctor, ragflow, deadline, status, words):
        found = doctor(Stack(gateway=Gateway(deadline=deadline)))["deadline"]
        assert (found.status, found.detail.startswith(words)) == (status, True)
        if status == "fail":
            assert doctor(declared(found.remedy))["deadline"].status == "ok"

    def test_documents_that_are_compared_with_each_other_have_none(self, doctor, ragflow, monkeypatch):
        known = options.known
        monkeypatch.setattr(options, "known", lambda model: dataclasses.replace(known(model), splits=False))
        assert doctor()["deadline"].detail.startswith("none: RAGFlow")

    def test_name_of_another_stack(self, doctor, fake):
        for name, owner in ((f"{RERANKER}-1", f"{RERANKER}-1"), (f"{RERANKER}-2", RERANKER)):
            fake.add_container(name, labels={"org.ragops": "reranker", "org.ragops.stack": owner})
        found = doctor(reranker(replicas=2))["names"]
        assert (found.status, f"{RERANKER}-1" in found.detail) == ("fail", True)
        fake.remove_container(f"{RERANKER}-1")
        assert doctor(reranker(replicas=2))["names"].status == "ok"

    def test_deadline_follows_the_release_that_waits_the_shortest(self, doctor, fake):
        fake.add_container("ragflow-server", image="infiniflow/ragflow:v0.25.2")
        assert doctor()["deadline"].detail.startswith("270 s, as RAGFlow v0.25.2 waits 300 s")

    def test_without_a_gateway_there_is_none(self, doctor):
        assert "deadline" not in doctor(Stack(gateway=False))


class TestNames:
    def test_a_strangers_container_and_the_remedy_helps(self, doctor, fake):
        fake.add_container(RERANKER)
        found = doctor()["names"]
        assert (found.status, "did not create" in found.detail) == ("fail", True)
        old, new = re.search(r"docker rename (\S+) (\S+),", found.remedy).groups()
        fake.rename(old, new)
        assert doctor()["names"].status == "ok"

    def test_a_strangers_volume_and_the_remedy_helps(self, doctor, fake):
        fake.create_volume(f"{RERANKER}-compiled", role="x")
        made = fake._volumes[f"{RERANKER}-compiled"]
        assert doctor()["names"].status == "ok"
        fake._volumes[made.name] = dataclasses.replace(made, labels={})
        found = doctor()["names"]
        assert found.status == "warn"
        fake.remove_volume(re.search(r"docker volume rm (\S+),", found.remedy)[1])
        assert doctor()["names"].status == "ok"


class TestNetwork:
    def test_one_that_is_not_ours_is_said(self, doctor, fake):
        fake.add_network(STACK.network.name)
        seen = doctor()
        assert seen["network"].detail == "ragflow-rerank exists, not created by ragops"

    def test_one_that_differs_fails(self, doctor, fake):
        fake.add_network(STACK.network.name, internal=True)
        found = doctor(Stack(network=Network(internal=False)))["network"]
        assert (found.status, "internal is True, configured False" in found.detail) == ("fail", True)

    def test_two_of_a_name_fail_and_the_remedy_helps(self, doctor, fake):
        fake.add_network(STACK.network.name)
        fake.add_network(STACK.network.name)
        found = doctor()["network"]
        assert (found.status, "2 networks are named" in found.detail) == ("fail", True)
        short = found.remedy.rpartition("docker network rm ")[2]
        fake.remove_network(next(one.id for one in fake.networks() if one.id.startswith(short)))
        assert doctor()["network"].status == "ok"

    def test_a_subnet_that_overlaps(self, doctor, fake):
        fake.add_network("other", subnet="10.77.0.0/16")
        found = doctor(Stack(network=Network(subnet="10.77.3.0/24")))["network"]
        assert (found.status, "10.77.0.0/16" in found.detail) == ("fail", True)


class TestRagflow:
    def test_none_is_a_warning(self, doctor):
        assert "ragops demo up" in doctor()["RAGFlow"].remedy

    def test_two_fail_and_the_remedy_helps(self, doctor, fake):
        for project in ("one", "two"):
            labels = {"com.docker.compose.project": project, "com.docker.compose.service": "ragflow-cpu"}
            fake.add_container(f"{project}-ragflow-cpu-1", labels=labels, network=f"{project}_ragflow")
        found = doctor()["RAGFlow"]
        assert found.status == "fail"
        project = re.search(r'project = "(\w+)"', found.remedy)[0]
        assert doctor(parse(f"[ragflow]\n{project}\n"))["RAGFlow"].status == "ok"

    def test_release_is_told(self, doctor, ragflow):
        assert doctor()["RAGFlow"].detail == f"{ragflow} (v0.25.3), running"

    @pytest.mark.parametrize("tag", ["v0.27.9", "v0.28.0", "v2.0.0"])
    def test_unknown_release_is_a_warning_that_names_the_nearest(self, doctor, fake, tag):
        fake.add_container("ragflow-server", image=f"infiniflow/ragflow:{tag}")
        found = doctor()["RAGFlow"]
        assert (found.status, f"release {tag} is unknown" in found.detail) == ("warn", True)

    def test_one_that_could_not_start_has_the_remedy_of_the_error(self, doctor, fake, ragflow):
        fake.stop(ragflow)
        fake.change(ragflow, error=f"endpoint with name {ragflow} already exists in network docker_ragflow")
        remedy = doctor()["RAGFlow"].remedy
        assert remedy.startswith(f"docker network disconnect --force docker_ragflow {ragflow}; docker start ")

    def test_one_that_does_not_run_and_the_remedy_helps(self, doctor, fake, ragflow):
        fake.stop(ragflow)
        found = doctor()["RAGFlow"]
        assert (found.status, "is exited" in found.detail) == ("warn", True)
        fake.start(re.match(r"docker start (\S+)", found.remedy)[1])
        assert doctor()["RAGFlow"].status == "ok"

    def test_one_on_the_hosts_network_fails(self, doctor, fake):
        fake.add_container("ragflow-server", network="host")
        assert doctor()["RAGFlow"].status == "fail"

    def test_route_that_would_move_is_a_warning(self, doctor, ragflow, fake):
        early = Stack(network=Network(name="aaa", internal=False))
        assert "moves its default route" in doctor(early)["RAGFlow"].detail
        fake.add_network("aaa")
        fake.connect("aaa", ragflow)
        assert doctor(early)["RAGFlow"].status == "ok"


def test_error_text_is_its_message_and_first_line():
    assert EngineError("wrong", evidence="a\nb").short == "wrong - a"
    assert EngineError("wrong").short == "wrong"


def test_the_machine_that_runs_this_can_be_read():
    assert hosts.read_host().cpus
    with pytest.raises(FileNotFoundError):
        hosts.read_quota("no/such/cgroup", Path("/"))


class TestSwarm:
    """What keeps an engine from placing replicas on other machines."""

    def test_nothing_is_shown_where_it_is_not_used(self, doctor):
        assert "Swarm" not in doctor()

    @pytest.mark.parametrize(
        ("fields", "detail", "remedy"),
        [
            ({"firewall": "nftables"}, "nftables", "firewall-backend"),
            ({"live_restore": True}, "live-restore", "live-restore"),
            ({"swarm": "worker", "node": "abc"}, "worker", "docker node promote abc"),
            ({"swarm": "locked"}, "locked", "docker swarm unlock"),
            ({}, "inactive", "docker swarm init"),
        ],
    )
    def test_an_engine_that_places_nothing(self, doctor, engine, fields, detail, remedy):
        engine(**fields)
        check = doctor(Stack(swarm=Swarm()))["Swarm"]
        assert check.status == "fail"
        assert detail in check.detail
        assert remedy in check.remedy

    @pytest.mark.parametrize(("stack", "status"), [(Stack(), "warn"), (Stack(swarm=Swarm()), "fail")])
    def test_a_swarm_without_a_leader(self, doctor, fake, stack, status):
        fake.join("one", "two")
        fake.leaderless = True
        check = doctor(stack)["Swarm"]
        assert (check.status, "leader" in check.detail) == (status, True)
        assert "more than half" in check.remedy

    def test_nodes(self, doctor, fake, monkeypatch):
        fake.join("one", "two", "three")
        monkeypatch.setattr(checks, "_listens", lambda *_: True)
        monkeypatch.setattr(checks, "_lacks", lambda _: False)
        check = doctor()["Swarm"]
        assert (check.status, check.detail) == ("ok", "manager of 3 nodes")
        monkeypatch.setattr(checks, "_lacks", lambda option: option == "CONFIG_IP_VS")
        assert "IPVS" in doctor()["Swarm"].detail
        fake.change_node("three", state="down")
        check = doctor()["Swarm"]
        assert check.status == "warn"
        assert "three is down" in check.detail

    def test_encryption_needs_ipsec(self, doctor, fake, monkeypatch):
        fake.join("one")
        monkeypatch.setattr(checks, "_lacks", lambda option: option == "CONFIG_INET_ESP")
        assert doctor(Stack(swarm=Swarm()))["Swarm"].status == "ok"
        check = doctor(Stack(swarm=Swarm(encrypted=True)))["Swarm"]
        assert check.status == "fail"
        assert not declared(check.remedy).swarm.encrypted

    @pytest.mark.parametrize(
        ("text", "lacks"), [("# CONFIG_IP_VS is not set\n", True), ("CONFIG_IP_VS=m\n", False)]
    )
    def test_kernel_configuration(self, monkeypatch, tmp_path, text, lacks):
        file = tmp_path / "config.gz"
        file.write_bytes(gzip.compress(text.encode()))
        monkeypatch.setattr(checks, "Path", lambda *parts: file if "proc" in parts[0] else tmp_path / "none")
        assert checks._lacks("CONFIG_IP_VS") is lacks

    def test_ports_of_other_nodes(self, doctor, fake, monkeypatch):
        fake.join("one", "two", "three")
        tried = []
        monkeypatch.setattr(checks, "_listens", lambda *where: tried.append(where) and False)
        check = doctor()["Swarm"]
        assert check.status == "warn"
        assert "4789/udp" in check.remedy
        assert {address for address, *_ in tried if address.startswith("10.200")} == {
            "10.200.0.2",
            "10.200.0.3",
        }

    def test_each_machine_has_one_replica(self, doctor, fake):
        fake.join("one", "two", "three")
        stack = Stack(reranker=Reranker(replicas=64), swarm=Swarm())
        assert doctor(stack)["cores"].status != "fail"
