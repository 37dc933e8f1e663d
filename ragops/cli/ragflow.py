"""The verbs that tell RAGFlow about the reranker, and take it out again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import registration
from ragops.cli.parts import OK, Verb, option, show, tell
from ragops.ragflow import secret
from ragops.ragflow.access import Access
from ragops.ragflow.register import INSTANCE, KEY
from ragops.stack import load

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _register(options: Options) -> int:
    stack = load(options.stack)
    wanted = replace(
        registration.wanted_of(stack),
        key=secret.find("RAGOPS_RERANKER_KEY", options.key_file) or KEY,
        instance=options.instance,
        default=options.default,
        chats=tuple(options.chat),
        dataset=options.dataset or "",
    )
    found = registration.register(stack, _access(options), url=options.url or "", wanted=wanted, told=tell)
    show(options, found)
    return OK


def _unregister(options: Options) -> int:
    stack = load(options.stack)
    wanted = replace(registration.wanted_of(stack), instance=options.instance)
    found = registration.unregister(stack, _access(options), url=options.url or "", wanted=wanted, told=tell)
    show(options, found)
    return OK


def _access(options: Options) -> Access:
    return Access.given(
        token_file=options.token_file,
        email=options.email or "",
        password_file=options.password_file,
        login=options.allow_login,
    )


_COMMON = (
    option("--url", metavar="URL", help="RAGFlow's address (default: found from its container)"),
    option(
        "--instance", metavar="NAME", default=INSTANCE, help="the provider's instance (default: %(default)s)"
    ),
    option("--token-file", metavar="FILE", type=Path, help="RAGFlow's API token (or: RAGOPS_RAGFLOW_TOKEN)"),
    option(
        "--allow-login", action="store_true", help="log in if need be; ends the user's sessions in browsers"
    ),
    option("--email", metavar="ADDRESS", help="who logs in"),
    option(
        "--password-file",
        metavar="FILE",
        type=Path,
        help="the password (or: RAGOPS_RAGFLOW_PASSWORD, or a prompt)",
    ),
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
            option("--dataset", metavar="ID", help="rank one question in this dataset, as a proof"),
            option("--key-file", metavar="FILE", type=Path, help="reranker's key (or: RAGOPS_RERANKER_KEY)"),
        ),
    ),
    "unregister": Verb(_unregister, "put back what was in RAGFlow before register", _COMMON),
}
"""By name."""
