"""Where the project is published: ``[project.urls]`` of ``pyproject.toml`` is the one setting.

Environment variables replace it: a workflow that publishes a fork knows where. What needs an address that is
unknown is left out.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REPOSITORY, SITE = "RAGOPS_REPOSITORY", "RAGOPS_SITE"
"""Environment variables with the address of the repository and of the site."""


@dataclass(frozen=True)
class Addresses:
    """Addresses of the project; empty where unknown, and the site's ends in a slash."""

    repository: str = ""
    site: str = ""


def read(pyproject: Path = PYPROJECT, environment: Mapping[str, str] = os.environ) -> Addresses:
    """The addresses of a checkout."""
    urls = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"].get("urls", {})
    repository = environment.get(REPOSITORY, urls.get("Repository", ""))
    site = environment.get(SITE, urls.get("Documentation", ""))
    return Addresses(repository.rstrip("/"), site and f"{site.rstrip('/')}/")
