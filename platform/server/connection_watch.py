"""A thread of each worker that shuts down idle connections, and those of slow long responses.

granian closes an HTTP/1 connection after 30 seconds without a request. It waits for ever for the
first byte of a connection, on HTTP/2, and for a client that reads nothing.
"""

import logging
import time
from threading import Thread
from typing import Final

from server import connections, long_responses

logger = logging.getLogger(__name__)

# Connections of a process (granian_server), and how many of them are a crowd.
MAX_CONNECTIONS: Final = 4096
CROWD: Final = 512
# Seconds without a byte in either direction: longer than any request takes to be answered.
IDLE_TIMEOUT: Final = 180.0
CROWDED_IDLE_TIMEOUT: Final = 20.0
_INTERVAL: Final = 1.0
_IDLE_INTERVAL: Final = 5.0


def start() -> None:
    Thread(target=_watch, name="connections", daemon=True).start()


def _watch() -> None:
    checked = time.monotonic()
    while True:
        time.sleep(_INTERVAL)
        try:
            long_responses.check()
            if time.monotonic() - checked >= _IDLE_INTERVAL:
                connections.shut_down_idle(IDLE_TIMEOUT, CROWDED_IDLE_TIMEOUT, CROWD)
                checked = time.monotonic()
        except Exception:
            # Any exception: an uncaught one would end this thread.
            logger.exception("Idle connections could not be looked after.")
