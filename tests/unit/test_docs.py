"""The site, built once with warnings as errors."""

import hashlib
import importlib
import json
import re
import shlex
import zlib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ragops
from ragops import bench, errors
from ragops.bench import plots
from ragops.checks import budget, connection, doctor, rules, verify
from ragops.checks.probe import LAYERS, TITLES
from ragops.configuration import TABLES, Stack
from ragops.docker import hints, swarm
from ragops.ragflow import api, releases
from tests.support.command import parse
from tools import site
from tools.commands import commands

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.rst"))


@pytest.fixture(scope="session")
def objects(built):
    """Names of all documented objects."""
    raw = (built / "objects.inv").read_bytes()
    lines = zlib.decompress(raw.split(b"zlib.\n", 1)[1]).decode().splitlines()
    return {line.split()[0] for line in lines}


def text(built, page):
    """The text of a page, with single spaces."""
    content = (built / f"{page}.html").read_text().split("<article", 1)[1]
    return " ".join(unescape(re.sub(r"<[^>]+>", "", content)).split())


def test_every_setting_is_documented(built, objects):
    page = text(built, "settings")
    for table, kind in TABLES.items():
        for key in kind.model_fields:
            assert f"{table}.{key}" in objects
            assert f"{table}.{key}" in page


def test_every_environment_variable_is_documented(built):
    code = "\n".join(file.read_text() for file in (ROOT / "ragops").rglob("*.py"))
    named = set(re.findall(r"\"(RAGOPS_[A-Z_]+)\"", code)) - {site.NOTEBOOKS, site.RUN}
    named -= {swarm.NODE, swarm.NODES}  # of tasks, which ragops starts
    page = text(built, "settings")
    assert sorted(name for name in named if name not in page) == []


def test_every_verb_and_option_is_documented(built):
    page = text(built, "command")
    for name, verb in commands().items():
        assert f"ragops {name}" in page
        for parameter in verb.params:
            spelled = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
            assert all(text in page for text in spelled)


def test_every_public_name_is_documented(objects):
    wanted = {f"ragops.{name}" for name in ragops.__all__}
    wanted |= {f"ragops.bench.{name}" for name in bench.__all__ if not name.isupper()}
    wanted |= {f"ragops.bench.plots.{name}" for name in plots.__all__}
    assert sorted(wanted - objects) == []


def test_every_error_is_documented(objects):
    own = [made for made in vars(errors).values() if isinstance(made, type)]
    assert sorted(f"ragops.{one.__name__}" for one in own if f"ragops.{one.__name__}" not in objects) == []


def test_every_known_message_is_a_title_with_its_fix(built):
    page = (built / "troubleshooting.html").read_text()
    titles = {
        " ".join(unescape(re.sub(r"<[^>]+>", "", one)).split()) for one in re.findall(r"<h3>.*?</h3>", page)
    }
    shown = text(built, "troubleshooting")
    for hint in hints.ENGINE + hints.CONTAINER:
        assert f"{hint.words}#" in titles
        assert " ".join(hint.remedy.split()) in shown


def test_every_check_of_doctor_is_explained(built, here, fake, ragflow):
    page = text(built, "doctor")
    assert [check.name for check in doctor.doctor(Stack(), fake).checks if check.name not in page] == []


def test_every_error_code_is_an_anchor(built):
    page = (built / errors.PAGE).read_text()
    raised = {kind.code for kind in vars(errors).values() if is_error(kind)}
    messages = (*hints.ENGINE, *hints.STATES.values(), *hints.CONTAINER, *api.FAILURES)
    known = {hint.code for hint in messages}
    assert [code for code in raised | known if f'id="{code}"' not in page] == []


def test_every_recorded_search_is_shown(built):
    page = text(built, "tune")
    kept = [one.name for one in (ROOT / "results").glob("*-tune")]
    assert kept
    assert [name for name in kept if name not in page] == []


def test_every_check_of_verify_is_explained(built):
    page = text(built, "verification")
    titles = [TITLES[layer] for layer in LAYERS]
    titles += [name for name, _ in rules.RULES]
    titles += [*budget.TITLES, verify.CLOSED, verify.PUBLISHED]
    assert [name for name in titles if name not in page] == []


