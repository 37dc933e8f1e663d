"""The command line, parsed without running a verb."""

from tools.commands import commands


def parse(argv):
    """The values of the options of a command line; raises what typer raises for wrong ones."""
    verbs = commands()
    words = 1 if argv[0] in verbs else 2
    name = " ".join(argv[:words])
    return verbs[name].make_context(name, list(argv[words:])).params
