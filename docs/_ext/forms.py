"""More parts of pages that are made from the code: forms of files, the prompt, what a container may do."""  # noqa: INP001

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import jinja2
from generated import HOST, MODEL, PARTS, RUN_PARTS, attribute_docs, indented, inline, row_of

from ragops import stack, vllm
from ragops.bench import records
from ragops.bench import verdict as judge
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx


def result(name: str) -> Iterator[str]:
    """The fields of one record of a run, as its file has them."""
    made = getattr(records, name)
    said = attribute_docs(made)
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(("field", "value", "meaning"))
    for one in fields(made):
        meaning = inline(said.get(one.name, "")).replace("None", "null")
        yield from [f"   * - ``{one.name}``", f"     - {spelled(str(one.type))}", f"     - {meaning}"]
    yield ""


def spelled(kind: str) -> str:
    """A type in the words of JSON."""
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
    """The prompt that Qwen3-Reranker was trained with, as the template makes it of a pair."""
    text = vllm.TEMPLATES.joinpath(vllm.known(MODEL).template).read_text(encoding="utf-8")
    pair = [{"role": "query", "content": "THE QUERY"}, {"role": "document", "content": "THE DOCUMENT"}]
    # As vLLM and transformers do; the last newline of the file is dropped.
    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(text)  # noqa: S701
    said = made.render(messages=pair)
    shown = said.rstrip("\n") + "\\n" * (len(said) - len(said.rstrip("\n")))
    yield from [".. code-block:: text", "", *indented(shown), ""]
    yield from ["The two newlines at its end are spelled here as ``\\n``, because nobody would see them.", ""]


def hardening() -> Iterator[str]:
    """What the reranker's container may do, from the launch of the mission's model."""
    spec = vllm.launch(stack.Stack(), MODEL, HOST, image=stack.Reranker().image)
    ports = ", ".join(f"{address}:{port}" for address, port, _ in spec.publish)
    rows = (
        ("capabilities", f"none: ``--cap-drop {' '.join(spec.cap_drop)}``"),
        ("new privileges", f"none: ``--security-opt {' '.join(spec.security_opt)}``"),
        ("root file system", "read-only" if spec.read_only else "writable"),
        ("writable places", ", ".join([*(f"``{path}``" for path, _ in spec.tmpfs), *written(spec)])),
        ("processes and threads", f"at most {spec.pids_limit}"),
        ("memory", "limited, without swap; the limit follows from the model"),
        ("cores", f"its own set, here ``{spec.cpuset_cpus}``"),
        ("published", f"``{ports}`` by default"),
    )
    yield from [".. list-table::", ""]
    for name, value in rows:
        yield from [f"   * - {name}", f"     - {value}"]
    yield ""


def written(spec: Any) -> list[str]:
    """Mounts that the container can write to."""
    return [f"``{mount.target}``, a volume" for mount in spec.mounts if not mount.read_only]


def run_service(recorded: Any) -> Iterator[str]:
    """The line of time against tokens that a run gives, if it gives one."""
    try:
        found = judge(recorded)
    except BenchError:
        return
    said = f"{found.service}" if found.service else "; ".join(found.notes)
    yield from [f"   {inline(said)}", "", f"Run ``{recorded.path.name}``, {standing(recorded)}.", ""]


def standing(recorded: Any) -> str:
    """The model of a run, and what it stands in for."""
    origin = recorded.info.provenance
    what = f", a stand-in: {origin.model_is_stand_in}" if origin.model_is_stand_in else ""
    return inline(f"model {origin.model}{what}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to those of ``generated``."""
    app.setup_extension("generated")
    PARTS.update(result=result, prompt=prompt, hardening=hardening)
    RUN_PARTS["service"] = run_service
    return {"parallel_read_safe": True, "parallel_write_safe": True}
