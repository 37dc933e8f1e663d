"""``python -m ragops`` and the command ``ragops``."""

import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from ragops.cli import main as run  # noqa: PLC0415 - Ctrl-C during the import shows no traceback

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
