"""Texts use plain, standard technical English: the words of the former dialect do not come back.

The list catches words, not synonyms. :data:`NOT_YET` names the files that still have some; it only shrinks.
"""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

REPLACEMENTS = {
    r"told|tells?|telling": "log, record, report, show",
    r"asked|asks|asking": "request, query; send",
    r"anew": "again; recreate",
    r"mend(s|ed|ing)?": "fix, repair",
    r"whoever|whomever|nobody|somebody": "name the subject",
    r"stand-?ins?|stands? in for|stood in for": "substitute model, demo client, fake",
    r"impostors?": "fault-injection server, faulty scorer",
    r"twins?": "contract test, plain fallback",
    r"patience|gives? up|gave up": "timeout",
    r"crowds?|callers": "concurrent clients",
    r"played": "run, sent",
    r"strangers?": "other containers, foreign requests",
    r"worked out|works? out": "estimated",
    r"can.t be told|can.t tell": "inconclusive, unknown",
    r"can.t be had": "is not available",
    r"drawn again": "resampled",
    r"put(s|ting)? back": "restore",
    r"by itself|of its own accord": "automatically",
    r"made so|makes? it so|keeps? it so": "apply; repair",
    r"as it should|what is there|no matter of|goes on and on": "say what it does",
    r"the house|rooms?|guests?": "architecture, package, space",
    r"king|challengers?": "baseline, candidate",
    r"golden questions": "golden set",
    r"score gate": "score check",
    r"declarations?|declared": "configuration, configured",
}
"""Regular expressions of words to avoid, each with what to write."""

PATTERN = re.compile(
    "|".join(rf"\b(?:{words})\b" for words in REPLACEMENTS).replace(" ", r"\s+"), re.IGNORECASE
)

VERBATIM = ("when nobody of the day shift can be reached", "ragflow-stand-in")
"""Texts that stay: foreign messages, queries of recorded measurements, former codes in the changelog."""

NOT_YET: set[str] = set()
"""Files whose texts still have such words. Remove a file as soon as it has none; add none."""

PROGRAMS = [
    file for folder in ("ragops", "benchmarks", "tools", "docs") for file in (ROOT / folder).rglob("*.py")
]
TEXTS = [*(ROOT / "docs").glob("**/*.rst"), *ROOT.glob("*.md")]
NOTEBOOKS = list((ROOT / "notebooks").glob("*.ipynb"))
FILES = {file.relative_to(ROOT).as_posix(): file for file in sorted([*PROGRAMS, *TEXTS, *NOTEBOOKS])}


def texts(file):
    """(line, text) of each comment and string of a program, each cell of a notebook, or a whole page."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        return [(number, "".join(cell["source"])) for number, cell in enumerate(json.loads(source)["cells"])]
    if file.suffix != ".py":
        return [(1, source)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    strings = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    return comments + strings


def matches(prose):
    """``line: word`` of each word to avoid."""
    words = []
    for line, original in prose:
        text = original
        for message in VERBATIM:
            text = text.replace(message, "")
        words += [
            f"{line + text[: match.start()].count(chr(10))}: {match.group()}"
            for match in PATTERN.finditer(text)
        ]
    return words


@pytest.mark.parametrize("name", FILES)
def test_no_file_has_words_to_avoid(name):
    words = matches(texts(FILES[name]))
    if name in NOT_YET:
        assert words, f"{name} has none of the words any more: remove it from NOT_YET"
    else:
        assert words == []


def test_files_that_are_not_yet_plain_exist():
    assert NOT_YET - FILES.keys() == set()


@pytest.mark.parametrize(
    "text", ["RAGFlow must be told it", "a stand-in is made\nanew", "what is\n    there"]
)
def test_the_list_catches_the_dialect(text):
    assert matches([(1, text)])


@pytest.mark.parametrize(
    "text", ["taking, making, tellurium, a bedroom", "the standard input", "ragops.toml"]
)
def test_the_list_leaves_other_words_alone(text):
    assert matches([(1, text)]) == []
