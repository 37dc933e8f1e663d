"""Every page in a browser: in both modes, wide and narrow, for those who see and those who listen."""

from dataclasses import dataclass

import pytest
from axe_playwright_python.sync_playwright import Axe

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 360, "height": 740}
MODES = ("light", "dark")
WHOLE = {
    "resultTypes": ["violations"],
    "preload": False,
}  # it would look for imported styles in the wrong place
CONTRAST = {**WHOLE, "runOnly": ["color-contrast"]}
FIRST = {
    "install": "quickstart",
    "uninstall": "uninstall",
    "requirements": "requirements",
    "latency": "performance",
    "timeout": "request",
    "arm64": "requirements",
    "kubernetes": "kubernetes",
    "podman": "requirements",
    "licence": "requirements",
    "license": "requirements",
    "TEI": "alternatives",
    "Qwen3": "model",
}
"""What an operator types into the search, and the page that belongs on top."""
TOO_WIDE = """() => {
  const scrolls = one => /auto|scroll/.test(getComputedStyle(one).overflowX);
  const kept = one => one.tagName == "ARTICLE" ? false : scrolls(one) || kept(one.parentElement);
  const edge = document.documentElement.clientWidth + 1;
  const page = [...document.querySelectorAll("html, .prev-next-area a, article :is(h1, h2, h3, p, li, dt)")]
    .filter(one => one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1);
  const parts = [...document.querySelectorAll("article *")]
    .filter(one => one.getBoundingClientRect().right > edge && !kept(one.parentElement));
  return [...page, ...parts].filter(one => one.checkVisibility())
    .map(one => `${one.tagName} ${one.textContent.trim().slice(0, 60)}`);
}"""
"""Elements wider than their place, or beyond the window and in no element that scrolls."""


@dataclass(frozen=True)
class Visit:
    """What was found on one page."""

    name: str
    away: tuple[str, ...]
    """Requested addresses of other hosts."""
    broken: tuple[str, ...]
    """Files that are not there, and errors of its scripts."""
    barriers: tuple[str, ...]
    """What axe calls serious or critical, in either mode."""
    too_wide: tuple[str, ...]
    """What is cut off at a side, or makes the page scroll sideways; with the width of the window."""


@pytest.fixture(scope="module")
def visits(built, open_tab):
    """Every page, looked at once."""
    names = [one.relative_to(built) for one in sorted(built.rglob("*.html")) if "_static" not in one.parts]
    with open_tab() as tab:
        return [visit(tab, str(name)) for name in names]


def visit(tab, name):
    tab.away.clear()
    tab.broken.clear()
    tab.set_viewport_size(WIDE)
    tab.goto(name)
    barriers = serious(tab, WHOLE)
    set_mode(tab, "dark")
    barriers += serious(tab, CONTRAST)
    too_wide = []
    for size in (WIDE, NARROW):
        tab.set_viewport_size(size)
        too_wide += [f"{size['width']}: {found}" for found in tab.evaluate(TOO_WIDE)]
    return Visit(name, tuple(tab.away), tuple(tab.broken), tuple(barriers), tuple(too_wide))


def serious(tab, options):
    """What axe finds, as text that names the rule, the element and the reason."""
    return [
        f"{rule['id']}: {node['target']}: {node['failureSummary']}"
        for rule in Axe().run(tab, options=options).response["violations"]
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]


def set_mode(tab, mode):
    tab.evaluate("mode => { document.documentElement.dataset.theme = mode }", mode)


def test_pages_are_whole_without_any_other_host(visits):
    assert len(visits) > 20
    assert {one.name: one.away + one.broken for one in visits if one.away or one.broken} == {}


def test_axe_finds_nothing_serious_in_either_mode(visits):
    assert "\n".join(f"{one.name}: {found}" for one in visits for found in one.barriers) == ""


def test_nothing_is_cut_off_and_no_page_scrolls_sideways(visits):
    assert {one.name: one.too_wide for one in visits if one.too_wide} == {}


def test_each_mode_shows_its_own_diagrams(open_tab):
    with open_tab() as tab:
        for name in ("index", "request", "architecture"):
            tab.goto(f"{name}.html")
            for mode in MODES:
                set_mode(tab, mode)
                shown = [
                    one.get_attribute("src") for one in tab.locator("img.diagram").all() if one.is_visible()
                ]
                assert [one.rpartition("-")[2] for one in shown] == [f"{mode}.svg"]


@pytest.mark.parametrize(("word", "page"), FIRST.items())
def test_the_first_result_of_a_search_is_the_right_page(open_tab, word, page):
    with open_tab() as tab:
        tab.goto(f"search.html?q={word}")
        first = tab.locator("ul.search li a").first
        first.wait_for()
        assert first.get_attribute("href").startswith(f"{page}.html")


@pytest.mark.parametrize(
    ("word", "page"), [("HFValidationError", "troubleshooting"), ("loopback", "settings")]
)
def test_search_finds_a_word(open_tab, word, page):
    with open_tab() as tab:
        tab.goto(f"search.html?q={word}")
        hit = tab.locator(f"ul.search a[href^='{page}.html']").first
        hit.wait_for()
        hit.click()
        tab.wait_for_url(f"**/{page}.html*")
        assert tab.locator("article").get_by_text(word).first.is_visible()
