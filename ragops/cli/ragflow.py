"""The verbs that add the reranker to RAGFlow's models and remove it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import ragops
from ragops.cli.output import REMOVE, START, Call, flag, option, verb

app = typer.Typer()
Url = Annotated[str, option("URL", "RAGFlow's address; default: found from its container.")]
Instance = Annotated[str, option("NAME", "Name of the provider's instance in RAGFlow.")]
TokenFile = Annotated[Path | None, option("FILE", "File with RAGFlow's API token (or RAGOPS_RAGFLOW_TOKEN).")]
KeyFile = Annotated[Path | None, option("FILE", "File with the reranker's API key (or RAGOPS_RERANKER_KEY).")]


@verb(app, START, "RAGOPS_RAGFLOW_TOKEN=ragflow-... ragops register --default")
def register(
    call: Call,
    url: Url = "",
    instance: Instance = "ragops",
    token_file: TokenFile = None,
    default: Annotated[bool, flag("--default", "Set it as the user's default rerank model.")] = False,
    chat: Annotated[list[str] | None, option("ID", "Use it in this chat; may be repeated.")] = None,
    dataset: Annotated[str, option("ID", "Run one test retrieval on this dataset afterwards.")] = "",
    key_file: KeyFile = None,
) -> None:
    """Add the reranker to RAGFlow's models through its API and read the entry back."""
    from ragops.ragflow.api import KEY_VARIABLE, TOKEN_VARIABLE, read_secret
    from ragops.ragflow.providers import DEFAULT_KEY
    from ragops.stack.registration import registration_spec

    stack = call.stack()
    spec = replace(
        registration_spec(stack),
        key=read_secret(KEY_VARIABLE, key_file) or DEFAULT_KEY,
        instance=instance,
        default=default,
        chats=tuple(chat or ()),
        dataset=dataset,
    )
    call.show(ragops.register(stack, read_secret(TOKEN_VARIABLE, token_file), url=url, spec=spec))


@verb(app, REMOVE)
def unregister(
    call: Call, url: Url = "", instance: Instance = "ragops", token_file: TokenFile = None
) -> None:
    """Remove the reranker from RAGFlow's models and restore the earlier settings."""
    from ragops.ragflow.api import TOKEN_VARIABLE, read_secret
    from ragops.stack.registration import registration_spec

    stack = call.stack()
    spec = replace(registration_spec(stack), instance=instance)
    call.show(ragops.unregister(stack, read_secret(TOKEN_VARIABLE, token_file), url=url, spec=spec))
