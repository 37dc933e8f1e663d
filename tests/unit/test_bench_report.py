"""The report of a recorded run: content, charts, contrast and determinism."""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ragops import cli
from ragops.bench import judge, plots, report
from ragops.bench.records import Gemm, GemmPeak, LoadLevel, load_run
from ragops.bench.report import sections
from ragops.bench.statistics import level_statistics
from ragops.errors import BenchError
from tests.support.command import parse
from tests.support.runs import request, sequential, simulated

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
LOAD = load_run(RESULTS / "20261123T201612Z-intel-xeon-2cpu-load")
SIZES = load_run(RESULTS / "20261123T201607Z-intel-xeon-2cpu-sizes")
NEW = load_run(RESULTS / "20261126T003238Z-amd-epyc-2cpu-sizes")
OTHER = RESULTS / "20261125T205238Z-amd-epyc-2cpu-other-servers-vllm"
BARE = replace(LOAD, requests=(), samples=())


def with_info(run, **changes):
    return replace(run, info=replace(run.info, **changes))


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


# --- the page


def test_page_is_self_contained_and_its_references_resolve(shown):
    read = Read(shown)
    outside = [name for name in read.references if not name.startswith("#")]
    assert [name.partition(",")[0] for name in outside] == ["data:application/zip;base64"]
    assert re.findall(r"url\((?!#)[^)]*\)|@import|<script", shown) == []
    assert len(set(read.ids)) == len(read.ids)
    named = set(re.findall(r"url\(#([^)]*)\)", shown))
    named |= {name[1:] for name in read.references if name.startswith("#")}
    assert named
    assert named - set(read.ids) == set()


def test_title_state_values_and_conditions_come_first(shown):
    title = "RAGFlow's requests, all-MiniLM-L6-v2, intel-xeon-2cpu (amx), 23 November 2026"
    state, sentence, notes = report.headline(LOAD)
    assert (report.title_of(LOAD), state, judge(LOAD).state) == (title, "fits", "fits")
    assert re.search(r'<p class="status fits">(.*?)</p>', shown)[1] == escape(sentence).replace(
        "&#x27;", "&#39;"
    )
    (p95, share, documents) = report.key_values(LOAD)
    assert p95 == ("p95, 1 client", "326 ms")
    assert share[0] == "of RAGFlow's 30 s"
    assert float(share[1].rstrip(" %")) == pytest.approx(100 * judge(LOAD).p95.value / 30, rel=0.01)
    assert float(documents[1]) == pytest.approx(level_statistics(LOAD)[0].documents_per_s, rel=0.01)
    values = [f"{name} {value}" for name, value in (p95, share, documents)]
    parts = [title, LOAD.path.name, sentence, *values, *notes, "Reproduce this run"]
    places = [words(shown).split("ragops report", 1)[1].index(part) for part in parts]
    assert places == sorted(places)
    for run in (LOAD, SIZES):
        assert any("substitute model: a real bi-encoder" in note for note in report.headline(run).notes)


def test_a_run_without_a_verdict_is_measured():
    assert report.headline(SIZES).state == "measured"
    assert [name for name, _ in report.key_values(SIZES)] == ["p50, 1 client", "documents per second"]
    assert report.key_values(BARE) == ()


def test_contents_name_every_section(shown):
    anchors = re.findall(r'<li><a href="#([a-z]+)">', shown)
    assert anchors == re.findall(r'<section id="([a-z]+)">', shown)
    assert {"verdict", "percentiles", "sizes", "provenance", "reproduce"} <= set(anchors)


def test_raw_data_is_a_zip_from_which_the_same_run_is_read(tmp_path):
    data = base64.b64decode(report.raw_data(LOAD).partition(",")[2])
    zipfile.ZipFile(io.BytesIO(data)).extractall(tmp_path)
    again = load_run(tmp_path / LOAD.path.name)
    assert (again.info, again.requests, again.samples) == (LOAD.info, LOAD.requests, LOAD.samples)


@pytest.mark.parametrize(
    ("run", "lines"),
    [
        (NEW, ("git checkout", f"ragops bench --like {NEW.path.name}")),
        (load_run(OTHER), (f"ragops bench --like {OTHER.name} --url http://", "--model")),
        (
            with_info(NEW, workload=replace(NEW.info.workload, recipe="", profile="own")),
            (f"ragops bench --like {NEW.path.name} --workload FILE",),
        ),
    ],
    ids=["own server", "another server", "own texts"],
)
def test_commands_reproduce_the_run(run, lines):
    text = "\n".join(report.commands(run))
    assert [line for line in lines if line not in text] == []
    for line in report.commands(run):
        if line.startswith("ragops "):
            parse(shlex.split(line)[1:])


def test_a_run_without_a_recipe_has_no_command(shown):
    assert report.commands(LOAD) == ()
    assert "can't be generated again" in words(shown)


def test_a_page_of_a_site_links_to_it():
    assert '<a href="../index.html">' in report.page(BARE, home="../index.html")
    assert "ragops documentation" not in report.page(BARE)


