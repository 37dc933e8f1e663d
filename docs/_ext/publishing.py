"""What a published site needs beside its pages: descriptions, cards, a sitemap, a page for missing addresses.

Parts that contain an address are written only if ``html_baseurl`` is set.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import re
import textwrap
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape as xml

from docutils import nodes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LONGEST = 200
"""Characters of a description; search engines show fewer."""
CARDS = "_static/cards"
BACKGROUND, BARS, TEXT, MUTED = "#10151c", ("#79b8ff", "#6fce8a", "#ffb070"), "#f2f5f8", "#b7c0ca"
NOT_A_PAGE = {"genindex", "search"}


def description(doctree: nodes.document) -> str:
    """The first paragraph of a page that is a sentence, shortened between words."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text.split()) > 4 and not {"ragops-source"} & set(paragraph["classes"]):
            return textwrap.shorten(text, LONGEST, placeholder=" …")
    return ""


def base_of(app: Sphinx) -> str:
    """Where the pages will be; ends in a slash, and is empty if unknown."""
    address: str = app.config.html_baseurl
    return address and f"{address.rstrip('/')}/"


def describe(app: Sphinx, name: str, _: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Add the description, the properties that a shared link shows, and the card to a page's head."""
    base = base_of(app)
    tags = re.sub(r'<meta name="viewport"[^>]*>\s*', "", context.get("metatags", ""))  # the theme has its own
    if doctree is not None:
        title = re.sub(r"<[^>]+>", "", context["title"])
        stated = re.search(r'<meta content="([^"]*)" name="description"', tags)
        text = stated[1] if stated else escape(description(doctree))
        properties = {"og:type": "website", "og:site_name": app.config.project, "og:title": title}
        if text:
            properties["og:description"] = text
        if base:
            file = f"{CARDS}/{name}.png"
            draw_card(Path(app.outdir) / file, title, text)
            address = f"{base}{file}"
            properties |= {"og:url": context["pageurl"], "og:image": address, "og:image:alt": title}
        if text and not stated:
            tags += f'<meta name="description" content="{text}" />\n'
        tags += "".join(f'<meta property="{key}" content="{value}" />\n' for key, value in properties.items())
        kind = "summary_large_image" if base else "summary"
        tags += f'<meta name="twitter:card" content="{kind}" />\n'
    context["metatags"] = tags


def draw_card(file: Path, title: str, text: str) -> None:
    """Draw the picture that is shown with a link to a page: 1200 by 630 pixels."""
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=BACKGROUND)
    for row, (colour, width) in enumerate(zip(BARS, (0.1, 0.07, 0.04), strict=True)):
        place = (0.07, 0.86 - 0.04 * row)
        figure.add_artist(Rectangle(place, width, 0.025, color=colour, transform=figure.transFigure))
    figure.text(0.19, 0.83, "ragops", size=30, color=TEXT, weight="bold", va="center", parse_math=False)
    lines = textwrap.wrap(title, 30)[:3]
    figure.text(0.07, 0.68, "\n".join(lines), size=44, color=TEXT, weight="bold", va="top", parse_math=False)
    below = 0.63 - 0.12 * len(lines)
    shown = "\n".join(textwrap.wrap(text, 64)[:3])
    figure.text(0.07, below, shown, size=24, color=MUTED, va="top", parse_math=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, facecolor=BACKGROUND)


def finish(app: Sphinx, failure: Exception | None) -> None:
    """Write the page for missing addresses, and with a known address the sitemap and robots.txt."""
    if failure or app.builder.format != "html":
        return
    out, base = Path(app.outdir), base_of(app)
    settings = {**app.config.html_context, "home": base, "project": app.config.project}
    (out / "404.html").write_text(app.builder.templates.render("missing.html", settings), encoding="utf-8")
    (out / ".nojekyll").touch()
    if base:
        names = sorted(app.env.found_docs - NOT_A_PAGE)
        (out / "sitemap.xml").write_text(sitemap(f"{base}{name}.html" for name in names), encoding="utf-8")
        (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n")


def sitemap(addresses: Any) -> str:
    """A sitemap of addresses."""
    rows = "".join(f"<url><loc>{xml(address)}</loc></url>\n" for address in addresses)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    return f"{head}{rows}</urlset>\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both events."""
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
