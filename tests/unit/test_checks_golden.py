"""The golden set is what its README says, and both forms of it are what they should be."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from ragops.checks import golden
from ragops.checks.golden import ScoredItem, accuracy, word_overlap

ITEMS = golden.load()
FOLDER = files("ragops") / "data/golden"
BOTH = pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)


def words(text):
    """Words, or for Chinese the characters."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text)


class TestSet:
    def test_sizes(self):
        count = Counter(item.lang for item in ITEMS)
        assert len(ITEMS) >= 40
        assert set(count) == set(golden.LANGUAGES)
        assert count["zh"] >= 8
        assert count["de"] >= 8
        assert count["en"] > len(ITEMS) / 2

    def test_ids_and_queries_are_each_there_once(self):
        assert len({item.id for item in ITEMS}) == len({item.query for item in ITEMS}) == len(ITEMS)
        assert all(item.id.startswith(f"{item.lang}-") for item in ITEMS)

    def test_fields_of_a_line_agree(self):
        for line in (FOLDER / "golden.jsonl").read_text(encoding="utf-8").splitlines():
            raw = json.loads(line)
            assert set(raw) == {"id", "lang", "domain", "query", "documents"}
            for one in raw["documents"]:
                assert set(one) == {"title", "text", "right", "kind"}
                assert one["right"] is (one["kind"] == "right")

    @BOTH
    def test_documents(self, item):
        kinds = Counter(document.kind for document in item.documents)
        assert 6 <= len(item.documents) <= 10
        assert kinds["right"] in {1, 2}
        assert min(kinds["near-duplicate"], kinds["hard"], kinds["other"]) >= 1
        assert len(set(item.texts())) == len(item.documents)

    @BOTH
    def test_documents_are_short_enough_for_the_smallest_model(self, item):
        assert all(15 <= len(words(document.text)) <= 60 for document in item.documents)
        longest = 120 if item.lang == "zh" else 420
        assert all(len(item.query) + len(text) <= longest for text in item.texts())

    def test_the_place_says_nothing(self):
        first = Counter(next(p for p, one in enumerate(item.documents) if one.right) for item in ITEMS)
        assert set(first) == set(range(7))
        assert max(first.values()) <= len(ITEMS) / 4
        falling = (ScoredItem(item, tuple(-float(n) for n in range(len(item.documents)))) for item in ITEMS)
        assert accuracy(falling) == pytest.approx(0.5, abs=0.05)

    @pytest.mark.parametrize("lang", golden.LANGUAGES)
    def test_shared_words_do_not_find_the_right_documents(self, lang):
        assert 0.5 < accuracy(word_overlap(item) for item in ITEMS if item.lang == lang) < 0.7

    def test_the_readme_counts_right(self):
        text = (FOLDER / "README.md").read_text(encoding="utf-8")
        count = Counter(item.lang for item in ITEMS)
        documents = sum(len(item.documents) for item in ITEMS)
        said = f"{len(ITEMS)} queries ({count['en']} English, {count['de']} German, {count['zh']} Chinese)"
        assert f"{said} with {documents} documents" in " ".join(text.split())


class TestForms:
    def test_natural_is_title_and_text(self):
        assert golden.Document("A title", "A text.", "hard").written("natural") == "A title\nA text."

    def test_ragflow_is_lower_case_stemmed_and_ends_with_the_title(self):
        document = golden.Document("Log rotation", "Files are packed, don't worry!", "hard")
        assert document.written("ragflow") == "fil are pack don t worri log rot"

    def test_ragflow_leaves_chinese_unspaced(self):
        document = golden.Document("日志设置", "在 app.yaml 中写入,保存后重新加载。", "hard")
        assert document.written("ragflow") == "在 app yaml 中写入保存后重新加载日志设置"

    @BOTH
    def test_ragflow_form_keeps_documents_apart(self, item):
        told = item.texts("ragflow")
        assert len(set(told)) == len(told)
        assert all(text == text.lower() and not re.search(r"[,.;:!?()\u3002\uff0c]", text) for text in told)


class TestSubset:
    def test_is_spread_and_always_the_same(self):
        chosen = golden.subset((("en", 3), ("zh", 2)))
        assert [item.lang for item in chosen] == ["en", "zh", "en", "zh", "en"]
        assert [item.id for item in chosen][:3] == ["en-01", "zh-01", "en-11"]
        assert chosen == golden.subset((("en", 3), ("zh", 2)))

    def test_is_never_more_than_there_is(self):
        assert len(golden.subset((("de", 99),))) == sum(item.lang == "de" for item in ITEMS)
