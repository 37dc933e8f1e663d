"""The notebooks as they are kept: short, without outputs, set by their first cell alone."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import ragops
from ragops import bench, notebook
from ragops.bench import plots
from tools import site

FOLDER = Path(__file__).parents[2] / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file):
    return nbformat.read(file, as_version=4)


def code(file):
    return [cell for cell in read(file).cells if cell.cell_type == "code"]


def test_is_valid_and_ids_are_words_of_their_own(file):
    notebook = read(file)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", one) for one in ids)


def test_keeps_no_outputs_and_no_traces_of_a_run(file):
    notebook = read(file)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(file))
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_first_code_cell_holds_parameters_that_are_literals_with_a_comment(file):
    first, *others = code(file)
    assert first.metadata.tags == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in others)
    assert site.default_parameters(read(file))
    for statement in ast.parse(first.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    assert all("  # " in line for line in first.source.splitlines())


def test_every_parameter_is_used(file):
    _, *others = code(file)
    used = " ".join(cell.source for cell in others)
    assert [name for name in site.default_parameters(read(file)) if not re.search(rf"\b{name}\b", used)] == []


def test_cells_are_short_and_call_the_library(file):
    for cell in code(file):
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        assert len(cell.source.splitlines()) <= 12, cell.id
        logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.Lambda)
        assert not any(isinstance(node, logic) for node in ast.walk(tree)), cell.id


def test_calls_only_what_the_library_has(file):
    modules = {"ragops": ragops, "bench": bench, "notebook": notebook, "plots": plots}
    for cell in code(file):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                assert module is None or hasattr(module, node.attr), (cell.id, node.attr)


def test_names_nothing_of_one_machine(file):
    text = json.dumps([cell.source for cell in read(file).cells])
    assert not re.search(r"/home/|/root|/work/|/tmp/|/Users/", text)
    assert not re.search(r"ghp_|hf_[A-Za-z0-9]{8}|ragflow-[A-Za-z0-9]{16}", text)


def test_begins_with_purpose_changes_duration_and_undo(file):
    first, *_, last = [cell for cell in read(file).cells if cell.cell_type == "markdown"]
    assert first.source.startswith("# ")
    for said in (
        "**What it does.**",
        "**What it changes.**",
        "**How long it takes.**",
        "**How to undo it.**",
    ):
        assert said in first.source
    assert last.source.startswith("## Next")


def test_links_lead_to_notebooks_that_are_there(file):
    for cell in read(file).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (FOLDER / target).exists(), target
