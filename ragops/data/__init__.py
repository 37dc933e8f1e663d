"""Files that ship with the package: the image recipe, templates, tables, the in-container probe."""

from importlib.resources import files


def read_table(name: str) -> list[list[str]]:
    """The rows of a table with tabs between its columns, without the head."""
    text = files("ragops").joinpath("data", name).read_text(encoding="utf-8")
    return [row.split("\t") for row in text.splitlines()[1:]]
