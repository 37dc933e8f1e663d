"""Drawing, executing and building, on small examples of their own."""

import shutil
from pathlib import Path

import nbformat
import pytest

from ragops import RagopsError, site

DOT = """// dark: #ffffff=#121417 #000000=#eeeeee
digraph small { a [fillcolor="#ffffff", fontcolor="#000000", style=filled] }
"""


def write(folder, name, *cells, tag="parameters"):
    folder.mkdir(exist_ok=True)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    made.cells[0].metadata["tags"] = [tag]
    nbformat.write(made, folder / name)


def outputs(copy):
    cells = nbformat.read(copy, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.outputs)


def test_executes_in_order_into_copies_and_leaves_the_sources(tmp_path):
    write(tmp_path / "in", "02_b.ipynb", "N = 1  # how many", "print(open('made').read(), N)")
    write(tmp_path / "in", "01_a.ipynb", "WORD = 'x'  # which", "open('made', 'w').write(WORD);")
    told = []
    copies = site.execute_notebooks(
        tmp_path / "in", tmp_path / "out", parameters={"N": 3, "WORD": "y"}, told=told.append
    )
    assert [copy.name for copy in copies] == ["01_a.ipynb", "02_b.ipynb"]
    assert [line.split()[0] for line in told] == ["01_a", "01_a:", "02_b", "02_b:"]
    assert outputs(copies[1]) == "y 3\n"
    injected = nbformat.read(copies[1], as_version=4).cells[1]
    assert (injected.source, injected.metadata.tags) == ("N = 3", ["injected-parameters"])
    assert outputs(tmp_path / "in" / "02_b.ipynb") == ""


def test_a_failing_cell_is_named_and_its_copy_kept(tmp_path):
    write(tmp_path / "in", "01_a.ipynb", "N = 1  # how many", "print('before')\n1 / 0")
    with pytest.raises(RagopsError, match="01_a failed in code cell 2") as failure:
        site.execute_notebooks(tmp_path / "in", tmp_path / "out")
    assert "ZeroDivisionError" in failure.value.evidence
    assert outputs(tmp_path / "out" / "01_a.ipynb").startswith("before")


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    write(tmp_path / "in", "01_a.ipynb", "N = 1  # how many")
    with pytest.raises(RagopsError, match="no notebook has a parameter M"):
        site.execute_notebooks(tmp_path / "in", tmp_path / "out", parameters={"M": 1})
    assert not (tmp_path / "out").exists()


def test_a_notebook_without_parameters_declares_none(tmp_path):
    write(tmp_path, "a.ipynb", "N = 1", tag="other")
    assert site.declared_parameters(nbformat.read(tmp_path / "a.ipynb", as_version=4)) == {}


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz draws")
def test_draws_twice_and_names_the_source(tmp_path):
    source = tmp_path / "small.dot"
    source.write_text(DOT)
    light, dark = (file.read_text() for file in site.draw(source))
    assert "#ffffff" in light
    assert "#121417" in dark
    assert "#ffffff" not in dark
    assert site.drawn_from(tmp_path / "small-dark.svg") == site.drawn_from(tmp_path / "small-light.svg") != ""
    source.write_text("digraph {")
    with pytest.raises(RagopsError, match=r"dot can't draw small\.dot"):
        site.draw(source)


def test_drawing_without_graphviz_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RagopsError, match="there is no dot command") as failure:
        site.draw(tmp_path / "small.dot")
    assert "graphviz" in failure.value.hint


def docs(folder, page):
    for name in ("docs", "images", "notebooks"):
        (folder / name).mkdir(parents=True)
    (folder / "docs" / "conf.py").write_text("")
    (folder / "docs" / "index.rst").write_text(page)
    return folder / "docs"


def test_a_warning_stops_the_build_and_names_the_page(tmp_path):
    source = docs(tmp_path, "Title\n=====\n\n:doc:`nowhere`\n")
    with pytest.raises(RagopsError, match="the site has faults") as failure:
        site.build(source, tmp_path / "out")
    assert "docs/index.rst:4: WARNING: unknown document: 'nowhere'" in failure.value.evidence
    assert not (tmp_path / "out").exists()


def test_a_build_replaces_a_site_and_nothing_else(tmp_path):
    source = docs(tmp_path / "in", "Title\n=====\n")
    out = site.build(source, tmp_path / "out")
    (out / "old.html").touch()
    assert sorted(file.name for file in source.iterdir()) == ["conf.py", "index.rst"]
    site.build(source, out)
    assert (out / "index.html").exists()
    assert not (out / "old.html").exists()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").touch()
    with pytest.raises(RagopsError, match="holds no site"):
        site.build(source, tmp_path / "letters")
    assert Path(tmp_path / "letters" / "a.txt").exists()
