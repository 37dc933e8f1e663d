"""``.. generated:: NAME [ARGUMENTS]``: parts of pages that are generated from the code they describe.

Each function here returns lines of reStructuredText: settings, verbs, options, known errors and others.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import ast
import inspect
import json
import os
import pydoc
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charts import figure
from sphinx.util.docutils import SphinxDirective

import ragops
from ragops.bench import plots, report, statistics
from ragops.bench.records import load_run
from ragops.compose import faults
from ragops.configuration import TABLES, Stack, meanings
from ragops.docker import hints
from ragops.reranker import architectures, options, sizing
from ragops.reranker.host import Core, Host, Node
from ragops.reranker.model import Model, Shape
from tools import addresses
from tools.commands import commands

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from docutils import nodes
    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
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
"""Qwen3-Reranker-0.6B on a machine with eight cores; nothing is measured with it."""


class Generated(SphinxDirective):
    """``.. generated:: NAME [ARGUMENTS]``."""

    required_arguments = 1
    optional_arguments = 9

    def run(self) -> list[nodes.Node]:
        """Parse the lines of the named function, sections included."""
        name, *arguments = self.arguments
        lines = PARTS[name](*arguments)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def settings() -> Iterator[str]:
    """Every key of ragops.toml, with its values, its default and its purpose."""
    for name, table in TABLES.items():
        yield from title(f"[{name}]", "-")
        purpose = inspect.cleandoc(table.__doc__).partition(": ")[2]
        yield from [f"{purpose[0].upper()}{purpose[1:]}", ""]
        schema, meaning = table.model_json_schema()["properties"], meanings(table)
        for key in table.model_fields:
            domain = f"*{values(schema[key])}; default* {default(schema[key])}"
            body = [domain.replace("; default* unset", "; unset by default*"), "", meaning[key]]
            yield from [f".. confval:: {name}.{key}", "", *indented(body), ""]


def command() -> Iterator[str]:
    """Every verb of the command with its options."""
    for name, verb in commands().items():
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
    """Every message with a known fix: of ``ENGINE`` or ``CONTAINER``."""
    for number, hint in enumerate(getattr(hints, table)):
        yield from title(hint.words, "~", f"{table.lower()}-{number}")
        yield from [inline(hint.cause), "", f"**What to do:** {inline(hint.remedy)}.", ""]


def reranker(part: str) -> Iterator[str]:
    """Options of the reranker: ``arguments``, ``environment`` or ``docker``."""
    stack = Stack()
    needs = sizing.size(stack, MODEL, HOST)
    if part == "docker":
        template = Path("/srv/ragops/templates/qwen3_reranker.jinja")
        image = stack.reranker.image
        spec = options.container_spec(stack, MODEL, needs, image=image, template=template)
        yield from [".. code-block:: bash", "", *indented(folded(spec.docker_command())), ""]
        return
    if part == "arguments":
        rows, separator = options.arguments(stack, MODEL, needs), " "
    else:
        rows, separator = options.environment(stack, MODEL, needs), "="
    for row in rows:
        option = f"{row.name}{separator}{row.value}".strip()
        yield from [f"``{option}``", *indented(inline(row.why)), ""]


def needs() -> Iterator[str]:
    """The memory that ragops reserves for Qwen3-Reranker-0.6B, by its parts."""
    stack = Stack()
    size = sizing.size(stack, MODEL, HOST)
    parts = {
        "weights": size.memory.weights,
        "key-value cache": size.memory.kv_cache,
        "activations": size.memory.activations,
        "processes": size.memory.processes,
    }
    total = sum(parts.values())
    listed = ", ".join(f"{value / GIB:.1f} GiB for {name}" for name, value in parts.items())
    yield (
        f"For Qwen3-Reranker-0.6B in {size.dtype} ragops computes {total / GIB:.1f} GiB for each replica: "
        f"{listed}. The container's limit is {size.memory_limit / GIB:.1f} GiB: the rest is for the page "
        "cache. These are the values of ``ragops plan``, computed and not measured. :doc:`gateway` has the "
        "limit of the gateway."
    )


def checkout() -> Iterator[str]:
    """The command that clones the repository, where its address is known."""
    if repository := addresses.read().repository:
        yield from [".. code-block:: console", "", f"   $ git clone {repository} ragops && cd ragops", ""]


def compose_faults() -> Iterator[str]:
    """The faults of Compose files that ragops detects."""
    yield from [
        ".. list-table::",
        "   :header-rows: 1",
        "   :class: ragops-fields",
        "",
        "   * - code",
        "     - fault",
        "",
    ]
    for code, summary in faults.RULES.items():
        yield from [f"   * - ``{code}``", f"     - {inline(summary)}"]
    yield ""


def vllm_releases() -> Iterator[str]:
    """Options of vLLM that came or went, with the releases."""
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(("option", "from release", "gone in release", "instead"))
    for name, (since, gone, instead) in sorted(options.RELEASES.items()):
        yield from row_of((f"``{name}``", since, gone, f"``{instead}``" if instead else ""))
    yield ""


def modules() -> Iterator[str]:
    """Every module with the first sentence of its docstring."""
    package = Path(ragops.__file__).parent
    for file in sorted(package.rglob("*.py"), key=lambda file: (file.parent, file.name)):
        purpose = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        sentence = re.sub(r":\w+:`~?([^`]+)`", r"``\1``", re.split(r"(?<=\.)\s|\n\n", purpose)[0])
        yield from [f"``{file.relative_to(package)}``", f"   {inline(sentence)}", ""]


def models() -> Iterator[str]:
    """The kinds of models that are served, their architectures, and those that are refused."""
    yield from [*wide_table(27, 30, 25, 18), *row_of(("kind", "models", "score", "needs"))]
    for row in architectures.SERVED:
        needs = (("overrides", row.overrides), ("scale", row.pooler), ("template", row.template))
        named = ", ".join(name for name, value in needs if value)
        scores = f"{row.lowest:g} to {row.highest:g}: {row.scores}"
        yield from row_of((f"``{row.kind}``", ", ".join(row.examples), scores, named or "none"))
    yield from ["", *wide_table(34, 32, 34), *row_of(("architecture", "truncation", "source"))]
    for row in architectures.SERVED:
        together = "" if row.splits else "; a request is never split"
        name = f"``{row.name}``, ``{row.kind}``"
        yield from row_of((name, _truncation(row) + together, row.source))
    yield from ["", *wide_table(34, 33, 33), *row_of(("refused", "reason", "nearest alternative"))]
    for other in architectures.REFUSED:
        yield from row_of((", ".join(other.examples), other.reason, other.alternative))
    yield ""


def _truncation(row: architectures.Architecture) -> str:
    """What a client's truncation does; without it vLLM refuses a request with a long document (400)."""
    if not row.splits:
        return "all documents of a request share max_model_len; max_tokens_per_doc cuts each"
    if row.template:
        return "truncate_prompt_tokens cuts the prompt's end: wrong scores; max_tokens_per_doc does not"
    return "a request's truncate_prompt_tokens cuts the document's end"


