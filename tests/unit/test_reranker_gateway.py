"""The gateway's image, its container, and its state."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from ragops.configuration import Gateway, Network, Reranker, Stack
from ragops.docker.objects import ExecResult
from ragops.errors import EngineError, ImageError, StackError
from ragops.reranker import files, gateway
from ragops.reranker.image import remove_recorded
from tests.support.fake_engine import FakeEngine

STATE = {
    "reference": "0123456789ab",
    "deadline": 27.0,
    "cache": {"entries": 3, "limit": 100, "hits": 2, "misses": 1},
    "hour": {"requests": 4, "late": 1, "documents": 256, "ranked": 200, "truncated": 2},
    "replicas": [
        {"address": "172.18.0.3:8000", "state": "admitted", "reason": "", "pace": 0.00012, "shares": 41},
        {"address": "172.18.0.4:8000", "state": "checking", "reason": "loads", "pace": None, "shares": 0},
    ],
}


def spec(stack=None, **options):
    usual = {"timeout": 30.0, "splits": True, "publish": (), "folder": Path("/srv/reference")}
    return gateway.container_spec(stack or Stack(), **usual | options)


def environment(**options):
    return dict(spec(**options).environment)


class TestContainer:
    def test_has_the_registered_name_and_no_rights(self):
        stack = Stack(network=Network(name="net"), reranker=Reranker(name="mine"))
        container = spec(stack, publish=(("127.0.0.1", 8123, 8000),))
        assert (container.name, container.image, container.network) == ("mine", gateway.tag(), "net")
        assert (container.role, dict(container.labels)) == ("gateway", {"org.ragops.stack": "mine"})
        assert (container.user, container.read_only, container.tmpfs) == ("65532:65532", True, ())
        assert container.publish == (("127.0.0.1", 8123, 8000),)
        (mount,) = container.mounts
        assert (mount.source, mount.target, mount.read_only) == ("/srv/reference", "/reference", True)
        assert dict(container.environment)["GATEWAY_REPLICAS"] == "mine-replicas:8000"

    def test_runs_after_a_reboot_and_has_time_to_end(self):
        container = spec(timeout=60.0)
        assert (container.restart, container.stop_signal, container.stop_timeout) == ("always", "", 65)

    def test_documents_that_are_compared_with_each_other_have_no_deadline(self):
        assert environment(splits=False)["GATEWAY_DEADLINE"] == "0"

    @pytest.mark.parametrize(
        ("options", "timeout", "expected"),
        [
            ({}, 30.0, ("27", "100000", "truncate")),
            ({}, 15.0, ("13.5", "100000", "truncate")),
            ({"deadline": 12.5, "cache": 50}, 30.0, ("12.5", "50", "truncate")),
            ({"deadline": False, "cache": False, "long_documents": "error"}, 30.0, ("0", "0", "error")),
        ],
    )
    def test_settings_are_in_the_environment(self, options, timeout, expected):
        values = environment(stack=Stack(gateway=Gateway(**options)), timeout=timeout)
        assert (
            values["GATEWAY_DEADLINE"],
            values["GATEWAY_CACHE"],
            values["GATEWAY_LONG_DOCUMENTS"],
        ) == expected
        assert (values["GATEWAY_SPLIT"], values["GATEWAY_KEY_SHA256"]) == ("1", "")

    def test_listwise_models_are_not_split(self):
        assert environment(splits=False)["GATEWAY_SPLIT"] == "0"

    def test_a_larger_cache_has_more_memory(self):
        small, large = (spec(Stack(gateway=Gateway(cache=size))).memory for size in (1000, 1_001_000))
        assert 238 * 10**6 < large - small < 1 << 30

    def test_only_the_hash_of_the_key_is_in_the_container(self, tmp_path):
        file = tmp_path / "key"
        file.write_text("s3cret\n")
        container = spec(Stack(gateway=Gateway(key_file=file)))
        assert dict(container.environment)["GATEWAY_KEY_SHA256"] == hashlib.sha256(b"s3cret").hexdigest()
        assert "s3cret" not in repr(container)

    def test_a_key_that_cannot_be_read_is_an_error(self, tmp_path):
        with pytest.raises(StackError) as caught:
            spec(Stack(gateway=Gateway(key_file=tmp_path / "missing")))
        assert caught.value.code == "secret-refused"


class TestImage:
    @pytest.fixture
    def engine(self):
        engine = FakeEngine("vllm-cpu:latest")
        engine.respond = lambda _container, _argv, _stdin: ExecResult(0, "3.12\n", "")
        return engine

    @pytest.fixture
    def downloads(self, monkeypatch):
        calls = []
        monkeypatch.setattr(files, "download", lambda *argv, **options: calls.append((argv, options)))
        return calls

    def test_name_changes_with_each_file(self, monkeypatch):
        name, sources = gateway.tag(), gateway._sources()
        assert re.fullmatch("ragops-gateway:[0-9a-f]{12}", name)
        assert {"Dockerfile", "collect.py", "requirements.lock", "gateway/__init__.py"} <= set(sources)
        names = {name}
        for file, data in sources.items():
            monkeypatch.setattr(
                gateway, "_sources", lambda file=file, data=data: sources | {file: data + b" "}
            )
            names.add(gateway.tag())
        assert len(names) == len(sources) + 1

    def test_is_built_once_with_wheels_for_the_images_python(self, engine, downloads, tmp_path, monkeypatch):
        folders = []
        build = engine.build

        def record(folder, name, *, arguments):
            folders.append({str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()})
            assert arguments == {"BASE": "sha256:vllm"}
            return build(folder, name, arguments=arguments)

        monkeypatch.setattr(engine, "build", record)
        engine.add_image("sha256:vllm")
        images = [gateway.ensure(engine, "sha256:vllm", tmp_path) for _ in range(2)]
        assert images[0] == images[1] == engine.image(gateway.tag())
        assert folders == [set(gateway._sources())]
        ((argv, options),) = downloads
        assert (argv[1], options) == ("--requirement", {"python": "3.12", "hashes": True})
        assert not list((tmp_path / "build").iterdir())

    def test_down_all_removes_it(self, engine, downloads, tmp_path):
        gateway.ensure(engine, "vllm-cpu:latest", tmp_path)
        assert remove_recorded(engine, tmp_path) == ()
        assert engine.image(gateway.tag()) is None
        assert engine.image("vllm-cpu:latest")

    def test_a_failed_step_shows_the_end_of_the_output(self, engine, downloads, tmp_path, monkeypatch):
        def fail(*_argv, **_options):
            yield from (f"line {number}" for number in range(30))
            raise EngineError("building failed", evidence="returned a non-zero code: 1")

        monkeypatch.setattr(engine, "build", fail)
        with pytest.raises(ImageError) as caught:
            gateway.ensure(engine, "vllm-cpu:latest", tmp_path)
        assert caught.value.code == "build-failed"
        assert caught.value.evidence.splitlines()[-2:] == ["line 29", "returned a non-zero code: 1"]

    def test_an_image_without_python_is_an_error(self, engine, downloads, tmp_path):
        engine.respond = lambda _container, _argv, _stdin: None
        with pytest.raises(ImageError) as caught:
            gateway.ensure(engine, "vllm-cpu:latest", tmp_path)
        assert (caught.value.code, downloads) == ("python-missing", [])


class TestState:
    def test_is_read_inside_the_container(self, fake):
        fake.add_container("mine")
        fake.respond = lambda _container, argv, _stdin: ExecResult(0, json.dumps(STATE | {"more": 1}), "")
        state = gateway.read_state(fake, "mine")
        assert (state.reference, state.deadline, state.hour.ranked, state.cache.hits) == (
            "0123456789ab",
            27,
            200,
            2,
        )
        assert [replica.address for replica in state.admitted] == ["172.18.0.3:8000"]
        assert (state.replicas[1].state, state.replicas[1].reason) == ("checking", "loads")

    @pytest.mark.parametrize(
        "result", [ExecResult(1, "", "Connection refused"), ExecResult(0, '{"replicas": []}', "")]
    )
    def test_none_where_it_does_not_respond(self, fake, result):
        fake.add_container("mine")
        fake.respond = lambda _container, _argv, _stdin: result
        assert gateway.read_state(fake, "mine") is None

    def test_none_where_it_does_not_exist(self, fake):
        assert gateway.read_state(fake, "mine") is None
