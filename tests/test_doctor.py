"""Doctor: what it sees on machines of every kind, and that it changes nothing."""

import dataclasses
import platform
import socket

import pytest

from ragops.checks import host
from ragops.errors import EngineError, StackError
from ragops.host import Core
from ragops.stack import Network, Reranker, Stack

STACK = Stack()
GIB = 1 << 30
LISTENS = host._listens


@pytest.fixture
def doctor(here, fake, monkeypatch, machine):
    """Checks by name; the machine and the stack may be changed."""

    def look(stack=STACK, **changed):
        monkeypatch.setattr(host, "read_host", lambda: dataclasses.replace(machine, **changed))
        report = host.check(stack, fake)
        assert fake.calls == []
        assert all(check.remedy for check in report.checks if check.status in {"warn", "fail"})
        return {check.name: check for check in report.checks}

    return look


def test_everything_is_looked_at(doctor, ragflow):
    seen = doctor()
    assert list(seen) == [
        "architecture", "CPU instructions", "cores", "CPU quota", "model", "memory",
        "engine answers", "image", "port", "network", "RAGFlow",
    ]  # fmt: skip
    assert {check.status for name, check in seen.items() if name != "model"} == {"ok"}


@pytest.mark.parametrize(
    ("features", "status", "words"),
    [
        ({"amx_bf16", "avx512f", "avx2"}, "ok", "amx_bf16"),
        ({"avx512_bf16", "avx512f", "avx2"}, "ok", "avx512_bf16"),
        ({"avx512f", "avx2"}, "ok", "float32"),
        ({"avx2"}, "warn", "AVX2 only"),
        (set(), "fail", "no AVX2"),
    ],
)
def test_instructions(doctor, features, status, words):
    found = doctor(features=frozenset(features))["CPU instructions"]
    assert (found.status, words in found.detail) == (status, True)