def wide_table(*widths: int) -> list[str]:
    """The head of a table with columns of these widths in percent, whose long words break."""
    columns = " ".join(map(str, widths))
    return [".. list-table::", "   :header-rows: 1", f"   :widths: {columns}", "   :class: ragops-wide", ""]


def proofs() -> Iterator[str]:
    """How far the scores of vLLM and of transformers differ, and what vLLM itself refuses."""
    recorded = json.loads((DATA / "architectures.json").read_text(encoding="utf-8"))
    releases = f"vLLM {recorded['vllm']} and transformers {recorded['transformers']}"
    yield from [f"Recorded on {recorded['date']} with {releases}, in float32.", ""]
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(("architecture and kind", "compared with", "largest difference of a score"))
    for row in recorded["rows"]:
        name = f"``{row['architecture']}``, ``{row['kind']}``"
        yield from row_of((name, row["reference"], f"{row['difference']:.7f}"))
    for row in recorded["refused"]:
        yield from row_of((row["checkpoint"].removesuffix("-random"), "", f"refused: {row['error']}"))
    yield ""


def overlay() -> Iterator[str]:
    """What Swarm's overlay network costs a request, with encryption and without it."""
    record = json.loads((DATA / "overlay.json").read_text())
    kinds = {kind["name"]: kind for kind in record["kinds"]}
    plain, host, encrypted = kinds["plain"], kinds["host"], kinds["encrypted"]
    size = f"{record['documents']} documents of {record['request_bytes'] // 1000} kB together"
    yield (
        f"A request with {size} took {plain['p50_ms']:.1f} ms between two nodes and {host['p50_ms']:.1f} ms "
        f"on one, to a stub that responds at once (medians of {record['requests']}, "
        f"{record['machine']['machine']}, "
        f"{record['machine']['used_by_others']:.1f} cores busy with other work)."
    )
    if encrypted["p50_ms"] is not None:
        yield f"In an encrypted network it took {encrypted['p50_ms']:.1f} ms."
        return
    reason = record["kernel_options"].get("CONFIG_INET_ESP", "").lstrip("# ")
    yield (
        f"In an encrypted network no request got a response there ({encrypted['error']}): the kernel of "
        f"that machine has no IPsec ({reason})."
    )
    yield from encryption()


