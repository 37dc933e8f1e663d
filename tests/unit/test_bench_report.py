"""The report of a recorded run: content, charts, contrast and determinism."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ragops import cli
from ragops.bench import judge, plots, report
from ragops.bench.records import Gemm, GemmPeak, load_run
from ragops.bench.report import sections
from ragops.bench.statistics import level_statistics
from ragops.errors import BenchError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
LOAD = load_run(RESULTS / "20261123T201612Z-intel-xeon-2cpu-load")
SIZES = load_run(RESULTS / "20261123T201607Z-intel-xeon-2cpu-sizes")
BARE = replace(LOAD, requests=(), samples=())


class Read(HTMLParser):
    """Ids, references, and labels of pictures."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.labels = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.references += [
            value for name, value in attrs if name.endswith(("src", "href", "srcset")) and value
        ]
        self.labels += [named["aria-label"]] if named.get("role") == "img" else []


@pytest.fixture(scope="module")
def shown():
    return report.page(LOAD)


@pytest.fixture(scope="module")
def bare():
    """A page without charts, of a run whose provenance has markup."""
    origin = replace(LOAD.info.provenance, machine="<b>x</b>", model_is_stand_in="<script>alert(1)</script>")
    return report.page(replace(BARE, info=replace(LOAD.info, provenance=origin)))


