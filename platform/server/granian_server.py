"""granian with this platform's options: its workers, threads and signals."""

import ctypes
import gc
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from threading import Thread
from typing import Any, Final

from django.conf import settings
from django.db import Error, connection
from django.utils.module_loading import import_string
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP2Settings
from granian.log import LogLevels
from granian.server.mp import MPServer as Granian

from core.private_names import granian
from server import connection_watch, parent_death, tls
from server.body_reader import Runner
from server.leader_follower import MAX_BUSY, LeaderFollowerPool

logger = logging.getLogger(__name__)

# A request that waits, for a body, for Argon2 or for the database, occupies a thread.
# server.body_reader and server.leader_follower bound how many do, so that some are always free.
THREADS: Final = 96
# Seconds. A request that hangs must not delay the end of its worker for longer.
_KILL_AFTER: Final = 5
# SIGHUP, sent when a terminal is closed, would make granian reload.
_END_SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_YEAR: Final = 365 * 24 * 3600
# Bytes of the headers of one request on HTTP/2, names and values, uncompressed. HPACK repeats a
# header in one byte: with granian's 16 MiB, a client takes gigabytes for some kilobytes sent.
MAX_HEADERS: Final = 64 * 1024
# Requests at once on one HTTP/2 connection: the least that RFC 9113 recommends (section 6.5.2).
MAX_STREAMS: Final = 100


def serve(certificate: tls.Certificate | None) -> None:
    """Serve until a signal ends the platform. No database connection may be open: workers fork."""
    server = build(certificate)
    _stop_on_signals(server)
    # Collections in workers then neither walk what they share with this process, nor copy it.
    gc.freeze()
    server.serve(target_loader=_load)


def build(certificate: tls.Certificate | None) -> Granian:
    server = Granian(
        settings.WSGI_APPLICATION,
        address=settings.HOST,
        port=settings.PORT,
        interface=Interfaces.WSGI,
        http=HTTPModes.auto,
        http2_settings=HTTP2Settings(
            max_headers_size=MAX_HEADERS, max_concurrent_streams=MAX_STREAMS
        ),
        websockets=False,
        workers=settings.WORKERS,
        blocking_threads=_number_of_threads(),
        # granian's default shares 1024 between the workers, and further clients wait.
        backpressure=_number_of_connections(),
        respawn_failed_workers=True,
        workers_kill_timeout=_KILL_AFTER,
        # Below errors, its log is about threads and process ids.
        log_level=LogLevels.error,
        log_dictconfig=_logging(),
        ssl_cert=certificate.chain if certificate else None,
        ssl_key=certificate.key if certificate else None,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    # granian ends threads that were idle for a while, the leader among them although followers are
    # parked (server.leader_follower). As an option this is refused above ten minutes.
    server.on_startup(partial(setattr, server, "blocking_threads_idle_timeout", _YEAR))
    return server


def _logging() -> dict[str, Any]:
    """Return a configuration in which granian's lines have the form of all others."""
    terminal = {"handlers": ["terminal"], "propagate": False}
    return {
        "formatters": settings.LOGGING["formatters"],
        "handlers": settings.LOGGING["handlers"],
        "loggers": {"_granian": terminal},
    }


def _number_of_threads() -> int:
    if granian.can_replace_wsgi_call():
        return THREADS
    logger.warning(
        "This version of granian lacks the function that server.granian_server replaces. "
        "Requests are answered by a plain pool of %d threads for each worker: slower, and slow "
        "clients can occupy all of them.",
        MAX_BUSY,
    )
    return MAX_BUSY


def _number_of_connections() -> int:
    """Return how many connections a worker may have: half of its open files at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return connection_watch.MAX_CONNECTIONS
    return min(connection_watch.MAX_CONNECTIONS, hard // 2)


def _stop_on_signals(server: Granian) -> None:
    """Handle the signals that end the platform in a thread that does nothing else.

    granian's own handlers take a lock. A second signal that interrupts the first handler would wait
    for that lock for ever, and `make` sends a second one: it passes on what the whole process group
    has already received.
    """
    # Blocked in each thread that is started from here on, and in the workers until `_load`.
    signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)
    Thread(target=_wait_for_signal, args=(server,), name="signals", daemon=True).start()


def _wait_for_signal(server: Granian) -> None:
    signal.sigwait(_END_SIGNALS)
    while True:
        # Repeated, because granian drops it while it replaces a worker that died.
        server.signal_handler_interrupt()  # type: ignore[no-untyped-call]  # as all of granian
        time.sleep(0.1)


def _load(target: str) -> Any:
    """Prepare this process, a worker, and return the application at the dotted path `target`."""
    _separate_from_parent()
    _return_freed_memory()
    _raise_file_limit()
    application = import_string(target)
    use_leader_follower_pool()
    # The first request would have to wait for it.
    import_module(settings.ROOT_URLCONF)
    _start_threads()
    # More than 100,000 objects stay as long as the process. Each collection that walked them would
    # stop all requests of this worker for some 90 ms.
    gc.collect()
    gc.freeze()
    # The default since Python 3.13; server.command_line sets another one for the start.
    gc.set_threshold(2_000)
    # Seconds for which a thread that computes keeps the interpreter from others. Against Python's
    # 0.005, cached responses gain a fifth while pages are served as well; 0.001 would give them an
    # eighth more, and take 7 % from validations that are not cached.
    sys.setswitchinterval(0.002)
    return application


def use_leader_follower_pool() -> None:
    """Have granian answer the requests of this process in a LeaderFollowerPool, if it can.

    It has no public way to run code after a response was sent, so a private function is replaced.
    """

    def pooled(wrap: Callable[..., Runner]) -> Callable[..., Runner]:
        return lambda *args: LeaderFollowerPool(wrap(*args)).answer

    if granian.can_replace_wsgi_call():
        granian.replace_wsgi_call(pooled)


def _separate_from_parent() -> None:
    """Give this worker a process group and signal handlers of its own, and end it with its parent.

    Ctrl-C reaches the whole group of the terminal. A worker that gets a signal from there and from
    its parent hangs until it is killed, and loses the uses that it has counted.
    """
    os.setpgid(0, 0)
    # The parent sends SIGTERM once. Until granian handles it, ending at once loses nothing, while a
    # signal that is ignored would keep the parent waiting.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _END_SIGNALS)
    if (master := multiprocessing.parent_process()) and master.pid:
        parent_death.end_with(master.pid, patience=_KILL_AFTER)


def _start_threads() -> None:
    from outbox import delivery  # needs Django set up
    from server import housekeeping, pool_metrics

    if settings.HAS_MAIL_SERVER:
        # Mail that is due since the platform was down goes out now.
        delivery.wake()
    housekeeping.start()
    connection_watch.start()
    if settings.METRICS:
        pool_metrics.start()
    if settings.MULTI_HOST:
        Thread(target=_connect, name="connect", daemon=True).start()


def _connect() -> None:
    """Open a pooled connection, so that a restore on another host sees that this one runs."""
    with suppress(Error):
        connection.ensure_connection()
    connection.close()


def _return_freed_memory() -> None:
    """Have glibc return the memory of Argon2 passes, instead of keeping 19 MiB for each thread.

    mallopt(3): M_MMAP_THRESHOLD is -3. Does nothing with another C library.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(-3, 1 << 20)


def _raise_file_limit() -> None:
    """Raise the soft limit of open files: each client and each database connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
