"""End a worker when its parent process has died, such as by SIGKILL or for lack of memory.

Otherwise the worker would go on serving the port, and nothing could stop or replace it.
"""

import ctypes
import os
import signal
import time
from threading import Thread
from typing import Final

# prctl(2).
_PR_SET_PDEATHSIG: Final = 1
# Seconds between two checks of the parent.
_INTERVAL: Final = 0.5


def end_with(parent: int, *, patience: float) -> None:
    """Send this process SIGTERM when its parent ends, and SIGKILL `patience` seconds later.

    parent: the process id of the parent, which may have ended already.
    """
    is_signalled = _signalled_by_kernel()
    # The kernel sends no signal for a parent that ended before the call.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    Thread(target=_watch, args=(parent, is_signalled, patience), name="parent", daemon=True).start()


def _signalled_by_kernel() -> bool:
    """Have the kernel send SIGTERM when the parent ends. Return False if it can't: not Linux."""
    try:
        done: int = ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (AttributeError, OSError):
        return False
    return done == 0


def _watch(parent: int, is_signalled: bool, patience: float) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
    if not is_signalled:
        os.kill(os.getpid(), signal.SIGTERM)
    # A request that hangs would keep the worker alive: the parent enforced the time limit.
    time.sleep(patience)
    os.kill(os.getpid(), signal.SIGKILL)
