"""The verb on an engine in memory and stub rerankers: containers come and go, the winner is written."""

import json
import socket

import pytest

import ragops
from ragops import cli
from ragops.container import ContainerSpec
from ragops.errors import BenchError, LockedError, StackError
from ragops.lock import held
from ragops.stack import home, load
from ragops.state import ExecResult
from ragops.testing import replies
from ragops.testing.served import Served
from ragops.testing.stub import Behaviour, application
from ragops.tuning import rig
from ragops.tuning.compare import Rule

NAME = "ragflow-vllm-reranker"
BOTH = rig.names(NAME)
QUICK = Rule(least=2, most=3)


def answered(path, text, box, order, probed):
    """What the score gate is told from inside a container."""
    behaviour, body = Behaviour(impostor="healthy", prompt="apart"), json.loads(text)
    if path.endswith("/tokenize"):
        said = replies.count(body)
    else:
        used = replies.tokens(behaviour, body["query"], body["documents"])
        said = replies.ranking(behaviour, body, used, number=1)
    return {"ok": True, "status": 200, "text": json.dumps(said), "ms": 1.0}


@pytest.fixture
def speeds():
    """Seconds for a document of each launch, by what its command line has; the last that fits counts."""
    return {"": 0.01, "4096": 0.008, "--enforce-eager": 0.014}


@pytest.fixture
def bench(here, fake, probed, monkeypatch, speeds):
    """Each container that starts has a stub reranker behind its port; gives the engine."""
    monkeypatch.setattr(rig, "REQUEST_S", 0.05)
    monkeypatch.setattr(rig, "BLOCK_S", 0.1)
    stubs, per_document, send = [], {}, rig._played

    def timed(turn, target, warm):
        """Requests are really sent; how long they took is what the launch says, on any machine."""
        _, kept = send(turn, target, warm)
        return sum(one.documents for one in kept) * per_document[target.base_url], kept

    monkeypatch.setattr(rig, "_played", timed)

    class Engine(type(fake)):
        def start(self, container):
            super().start(container)
            box = self.container(container)
            if box.role == "tune":
                each = [seconds for word, seconds in speeds.items() if word in " ".join(box.command)][-1]
                behaviour = Behaviour(model="tiny", impostor="healthy", prompt="apart")
                port = box.published[0][1]
                per_document[f"http://127.0.0.1:{port}/v1"] = each
                stubs.append(served(behaviour, port))
                self.output[box.name] = "Application startup complete."

    def respond(box, argv, stdin):
        order = json.loads(stdin)
        if "posts" in order:
            return ExecResult(
                0,
                json.dumps(
                    {"replies": [answered(path, text, box, order, probed) for path, text in order["posts"]]}
                ),
                "",
            )
        return ExecResult(0, json.dumps(probed(order)), "")

    fake.__class__ = Engine
    fake.respond = respond
    yield fake
    for stub in stubs:
        stub.__exit__(None, None, None)


