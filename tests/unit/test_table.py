"""Tables as text, HTML and JSON."""

import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from ragops.cli.output import as_json, rich_table
from ragops.table import Column, Table

COLUMNS = (Column("result", state=True), Column("name"), Column("command", code=True))
ROWS = (
    "on <this> host",
    ("ok", "disk", "df -h"),
    "in container",
    ("fail", "name", "getent <x>\nhint: connect"),
)


def test_text_aligns_groups_and_several_lines():
    lines = str(Table(COLUMNS, ROWS, "title", ("note",))).splitlines()
    assert lines == [
        "title",
        "on <this> host",
        "  ok    disk  df -h",
        "in container",
        "  fail  name  getent <x>",
        "              hint: connect",
        "note",
    ]


def test_text_has_a_header_where_it_is_wanted_and_leaves_html_columns_out():
    table = Table((Column("a"), Column("bb"), Column("c", html_only=True)), (("1", "2", "3"),), header=True)
    assert str(table).splitlines() == ["a  bb", "1  2"]


def on_terminal(table, width, **environment):
    file = io.StringIO()
    console = Console(width=width, force_terminal=True, _environ=environment, file=file, highlight=False)
    console.print(rich_table(table))
    return file.getvalue()


@pytest.mark.parametrize("width", [30, 44, 80])
def test_a_terminal_table_is_as_wide_as_the_terminal(width):
    text = "a sentence of a good many words, to be wrapped"
    output = on_terminal(Table(COLUMNS, (*ROWS, ("ok", "disk", text)), text, (text,)), width, NO_COLOR="1")
    assert max(len(Text.from_ansi(line).plain.rstrip()) for line in output.splitlines()) <= width
    assert "36" not in output


def test_a_terminal_table_has_coloured_states_below_their_headings():
    output = on_terminal(Table(COLUMNS, ROWS), 80, TERM="xterm-256color")
    assert "\x1b[32mok\x1b[0m" in output
    assert "\x1b[31mfail\x1b[0m" in output
    lines = [Text.from_ansi(line).plain.rstrip() for line in output.splitlines()]
    assert lines[:2] == ["on <this> host", "ok    disk  df -h"]


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
    assert [row["group"] for row in rows] == ["on <this> host", "in container"]
    assert Table((Column("a"),), (("1",),)).to_json() == [{"a": "1"}]


def test_html_folds_a_cell_of_several_lines_and_draws_numbers_as_bars():
    columns = (Column("command", code=True, folded=True), Column("score", bar=True))
    table = Table(columns, (("docker run \\\n  --init <image>", "0.5"), ("docker start x", "-0.1")))
    html = table._repr_html_()
    assert html.count("<details>") == 1
    assert "<summary>docker run</summary><code>docker run \\<br>  --init &lt;image&gt;</code>" in html
    assert "0.5 <span" in html
    assert "width: 5.0em" in html
    assert "width: 0.0em" in html
    assert "0.5" in str(table)
