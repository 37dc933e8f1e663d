"""``python3 -m gateway``: the service, configured by the environment."""

import logging
import os
import signal

import uvicorn

from .app import Gateway

DRAIN_SECONDS = 300
"""After SIGTERM, for requests without a deadline."""


def main() -> None:
    """Serve until SIGTERM; the requests that came before it get their responses."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    gateway = Gateway()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again after the last response
    uvicorn.run(
        gateway.application,
        host="0.0.0.0",
        port=int(os.environ.get("GATEWAY_PORT") or 8000),
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=int(min(gateway.deadline, DRAIN_SECONDS)) + 3,
    )


if __name__ == "__main__":
    main()
