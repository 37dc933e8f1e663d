"""Errors show message, evidence, hint and code; the tree, the codes and the page are the real ones."""

import ast
import importlib
import inspect
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from docker.errors import APIError, NotFound
from pydantic import BaseModel

from ragops import cli, errors
from ragops.cli.output import plain
from ragops.data import read_table
from ragops.docker.engine import _engine_errors
from ragops.docker.objects import ContainerSpec
from ragops.errors import EngineError, NotFoundError, RagopsError, StackError
from ragops.ragflow import api
from ragops.ragflow.api import FAILURES

ROOT = Path(__file__).parents[2]
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RagopsError)]


@pytest.fixture
def index(monkeypatch):
    """The Sphinx extension of the page of errors."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return importlib.import_module("error_index")


@pytest.fixture
def examples(index):
    """The calls that create errors."""
    return importlib.import_module("error_examples")


@pytest.fixture
def codes(index):
    """The codes with their meanings and remedies."""
    return index.CODES


def test_text_is_message_evidence_where_it_is_explained_and_hint():
    error = RagopsError("It broke", evidence="line 1\nline 2", hint="ragops up")
    assert str(error) == "It broke\n  line 1\n  line 2\nsee: ragops explain failed\nhint: ragops up"


def test_message_alone():
    assert str(RagopsError("It broke")) == "It broke\nsee: ragops explain failed"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_caught_by_the_base_and_keeps_its_parts(kind):
    with pytest.raises(RagopsError) as caught:
        raise kind("m", evidence="e", hint="h")
    assert (caught.value.message, caught.value.evidence, caught.value.hint) == ("m", "e", "h")


def test_missing_things_are_engine_errors():
    assert issubclass(NotFoundError, EngineError)


def test_the_module_of_errors_imports_nothing_of_ragops():
    names = {
        node.module
        for node in ast.walk(ast.parse(inspect.getsource(errors)))
        if isinstance(node, ast.ImportFrom)
    }
    own = {"collections.abc", "contextlib", "functools", "importlib.metadata", "pathlib", "typing"}
    assert names == own | {"__future__"}


def test_each_class_says_what_is_wrong():
    assert all(kind.__doc__ for kind in KINDS)


class Form(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("action", "evidence"),
    [
        (lambda file: file.read_text(), "No such file"),
        (lambda _: json.loads("{"), "Expecting property name"),
        (lambda _: Form.model_validate({"number": "x"}), "number: Input should be a valid integer"),
    ],
)
def test_exceptions_about_a_file_become_ours(tmp_path, action, evidence):
    file = tmp_path / "x"
    with (
        pytest.raises(StackError) as caught,
        errors.file_errors(StackError, "m", file, code="stack-unreadable"),
    ):
        action(file)
    assert (caught.value.code, caught.value.file) == ("stack-unreadable", file)
    assert evidence in caught.value.evidence
    assert plain(caught.value)["file"] == str(file)


class TestCodes:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind_has_a_code_of_its_own(self, kind):
        assert kind("m").code == kind.code
        assert [other for other in KINDS if other.code == kind.code] == [kind]
        assert kind("m", code="port-taken").code == "port-taken"

    def test_names_are_short_and_plain(self, codes):
        assert [name for name in codes if not re.fullmatch(r"[a-z]+(-[a-z]+){0,3}", name)] == []

    def test_every_meaning_is_a_sentence_and_has_a_remedy(self, codes):
        rows = [row for known in codes.values() for row in known]
        assert [row.cause for row in rows if not re.fullmatch(r"[^.].*\.", row.cause)] == []
        assert [row for row in rows if not row.remedy or row.remedy.endswith(".")] == []

    @pytest.mark.parametrize("hint", FAILURES)
    def test_messages_of_ragflow_give_the_code_of_their_hint(self, hint):
        request = api.Request("GET", "/x")
        error = api.refusal(request, api.Response(200, json.dumps({"code": 1, "message": hint.words})))
        assert error.code == hint.code

    def test_a_refusal_of_the_engine(self, fake):
        spec = ContainerSpec("one", "vllm-cpu:latest", publish=(("127.0.0.1", 8123, 8000),))
        fake.host_ports.add(8123)
        fake.create_container(spec)
        with pytest.raises(EngineError) as caught:
            fake.start("one")
        assert (caught.value.code, caught.value.container) == ("port-taken", "one")
        assert "\nsee: ragops explain port-taken\nhint: " in str(caught.value)
        assert plain(caught.value)["code"] == "port-taken"

    @pytest.mark.parametrize(
        ("error", "kind", "code"),
        [
            (
                APIError("500", explanation="driver failed: port is already allocated"),
                EngineError,
                "port-taken",
            ),
            (NotFound("404", explanation="No such container: one"), NotFoundError, "not-found"),
            (ConnectionResetError("reset"), EngineError, "engine-silent"),
        ],
    )
    def test_exceptions_of_the_docker_library_become_ours(self, error, kind, code):
        with pytest.raises(EngineError) as caught, _engine_errors("start one", "one"):
            raise error
        assert (type(caught.value), caught.value.code, caught.value.container) == (kind, code, "one")

    def test_the_command_says_it_in_both_forms(self, here, ragflow, capsys):
        assert cli.main(("verify", "--json")) == 1
        said = capsys.readouterr()
        assert json.loads(said.out)["code"] == "reranker-missing"
        assert said.err.endswith("see: ragops explain reranker-missing\nhint: ragops up\n")


def calls(examples):
    """Every call that creates an error."""
    for module in examples.modules().values():
        yield from examples.calls(module)


class TestPlaces:
    def test_every_place_that_makes_an_error_is_read(self, examples):
        names = {kind.__name__ for kind in KINDS}
        made = set()
        for file, module in examples.modules().items():
            calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
            lines = (call.lineno for call in calls if ast.unparse(call.func).rpartition(".")[2] in names)
            made |= {f"{file.relative_to(examples.ROOT)}:{line}" for line in lines}
        assert made - {one.place for one in examples.places()} == set()
        assert "the Docker engine could not ACTION" in {one.message for one in examples.places()}

    def test_the_table_has_the_codes_that_are_raised(self, examples):
        codes = [row[0] for row in read_table("errors.tsv")]
        assert len(codes) == len(set(codes))
        assert {code for call in calls(examples) for code in examples.codes_of(call)} == {*codes}


class TestPage:
    def test_every_code_is_a_title_once(self, index, codes):
        lines = [line for name in index.PAGES for line in index.page(name)]
        ends = (line for line, below in pairwise(lines) if below.startswith("~~"))
        titles = [line.strip("`") for line in ends]
        assert len(titles) == len(set(titles))
        assert {*codes} - {*titles} == set()

    def test_every_code_is_an_anchor_of_the_index_once(self, index, codes):
        anchors = re.findall(r"\* - _`([\w-]+)`", "\n".join(index.index()))
        assert sorted(anchors) == sorted(codes)

    def test_examples_are_printed_errors(self, examples):
        example = next(example for example in examples.places() if example.code == "network-missing")
        lines = example.lines()
        assert "network NAME" in lines[0]
        assert lines[1] == "see: ragops explain network-missing"
        assert lines[2].startswith("hint: ")
