"""``python3 -m gateway``: the service, configured by the environment."""

import logging
import os
import signal

import uvicorn

from .app import Gateway

DRAIN_SECONDS = 300  # after SIGTERM, for requests without a deadline


def main() -> None:
    """Serve until SIGTERM; the requests that came before it get their responses."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again after the last response
    gateway, port = Gateway(), int(os.environ.get("GATEWAY_PORT") or 8000)
    config = uvicorn.Config(gateway.application, "0.0.0.0", port, access_log=False, log_config=None)
    config.timeout_graceful_shutdown = int(min(gateway.deadline, DRAIN_SECONDS)) + 3
    uvicorn.Server(config).run()


main()
