"""A compose file with its faults mended, as text that keeps comments, order and what is right.

:func:`mend` gives the text and what is left to do by hand. The values come from
``advice.py``; the edits of command lines are in ``edit.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from ragops import image, vllm
from ragops.compose.container import NETWORK, QUOTAS
from ragops.compose.edit import Edit
from ragops.compose.faults import cases
from ragops.compose.read import OVERRIDES_VARIABLE
from ragops.compose.words import split_colons
from ragops.compose.yaml import dump, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ragops.compose.faults import Finding
    from ragops.compose.read import ComposeFile
    from ragops.host import Host

TEMPLATE_CONFIG = "qwen3-reranker-template"

_VERSION_LINE = re.compile(r"^version[ \t]*:.*(\n|$)", re.MULTILINE)
_OFFICIAL = re.compile(r"(docker\.io/)?vllm/vllm-openai-cpu(:.*)?")


def without_version(text: str) -> str:
    """The text without its ``version:`` line."""
    return _VERSION_LINE.sub("", text, count=1)


def mend(file: ComposeFile, findings: Sequence[Finding], host: Host) -> tuple[str, tuple[str, ...]]:
    """Mend what can be mended, in a copy of the document: the rules still see the file as it is.

    Args:
        file: As read from text without its ``version:`` line.
        findings: What :func:`ragops.compose.faults.find` told of it.
        host: The machine that it shall run on.

    Returns:
        The mended text, and what is to be done before it is brought up.
    """
    steps: list[str] = []
    target = parse(file.source.text, "the file", file.source.values)
    for case in cases(file, host):
        edit = Edit.of(case, target.document, file.source.document)
        own = {finding.code: None for finding in findings if finding.service == case.service.name}
        for code in own:
            if code in MENDERS:
                MENDERS[code](edit)
        edit.close()
        steps += edit.steps
    return dump(target), tuple(dict.fromkeys(steps))


def _overrides(edit: Edit) -> None:
    for name in edit.case.service.environment:
        if OVERRIDES_VARIABLE.fullmatch(name):
            edit.drop_variable(name)
    if edit.case.overrides:
        edit.put("--hf-overrides", edit.case.overrides)


def _runner(edit: Edit) -> None:
    edit.drop("--task")
    edit.put("--runner", "pooling")


def _template(edit: Edit) -> None:
    """The template goes into the file itself: nothing has to be fetched or kept beside it."""
    known = edit.case.known
    if known is None or not edit.editable:
        return
    text = (vllm.TEMPLATES / known.template).read_text(encoding="utf-8").replace("$", "$$")
    target = f"/templates/{known.template}"
    edit.section("configs")[TEMPLATE_CONFIG] = CommentedMap(content=LiteralScalarString(text))
    mounted = edit.service.get("configs")
    if not isinstance(mounted, list):
        mounted = CommentedSeq()
    mounted.append(CommentedMap(source=TEMPLATE_CONFIG, target=target))
    edit.set("configs", mounted)
    edit.put("--chat-template", target)


def _name(edit: Edit) -> None:
    edit.model_first()
    edit.put("--served-model-name", edit.case.name)
    edit.steps.append(f"in RAGFlow, call the model {edit.case.name}")


def _trust(edit: Edit) -> None:
    if edit.case.known:
        edit.drop("--trust-remote-code")


def _kv_cache(edit: Edit) -> None:
    edit.drop_variable("VLLM_CPU_KVCACHE_SPACE")
    edit.put("--kv-cache-memory-bytes", str(edit.case.kv_cache))


def _cores(edit: Edit) -> None:
    for keys in (*QUOTAS, ("cpu_period",)):
        edit.remove(*keys)
    if edit.case.cpuset and not edit.service.get("cpuset"):
        edit.set("cpuset", DoubleQuotedScalarString(edit.case.cpuset))
        edit.put_variable("VLLM_CPU_OMP_THREADS_BIND", edit.case.threads)


def _threads(edit: Edit) -> None:
    edit.put_variable("VLLM_CPU_OMP_THREADS_BIND", edit.case.threads or "auto")


def _ports(edit: Edit) -> None:
    if edit.service.get("network_mode") == "host":
        _leave_host_network(edit)
    for item in _exposed(edit):
        at = item.index
        entry = edit.service["ports"][at]
        if isinstance(entry, dict):
            entry["host_ip"] = "127.0.0.1"
        else:
            parts = ["127.0.0.1", *(["", *split_colons(str(entry))])[-2:]]
            edit.service["ports"][at] = DoubleQuotedScalarString(":".join(parts))


def _exposed(edit: Edit) -> list[Any]:
    return [
        port for port in edit.case.service.ports if port.address is not None and port.address != "127.0.0.1"
    ]


def _leave_host_network(edit: Edit) -> None:
    edit.remove("network_mode")
    edit.set("networks", CommentedSeq([NETWORK]))
    edit.section("networks")[NETWORK] = CommentedMap(external=True)
    port = edit.case.service.launch.value("--port") or "8000"
    edit.set("ports", CommentedSeq([DoubleQuotedScalarString(f"127.0.0.1:{port}:{port}")]))
    edit.steps += _joining()


def _port_inside(edit: Edit) -> None:
    listens = edit.case.service.launch.value("--port") or "8000"
    for port in edit.case.service.ports:
        entry = edit.service["ports"][port.index]
        if port.inside == listens or port.inside is None:
            continue
        if isinstance(entry, dict):
            entry["target"] = int(listens)
        else:
            _, slash, protocol = str(entry).partition("/")
            parts = [*split_colons(str(entry))[:-1], f"{listens}{slash}{protocol}"]
            edit.service["ports"][port.index] = DoubleQuotedScalarString(":".join(parts))


def _network(edit: Edit) -> None:
    """The key stays, because other services may use it; the network's name changes."""
    for joined in edit.case.service.networks:
        declared = edit.section("networks").get(joined.key)
        if joined.shared and isinstance(declared, dict):
            if isinstance(declared.get("external"), dict):
                declared["external"] = True
            declared["name"] = NETWORK
    edit.steps += _joining()


