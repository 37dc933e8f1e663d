"""The verbs that register the reranker in RAGFlow, and undo it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import registration
from ragops.cli.parts import OK, Verb, option, show, tell
from ragops.ragflow.register import INSTANCE, KEY
from ragops.ragflow.secret import KEY_VARIABLE, TOKEN_VARIABLE, read_secret
from ragops.stack import load

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _register(options: Options) -> int:
    stack = load(options.stack)
    spec = replace(
        registration.registration_spec(stack),
        key=read_secret(KEY_VARIABLE, options.key_file) or KEY,
        instance=options.instance,
        default=options.default,
        chats=tuple(options.chat),
        dataset=options.dataset or "",
    )
    token = read_secret(TOKEN_VARIABLE, options.token_file)
    show(options, registration.register(stack, token, url=options.url or "", spec=spec, log=tell))
    return OK


def _unregister(options: Options) -> int:
    stack = load(options.stack)
    spec = replace(registration.registration_spec(stack), instance=options.instance)
    token = read_secret(TOKEN_VARIABLE, options.token_file)
    show(options, registration.unregister(stack, token, url=options.url or "", spec=spec, log=tell))
    return OK


_COMMON = (
    option("--url", metavar="URL", help="RAGFlow's address (default: found from its container)"),
    option(
        "--instance", metavar="NAME", default=INSTANCE, help="the provider's instance (default: %(default)s)"
    ),
    option("--token-file", metavar="FILE", type=Path, help="RAGFlow's API token (or: RAGOPS_RAGFLOW_TOKEN)"),
)

VERBS = {
    "register": Verb(
        _register,
        "enter the reranker into RAGFlow through its API, and read it back",
        (
            *_COMMON,
            option("--default", action="store_true", help="make it the user's default rerank model"),
            option(
                "--chat",
                metavar="ID",
                action="append",
                default=[],
                help="let this chat use it; may be repeated",
            ),
            option("--dataset", metavar="ID", help="rank one query in this dataset at the end, as a check"),
            option("--key-file", metavar="FILE", type=Path, help="reranker's key (or: RAGOPS_RERANKER_KEY)"),
        ),
    ),
    "unregister": Verb(_unregister, "restore RAGFlow's settings from before register", _COMMON),
}
"""By name."""
