"""A recorded run as one self-contained HTML page.

Charts are inline SVG in two widths: for a desk and print, and for a phone. They use the page's colours in
light and dark. The same run gives the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from ragops.bench import facts
from ragops.bench.chapters import Section, sections
from ragops.errors import BenchError, file_errors

if TYPE_CHECKING:
    from pathlib import Path

    from ragops.bench.records import Run

_COLOURS = {
    "#1b1b1b": "ink", "#5f5f5f": "quiet", "#dddddd": "grid", "#ffffff": "paper", "#0072b2": "blue",
    "#d55e00": "vermilion", "#009e73": "green", "#cc79a7": "purple", "#e69f00": "orange", "#56b4e9": "sky",
    "#000000": "black",
}  # fmt: skip
"""Colours of the charts, and their names in the page's style."""

_PROLOGUE = re.compile(r"\A.*?(?=<svg )|<metadata>.*?</metadata>|<style .*?</style>", re.DOTALL)
_SIZE = re.compile(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"')
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_NEEDS = "reports need matplotlib and Jinja2"


@dataclass(frozen=True)
class Drawn:
    """A section with its chart in two widths; empty where there is none."""

    section: Section
    wide: str = ""
    narrow: str = ""


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    run: str
    verdict: str
    page: Path
    figures: tuple[Path, ...]
    left_out: tuple[str, ...]
    """Why a chart is missing, a sentence each."""

    def __str__(self) -> str:
        """The verdict first, then where the page is."""
        return "\n".join((self.verdict, *self.left_out, *map(str, self.figures), str(self.page)))


def page(run: Run) -> str:
    """The report of a run.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A self-contained HTML document.

    Raises:
        BenchError: matplotlib or Jinja2 is not installed.
    """
    return _lay_out(run, [_drawn(run, section) for section in sections(run)])


def write(run: Run, out: Path, *, figures: Path | None = None) -> Written:
    """Write the report atomically; an existing file is replaced.

    Args:
        run: From :func:`ragops.bench.load_run`.
        out: The page's file.
        figures: Folder for the charts as SVG files; none when left out.

    Raises:
        BenchError: A file can't be written, or matplotlib or Jinja2 is not installed.
    """
    drawn = [_drawn(run, section) for section in sections(run)]
    files = {out: _lay_out(run, drawn)}
    if figures is not None:
        files |= {figures / f"{one.section.figure}.svg": one.wide for one in drawn if one.wide}
    for file, text in files.items():
        _put(file, text)
    left_out = tuple(one.section.text for one in drawn if not one.wide)
    return Written(run.path.name, facts.headline(run), out, tuple(files)[1:], left_out)


def _put(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.new")
    with file_errors(BenchError, f"can't write {file}", file, hint="name another place with --out"):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def _drawn(run: Run, section: Section) -> Drawn:
    if not section.figure:
        return Drawn(section)
    try:
        from ragops.bench import plots  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BenchError(_NEEDS, hint="pip install 'ragops-rerank[bench]'", code="extra-missing") from error
    draw = getattr(plots, section.figure)
    return Drawn(section, plots.svg(draw(run)), plots.svg(draw(run, narrow=True)))


def _lay_out(run: Run, drawn: list[Drawn]) -> str:
    try:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - an extra
        from markupsafe import Markup  # noqa: PLC0415 - comes with Jinja2
    except ImportError as error:
        raise BenchError(_NEEDS, hint="pip install 'ragops-rerank[bench]'", code="extra-missing") from error
    source = (resources.files("ragops.data") / "report.html.jinja").read_text(encoding="utf-8")
    layout = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    parts = [
        (one.section, [(width, Markup(inline(svg, f"{one.section.figure}-{width}-"))) for width, svg in svgs])  # noqa: S704 - drawn here, its texts escaped by matplotlib
        for one in drawn
        for svgs in [(("wide", one.wide), ("narrow", one.narrow)) if one.wide else ()]
    ]
    headline = facts.headline(run)
    return layout.from_string(source).render(
        name=run.path.name,
        headline=headline,
        judged=facts.judged(run),
        stand_ins=[one for one in facts.stand_ins(run) if one[1] not in headline],
        origin=facts.origin(run),
        not_shown=facts.not_shown(run),
        sections=parts,
    )


def inline(svg: str, prefix: str) -> str:
    """An SVG document as an element of a page.

    Args:
        svg: As :func:`ragops.bench.plots.svg` gives it.
        prefix: Put before each id, so that ids stay single.
    """
    bare = _FONT.sub("", _SIZE.sub(r"\1", _PROLOGUE.sub("", svg), count=1))
    named = _ID.sub(rf"\g<1>{prefix}", bare)
    return re.sub(
        r"(?<=: )#[0-9a-f]{6}",
        lambda found: f"var(--{_COLOURS[found[0]]})" if found[0] in _COLOURS else found[0],
        named,
    )