def test_every_chart_has_both_forms_a_text_and_a_table(shown):
    labels = Read(shown).labels
    assert shown.count("<svg ") == 2 * len(labels) == 8
    assert all(shown.count(f'class="ragops-{form}-form"') == 4 for form in plots.FORMS)
    assert [label for label in labels if len(label) < 60] == []
    row = level_statistics(LOAD)[0]
    assert labels[0].startswith("With 1 client, 95 of 100 requests ended within 326 ms, 1.09 % of RAGFlow's")
    assert f"1 client (n=120): p50 {row.latency[0]}, p90 {row.latency[1]}, p95 {row.latency[2]}." in labels[0]
    assert [section.chart for section in sections(LOAD) if section.table is None] == ["throughput"]
    assert shown.count("<table") == 3 + 2  # verdict and provenance


@pytest.mark.parametrize(
    ("speeds", "conclusion"),
    [
        ((1.0, 1.0), "No load had more documents/s than 1 client"),
        ((1.0, 3.0), "No load had more documents/s than 1 client"),
        ((2.0, 1.0), "2 clients had the most documents/s"),
    ],
)
def test_the_text_of_the_throughput_is_a_conclusion(speeds, conclusion):
    levels = (LoadLevel.closed(1), LoadLevel.closed(2))
    requests = [r for n, s in zip(levels, speeds, strict=True) for r in sequential([s] * 6, level=n.name)]
    assert sections(simulated(requests, levels))[1].text.startswith(conclusion)


def test_the_text_of_the_sizes_is_the_law_of_time_and_tokens():
    times = [0.5 + 0.125 * count for count in (8, 16, 32, 64)] * 3
    run = simulated(sequential(times, sizes=(8, 16, 32, 64)))
    section = next(section for section in sections(run) if section.anchor == "sizes")
    assert section.text.startswith("A request takes 0.5 s and 0.5 ms for each token, so about 59,000 tokens")
    flat = next(
        section for section in sections(simulated(sequential([1.0] * 8))) if section.anchor == "sizes"
    )
    assert flat.text.startswith("There is no linear fit of time against tokens: all requests have the same")


def test_provenance_is_complete(shown):
    text, origin = words(shown), LOAD.info.provenance
    for part in (
        LOAD.path.name, origin.cpu_model, origin.model_sha256, origin.image_digest.removeprefix("sha256:"),
        "--max-model-len 256", "VLLM_CPU_OMP_THREADS_BIND=0-1", origin.kernel, origin.docker, origin.vllm,
        origin.git_commit, LOAD.info.workload.sha256, "workload 1, arrivals and order 1",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (BARE, "No request was sent"),
        (simulated([request(0, 1, phase="warmup")]), "No request was measured"),
        (simulated(sequential([1.0] * 8)), "There is one load level"),
        (simulated([request(0, 1, error="HTTP 500")]), "No request was successful"),
    ],
    ids=["none", "warm-up", "one level", "failed"],
)
def test_missing_charts_have_a_reason_among_the_limits(run, reason):
    assert any(reason in text for text in report.limitations(run))
    assert not any(reason in section.text for section in sections(run))


def test_values_are_escaped(bare):
    assert "<script>" not in bare
    assert "<b>x" not in bare
    assert "&lt;script&gt;alert(1)" in bare


def test_charts_use_the_colours_of_the_page(shown):
    charts = "".join(re.findall(r"<svg .*?</svg>", shown, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", charts) == []
    used = set(re.findall(r"var\(--(\w+)\)", shown))
    for mode in re.findall(r":root \{(.*?)\}", shown, flags=re.DOTALL):
        assert used - {"state"} <= set(re.findall(r"--(\w+):", mode))


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
    text += " ".join(artist.get_text() for artist in axes.texts)
    assert set(re.findall(r"timeout (?:is |of )?(\d+) s", text)) == {"300"}


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
    assert rows["p99"] == "needs 368 requests, has 120"
    assert report.verdict_rows(SIZES) == ()


def test_the_limit_of_the_machine_is_shown_where_it_was_measured():
    limit = GemmPeak("bfloat16", 1e9, 2, (Gemm("bfloat16", 2.5), Gemm("int8", None, "no kernel")))
    run = with_info(LOAD, limit=limit)
    value = "bfloat16 2.50 TFLOP/s, int8: no kernel, so at most 2500 tokens/s"
    assert dict(report.provenance(run))["matrix multiplication limit"] == value
    assert "limit of the machine" not in " ".join(report.limitations(run))


def test_sizes_of_a_grid_have_a_row_each_and_others_one_for_each_number_of_documents():
    sizes, heat_map = sections(SIZES)[1:3]
    rows = sizes.table.rows
    assert [row[:3] for row in rows] == [(d, w, "5") for d in ("8", "32", "64") for w in ("16", "40", "72")]
    assert all(row[4].endswith("(no interval)") for row in rows)
    assert heat_map.chart == "size_map"
    rows = sections(LOAD)[2].table.rows
    assert {row[1] for row in rows} == {"all"}
    assert sum(int(row[2]) for row in rows) == 120
    assert "[" in rows[0][4]
    assert "map" not in {section.anchor for section in sections(LOAD)}


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
    headline, *notes, name = done.stdout.splitlines()
    assert headline.startswith("Measured: 5 requests each")
    assert notes == [f"note: {note}" for note in report.headline(SIZES).notes]
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
    monkeypatch.chdir(tmp_path)
    for folder in (".", "", "/"):
        with pytest.raises(BenchError):
            report.write_report(SIZES, Path(folder))


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
