"""Serve a WSGI application with the server and the options of manage.py serve.

    PORT=8001 WORKERS=2 python -m bench.peers.serve module:application

THREADS: another number of threads.
"""

import os
import sys

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.mp import MPServer as Granian

from server.leader_follower import MAX_BUSY


def main(target: str) -> None:
    Granian(
        target,
        address="127.0.0.1",
        port=int(os.environ["PORT"]),
        interface=Interfaces.WSGI,
        http=HTTPModes.auto,
        websockets=False,
        workers=int(os.environ["WORKERS"]),
        blocking_threads=int(os.environ.get("THREADS", MAX_BUSY)),
        respawn_failed_workers=True,
        workers_kill_timeout=5,
        log_level=LogLevels.error,
    ).serve()


if __name__ == "__main__":
    main(sys.argv[1])