def encryption() -> Iterator[str]:
    """What encryption adds to a request, in a kernel that has IPsec."""
    record = json.loads((DATA / "encryption.json").read_text())
    kinds = {kind["name"]: kind for kind in record["kinds"]}
    frame, whole = kinds["null"], kinds["encrypted"]
    (least_frame, most_frame), (low, high) = frame["added_interval_ms"], whole["added_interval_ms"]
    yield (
        f"Encryption was measured on it in User Mode Linux {record['kernel']}, a kernel that runs as a "
        "process: two network namespaces as nodes, a VXLAN, and ESP as Docker sets it. It added "
        f"{whole['added_ms']:.1f} ms of processor time to the same request (95 %: {low:.1f} to {high:.1f}). "
        "That is an upper limit: it is the time of both nodes together, and that kernel computes AES-128-GCM "
        "without the processor's AES instructions. Each MB in bulk added "
        f"{whole['bulk_added_ms']:.0f} ms."
    )
    if speed := record["cipher_mb_s"]:
        least = 2 * record["request_bytes"] / speed / 1000
        yield (
            f"A lower limit is {least:.2f} ms: the cipher alone, with those instructions, to encrypt and to "
            f"decrypt ({speed / 1000:.1f} GB/s in packets, ``openssl speed``). ESP without a cipher added "
            f"{frame['added_ms']:.1f} ms there ({least_frame:.1f} to {most_frame:.1f}). The sum, "
            f"{frame['added_ms'] + least:.1f} ms, is an estimate for a kernel that uses the instructions."
        )


def swarm(part: str) -> Iterator[str]:
    """What was recorded of a Swarm beside the faults: vLLM as a task, or the loss of the manager."""
    record = json.loads((DATA / f"swarm_{part}.json").read_text())
    machine = f"{record['machine']['machine']}, {record['machine']['date']}"
    if part == "task":
        yield (
            f"vLLM itself was placed, with {record['model']} (a substitute model), on the only node of a "
            f"Swarm ({machine}): the stack was ready {record['up']:.0f} s after ``ragops up`` began, its "
            f"score check passed, {len(record['requests'])} requests of {record['documents']} documents were "
            f"ranked whole through the gateway (median {record['request_p50']:.2f} s), and "
            f"{record['restarted']:.0f} s after SIGKILL its successor was admitted."
        )
        return
    phases = [
        f"{phase['name']} ({phase['seconds']:.0f} s): {phase['requests'] - phase['failed']} of "
        f"{phase['requests']}, the longest {phase['longest']:.1f} s"
        for phase in record["phases"]
    ]
    yield (
        "With a second gateway, and RAGFlow on another node than the manager, requests went on when the "
        f"only manager was lost, here with stub replicas and {record['clients']} clients ({machine}). "
        f"Responses within RAGFlow's 30 s while {'; while '.join(phases)}. The manager's own replica and "
        f"gateway served again {record['admitted_again']:.0f} s after its Docker engine was started."
    )


def run(part: str) -> Iterator[str]:
    """A part of the recorded run, if the site is built from one: see ``RUN_PARTS``."""
    folder = os.environ.get("RAGOPS_RUN")
    if folder:
        yield from RUN_PARTS[part](load_run(folder))
    elif part == "verdict":
        yield from ["This site was built without a recorded run; ``make run`` records one.", ""]