def words(text):
    """A page as a reader sees it, without charts."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("&#39;", "'").split())


def with_info(run, **changes):
    return replace(run, info=replace(run.info, **changes))


# --- the page


def test_page_is_self_contained_and_its_references_resolve(shown):
    read = Read(shown)
    assert [name for name in read.references if not name.startswith("#")] == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import|<script", shown) == []
    assert len(set(read.ids)) == len(read.ids)
    named = set(re.findall(r"url\(#([^)]*)\)", shown)) | {name[1:] for name in read.references}
    assert named
    assert named - set(read.ids) == set()


def test_verdict_comes_first_then_substitutes(shown):
    text = words(shown).split("report ", 1)[1]
    assert text.startswith(f"{LOAD.path.name} {report.headline(LOAD)}")
    for run in (LOAD, SIZES):
        assert "Substitute model: a real bi-encoder" in report.headline(run)


def test_every_chart_has_a_text_with_its_values_and_a_table_follows(shown):
    labels = Read(shown).labels
    assert shown.count("<svg ") == len(labels) == 4
    assert [label for label in labels if len(label) < 60] == []
    row = level_statistics(LOAD)[0]
    assert f"1 client (n=120): p50 {row.latency[0]}, p90 {row.latency[1]}, p95 {row.latency[2]}." in labels[0]
    assert "30 s" in labels[0]
    assert [section.chart for section in sections(LOAD) if section.table is None] == ["throughput"]
    assert shown.count("<table") == 3 + 2  # verdict and provenance


def test_provenance_is_complete(shown):
    text, origin = words(shown), LOAD.info.provenance
    for part in (
        LOAD.path.name, origin.cpu_model, origin.model_sha256, origin.image_digest.removeprefix("sha256:"),
        "--max-model-len 256", "VLLM_CPU_OMP_THREADS_BIND=0-1", origin.kernel, origin.docker, origin.vllm,
        origin.git_commit, LOAD.info.workload.sha256, "workload 1, arrivals and order 1",
    ):  # fmt: skip
        assert part in text


def test_missing_charts_have_a_reason(bare):
    assert "<svg " not in bare
    for reason in (
        "No request was measured",
        "one load level",
        "No request was successful",
        "No request was sent",
    ):
        assert reason in words(bare)


def test_values_are_escaped(bare):
    assert "<script>" not in bare
    assert "<b>x" not in bare
    assert "&lt;script&gt;alert(1)" in bare


def test_charts_use_the_colours_of_the_page(shown):
    charts = "".join(re.findall(r"<svg .*?</svg>", shown, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", charts) == []
    used = set(re.findall(r"var\(--(\w+)\)", shown))
    for mode in re.findall(r":root \{(.*?)\}", shown, flags=re.DOTALL):
        assert used <= set(re.findall(r"--(\w+):", mode))


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_contrast_in_both_modes(bare, mode):
    style = re.findall(r":root \{(.*?)\}", bare, re.DOTALL)[mode]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style))
    for name in ("ink", "quiet"):
        assert min(contrast(colours[name], colours[under]) for under in ("paper", "card")) > 4.5
    for name in ("blue", "vermilion", "green", "black"):
        assert contrast(colours[name], colours["paper"]) > 3


def contrast(one, two):
    """Contrast ratio of WCAG."""
    light, dark = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_series_differ_without_colour():
    assert len({style.marker for style in plots.STYLES}) == len(plots.STYLES)
    assert all(one.line != two.line for one, two in zip(plots.STYLES, plots.STYLES[1:], strict=False))
    assert len({style.colour for style in plots.STYLES}) == len(plots.STYLES)


def test_verdict_report_and_charts_have_the_timeout_of_the_release():
    run = with_info(LOAD, workload=replace(LOAD.info.workload, release="v0.24.0"))
    assert judge(run).timeout == 300
    text = " ".join([str(report.verdict_rows(run)), *(section.text for section in sections(run))])
    (axes,) = plots.percentile_curve(run).axes
    assert set(re.findall(r"timeout (?:is |of )?(\d+) s", text + axes.get_title(loc="left"))) == {"300"}


# --- content


@pytest.mark.parametrize(
    ("run", "present", "absent"),
    [
        (LOAD, ("p95, p99.", "One repetition", "limit of the machine was not"), ("samples",)),
        (BARE, ("no samples were taken",), ()),
        (SIZES, ("Several concurrent clients were not measured.",), ()),
        (with_info(LOAD, repeats=5), (), ("One repetition",)),
    ],
)
def test_limitations_depend_on_the_run(run, present, absent):
    text = " ".join(report.limitations(run))
    assert all(part in text for part in present)
    assert not any(part in text for part in absent)


def test_rows_of_the_verdict():
    rows = dict(report.verdict_rows(LOAD))
    assert rows["p95"] == str(judge(LOAD).p95)
    assert rows["p99"] == "not enough requests (120 of 368)"
    assert report.verdict_rows(SIZES) == ()


def test_the_limit_of_the_machine_is_shown_where_it_was_measured():
    limit = GemmPeak("bfloat16", 1e9, 2, (Gemm("bfloat16", 2.5), Gemm("int8", None, "no kernel")))
    run = with_info(LOAD, limit=limit)
    value = "bfloat16 2.50 TFLOP/s, int8: no kernel, so at most 2500 tokens/s"
    assert dict(report.provenance(run))["matrix multiplication limit"] == value
    assert "limit of the machine" not in " ".join(report.limitations(run))


def test_sizes_of_a_grid_have_a_row_each_and_others_one_for_each_number_of_documents():
    rows = sections(SIZES)[2].table.rows
    assert [row[:3] for row in rows] == [(d, w, "5") for d in ("8", "32", "64") for w in ("16", "40", "72")]
    assert all(row[4].endswith("(no interval)") for row in rows)
    rows = sections(LOAD)[2].table.rows
    assert {row[1] for row in rows} == {"all"}
    assert sum(int(row[2]) for row in rows) == 120
    assert " to " in rows[0][4]


def test_usage_of_the_reranker_is_in_a_table():
    columns = [column.name for column in sections(LOAD)[3].table.columns]
    assert columns[:3] == ["load", "CPU (cores) in use, mean", "CPU (cores) in use, max"]
    assert sections(replace(LOAD, samples=()))[3].table is None


# --- the command


def command(capsys, *argv):
    code = cli.main(["report", *map(str, argv)])
    return code, *capsys.readouterr()


def test_command_writes_in_another_process_the_same_page(tmp_path):
    argv = [sys.executable, "-m", "ragops", "report", SIZES.path.name, "--results", RESULTS]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    (file,) = tmp_path.iterdir()
    assert file.read_text() == report.page(SIZES)
    headline, name = done.stdout.splitlines()
    assert headline.startswith("Measured: 5 requests each")
    assert name == file.name == f"{SIZES.path.name}.html"


def test_command_as_json(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "sections", lambda _: ())
    file = tmp_path / "a" / "page.html"
    code, out, _ = command(capsys, SIZES.path, "--out", file, "--json")
    fields = json.loads(out)
    assert (code, fields["page"], fields["run"]) == (0, str(file), SIZES.path.name)
    assert file.exists()


def test_command_leaves_no_partial_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "sections", lambda _: ())
    (tmp_path / "page.html").mkdir()
    code, _, err = command(capsys, SIZES.path, "--out", tmp_path / "page.html")
    assert code == 1
    assert "hint: name another place with --out" in err
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# --- numbers on pages


@pytest.mark.parametrize("verb", [("report",), ("compare", "a" * 300), ("bench", "--resume")])
def test_a_name_that_is_too_long_is_an_error(capsys, verb):
    assert cli.main([*verb, "a" * 300]) == 1
    assert "hint:" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "..", "../{name}/", "charts/.."])
def test_a_page_has_the_name_of_its_run(capsys, tmp_path, monkeypatch, place):
    folder = tmp_path / SIZES.path.name
    shutil.copytree(SIZES.path, folder)
    (folder / "charts").mkdir()
    monkeypatch.chdir(folder / "charts" if place == ".." else folder)
    monkeypatch.setattr(report, "sections", lambda _: ())
    assert command(capsys, place.format(name=folder.name), "--json")[0] == 0
    assert [file.name for file in Path().glob("*.html")] == [f"{folder.name}.html"]


def test_only_regular_files_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "sections", lambda _: ())
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    with pytest.raises(BenchError) as caught:
        report.write_report(SIZES, device)
    assert caught.value.file == device
    assert device.is_symlink()


MEASURED = re.compile(
    r"\d[\d.,]*\s*(?:ms\b|(?:tokens|documents|docs|requests|pairs)/s|TFLOP|(?:times|x) (?:faster|slower))"
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]


def test_no_measured_number_is_typed_into_a_page():
    """Those come from a recorded run, through ``.. generated::``; limits that others set may be typed."""
    numbers = {file.name: MEASURED.findall(file.read_text()) for file in PAGES}
    assert {name: typed for name, typed in numbers.items() if typed} == {}
    for text in ("takes 235 ms", "2,475 tokens/s", "271 documents/s", "9 times faster", "2.5x faster"):
        assert MEASURED.search(text)
