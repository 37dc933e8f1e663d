"""Parts of pages that are made from the code they describe: ``.. generated:: NAME``.

Each function here gives back reStructuredText; a page asks for one by its name, with words after
it as arguments. So settings, verbs, flags and known errors stand on the pages as they are.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import ast
import inspect
import os
import pydoc
import re
import shlex
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

import ragops
from ragops import cli, hints, stack, vllm
from ragops.bench import facts, figures, load_run, page, plots
from ragops.compose import faults
from ragops.host import Core, Host, Node
from ragops.model import Model, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from docutils import nodes
    from sphinx.application import Sphinx

GIB = 1 << 30

HOST = Host(
    cpu_model="an example",
    features=frozenset({"avx512f", "avx512_bf16", "amx_bf16"}),
    cpus=tuple(Core(cpu=number, core=number) for number in range(8)),
    nodes=(Node(0, 64 * GIB),),
    memory=64 * GIB,
)
MODEL = Model(
    folder=Path("/srv/models/Qwen3-Reranker-0.6B"),
    name="Qwen3-Reranker-0.6B",
    architecture="Qwen3ForCausalLM",
    kind="qwen3-reranker",
    max_tokens=40960,
    causal=True,
    shape=Shape(layers=28, hidden=1024, intermediate=3072, kv_heads=8, head_dim=128, vocabulary=151669),
    weight_bytes=1191586416,
    dtype="bfloat16",
)
"""The mission's model on a machine with eight cores; nothing is measured with it."""


class Generated(SphinxDirective):
    """``.. generated:: NAME [ARGUMENTS]``."""

    required_arguments = 1
    optional_arguments = 9

    def run(self) -> list[nodes.Node]:
        """Parse what the named function gives back, sections included."""
        name, *arguments = self.arguments
        lines = PARTS[name](*arguments)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def settings() -> Iterator[str]:
    """Every key of ragops.toml, with its values, its default and what it is for."""
    for name, field in stack.Stack.model_fields.items():
        table: Any = field.annotation
        yield from title(f"[{name}]", "-")
        what = inspect.cleandoc(table.__doc__).partition(": ")[2]
        yield from [f"{what[0].upper()}{what[1:]}", ""]
        schema, meaning = table.model_json_schema()["properties"], attribute_docs(table)
        for key in table.model_fields:
            said = f"*{values(schema[key])}; default* {default(schema[key])}"
            body = [said.replace("; default* left out", "; left out by default*"), "", meaning[key]]
            yield from [f".. confval:: {name}.{key}", "", *indented(body), ""]


def command() -> Iterator[str]:
    """Every verb of the command with its options."""
    for name, verb in cli.commands().items():
        yield from title(f"ragops {name}", "-", f"verb-{name.replace(' ', '-')}")
        arguments = [
            parameter.metavar for parameter in verb.params if parameter.param_type_name == "argument"
        ]
        usage = " ".join(["ragops", name, *arguments, "[OPTIONS]"])
        examples = [line.removeprefix("Example: ") for line in (verb.epilog or "").splitlines() if line]
        yield from [inline(verb.help), "", ".. code-block:: text", "", *indented([usage, *examples]), ""]
        for parameter in verb.params:
            names = ", ".join(parameter.opts) if parameter.param_type_name == "option" else ""
            default = "" if parameter.default in (None, "", False) else f" Default: ``{parameter.default}``."
            spelled = f"{names} {parameter.metavar or ''}".strip()
            yield from [f"``{spelled}``", *indented(inline(f"{parameter.help}{default}")), ""]


def known(table: str) -> Iterator[str]:
    """Every message that ragops knows a remedy for: ``ENGINE`` or ``CONTAINER``."""
    for number, hint in enumerate(getattr(hints, table)):
        yield from title(hint.words, "~", f"{table.lower()}-{number}")
        yield from [inline(hint.cause), "", f"**What to do:** {inline(hint.remedy)}.", ""]


def launch(part: str) -> Iterator[str]:
    """What the reranker is started with: ``arguments``, ``environment`` or ``docker``."""
    declared = stack.Stack()
    if part == "docker":
        template = Path("/srv/ragops/templates/qwen3_reranker.jinja")
        spec = vllm.launch(declared, MODEL, HOST, image=declared.reranker.image, template=template)
        yield from [".. code-block:: bash", "", *indented(folded(spec.docker_command())), ""]
        return
    rows = vllm.arguments(declared, MODEL, HOST) if part == "arguments" else vllm.environment(declared, HOST)
    for row in rows:
        between = " " if part == "arguments" else "="
        shown = f"{row.name}{between}{row.value}".strip()
        yield from [f"``{shown}``", *indented(inline(row.why)), ""]


def compose_faults() -> Iterator[str]:
    """The faults of compose files that ragops can tell."""
    yield from [
        ".. list-table::",
        "   :header-rows: 1",
        "   :class: ragops-fields",
        "",
        "   * - code",
        "     - what is wrong",
        "",
    ]
    for rule in faults.RULES:
        yield from [f"   * - ``{rule.code}``", f"     - {inline(rule.summary)}"]
    yield ""


def models() -> Iterator[str]:
    """The kinds of model that can be served."""
    yield from [".. list-table::", "   :header-rows: 1", "", "   * - model", "     - a score is"]
    yield from ["     - needs", ""]
    for row in vllm.KNOWN:
        needs = [name for name, has in (("overrides", row.overrides), ("template", row.template)) if has]
        yield from [f"   * - {', '.join(row.examples)}", f"     - {row.scores}"]
        yield f"     - {' and '.join(needs) or 'nothing more'}"
    yield ""


