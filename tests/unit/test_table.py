"""Tables as text, HTML and JSON."""

import json

import pytest

from ragops.cli.output import as_json
from ragops.table import Column, Table

COLUMNS = (Column("result", state=True), Column("name"), Column("command", code=True))
ROWS = ("on <this> host", ("ok", "disk", "df -h"), "in box", ("fail", "name", "getent <x>\nhint: connect"))


def test_text_aligns_groups_and_several_lines():
    lines = str(Table(COLUMNS, ROWS, "title", ("note",))).splitlines()
    assert lines == [
        "title",
        "on <this> host",
        "  ok    disk  df -h",
        "in box",
        "  fail  name  getent <x>",
        "              hint: connect",
        "note",
    ]


def test_text_has_a_header_where_it_is_wanted_and_leaves_html_columns_out():
    table = Table((Column("a"), Column("bb"), Column("c", html_only=True)), (("1", "2", "3"),), header=True)
    assert str(table).splitlines() == ["a  bb", "1  2"]


@pytest.mark.parametrize("width", [30, 44, 80])
def test_text_is_wrapped_in_its_last_column(width):
    text = "a sentence of a good many words, to be wrapped"
    lines = Table(COLUMNS, (("ok", "disk", text),), text, (text,)).text(width).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()) == f"{text} ok disk {text} {text}"


def test_html_is_escaped_and_marks_states_and_groups():
    html = Table(COLUMNS, ROWS, "<title>", ("<note>",), css_class="ragops-checks")._repr_html_()
    assert '<table class="ragops-checks"><tr><th>result</th>' in html
    assert '<th colspan="3" scope="rowgroup">on &lt;this&gt; host</th>' in html
    assert '<td class="ragops-fail">fail</td><td>name</td>' in html
    assert "<code>getent &lt;x&gt;<br>hint: connect</code>" in html
    assert html.startswith("<p>&lt;title&gt;</p>")
    assert html.endswith("<p>&lt;note&gt;</p>")


def test_tables_below_follow_after_an_empty_line():
    table = Table((Column("a"),), (("1",),), below=(Table(notes=("end",)),))
    assert str(table) == "1\n\nend"
    assert table._repr_html_().endswith("</table><p>end</p>")


def test_json_has_one_object_for_each_row():
    rows = json.loads(as_json(Table(COLUMNS, ROWS)))
    assert rows[0] == {"group": "on <this> host", "result": "ok", "name": "disk", "command": "df -h"}
    assert [row["group"] for row in rows] == ["on <this> host", "in box"]
    assert Table((Column("a"),), (("1",),)).to_json() == [{"a": "1"}]
