"""reranker/architectures.py: the table of architectures, and its lookups."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import get_args

import pytest

from ragops.configuration import Kind
from ragops.reranker import architectures, options
from ragops.reranker.architectures import REFUSED, SERVED, Refused

ROOT = Path(__file__).parents[2]


def test_every_kind_has_a_row_and_rows_of_one_kind_share_all_but_the_architecture():
    assert {row.kind for row in SERVED} == set(get_args(Kind))
    for row in SERVED:
        first = architectures.by_kind(row.kind)
        assert (row.overrides, row.template, row.splits, row.highest) == (
            *(first.overrides, first.template, first.splits),
            first.highest,
        )


def test_rows_of_one_architecture_have_marks():
    for row in SERVED:
        rows = [other for other in SERVED if other.name == row.name]
        assert len(rows) == 1 or all(other.marks for other in rows)
        assert len({other.model_type for other in rows}) == 1


def test_every_row_has_its_files_and_its_source():
    for row in SERVED:
        assert row.source
        assert row.examples
        assert not row.template or (options.TEMPLATES / row.template).is_file()
        assert (row.template_tokens > 4) == bool(row.template)  # 4: a pair of an encoder
    assert all(row.reason and row.alternative for row in REFUSED)


@pytest.mark.parametrize(
    "name", [example for row in SERVED if row.kind != "embedding" for example in row.examples]
)
def test_each_example_is_found_by_its_name(name):
    row = architectures.by_repository_name(name)
    assert row is not None
    assert not isinstance(row, Refused)
    assert name in next(own.examples for own in SERVED if own == row)


@pytest.mark.parametrize("name", [example for row in REFUSED for example in row.examples])
def test_each_refused_example_is_found_by_its_name(name):
    row = architectures.by_repository_name(name)
    assert isinstance(row, Refused)
    assert name in row.examples


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/models/qwen3-4b-reranker", "qwen3-reranker"),
        ("Qwen3_Reranker_0.6B-seq-cls", "qwen3-reranker-seq-cls"),
        ("dengcao/Qwen3-Reranker-8B:Q4_K_M", "qwen3-reranker"),
        ("BAAI/bge-m3", "embedding"),
        ("Qwen3-VL-Reranker-2B", None),
        ("my-embed-reranker", None),
        ("llama-3", None),
    ],
)
def test_names_of_others(name, kind):
    row = architectures.by_repository_name(name)
    assert getattr(row, "kind", None) == kind


class TestProofs:
    """docs/_data/architectures.json, the record of tests/live/test_architectures.py, as the page shows it."""

    RECORDED = json.loads((ROOT / "docs/_data/architectures.json").read_text(encoding="utf-8"))

    def test_every_row_was_compared_with_transformers(self):
        table = {(row.kind, row.name) for row in SERVED if row.kind != "embedding"}
        assert {(row["kind"], row["architecture"]) for row in self.RECORDED["rows"]} == table
        assert all(row["difference"] < 2e-4 and row["reference"] for row in self.RECORDED["rows"])

    def test_vllm_refused_what_the_table_refuses(self):
        for row in self.RECORDED["refused"]:
            assert isinstance(architectures.by_repository_name(row["checkpoint"]), Refused)
            assert row["error"]

    def test_the_page_shows_all(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
        page = "\n".join(importlib.import_module("generated").proofs())
        assert page.count("   * - ") == 1 + len(self.RECORDED["rows"]) + len(self.RECORDED["refused"])
        assert self.RECORDED["date"] in page