def run(part: str) -> Iterator[str]:
    """What the recorded run says, if the site is built from one; the parts are in ``RUN_PARTS``."""
    folder = os.environ.get("RAGOPS_RUN")
    if folder:
        yield from RUN_PARTS[part](load_run(folder))
    elif part == "verdict":
        yield from ["This site was built without a recorded run; ``make run`` records one.", ""]


def run_verdict(recorded: Any) -> Iterator[str]:
    """The sentence that answers whether RAGFlow's calls fit, or what was measured instead."""
    yield from [inline(facts.headline(recorded)), "", f"Run ``{recorded.path.name}``.", ""]


def run_figure(recorded: Any) -> Iterator[str]:
    """The percentile curve, drawn beside the pages."""
    file = Path(__file__).parents[1] / "_run" / "percentiles.svg"
    file.parent.mkdir(exist_ok=True)
    file.write_text(plots.svg(plots.percentile_curve(recorded)), encoding="utf-8")
    said = "Latency at every percentile, a line for each load; the table below has the numbers."
    yield from [f".. figure:: /_run/{file.name}", f"   :alt: {said}", "   :figclass: ragops-wide", ""]
    yield from [f"   {said}", ""]


def run_levels(recorded: Any) -> Iterator[str]:
    """A row for each level of the run."""
    head = ("load", "requests", "errors", "documents/s", "p50", "p95", "p99")
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-figures", "", *row_of(head)]
    for row in figures(recorded):
        shown = {found.name: str(found) for found in row.latency}
        cells = (row.level.name, row.n, row.errors, f"{row.documents_per_s:.1f}")
        yield from row_of((*cells, *(shown[name] for name in ("p50", "p95", "p99"))))
    yield ""


def run_origin(recorded: Any) -> Iterator[str]:
    """Where the run comes from."""
    for name, value in facts.origin(recorded):
        yield f":{name}: {inline(value)}"
    yield ""


def run_report(recorded: Any) -> Iterator[str]:
    """A link to the whole report, which is written beside the pages."""
    file = Path(__file__).parents[1] / "_extra" / "report.html"
    page.write(recorded, file)
    yield from [f"`The whole report of this run <{file.name}>`__ has every figure with its numbers.", ""]


RUN_PARTS = {
    "verdict": run_verdict,
    "figure": run_figure,
    "levels": run_levels,
    "origin": run_origin,
    "report": run_report,
}
PARTS = {
    "faults": compose_faults,
    "settings": settings,
    "command": command,
    "known": known,
    "launch": launch,
    "models": models,
    "run": run,
}


def title(text: str, line: str, label: str = "") -> list[str]:
    """A section title that shows the text as it is."""
    shown = f"``{text}``"
    return [*([f".. _{label}:", ""] if label else []), shown, line * len(shown), ""]


def inline(text: str) -> str:
    """Plain text, with reStructuredText's marks taken literally; ``code`` stays code."""
    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    return "".join(part if part.startswith("``") else re.sub(r"([*`|_@\\])", r"\\\1", part) for part in parts)


def indented(text: str | Iterable[str]) -> list[str]:
    """Three spaces before each line."""
    lines = text.splitlines() if isinstance(text, str) else list(text)
    return [f"   {line}" for line in lines]


def row_of(cells: Sequence[object]) -> list[str]:
    """One row of a list table."""
    return [f"   {'*' if n == 0 else ' '} - {inline(str(cell))}" for n, cell in enumerate(cells)]


def attribute_docs(table: type) -> dict[str, str]:
    """The strings below the attributes of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(table))).body[0].body  # type: ignore[attr-defined]
    return {
        before.target.id: " ".join(after.value.value.split())
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def values(schema: dict[str, Any]) -> str:
    """The values that a key takes, in words."""
    if "anyOf" in schema:
        return " or ".join(values(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(spelling(one) for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return "a list of texts"
    bounds = [schema.get("minimum"), schema.get("maximum")]
    if bounds[1] is not None:
        return f"{bounds[0]} to {bounds[1]}"
    words = {"boolean": "true or false", "integer": "a whole number", "string": "text"}
    least = f", at least {bounds[0]}" if bounds[0] is not None else ""
    return ("a folder" if schema.get("format") == "path" else words[schema["type"]]) + least


def default(schema: dict[str, Any]) -> str:
    """The default of a key, as TOML has it."""
    value = schema.get("default")
    return "left out" if value in (None, [], ()) else f"``{spelling(value)}``"


def spelling(value: object) -> str:
    """A value as TOML has it."""
    return str(value).lower() if isinstance(value, (bool, int)) else f'"{value}"'


def folded(command: Sequence[str]) -> Iterator[str]:
    """A long command with one flag a line."""
    line = ""
    for part in map(shlex.quote, command):
        if part.startswith("-") and line:
            yield f"{line} \\"
            line = "  "
        line += f"{' ' if line.strip() else ''}{part}"
    yield line


def elsewhere(app: Sphinx, env: Any, node: Any, shown: nodes.Element) -> nodes.Element | None:
    """Links to names by the module they live in: to the public name, else plain text if they exist."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    name = target.rpartition(".")[2]
    if name in ragops.__all__:
        domain = env.domains["py"]
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], f"ragops.{name}", node, shown
        )
    places = (target, f"{node.get('py:module')}.{target}")
    return shown if any(pydoc.locate(place) for place in places) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and what to do with links that lead nowhere."""
    app.add_directive("generated", Generated)
    app.connect("missing-reference", elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
