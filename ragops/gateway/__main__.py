"""``python3 -m gateway``: the service, configured by the environment."""

from __future__ import annotations

import logging
import os

import uvicorn

from .app import Gateway, Settings

DRAIN_SECONDS = 3


def main() -> None:
    """Serve until SIGTERM; then requests on their way are answered, and no other."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings.of()
    uvicorn.run(
        Gateway(settings).application,
        host="0.0.0.0",
        port=int(os.environ.get("GATEWAY_PORT", "") or 8000),
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=int(settings.deadline or 300) + DRAIN_SECONDS,
    )


if __name__ == "__main__":
    main()
