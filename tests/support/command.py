"""The command line, parsed without running a verb."""

from ragops import cli


def parse(argv):
    """The values of the options of a command line; raises what typer raises for wrong ones."""
    commands = cli.commands()
    words = 1 if argv[0] in commands else 2
    name = " ".join(argv[:words])
    return commands[name].make_context(name, list(argv[words:])).params
