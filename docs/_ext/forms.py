"""Parts of pages that are generated from the code: file formats, the prompt, permissions of containers."""  # noqa: INP001

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from generated import HOST, MODEL, PARTS, RUN_PARTS, indented, inline, row_of

from ragops import configuration
from ragops.bench import judge, records
from ragops.docker.objects import LOG_OPTIONS
from ragops.errors import BenchError
from ragops.ragflow.request import RERANK_TIMEOUT
from ragops.reranker import gateway, options
from ragops.reranker.sizing import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx


def result(name: str) -> Iterator[str]:
    """The fields of one record of a run, as its file has them."""
    record = getattr(records, name)
    docs = configuration.meanings(record)
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(("field", "value", "meaning"))
    for field in fields(record):
        meaning = inline(docs.get(field.name, "")).replace("None", "null")
        yield from [f"   * - ``{field.name}``", f"     - {spelled(str(field.type))}", f"     - {meaning}"]
    yield ""


def spelled(kind: str) -> str:
    """A type in terms of JSON."""
    if kind.startswith("tuple"):
        return "list"
    words = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "Phase": "text",
    }
    first, _, null = kind.partition(" | ")
    return words.get(first, "object") + (" or null" if null else "")


def prompt() -> Iterator[str]:
    """The prompt of Qwen3-Reranker, as the template renders it for a pair."""
    text = options.TEMPLATES.joinpath(options.known(MODEL).template).read_text(encoding="utf-8")
    pair = [{"role": "query", "content": "THE QUERY"}, {"role": "document", "content": "THE DOCUMENT"}]
    # As vLLM and transformers do; the last newline of the file is dropped.
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(text)  # noqa: S701
    prompt = template.render(messages=pair)
    text = prompt.rstrip("\n")
    text += "\\n" * (len(prompt) - len(text))
    yield from [".. code-block:: text", "", *indented(text), ""]
    yield from ["The two newlines at its end are shown as ``\\n``.", ""]


def hardening() -> Iterator[str]:
    """Permissions of the gateway's container and of a replica's, from the options for Qwen3-Reranker."""
    stack = configuration.Stack()
    spec = options.container_spec(stack, MODEL, size(stack, MODEL, HOST), image=stack.reranker.image)
    folder = Path("reference")
    front = gateway.container_spec(stack, timeout=RERANK_TIMEOUT, splits=True, publish=(), folder=folder)
    address = f"{stack.reranker.publish}:{stack.reranker.port}"
    rows = [
        ("capabilities", "none: ``--cap-drop ALL``", "none"),
        ("new privileges", "none: ``--security-opt no-new-privileges``", "none"),
        (
            "user",
            f"``{front.user}``",
            f"``{spec.user}``, or the owner of a model folder that is closed to others",
        ),
        ("root file system", *("read-only" if item.read_only else "writable" for item in (front, spec))),
        ("writable paths", *(", ".join(written(item)) or "none" for item in (front, spec))),
        ("programs", "Python and the gateway, no shell", "those of the image"),
        ("processes and threads", *(f"at most {item.pids_limit}" for item in (front, spec))),
        ("memory", f"{front.memory >> 20} MiB, without swap", "by the model, without swap"),
        ("cores", "any", f"a fixed set, here ``{spec.cpuset_cpus}``"),
        ("published", f"{address} on Docker 28 and later, else nothing", "nothing"),
        ("restart", f"``{front.restart}``", f"``{spec.restart}``"),
        ("stopped by", f"SIGTERM, after {front.stop_timeout} s SIGKILL", spec.stop_signal),
    ]
    log = ", ".join(f"{name} {value}" for name, value in LOG_OPTIONS.items())
    yield from [".. list-table::", "   :header-rows: 1", "   :widths: 20 40 40", ""]
    for row in (("", "gateway", "replica of vLLM"), *rows, ("log", f"rotated: {log}", "rotated")):
        yield from row_of(row)
    yield ""


def written(spec: Any) -> list[str]:
    """Writable folders in memory and mounts."""
    memory = [f"``{path}`` ({how})" for path, how in spec.tmpfs]
    return memory + [f"``{mount.target}``, a volume" for mount in spec.mounts if not mount.read_only]


def run_service(recorded: Any) -> Iterator[str]:
    """The linear fit of time against tokens of a run, if there is one."""
    try:
        verdict = judge(recorded)
    except BenchError:
        return
    text = f"{verdict.service}" if verdict.service else verdict.no_estimate
    yield from [f"   {inline(text)}", "", f"Run ``{recorded.path.name}``, {model(recorded)}.", ""]


def model(recorded: Any) -> str:
    """The model of a run, and whether it is a substitute."""
    provenance = recorded.info.provenance
    note = f", a substitute model: {provenance.model_is_stand_in}" if provenance.model_is_stand_in else ""
    return inline(f"model {provenance.model}{note}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to those of ``generated``."""
    app.setup_extension("generated")
    PARTS.update(result=result, prompt=prompt, hardening=hardening)
    RUN_PARTS["service"] = run_service
    return {"parallel_read_safe": True, "parallel_write_safe": True}