def test_every_failure_that_verify_recognizes_is_a_title_with_its_fix(built):
    page = (built / "troubleshooting.html").read_text()
    titles = re.findall(r"<h3>.*?</h3>", page)
    shown = {" ".join(unescape(re.sub(r"<[^>]+>", "", one)).split()) for one in titles}
    said = text(built, "troubleshooting")
    for rule in connection.RULES:
        assert f"{rule.words}#" in shown
        assert rule.remedy.partition("{")[0] in said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_pages_are_valid(page):
    for line in re.findall(r"^ +\$ (?:\w+=\S+ )*ragops (.*)$", page.read_text(), re.MULTILINE):
        parse(shlex.split(line.partition(" > ")[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_make_targets_on_pages_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:``|\$ )make ([a-z]+)", page.read_text())) <= targets


def test_toml_on_pages_is_a_valid_configuration():
    pages = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"code-block:: toml\n\n((?:   .*\n|\n)+)", pages)
    assert blocks
    for block in blocks:
        ragops.configuration.parse(re.sub(r"^   ", "", block, flags=re.MULTILINE))


class Needs(HTMLParser):
    """Files that a browser loads for a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        fetched = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
        if tag in fetched and named.get(fetched[tag]):
            self.found.append(named[fetched[tag]])


def test_pages_need_no_other_host(built):
    pages = [page for page in built.rglob("*.html") if "_static" not in page.parts]
    assert len(pages) > 12
    for page in pages:
        reader = Needs()
        reader.feed(page.read_text())
        away = [one for one in reader.found if re.match(r"(https?:)?//", one)]
        assert away == [], page.name
        missing = [one for one in reader.found if not (page.parent / one.split("?")[0]).exists()]
        assert [one for one in missing if not one.startswith(("data:", "#"))] == [], page.name


def test_links_within_the_site_have_a_target(built):
    pages = {page: page.read_text() for page in built.rglob("*.html") if "_static" not in page.parts}
    places = {page: set(re.findall(r'\bid="([^"]+)"', words)) for page, words in pages.items()}
    for page, words in pages.items():
        for link in re.findall(r'<a [^>]*href="([^"]+)"', words):
            if re.match(r"\w+:", link):
                continue
            name, _, place = link.partition("#")
            target = (page.parent / name.partition("?")[0]).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            if place and target in places:
                assert unescape(place) in places[target], f"{page.name}: {link}"


def test_addresses_in_messages_are_no_links(built):
    pages = [page for page in built.rglob("*.html") if "_static" not in page.parts]
    linked = {
        link for page in pages for link in re.findall(r'<a [^>]*href="(\w+://[^"]*)"', page.read_text())
    }
    dead = r"\w+://($|NAME|127\.|ragflow-vllm|[^/]*\.example)"
    assert [link for link in linked if re.match(dead, link)] == []


def test_styles_need_no_other_host(built):
    for sheet in built.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", sheet.read_text()) == [], sheet.name


def test_the_site_has_no_paths_of_this_machine(built):
    private = [str(ROOT), str(Path.home())]
    for page in built.rglob("*.html"):
        assert [name for name in private if len(name) > 5 and name in page.read_text()] == [], page.name


def test_pages_show_the_recorded_run_and_its_substitute_model(built, recorded):
    assert f"built from run <code>{recorded.name}</code>" in (built / "network.html").read_text()
    page = text(built, "benchmark")
    assert recorded.name in page
    assert "substitute model: a stub" in page
    assert "2 clients 8 0 " in page
    assert "ragops-narrow-form" in (built / "benchmark.html").read_text()


def test_the_gallery_has_every_recorded_run_with_its_report(built):
    page = (built / "runs.html").read_text()
    links = set(re.findall(r'href="(reports/[^"]+)"', page))
    assert {Path(link).stem for link in links} == {
        f.parent.name for f in (ROOT / "results").glob("*/run.json")
    }
    assert [link for link in links if 'href="../runs.html"' not in (built / link).read_text()] == []
    table = page.split('class="ragops-gallery"')[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + len([*(ROOT / "results").rglob("run.json")])
    assert 'src="_static/gallery.js' in page


def test_ratios_have_a_dot_and_an_interval_where_there_is_one(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    rows = [("a", 1.2, 1.1, 1.3), ("b", 0.9, None, None)]
    (axes,) = importlib.import_module("charts").ratios(rows, "B / A", "recorded").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 1], [1.1, 1.3], [1.2], [0.9]]


@pytest.mark.parametrize("page", ["cross_validation", "other_servers", "tune"])
def test_tables_of_ratios_are_charts_first(built, page):
    content = (built / f"{page}.html").read_text()
    assert 'class="ragops-narrow-form"' in content
    assert "Values of the chart" in content


def test_pages_without_a_run_have_no_values(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    monkeypatch.delenv(site.RUN, raising=False)
    generated = importlib.import_module("generated")
    assert "make run" in "".join(generated.run("verdict"))
    assert "".join(generated.run("levels")) == ""


def test_every_image_has_an_alternative_text(built):
    pages = [page for page in built.rglob("*.html") if "_static" not in page.parts]
    drawn = {page: re.findall(r'<img [^>]*>|<div [^>]*role="img"[^>]*>', page.read_text()) for page in pages}
    assert any(images for page, images in drawn.items() if page.parent.name == "notebooks")
    for page, images in drawn.items():
        short = [one for one in images if not re.search(r'(alt|aria-label)="[^"]{40,}"', one)]
        assert short == [], page.name


def test_the_first_page_has_benefit_steps_speed_cost_and_limits(built):
    page = text(built, "index")
    for words in ("private reranker", "RAGOPS_MODEL_DIR=", "ragops up", "Qwen3-Reranker-0.6B", "ragops down"):
        assert words in page
    assert "make test" not in page
    raw = (built / "index.html").read_text()
    for linked in ("quickstart", "performance", "requirements", "limitations", "alternatives", "uninstall"):
        assert f'href="{linked}.html"' in raw, linked


def test_the_readme_has_the_recorded_times_of_the_site(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    readme = (ROOT / "README.md").read_text()
    rows = importlib.import_module("usual").seconds()
    assert len(rows) == 4
    for processor, value, how in rows:
        fits = "fits" if value < 30 else "does not fit"
        assert f"| {processor} | {value:.0f} s, {how} | {fits} |" in readme


def test_each_section_page_has_a_card_for_each_of_its_pages(built):
    for name in ("start", "tutorial", "guide", "explanation", "reference", "api", "contributing"):
        listed = re.findall(r"^   ([\w/]+): ", (ROOT / "docs" / f"{name}.rst").read_text(), re.MULTILINE)
        shown = re.findall(
            r'class="sd-stretched-link[^"]*" href="([\w/]+).html', (built / f"{name}.html").read_text()
        )
        assert listed
        assert shown == listed, name


def test_the_terminal_is_drawn_from_a_recorded_run():
    record = ROOT / "docs" / "_data" / "terminal.json"
    svg = (ROOT / "images" / "terminal.svg").read_text()
    assert (
        site.drawn_from(ROOT / "images" / "terminal.svg") == hashlib.sha256(record.read_bytes()).hexdigest()
    )
    assert re.findall(r"(?:href|src)=|url\((?!#)|@import|@font-face", svg) == []
    rows = json.loads(record.read_text())["commands"]
    assert {row["code"] for row in rows} == {0}
    for row in rows:
        parse(shlex.split(row["command"].removeprefix("ragops ")))


def test_diagrams_are_rendered_from_their_source():
    for source in (ROOT / "images").glob("*.dot"):
        now = hashlib.sha256(source.read_bytes()).hexdigest()
        for mode in ("light", "dark"):
            svg = source.with_name(f"{source.stem}-{mode}.svg")
            assert site.drawn_from(svg) == now, f"render {source.name} again"


def test_search_index_has_words_of_messages(built):
    index = (built / "searchindex.js").read_text()
    words = json.loads(index.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    assert "hfvalidationerror" in words["titleterms"]


def test_the_release_table_has_every_fact_and_source(built, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    assert set(importlib.import_module("releases").TITLES.values()) == set(releases.FACTS)
    page = text(built, "ragflow_releases")
    for facts in releases.FACTS.values():
        assert [one.source for one in facts if " ".join(one.source.split()) not in page] == []
    assert "v0.25.3 to v0.25.6 Python /v1/llm/add_llm 64 stemmed or natural sent whole 30 s" in page
    messages = text(built, "ragflow_errors")
    for hint in api.FAILURES:
        assert f"{hint.words}{hint.cause}" in messages


def is_error(value):
    return isinstance(value, type) and issubclass(value, errors.RagopsError)
