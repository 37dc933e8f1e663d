"""Texts of the score gate that are no golden questions: each shows one way to lose a part of a text; pure."""

from __future__ import annotations

import re
from functools import cache

QUERY = (
    "Which word opens the reserve tank of the old water tower when nobody of the day shift can be reached?"
)
"""Long, so that a server that tokenizes it once for all documents can be told from one that doesn't."""
PAIR = (
    "The reserve tank is opened by the word that the night shift keeps in a sealed envelope.",
    "Swallows leave in September and come back in April, when the first insects are in the air.",
)
LETTERS_QUERY = "水箱满了以后亮什么颜色的灯?"
LETTERS = ("Tank 7: 水箱满了以后亮绿色的灯。", "Tank 7: 食堂中午十二点开始供饭。")
"""Equal but for their Chinese, which is equally long."""
LETTERS_BARE = "Tank 7: "
"""What is left of both where only ASCII gets through."""

LONGEST = 720
"""Tokens of a pair that asks whether all of it is read: its document is longer than the 512 at which most
servers that cut off do so; more would only take longer."""

_FILLER = (
    "The tower was painted grey in spring.",
    "Visitors meet at the gate on Sunday mornings.",
    "A map of the pipes hangs beside the stairs.",
    "The lamps are changed before winter comes.",
    "Two benches stand below the lime tree.",
)
_DECISIVE = "The word that opens the reserve tank of the old water tower is marigold."
_IDLE = "The stairs to the roof garden of the new town hall are closed today."
_TOKENS_A_WORD = 1.2
"""Of the filler, rounded up; both tokenizers that were tried make 1.13 of a word."""


def long_documents(max_tokens: int, spare: int) -> tuple[str, str, str]:
    """Long documents that answer :data:`QUERY` in their last sentence, nowhere, and in their first.

    Args:
        max_tokens: Longest query and document together that the model takes.
        spare: Tokens to leave for the query, the prompt and the two sentences.
    """
    words = (min(max_tokens, LONGEST) - spare) / _TOKENS_A_WORD
    body = " ".join(_FILLER[number % len(_FILLER)] for number in range(max(1, int(words / 7.6))))
    return f"{_IDLE} {body} {_DECISIVE}", f"{_IDLE} {body} {_IDLE}", f"{_DECISIVE} {body} {_IDLE}"


@cache
def prompt(template: str, query: str, document: str) -> str:
    """The text that vLLM makes of a score template and a pair.

    Knows what our own templates use of Jinja, and no more.
    """
    usual = re.search(r'set usual = "([^"]*)"', template)
    text = re.sub(r"\{#-.*?-#\}\s*|\{%-.*?-%\}\s*", "", template, flags=re.DOTALL).removesuffix("\n")
    values = {"query": query, "document": document, r'"\n\n"': "\n\n"}
    values["instruction | default(usual, true)"] = usual[1] if usual else ""
    return re.sub(r"\{\{ (.*?) \}\}", lambda found: values[found[1]], text)