def _joining() -> list[str]:
    return [
        f"docker network create {NETWORK}",
        f"docker network connect {NETWORK} RAGFLOW-CONTAINER   (ragops connect does it too)",
    ]


def _health(edit: Edit) -> None:
    port = edit.case.service.launch.value("--port") or str(vllm.PORT)
    code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/health', timeout=8)"
    check = CommentedMap(test=CommentedSeq(["CMD", "python3", "-c", code]))
    check |= {"interval": "10s", "timeout": "10s", "start_period": "600s", "retries": 3}
    check["test"].fa.set_flow_style()
    edit.set("healthcheck", check)


def _restart(edit: Edit) -> None:
    edit.remove("deploy", "restart_policy")
    edit.set("restart", "on-failure:5")


def _image(edit: Edit) -> None:
    if _OFFICIAL.fullmatch(edit.case.service.text("image")):
        edit.set("image", image.OFFICIAL)


def _entry(edit: Edit) -> None:
    found = edit.case.service.launch.get("")
    if found is None or not edit.editable:
        return
    if edit.case.service.launch.entry != "module":
        edit.set("entrypoint", CommentedSeq(vllm.ENTRYPOINT), before="command")
    edit.name_model()


MENDERS: Mapping[str, Callable[[Edit], None]] = {
    "model-positional": _entry,
    "hf-overrides-env": _overrides,
    "hf-overrides-missing": _overrides,
    "hf-overrides-broken": _overrides,
    "task-removed": _runner,
    "runner-missing": _runner,
    "template-missing": _template,
    "dtype-slow": lambda edit: edit.put("--dtype", edit.case.dtype),
    "model-name-slash": _name,
    "model-name-split": _name,
    "trust-remote-code": _trust,
    "kv-cache-unset": _kv_cache,
    "kv-cache-broken": _kv_cache,
    "kv-cache-small": _kv_cache,
    "max-model-len-unset": lambda edit: edit.put("--max-model-len", str(edit.case.max_len)),
    "max-model-len-large": lambda edit: edit.put("--max-model-len", str(edit.case.max_len)),
    "block-size": lambda edit: edit.put("--block-size", "32"),
    "host-loopback": lambda edit: edit.drop("--host"),
    "threads-all": _threads,
    "cpu-quota": _cores,
    "port-exposed": _ports,
    "port-mismatch": _port_inside,
    "route-moves": _network,
    "healthcheck-missing": _health,
    "shm-small": lambda edit: edit.set("shm_size", "1gb"),
    "restart-loop": _restart,
    "image-unpinned": _image,
}
"""How each fault is mended; those that aren't here are left to the user."""
