"""The verbs of the command, for the reference page and the tests."""

from typing import Any

from ragops import cli


def commands() -> dict[str, Any]:
    """Every verb by its full name, such as ``demo up``, with its options."""
    flat: dict[str, Any] = {}
    for name, command in cli.COMMAND.commands.items():
        nested = getattr(command, "commands", None)
        flat |= {f"{name} {action}": value for action, value in nested.items()} if nested else {name: command}
    return flat