def run_verdict(recorded: Any) -> Iterator[str]:
    """The verdict, or what was measured if there is none, with the notes that qualify it."""
    _, sentence, notes = report.headline(recorded)
    yield from [f"**{inline(sentence)}**", "", *(f"* {inline(note)}" for note in notes), ""]
    yield from [f"Run ``{recorded.path.name}``.", ""]


def run_chart(recorded: Any) -> Iterator[str]:
    """The percentile curve."""
    section = next((part for part in report.sections(recorded) if part.chart == "percentile_curve"), None)
    if section:
        yield from figure(plots.percentile_curve, recorded, caption=section.text)


def run_levels(recorded: Any) -> Iterator[str]:
    """A row for each load level of the run."""
    table = statistics.summary(recorded)
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-figures", ""]
    for cells in (tuple(column.name for column in table.columns), *table.rows):
        yield from row_of(cells)
    yield ""


def run_provenance(recorded: Any) -> Iterator[str]:
    """The provenance of the run."""
    for name, value in report.provenance(recorded):
        yield f":{name}: {inline(value)}"
    yield ""


def run_report(recorded: Any) -> Iterator[str]:
    """A link to the report, which is written next to the pages."""
    file = Path(__file__).parents[1] / "_extra" / "report.html"
    report.write_report(recorded, file, home="index.html")
    yield from [f"`The report of this run <{file.name}>`__ has every chart with its values.", ""]


RUN_PARTS = {
    "verdict": run_verdict,
    "chart": run_chart,
    "levels": run_levels,
    "provenance": run_provenance,
    "report": run_report,
}
PARTS = {
    "needs": needs,
    "checkout": checkout,
    "faults": compose_faults,
    "vllm-releases": vllm_releases,
    "settings": settings,
    "command": command,
    "known": known,
    "reranker": reranker,
    "models": models,
    "proofs": proofs,
    "overlay": overlay,
    "swarm": swarm,
    "modules": modules,
    "run": run,
}


def title(text: str, line: str, label: str = "") -> list[str]:
    """A section title with literal text."""
    literal = f"``{text}``"
    return [*([f".. _{label}:", ""] if label else []), literal, line * len(literal), ""]


def inline(text: str) -> str:
    """Plain text with reStructuredText's marks escaped; ``code`` stays code."""
    if text == "-":
        return r"\-"
    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    # An address in a message is an example, no link.
    return "".join(
        part if part.startswith("``") else re.sub(r"([*`|_@\\]|:(?=//))", r"\\\1", part) for part in parts
    )


def indented(text: str | Iterable[str]) -> list[str]:
    """Three spaces before each line."""
    lines = text.splitlines() if isinstance(text, str) else list(text)
    return [f"   {line}" for line in lines]


def row_of(cells: Sequence[object]) -> list[str]:
    """One row of a list table."""
    return [f"   {'*' if n == 0 else ' '} - {inline(str(cell))}" for n, cell in enumerate(cells)]


def values(schema: dict[str, Any]) -> str:
    """The values that a key takes, as text."""
    if "anyOf" in schema:
        return " or ".join(values(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(spelling(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return "a list of texts"
    bounds = [schema.get("minimum"), schema.get("maximum")]
    if schema.get("type") == "number":
        return f"a number up to {bounds[1]}"
    if bounds[1] is not None:
        return f"{bounds[0]} to {bounds[1]}"
    words = {"boolean": "true or false", "integer": "a whole number", "string": "text"}
    least = f", at least {bounds[0]}" if bounds[0] is not None else ""
    return ("a path" if schema.get("format") == "path" else words[schema["type"]]) + least


def default(schema: dict[str, Any]) -> str:
    """The default of a key, in TOML."""
    value = schema.get("default")
    return "unset" if value in (None, [], ()) else f"``{spelling(value)}``"


def spelling(value: object) -> str:
    """A value in TOML."""
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


def public_name(app: Sphinx, env: Any, node: Any, text: nodes.Element) -> nodes.Element | None:
    """Resolve a link to a module's name: to its public name, else to plain text if it exists."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    name = target.rpartition(".")[2]
    if name in ragops.__all__:
        domain = env.domains["py"]
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], f"ragops.{name}", node, text
        )
    places = (target, f"{node.get('py:module')}.{target}")
    return text if any(pydoc.locate(place) for place in places) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the resolution of missing links."""
    app.add_directive("generated", Generated)
    app.connect("missing-reference", public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