def served(behaviour, port):
    """A stub on that very port; the socket names its protocol, else asyncio sends with a delay."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(512)
    return Served(application(behaviour), listener).__enter__()


@pytest.fixture
def tune(bench):
    def run(**fields):
        return ragops.tune(load(), **{"rule": QUICK, "results": "results", **fields})

    return run


def left(engine):
    names = [one.name for one in engine.containers()] + [one.name for one in engine.volumes()]
    return [name for name in names if "tune" in name]


def test_the_faster_one_is_written_and_nothing_is_left(tune, bench, here):
    found = tune(only=("eager", "batched-4096"), write="ragops.toml")
    assert {row.name: row.verdict for row in found.rows} == {"batched-4096": "kept", "eager": "slower"}
    assert found.settings == (("max_num_batched_tokens", 4096),)
    assert load().reranker.max_num_batched_tokens == 4096
    assert not found.near
    assert "more than 10% behind" in found.sentence
    assert left(bench) == []
    for text in (str(found), found._repr_html_()):
        assert "batched-4096" in text
        assert "stand-in" in text
        assert str(found.folder) in text


def test_containers_are_apart_from_the_stack(tune, bench):
    made = []
    create = bench.create_container
    bench.create_container = lambda spec: made.append(spec) or create(spec)
    tune(only=("eager",))
    assert [one.name for one in made] == list(BOTH)
    for spec in made:
        assert isinstance(spec, ContainerSpec)
        assert (spec.network, spec.restart, spec.role) == (None, "no", "tune")
        assert spec.publish[0][0] == "127.0.0.1"
        assert [one.source for one in spec.mounts if one.kind == "volume"] == [rig.cache(NAME)]
    assert "--enforce-eager" not in made[0].command
    assert "--enforce-eager" in made[1].command


def test_only_one_computes_at_a_time(tune, bench, monkeypatch):
    running = []
    post = rig._played

    def watched(*args):
        running.append([one.name for one in bench.containers() if one.status == "running"])
        return post(*args)

    monkeypatch.setattr(rig, "_played", watched)
    tune(only=("eager",))
    assert all(len(names) == 1 for names in running)
    assert {names[0] for names in running} == set(BOTH)


def test_one_that_can_not_start_is_a_row(tune, bench):
    bench.refuse(f"start {BOTH[1]}", "no space left on device")
    found = tune(only=("eager",), write="ragops.toml")
    assert found.rows[0].verdict == "did not start"
    assert "no space left on device" in found.rows[0].detail
    assert "docker system df" in found.rows[0].detail
    assert (found.settings, found.written, left(bench)) == ((), None, [])


def test_int8_checkpoint_is_made_when_its_turn_comes(tune, bench, model_folder, monkeypatch, tmp_path):
    made = tmp_path / "tiny-int8"

    def quantize(source, *, engine, image):
        assert [one.status for one in bench.containers() if one.role == "tune"] == ["paused"]
        made.mkdir()
        for file in source.iterdir():
            (made / file.name).write_bytes(file.read_bytes())
        return made

    monkeypatch.setattr("ragops.quantize.int8", quantize)
    monkeypatch.setattr("ragops.quantize.unfit", lambda _: "")
    monkeypatch.delenv("RAGOPS_MODEL_DIR")
    (tmp_path / "ragops.toml").write_text(f'[reranker]\nmodel = "{model_folder}"\n')
    found = tune(only=("eager",), int8=True)
    assert [row.name for row in found.rows] == ["eager", "int8"]
    assert found.rows[1].settings == (("model", str(made)), ("served_name", "tiny"))
    assert found.rows[1].verdict == "no difference"


def test_int8_that_can_not_be_made_is_a_row(tune, monkeypatch):
    def quantize(*_, **__):
        raise ragops.ModelError("there is too little disk", hint="make room")

    monkeypatch.setattr("ragops.quantize.int8", quantize)
    monkeypatch.setattr("ragops.quantize.unfit", lambda _: "")
    found = tune(only=("int8",))
    assert (found.rows[0].verdict, found.rows[0].detail) == (
        "did not start",
        "there is too little disk - make room",
    )


def test_int8_is_not_made_where_its_scores_would_be_wrong(tune, monkeypatch):
    monkeypatch.setattr("ragops.quantize.int8", lambda *_, **__: pytest.fail("it was made"))
    monkeypatch.setattr("ragops.quantize.unfit", lambda _: "this processor has no VNNI")
    row = tune(only=("int8",)).rows[0]
    assert row.verdict == "did not start"
    assert "int8 is not tried here" in row.detail


def test_interrupt_leaves_nothing_and_the_search_goes_on(tune, bench, monkeypatch):
    folders, told = [], []

    def stop(line):
        told.append(line)
        if "batched-4096: pair 2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(only=("batched-4096", "eager"), started=folders.append, told=stop)
    assert left(bench) == []
    found = tune(resume=folders[0])
    assert {row.name: row.verdict for row in found.rows} == {"batched-4096": "kept", "eager": "slower"}
    assert found.folder == folders[0]
    with pytest.raises(BenchError, match="is complete") as caught:
        tune(resume=folders[0])
    assert caught.value.code == "run-not-continued"


def test_another_launch_is_not_gone_on_with(tune, bench, tmp_path):
    found = tune(only=("eager", "batched-4096"), minutes=0)
    assert found.untried == ("batched-4096", "eager")
    (tmp_path / "ragops.toml").write_text("[reranker]\nmax_model_len = 64\n")
    with pytest.raises(BenchError, match="is not the one that the run began with") as caught:
        tune(resume=found.folder)
    assert "arguments" in caught.value.evidence
    assert left(bench) == []


def test_a_running_reranker_would_share_the_cores(tune, bench):
    bench.add_container(NAME)
    with pytest.raises(BenchError, match="would share the cores") as caught:
        tune()
    assert caught.value.hint.startswith(f"docker stop {NAME}")
    bench.stop(NAME)
    assert tune(only=("eager",)).rows


def test_a_watched_stack_is_left_alone(tune, bench):
    with (
        held(home(), bench.state().address, NAME, "watching"),
        pytest.raises(LockedError, match="watching"),
    ):
        tune()


def test_leftovers_of_an_earlier_search_go_and_those_of_others_stay(tune, bench):
    bench.create_container(ContainerSpec(BOTH[0], "vllm-cpu:latest", role="tune"))
    tune(only=("eager",))
    assert left(bench) == []
    bench.add_container(BOTH[1])
    with pytest.raises(StackError, match="did not make is named"):
        tune(only=("eager",))
    assert left(bench) == [BOTH[1]]


def test_two_have_to_fit_into_memory(tune, machine, monkeypatch):
    monkeypatch.setattr("ragops.verbs.hosts.read_host", lambda: small(machine))
    with pytest.raises(StackError, match="two rerankers take turns and need") as caught:
        tune(only=("eager",))
    assert caught.value.code == "memory-short"


def small(machine):
    return type(machine)(**{**vars(machine), "available": 5 << 30})


def test_down_takes_leftovers_too(bench):
    bench.create_volume(rig.cache(NAME), role="cache")
    bench.create_container(ContainerSpec(BOTH[0], "vllm-cpu:latest", role="tune"))
    ragops.down(load())
    assert left(bench) == []


def test_inside_a_running_loop_too(tune):
    import asyncio  # noqa: PLC0415

    async def cell():
        return tune(only=("eager",))  # as a notebook calls it

    assert asyncio.run(cell()).rows[0].verdict == "slower"


class TestCommand:
    @pytest.fixture
    def run(self, bench, capsys, monkeypatch):
        monkeypatch.setattr("ragops.tuning.run.Rule", lambda: QUICK)

        def ragops(*argv):
            code = cli.main(argv)
            return code, *capsys.readouterr()

        return ragops

    def test_tells_and_writes(self, run):
        code, out, err = run("tune", "--only", "batched-4096")
        assert code == 0
        assert "max_num_batched_tokens = 4096; written to ragops.toml" in out
        assert "ragops up changes it" in err
        assert load().reranker.max_num_batched_tokens == 4096

    def test_json(self, run, here):
        code, out, _ = run("tune", "--only", "batched-4096", "--no-write", "--json")
        said = json.loads(out)
        assert (code, said["settings"]) == (0, {"max_num_batched_tokens": 4096})
        assert said["rows"][0]["verdict"] == "kept"
        assert (said["default_is_near"], said["written"]) == (False, None)
        assert load().reranker.max_num_batched_tokens is None

    def test_interrupt_prints_how_to_go_on(self, run, monkeypatch):
        monkeypatch.setattr("ragops.tuning.search.Search._tried", stopped)
        code, _, err = run("tune", "--only", "eager")
        assert code == 130
        assert "to go on: ragops tune --resume results/" in err

    def test_unknown_name(self, run):
        code, _, err = run("tune", "--only", "turbo")
        assert code == 1
        assert "turbo is no setting to try" in err


def stopped(*_):
    raise KeyboardInterrupt