def test_another_architecture_is_a_warning(doctor, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert doctor()["architecture"].status == "warn"


def test_few_cores_are_a_warning(doctor):
    found = doctor(cpus=(Core(0, 0), Core(1, 1)))["cores"]
    assert (found.status, found.detail) == ("warn", "0-1 of 2 CPUs")


def test_cores_that_are_not_there_fail(doctor):
    found = doctor(Stack(reranker=Reranker(cores="7")))["cores"]
    assert found.status == "fail"
    assert "CPU 7" in found.detail


def test_quota_is_a_warning(doctor):
    assert doctor(quota=1.5)["CPU quota"].detail == "1.5 cores in a quota"
    assert doctor(quota=1.5)["CPU quota"].status == "warn"


def test_memory_that_does_not_suffice_fails(doctor):
    assert doctor(memory=GIB)["memory"].status == "fail"
    assert doctor(memory_limit=GIB)["memory"].status == "fail"


class TestModel:
    def test_stand_in_is_said(self, doctor):
        assert "cosine similarities" in doctor()["model"].detail

    def test_none_named_says_what_stands_in(self, doctor, monkeypatch):
        monkeypatch.delenv("RAGOPS_MODEL_DIR")
        seen = doctor()
        assert seen["model"].status == "warn"
        assert "RAGOPS_MODEL_DIR" in seen["model"].remedy

    def test_folder_that_is_no_model_fails(self, doctor, monkeypatch, tmp_path):
        monkeypatch.setenv("RAGOPS_MODEL_DIR", str(tmp_path / "no"))
        assert doctor()["model"].status == "fail"


class TestEngine:
    def test_none_skips_the_rest(self, here, monkeypatch):
        def nobody():
            raise EngineError("no Docker engine answers", evidence="a socket\nanother", hint="start one")

        monkeypatch.setattr(host, "connect", nobody)
        report = host.check(STACK)
        found = report.first_failure()
        assert (found.name, found.remedy) == ("engine answers", "start one")
        assert found.detail == "no Docker engine answers - a socket"
        assert [check.name for check in report.checks if check.status == "skip"] == [
            "image",
            "network",
            "RAGFlow",
        ]

    def test_remote_one_is_a_warning(self, doctor, fake):
        remote = dataclasses.replace(fake.state(), address="http://192.0.2.1:2375")
        fake.state = lambda: remote
        assert doctor()["engine is local"].status == "warn"

    def test_missing_image_is_a_warning(self, doctor, fake):
        fake.remove_image("vllm-cpu:latest")
        fake.calls.clear()
        assert doctor()["image"].status == "warn"
        assert "pulled or built" in doctor()["image"].remedy
        assert "built" not in doctor(Stack(reranker=Reranker(image="mine:1")))["image"].remedy

    def test_room_for_an_image_that_is_missing(self, doctor, fake, monkeypatch, tmp_path):
        fake.remove_image("vllm-cpu:latest")
        fake.calls.clear()
        roomy = dataclasses.replace(fake.state(), root=str(tmp_path))
        fake.state = lambda: roomy
        for free, status in ((host.IMAGE_SPACE, "ok"), (host.IMAGE_SPACE - 1, "fail")):
            usage = dataclasses.make_dataclass("Usage", ("free",))(free)
            monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
            assert doctor()["disk"].status == status


class TestPort:
    def test_held_by_another_container(self, doctor, fake):
        fake.add_container("clickhouse", publish=(("0.0.0.0", 8123, 8123),))
        found = doctor()["port"]
        assert (found.status, found.detail) == ("fail", "127.0.0.1:8123 is taken by clickhouse")

    def test_held_by_a_process(self, doctor, monkeypatch):
        monkeypatch.setattr(host, "_listens", lambda *_: True)
        found = doctor()["port"]
        assert (found.status, "ss -ltnp" in found.remedy) == ("fail", True)

    def test_held_by_ourselves(self, doctor, fake):
        fake.add_container(STACK.reranker.name, publish=(("127.0.0.1", 8123, 8000),))
        assert doctor()["port"].detail == "127.0.0.1:8123 is ours"

    def test_not_wanted(self, doctor):
        assert doctor(Stack(reranker=Reranker(port=False)))["port"].detail == "nothing is published"

    def test_listening_is_seen(self):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
            assert not LISTENS("127.0.0.1", port)
            server.listen()
            assert LISTENS("127.0.0.1", port)


class TestNetworkAndRagflow:
    def test_network_that_is_not_ours_is_said(self, doctor, fake):
        fake.add_network(STACK.network.name)
        assert doctor()["network"].detail == "ragflow-rerank is there, not made by ragops"

    def test_two_networks_of_a_name_fail(self, doctor, fake):
        fake.add_network(STACK.network.name)
        fake.add_network(STACK.network.name)
        assert "2 networks are named" in doctor()["network and RAGFlow"].detail

    def test_no_ragflow_is_a_warning(self, doctor):
        assert "ragops demo up" in doctor()["RAGFlow"].remedy

    def test_release_is_told(self, doctor, ragflow):
        assert doctor()["RAGFlow"].detail == f"{ragflow} (v0.25.3), running"

    def test_one_on_the_hosts_network_fails(self, doctor, fake):
        fake.add_container("ragflow-server", network="host")
        assert doctor()["RAGFlow"].status == "fail"

    def test_route_that_would_move_is_a_warning(self, doctor, ragflow, fake):
        early = Stack(network=Network(name="aaa"))
        assert "moves its default route" in doctor(early)["RAGFlow"].detail
        fake.add_network("aaa")
        fake.connect("aaa", ragflow)
        fake.calls.clear()
        assert doctor(early)["RAGFlow"].status == "ok"


def test_error_text_is_its_message_and_first_line():
    assert host._first(StackError("wrong", evidence="a\nb")) == "wrong - a"
    assert host._first(StackError("wrong")) == "wrong"
