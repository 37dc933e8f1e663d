"""Names of what live tests create; each process of pytest-xdist has its own."""

import os

PROJECT = "ragopstest" + os.environ.get("PYTEST_XDIST_WORKER", "")
