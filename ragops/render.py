"""Records as JSON, for ``--json``; pure. Their text is their own ``str``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ragops.bench.compare import Ratio
from ragops.checks import Report
from ragops.errors import RagopsError
from ragops.planning import Plan
from ragops.table import Table
from ragops.verbs import Status


def as_json(record: Any) -> str:
    """A record as one JSON document."""
    return json.dumps(plain(record), indent=2, ensure_ascii=False)


@singledispatch
def plain(record: Any) -> Any:
    """A record as what JSON has: objects, lists, strings, numbers."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [plain(one) for one in record]
    return record


@plain.register
def _(record: Path) -> Any:
    return str(record)


@plain.register
def _(record: BaseModel) -> Any:
    return record.model_dump(mode="json")


@plain.register
def _(record: Table) -> Any:
    return record.records()


@plain.register
def _(record: Ratio) -> Any:
    return {**dataclasses.asdict(record), "ratio": record.ratio, "is_distinct": record.is_distinct}


@plain.register
def _(record: Plan) -> Any:
    changes = [
        {"change": action.describe(), "commands": [list(command) for command in action.commands()]}
        for action in record.actions
    ]
    return {"changes": changes, "notes": list(record.notes)}


@plain.register
def _(record: Report) -> Any:
    checks = [plain(dataclasses.asdict(check)) for check in record.checks]
    return {"title": record.title, "ok": record.ok, "checks": checks, "notes": list(record.notes)}


@plain.register
def _(record: Status) -> Any:
    reranker = record.reranker
    return {
        "ok": record.ok,
        "network": record.network.name if record.network else None,
        "reranker": {"name": reranker.name, "status": reranker.status, "health": reranker.health}
        if reranker
        else None,
        "served": record.served,
        "stand_in": record.stand_in,
        "internal_url": record.stack.internal_url,
        "host_url": record.stack.host_url,
        "ragflow": [
            {"name": one.name, "release": one.release, "demo": one.demo, "connected": record.connected(one)}
            for one in record.ragflow
        ],
        "drift": plain(record.drift),
    }


@plain.register
def _(record: RagopsError) -> Any:
    return {
        "error": type(record).__name__,
        "code": record.code,
        "message": record.message,
        "evidence": record.evidence,
        "hint": record.hint,
        "container": record.container,
        "url": record.url,
        "file": plain(record.file),
    }
