"""``python -m ragops`` and the command ``ragops``."""

import sys

from ragops.cli import main

if __name__ == "__main__":
    sys.exit(main())
