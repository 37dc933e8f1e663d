"""The report of a recorded run: content, charts, contrast and determinism."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops import cli
from ragops.bench import judge, plots, report, series
from ragops.bench.plots.frame import STYLES, distribute
from ragops.bench.records import Gemm, GemmPeak, LoadLevel, Sample, load_run
from ragops.bench.report import sections
from ragops.errors import BenchError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
LOAD = load_run(RESULTS / "20261123T201612Z-intel-xeon-2cpu-load")
SIZES = load_run(RESULTS / "20261123T201607Z-intel-xeon-2cpu-sizes")
BARE = replace(LOAD, requests=(), samples=())


class Read(HTMLParser):
    """Ids, what is fetched, and labels of pictures."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.fetched, self.labels = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.fetched += [value for name, value in attrs if name.endswith(("src", "href", "srcset")) and value]
        self.labels += [named["aria-label"]] if named.get("role") == "img" else []


@pytest.fixture(scope="module")
def shown():
    return report.page(LOAD)


@pytest.fixture(scope="module")
def sizes():
    return report.page(SIZES)


def words(text):
    """A page as a reader sees it, figures left out."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("&#39;", "'").split())


# --- the page


def test_page_is_self_contained(shown):
    read = Read(shown)
    assert read.fetched
    assert [one for one in read.fetched if not one.startswith("#")] == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import", shown) == []
    assert "<script" not in shown


def test_ids_are_unique_and_references_resolve(shown):
    read = Read(shown)
    assert len(set(read.ids)) == len(read.ids)
    named = set(re.findall(r"url\(#([^)]*)\)", shown)) | {one[1:] for one in read.fetched}
    assert named - set(read.ids) == set()


def test_verdict_comes_first_then_substitutes(shown, sizes):
    text = words(shown).split("report ", 1)[1]
    assert text.startswith(f"{LOAD.path.name} {report.headline(LOAD)}")
    assert "Substitute model: a real bi-encoder" in text.split("How slow")[0]
    assert "Substitute model: a real bi-encoder" in words(sizes).split("How slow")[0]


def test_every_chart_has_a_text_and_a_table(shown):
    read = Read(shown)
    assert shown.count("<svg ") == len(read.labels) == 8  # four figures in two widths
    assert [one for one in read.labels if len(one) < 60] == []
    for section in re.findall(r"<section>.*?</section>", shown, flags=re.DOTALL):
        assert "<svg " not in section or "<table>" in section


def test_text_of_a_chart_has_its_values(shown):
    tail = Read(shown).labels[0]
    row = series.by_load(LOAD)[0]
    assert f"1 client (n=120): p50 {row.latency[0]}, p90 {row.latency[1]}, p95 {row.latency[2]}." in tail
    assert "30 s" in tail


def test_provenance_is_complete(shown):
    text = words(shown)
    made = LOAD.info.provenance
    for part in (
        LOAD.path.name, made.cpu_model, made.model_sha256, made.image_digest.removeprefix("sha256:"),
        "--max-model-len 256", "VLLM_CPU_OMP_THREADS_BIND=0-1", made.kernel, made.docker, made.vllm,
        made.git_commit, LOAD.info.workload.sha256, "workload 1, arrivals and order 1",
    ):  # fmt: skip
        assert part in text


def test_missing_charts_have_a_reason(shown, sizes):
    assert "are not a grid of documents by lengths" in words(shown)
    assert "there is no throughput" in words(sizes)
    empty = report.page(BARE)
    assert "<svg " not in empty
    for said in ("No request was measured", "No request was successful", "No request was sent"):
        assert said in words(empty)


def test_charts_use_the_colours_of_the_page(shown):
    styles = "".join(re.findall(r"<svg .*?</svg>", shown, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", styles)) == set()
    used = set(re.findall(r"var\(--(\w+)\)", shown))
    for mode in re.findall(r":root \{(.*?)\}", shown, flags=re.DOTALL):
        assert used <= set(re.findall(r"--(\w+):", mode))


def test_text_on_cells_of_the_map_has_contrast(sizes):
    svgs = "".join(re.findall(r"<svg .*?</svg>", sizes, flags=re.DOTALL))
    cells = set(re.findall(r"#[0-9a-f]{6}\b", svgs)) - {"#111111"}
    assert len(cells) == 9
    for colour in cells:
        assert contrast(colour, "#111111") > 4.5


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_contrast_in_both_modes(shown, mode):
    found = dict(
        re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", shown, re.DOTALL)[mode])
    )
    for name in ("ink", "quiet"):
        assert contrast(found[name], found["paper"]) > 4.5
        assert contrast(found[name], found["card"]) > 4.5
    lines = {name: contrast(found[name], found["paper"]) for name in ("blue", "vermilion", "green", "black")}
    assert {name: value for name, value in lines.items() if value < 3} == {}


def contrast(one, two):
    """As WCAG has it."""
    light, dark = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_values_are_escaped():
    made = replace(SIZES.info.provenance, machine="<b>x</b>", model_is_stand_in="<script>alert(1)</script>")
    run = replace(SIZES, info=replace(SIZES.info, provenance=made))
    text = report.page(replace(run, requests=())) + plots.svg(plots.latency_map(run))
    assert "<script>" not in text
    assert "<b>x" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(("release", "timeout"), [("v0.24.0", 300), ("v0.27.0", 30)])
def test_verdict_report_and_charts_have_the_timeout_of_the_release(release, timeout):
    load, slow = (
        replace(run, info=replace(run.info, workload=replace(run.info.workload, release=release)))
        for run in (LOAD, replace(SIZES, requests=tuple(map(delayed, SIZES.requests))))
    )
    assert judge(load).timeout == timeout
    page = report.page(load)
    assert set(re.findall(r"timeout (?:is |of )?(\d+) s", page)) == {str(timeout)}
    assert ("over 30 s" in plots.svg(plots.latency_map(slow))) is (timeout == 30)


def delayed(record):
    """The request with a latency 40 s longer."""
    return replace(record, t_done=record.t_done + 40 * 10**9)


# --- what it looks for


def test_limitations_depend_on_the_run():
    said = " ".join(report.limitations(LOAD))
    assert "p95, p99." in said
    assert "112 words" in said
    assert "One repetition" in said
    assert "no samples were taken" in " ".join(report.limitations(BARE))
    assert "Several concurrent clients were not measured." in report.limitations(SIZES)
    whole = replace(LOAD.info, repeats=5, workload=replace(LOAD.info.workload, cut_to=None))
    assert "One repetition" not in " ".join(report.limitations(replace(LOAD, info=whole)))


def test_rows_of_the_verdict():
    rows = dict(report.verdict_rows(LOAD))
    found = judge(LOAD)
    assert rows["p95"] == f"fits: {found.p95}"
    assert rows["p99"] == "not enough requests (120 of 368)"
    assert report.verdict_rows(SIZES) == ()


def test_the_limit_of_the_machine_is_shown_where_it_was_measured():
    limit = GemmPeak("bfloat16", 1e9, 2, (Gemm("bfloat16", 2.5), Gemm("int8", None, "no kernel")))
    run = replace(LOAD, info=replace(LOAD.info, limit=limit))
    said = "bfloat16 2.50 TFLOP/s, int8: no kernel, so at most 2500 tokens/s"
    assert dict(report.provenance(run))["matrix multiplication limit"] == said
    assert "matrix multiplication limit of the machine was not measured" not in " ".join(
        report.limitations(run)
    )
    assert "matrix multiplication limit of the machine was not measured" in " ".join(report.limitations(LOAD))


def test_sizes_are_a_grid_where_each_was_sent():
    grid = series.size_grid(SIZES)
    assert (grid.documents, grid.words) == ([8, 32, 64], [16, 40, 72])
    assert {cell.n for cell in grid.cells} == {5}
    assert grid.length(72) == "97 tokens"
    assert series.size_grid(LOAD) is None
    (row,) = [one.rows for one in sections(SIZES)[2].tables]
    assert row[2][3].endswith("(n=5)")


def played(gaps, level="closed-1"):
    """Requests of one client, each taking so many seconds."""
    now, records = 0, []
    for index, gap in enumerate(gaps):
        one = replace(LOAD.requests[-1], level=level, index=index, phase="measure", t_sched=now, t_send=now)
        now += round(gap * 1e9)
        records.append(replace(one, t_done=now))
    info = replace(LOAD.info, started_ns=0, levels=(LoadLevel.closed(1),))
    return replace(LOAD, info=info, requests=tuple(records), samples=())


def test_stalls_have_start_and_end():
    (found,) = series.stalls(played([1.0] * 10 + [5.0] + [1.0] * 10))
    assert (found.start, found.end) == (10.0, 15.0)
    assert series.stalls(played([1.0] * 20 + [2.5])) == []
    assert series.stalls(played([1.0] * 5 + [50.0])) == []
    assert "1 stalls, the longest 5 s" in sections(played([1.0] * 10 + [5.0] + [1.0] * 10))[4].text
    assert series.stalls(LOAD) == []


def test_time_without_requests_is_no_stall():
    run = played([1.0] * 20)
    late = tuple(
        replace(r, t_sched=r.t_sched + shift, t_send=r.t_send + shift, t_done=r.t_done + shift)
        for r in run.requests
        for shift in [60_000_000_000 if r.index > 9 else 0]
    )
    assert series.stalls(replace(run, requests=late)) == []


def test_knee_is_the_load_with_most_throughput_for_its_latency():
    rows = series.by_load(LOAD)
    power = [row.documents_per_s / row.latency[0].value for row in rows]
    assert series.knee(rows) is rows[power.index(max(power))]
    assert series.knee(rows[:2]) is None


def test_throttling_is_reported():
    samples = [Sample(n * 10**9, n * 10**9, n * 250_000_000) for n in range(5)]
    run = replace(LOAD, samples=tuple(samples))
    assert series.cpu_use(run) == (1.0, 0.25)
    assert "1.00 cores in use on average, throttled for 25.0% of the time" in sections(run)[4].text
    assert "not throttled" in sections(LOAD)[4].text
    assert "CPU was not sampled" in sections(replace(LOAD, samples=()))[4].text


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (LoadLevel.closed(1), "1 client"),
        (LoadLevel.closed(4), "4 clients"),
        (LoadLevel.poisson(0.5), "0.5/s at random"),
        (LoadLevel.constant(2), "2/s evenly"),
        (LoadLevel.burst(8), "8 at once"),
    ],
)
def test_loads_have_names_in_words(level, name):
    assert series.load_name(level.name) == name


# --- figures


def test_every_series_has_a_marker_of_its_own_and_neighbours_another_line():
    assert len({style.marker for style in STYLES}) == len({style.colour for style in STYLES}) == len(STYLES)
    assert all(one.line != two.line for one, two in pairwise(STYLES))


@pytest.mark.parametrize(
    "draw", [plots.percentile_curve, plots.throughput, plots.latency_by_size, plots.timeline, plots.resources]
)
def test_narrow_charts_have_text_of_the_same_size(draw):
    narrow = draw(LOAD, narrow=True)
    assert narrow.get_figwidth() < 4
    sizes = [
        text.get_fontsize()
        for ax in narrow.axes
        for text in (*ax.texts, *ax.get_xticklabels(), ax.xaxis.label)
    ]
    assert min(sizes) >= 8.5


def test_charts_are_deterministic():
    one, two = plots.percentile_curve(SIZES), plots.percentile_curve(SIZES)
    assert plots.svg(one) == plots.svg(two)
    assert plots.png(one) == plots.png(two)
    assert plots.png(one).startswith(b"\x89PNG")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.12))
def test_names_beside_lines_never_overlap(wanted, tall):
    places = distribute(sorted(wanted), [tall] * len(wanted))
    assert places[-1] + tall / 2 <= 1.04 + 1e-9
    assert all(b - a >= tall - 1e-9 for a, b in pairwise(places))


def test_names_stay_beside_their_lines_where_they_fit():
    assert distribute([0.2, 0.5, 0.9], [0.1] * 3) == pytest.approx([0.2, 0.5, 0.9])
    assert distribute([0.5, 0.5], [0.1] * 2) == pytest.approx([0.45, 0.55])


# --- the command


def said(capsys, *argv):
    code = cli.main(["report", *map(str, argv)])
    return code, *capsys.readouterr()


def test_command_writes_charts_and_in_another_process_the_same_page(sizes, tmp_path):
    argv = [sys.executable, "-m", "ragops", "report", SIZES.path.name, "--results", RESULTS]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [*argv, "--figures", "figures"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    file = tmp_path / f"{SIZES.path.name}.html"
    assert file.read_text() == sizes
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Measured: 5 requests each")
    assert lines[-1] == file.name
    assert sorted(chart.name for chart in (tmp_path / "figures").iterdir()) == [
        "latency_by_size.svg", "latency_map.svg", "percentile_curve.svg", "timeline.svg",
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"figures", file.name}


def test_command_as_json(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "sections", lambda run: sections(replace(run, requests=()))[1:2])
    code, out, _ = said(capsys, SIZES.path, "--out", tmp_path / "a" / "page.html", "--json")
    found = json.loads(out)
    assert (code, found["page"], found["run"]) == (0, str(tmp_path / "a" / "page.html"), SIZES.path.name)
    assert len(found["left_out"]) == 1


def test_command_leaves_no_partial_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "sections", lambda _: ())
    (tmp_path / "page.html").mkdir()
    code, _, err = said(capsys, SIZES.path, "--out", tmp_path / "page.html")
    assert code == 1
    assert "can't write" in err
    assert "hint: name another place with --out" in err
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


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
    assert said(capsys, place.format(name=folder.name), "--json")[0] == 0
    assert [file.name for file in Path().glob("*.html")] == [f"{folder.name}.html"]


def test_only_regular_files_are_replaced(tmp_path):
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    with pytest.raises(BenchError) as caught:
        report.write_report(SIZES, device)
    assert caught.value.file == device
    assert device.is_symlink()


MEASURED = re.compile(
    r"\d[\d.,]*\s*(?:ms\b|(?:tokens|documents|docs|requests|pairs)/s|TFLOP|(?:times|x) (?:faster|slower))"
)


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))], ids=lambda file: file.name
)
def test_no_measured_number_is_typed_into_a_page(file):
    """Those come from a recorded run, through ``.. generated::``; limits that others set may be typed."""
    assert MEASURED.findall(file.read_text()) == []


def test_typed_numbers_are_detected():
    for typed in ("takes 235 ms", "2,475 tokens/s", "271 documents/s", "9 times faster", "2.5x faster"):
        assert MEASURED.search(typed)
