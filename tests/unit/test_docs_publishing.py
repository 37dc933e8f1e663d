"""A published site: addresses, descriptions, cards, sitemap, versions; no address is made up."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.dom import expatbuilder

import pytest

from ragops import RagopsError
from tools import addresses, site, versions

ROOT = Path(__file__).parents[2]
SITE, REPOSITORY = "https://ragops.test/docs/", "https://git.test/team/ragops"
INDEX = """
ragops
======

A sentence about a private reranker, on the first page.

.. only:: repository

   SOURCE

.. only:: published

   PUBLISHED

.. toctree::

   guide
   notebooks/tour
"""
GUIDE = f"Guide & more\n============\n\n{'A long sentence about the guide. ' * 12}\n"
CELL = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Tour\n\nA notebook that shows it."}
NOTEBOOK = {"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


class Head(HTMLParser):
    """Addresses and properties in the head of a page."""

    def __init__(self, page):
        super().__init__()
        self.links, self.properties = {}, {}
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "link":
            self.links[named["rel"]] = named["href"]
        if tag == "meta" and "content" in named:
            self.properties[named.get("property") or named.get("name")] = named["content"]


def write(folder):
    """A checkout with three short pages and the real configuration."""
    docs = folder / "docs"
    shutil.copytree(
        ROOT / "docs", docs, ignore=shutil.ignore_patterns("*.rst", "notebooks", "_run", "_extra")
    )
    (docs / "index.rst").write_text(INDEX)
    (docs / "guide.rst").write_text(GUIDE)
    for name in ("images", "notebooks"):
        (folder / name).mkdir()
    (folder / "notebooks" / "tour.ipynb").write_text(json.dumps(NOTEBOOK))
    return docs


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The site of the newest commit, with both addresses known."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.REPOSITORY, REPOSITORY)
        patch.setenv(addresses.SITE, SITE)
        patch.setenv("RAGOPS_VERSION", "dev")
        return site.build(write(folder), folder / "html")


PAGES = ("index", "guide", "notebooks/tour")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_its_address_description_and_card(published, name):
    head = Head(published / f"{name}.html")
    address = f"{SITE}dev/{name}.html"
    assert (head.links["canonical"], head.properties["og:url"]) == (address, address)
    assert 20 < len(head.properties["description"]) <= 200
    assert head.properties["og:description"] == head.properties["description"]
    assert head.properties["twitter:card"] == "summary_large_image"
    card = published / head.properties["og:image"].removeprefix(f"{SITE}dev/")
    width, height = (int.from_bytes(card.read_bytes()[place : place + 4]) for place in (16, 20))
    assert (width, height) == (1200, 630)


def test_titles_are_escaped_and_begin_with_the_page(published):
    assert "<title>Guide &amp; more — ragops</title>" in (published / "guide.html").read_text()
    assert Head(published / "guide.html").properties["og:title"] == "Guide & more"
    assert re.search("<title>ragops: .+</title>", (published / "index.html").read_text())


def test_the_sitemap_has_every_page_once(published):
    tree = expatbuilder.parse(str(published / "sitemap.xml"))  # noqa: S316 - it is ours
    found = [element.firstChild.data for element in tree.getElementsByTagName("loc")]
    assert sorted(found) == sorted(f"{SITE}dev/{name}.html" for name in PAGES)
    assert f"Sitemap: {SITE}dev/sitemap.xml" in (published / "robots.txt").read_text()


def test_links_lead_to_the_source_of_each_page(published):
    edits = {name: re.findall(r'href="([^"]+/edit/[^"]+)"', page(published, name)) for name in PAGES}
    assert set(edits["guide"]) == {f"{REPOSITORY}/edit/main/docs/guide.rst"}
    for name in PAGES:
        assert f'href="{REPOSITORY}/issues"' in page(published, name)
    assert "SOURCE" in page(published, "index")
    assert "PUBLISHED" in page(published, "index")


def test_the_page_for_missing_addresses_works_at_any_depth(published):
    links = re.findall(r'href="([^"]+)"', (published / "404.html").read_text())
    assert f"{SITE}dev/index.html" in links
    assert all(link.startswith("https://") for link in links)


def page(folder, name):
    return (folder / f"{name}.html").read_text()


def test_without_addresses_none_is_invented(built):
    for file in built.rglob("*.html"):
        if "_static" in file.parts or file.name in {"404.html", "report.html"}:
            continue
        head = Head(file)
        assert "canonical" not in head.links, file.name
        assert not {"og:url", "og:image"} & set(head.properties), file.name
        assert not re.search(r'href="[^"]*/(issues|edit|blob)\b', file.read_text()), file.name
        assert "switcher.json" not in file.read_text(), file.name
    assert not (built / "sitemap.xml").exists()
    assert 'href="index.html"' in (built / "404.html").read_text()


def test_every_page_has_a_description_of_its_own(built):
    sources = [file.relative_to(ROOT / "docs").with_suffix("") for file in (ROOT / "docs").rglob("*.rst")]
    described = {name: Head(built / f"{name}.html").properties.get("description", "") for name in sources}
    assert [str(name) for name, words in described.items() if len(words) < 20] == []
    assert len(set(described.values())) == len(described)


def test_the_files_of_a_site_are_there(published, built):
    for folder in (published, built):
        assert (folder / ".nojekyll").exists()
        assert not (folder / "CNAME").exists()
        icon = Head(folder / "notebooks" / "../index.html").links["icon"]
        assert (folder / icon.partition("?")[0]).exists()


def test_versions_stand_side_by_side(published, tmp_path):
    folder = tmp_path / "all"
    shown, names = [], []
    for version in ("dev", "0.9.0", "0.10.0", "0.9.1"):
        versions.add(folder, published, version, SITE)
        rows = json.loads((folder / "switcher.json").read_text())
        shown.append([row["version"] for row in rows])
        names.append([row["name"] for row in rows])
        assert [row["url"] for row in rows] == [f"{SITE}{row['version']}/" for row in rows]
        assert [row["version"] for row in rows if row.get("preferred")] == shown[-1][:1]
    assert shown[-1] == ["0.10.0", "0.9.1", "0.9.0", "dev"]
    assert (names[0], names[-1]) == (["dev"], ["0.10.0 (stable)", "0.9.1", "0.9.0", "dev"])
    assert 'content="0; url=stable/index.html"' in (folder / "index.html").read_text()
    for name in ("dev/guide.html", "0.9.0/index.html", "stable/index.html", "404.html", ".nojekyll"):
        assert (folder / name).exists(), name


def test_stable_is_the_newest_release(published, tmp_path):
    for version in ("0.10.0", "0.9.1"):
        copy = shutil.copytree(published, tmp_path / version)
        (copy / "index.html").write_text(version)
        versions.add(tmp_path / "all", copy, version, SITE)
    assert (tmp_path / "all" / "stable" / "index.html").read_text() == "0.10.0"


@pytest.mark.parametrize("version", ["", "latest", "../up", "v0.1.0", "0.1"])
def test_a_version_is_a_release_or_dev(published, tmp_path, version):
    known = version == "0.1"
    if known:
        assert versions.add(tmp_path / "all", published, version, SITE).name == version
    else:
        with pytest.raises(RagopsError, match="no version of the site"):
            versions.add(tmp_path / "all", published, version, SITE)
        assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("urls", "environment", "expected"),
    [
        ("", {}, ("", "")),
        (f'Repository = "{REPOSITORY}/"', {}, (REPOSITORY, "")),
        ("", {addresses.SITE: SITE.rstrip("/")}, ("", SITE)),
        (f'Documentation = "{SITE}"', {}, ("", SITE)),
        (f'Documentation = "{SITE}"', {addresses.SITE: ""}, ("", "")),
    ],
)
def test_addresses_come_from_the_one_setting(tmp_path, urls, environment, expected):
    file = tmp_path / "pyproject.toml"
    file.write_text(f"[project]\n[project.urls]\n{urls}\n")
    read = addresses.read(file, environment)
    assert (read.repository, read.site) == expected
