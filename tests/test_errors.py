"""Errors show message, evidence and hint, and the tree in the docstring is the real one."""

import inspect
import re

import pytest

from ragops import errors
from ragops.errors import EngineError, NotFoundError, RagopsError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


def test_text_is_message_evidence_hint():
    error = RagopsError("It broke", evidence="line 1\nline 2", hint="ragops up")
    assert str(error) == "It broke\n  line 1\n  line 2\nhint: ragops up"


def test_message_alone_is_one_line():
    assert str(RagopsError("It broke")) == "It broke"


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
