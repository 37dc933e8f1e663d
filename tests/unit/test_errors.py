"""Errors show message, evidence, hint and code; the tree, the codes and the page are the real ones."""

import ast
import importlib
import inspect
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from ragops import cli, codes, errors, hints
from ragops.container import ContainerSpec
from ragops.errors import EngineError, LaunchError, NotFoundError, RagopsError
from ragops.ragflow.failures import FAILURES
from ragops.render import plain

ROOT = Path(__file__).parents[2]
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
ROWS = (*codes.CODES, *codes.DEFAULTS)
HINTED = {"EngineError": hints.ENGINE, "LaunchError": hints.CONTAINER, "RagflowError": FAILURES}


@pytest.fixture
def index(monkeypatch):
    """The module that makes the page."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return importlib.import_module("error_index")


def test_text_is_message_evidence_where_it_is_explained_and_hint():
    error = RagopsError("It broke", evidence="line 1\nline 2", hint="ragops up")
    assert str(error) == "It broke\n  line 1\n  line 2\nsee: errors.html#failed\nhint: ragops up"


def test_message_alone():
    assert str(RagopsError("It broke")) == "It broke\nsee: errors.html#failed"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_caught_by_the_base_and_keeps_its_parts(kind):
    with pytest.raises(RagopsError) as caught:
        raise kind("m", evidence="e", hint="h")
    assert (caught.value.message, caught.value.evidence, caught.value.hint) == ("m", "e", "h")


def test_missing_things_are_engine_errors():
    assert issubclass(NotFoundError, EngineError)


def test_the_drawn_tree_is_complete():
    drawn = set(re.findall(r"\b\w+Error\b", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in KINDS}


class TestCodes:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind_has_a_code_of_its_own_and_so_has_one_made_from_it(self, kind):
        code = kind("words that nobody knows").code
        assert [row.name for row in codes.DEFAULTS if row.kind == kind.__name__ and not row.words] == [code]
        assert type("NewError", (kind,), {})("words that nobody knows").code == code

    def test_names_are_short_and_plain(self):
        named = [row.name for row in ROWS] + [hint.code for table in HINTED.values() for hint in table]
        assert [name for name in named if not re.fullmatch(r"[a-z]+(-[a-z]+){0,3}", name)] == []

    def test_every_meaning_is_a_sentence(self):
        assert [row.meaning for row in ROWS if not re.fullmatch(r"[^.].*\.", row.meaning)] == []
        assert {row.kind for row in ROWS} == {kind.__name__ for kind in KINDS}

    @pytest.mark.parametrize("kind", HINTED)
    def test_what_engines_and_containers_say_has_the_hints_code(self, kind):
        for hint in HINTED[kind]:
            assert getattr(errors, kind)("m", evidence=f"… {hint.words} …").code == hint.code

    def test_words_of_one_class_are_not_looked_for_in_another(self):
        assert errors.ModelError("/srv/site/m is odd").code == "model-refused"
        assert RagopsError("/srv/site is odd").code == "site-refused"

    @pytest.mark.parametrize(("code", "name"), [(137, "out-of-memory"), (132, "cpu-too-old")])
    def test_how_a_container_ended_goes_before_what_it_said(self, code, name):
        message = f"x ended 3 s after the wait began (exit code {code})"
        assert LaunchError(message, evidence="unrecognized arguments: --x").code == name

    def test_a_refusal_of_the_engine(self, fake):
        spec = ContainerSpec("one", "vllm-cpu:latest", publish=(("127.0.0.1", 8123, 8000),))
        fake.host_ports.add(8123)
        fake.create_container(spec)
        with pytest.raises(EngineError) as caught:
            fake.start("one")
        assert caught.value.code == "port-taken"
        assert "\nsee: errors.html#port-taken\nhint: " in str(caught.value)
        assert plain(caught.value)["code"] == "port-taken"

    def test_the_command_says_it_in_both_forms(self, here, ragflow, capsys):
        assert cli.main(("verify", "--json")) == 1
        said = capsys.readouterr()
        assert json.loads(said.out)["code"] == "reranker-missing"
        assert said.err.endswith("see: errors.html#reranker-missing\nhint: ragops up\n")


class TestPlaces:
    def test_every_place_that_makes_an_error_is_read(self, index):
        names = {kind.__name__ for kind in KINDS}
        made = set()
        for file in index.PACKAGE.rglob("*.py"):
            if file.name not in index.FAKES:
                calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
                lines = (call.lineno for call in calls if getattr(call.func, "id", "") in names)
                made |= {f"{file.relative_to(index.PACKAGE)}:{line}" for line in lines}
        assert made - {one.place for one in index.places()} == set()
        assert "the Docker engine could not WHAT" in {one.message for one in index.places()}

    def test_every_one_has_a_code_and_most_have_one_of_their_own(self, index):
        whole = {row.name for row in codes.DEFAULTS if not row.words} - {"compose-unreadable", "locked"}
        places = list(index.places())
        assert {one.code for one in places} <= {row.name for row in ROWS}
        general = sorted(f"{one.place} {one.message}" for one in places if one.code in whole)
        assert len(general) < len(places) / 2, general

    def test_every_row_has_a_place(self, index):
        """A message that is worded anew takes its code along, or this fails."""
        unused = set(codes.CODES)
        for one in [*index.places(), *index.known()]:
            fits = (row for row in codes.CODES if row.kind == one.kind and re.search(row.words, one.message))
            unused.discard(next(fits, None))
        assert unused == set()
        messages = [one.message for one in index.places() if one.kind == "EngineError"]
        assert any(EngineError(message).code == "engine-silent" for message in messages)


class TestPage:
    def test_every_code_is_a_title_once(self, index):
        lines = list(index.page())
        ends = (line for line, below in pairwise(lines) if below.startswith("~~"))
        titles = [line.strip("`") for line in ends]
        assert len(titles) == len(set(titles))
        assert set(titles) == {row.name for row in ROWS} | {h.code for t in HINTED.values() for h in t}

    def test_every_code_that_is_made_has_a_remedy(self, index):
        shown = index._by_code([*index.known(), *index.places()])
        said = {row.name for row in codes.DEFAULTS} | {row.name for row in codes.CODES if row.remedy}
        assert [name for name, them in shown.items() if name not in said and not them[0].hint] == []

    def test_examples_are_what_is_printed(self, index):
        (one,) = [one for one in index.places() if one.message.startswith("there is no network")]
        assert one.lines() == [
            "error: there is no network NAME yet",
            "see: errors.html#network-missing",
            "hint: ragops up makes it",
        ]
