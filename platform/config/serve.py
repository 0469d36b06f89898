"""`make run`: gets everything ready, says where it is, and serves with the production server."""

import ctypes
import fcntl
import gc
import hashlib
import os
import signal
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.log import LogLevels
from granian.server.mp import MPServer as Granian

from config import tls

# A request that waits (for Argon2, for a store) holds a thread: enough of them that the others
# go on meanwhile, few enough that each finds a database connection.
THREADS = 24
# A terminal that is closed ends the platform. granian would take it for "reload".
_ENDINGS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class _Server(Granian):
    """granian, whose threads stay.

    It would end those that had nothing to do for a while, the one in front among them, though
    others stand behind it (config.threads), and whoever comes in that moment would wait for the
    next one to come. Ten minutes are the most that it can be told.
    """

    def _spawn_worker(self, *args: Any, **named: Any) -> Any:
        self.blocking_threads_idle_timeout = 365 * 24 * 3600
        return super()._spawn_worker(*args, **named)


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    if trouble := _port_trouble():
        return _fail(trouble)
    try:
        with _alone():
            _migrate()
            _collect_static()
            certificate = _certificate() if settings.TLS else None
    except Error as error:
        return _fail(f"The database can't be reached: {error}")
    _let_go_of_the_database()
    # Before the server's own first words: its workers may already print a mail.
    print(_welcome(certificate), flush=True)
    server = _server(certificate)
    _end_when_told(server)
    server.serve(target_loader=_load)
    return 0


def _end_when_told(server: Granian) -> None:
    """Leaves the signals that end the platform to a thread that does nothing but wait for them.

    granian's own handlers take a lock, which the code that they interrupt may be holding: told
    twice in a moment they wait for themselves, for ever. And `make` tells it twice: what goes to
    the whole group it passes on as well.
    """
    # Held back from each thread that is started from here on, and from the workers (_load).
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    Thread(target=_wait_for_the_end, args=(server,), name="signals", daemon=True).start()


def _wait_for_the_end(server: Granian) -> None:
    signal.sigwait(_ENDINGS)
    while True:
        # Not once: granian forgets it while it is busy with a worker that died.
        server.signal_handler_interrupt()  # type: ignore[no-untyped-call]  # as all of granian
        time.sleep(0.1)


def _load(target: str) -> Any:
    """The application, in a worker of its own process group.

    Ctrl-C reaches the whole group of the terminal. The workers are for their parent to end: told
    twice, by both, they hang until they are killed, and lose what they have counted.
    """
    os.setpgid(0, 0)
    # Its parent says it once. Until granian listens, nothing is lost by ending on the spot, while
    # a word that went by would be waited for until the worker is killed.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
    _give_memory_back()
    from config import threads
    from config.wsgi import application

    threads.one_in_front()
    if settings.HAS_MAIL_SERVER:
        # Mail that waited while the platform was down goes out without waiting for more.
        from outbox import delivery

        delivery.wake()
    # What the first request would have to wait for.
    import_module(settings.ROOT_URLCONF)
    # All that is there now stays: more than 100,000 objects. Whenever the collector walked them,
    # all requests of this worker waited, for some 90 ms.
    gc.collect()
    gc.freeze()
    # Who wants the interpreter for some microseconds waits so long at most, in seconds, while
    # another thread computes. With Python's own 0.005 the lane has a fifth less of answers while
    # pages are asked for; with 0.001 an eighth more, and validations past it have some 7 % less.
    sys.setswitchinterval(0.002)
    return application


def _give_memory_back() -> None:
    """Lets glibc return what an Argon2 pass took, instead of keeping 19 MiB for each thread.

    mallopt(3): M_MMAP_THRESHOLD is -3. Elsewhere, and with another C library, nothing is done.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(-3, 1 << 20)


def _let_go_of_the_database() -> None:
    """Nothing of the database may be open when the workers fork off: they would share a socket."""
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's wrapper has it


def _server(certificate: tls.Certificate | None) -> Granian:
    return _Server(
        "config.wsgi:application",
        address=settings.HOST,
        port=settings.PORT,
        interface=Interfaces.WSGI,
        http=HTTPModes.auto,
        websockets=False,
        workers=settings.WORKERS,
        blocking_threads=THREADS,
        respawn_failed_workers=True,
        # A worker that hangs in a request must not keep the others' end waiting, in seconds.
        workers_kill_timeout=5,
        # Its own log tells of threads and process ids; what matters of it are errors.
        log_level=LogLevels.error,
        ssl_cert=certificate.chain if certificate else None,
        ssl_key=certificate.key if certificate else None,
        ssl_protocol_min=SSLProtocols.tls12,
    )


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time gets things ready: two platforms may start from one clone at once."""
    settings.VAR.mkdir(parents=True, exist_ok=True)
    with (settings.VAR / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _alone_in_the_fleet() -> Iterator[None]:
    """One machine at a time changes a shared database; the others wait, and find it done."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0")
        # Held by this connection, so gone with it, whatever happens. The number is ours alone.
        cursor.execute("SELECT pg_advisory_lock(%s)", [zlib.crc32(b"comfyui-keys migrations")])
        yield
        cursor.execute("SELECT pg_advisory_unlock_all()")
        cursor.execute("RESET lock_timeout")


def _migrate() -> None:
    with _alone_in_the_fleet():
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            call_command("migrate", verbosity=0, interactive=False)
        call_command("createcachetable", verbosity=0)


def _collect_static() -> None:
    """Collects static files when any has changed since: hashing and compressing takes seconds."""
    seen = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list(ignore_patterns=[]):
            stat = Path(storage.path(path)).stat()
            seen.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    stamp = settings.STATIC_ROOT.parent / ".static-stamp"
    if stamp.exists() and stamp.read_text() == seen.hexdigest():
        return
    call_command("collectstatic", verbosity=0, interactive=False, clear=False)
    stamp.write_text(seen.hexdigest())


def _certificate() -> tls.Certificate:
    if settings.TLS_CERT and settings.TLS_KEY:
        return tls.Certificate(
            chain=settings.TLS_CERT,
            key=settings.TLS_KEY,
            authority=settings.TLS_CERT,
            bundle=settings.TLS_CERT,
        )
    names = {settings.PUBLIC_HOST, *settings.OTHER_HOSTS, "localhost", "127.0.0.1", "::1"}
    if settings.HOST not in {"0.0.0.0", "::"}:  # noqa: S104 (compared with, not bound to)
        names.add(settings.HOST)
    return tls.certificate(settings.VAR / "tls", names=names)


def _port_trouble() -> str | None:
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, settings.PORT))
        except OSError as error:
            return (
                f"Can't listen on {settings.HOST}, port {settings.PORT}: {error.strerror}. "
                "Is a platform running there already? Choose another port: make run PORT=8001"
            )
    return None


def _welcome(certificate: tls.Certificate | None) -> str:
    lines = [
        "",
        f"  ComfyUI keys:  {settings.PUBLIC_URL}",
        "",
        "  Sign up there, press + New, and paste the key into ComfyUI.",
        "  Staff account: make staff.  Stop: Ctrl-C.",
    ]
    loopback = settings.PUBLIC_HOST in settings.LOOPBACK
    if settings.HOST not in settings.LOOPBACK and loopback:
        lines += [
            "",
            f"  Listening on {settings.HOST}, but PUBLIC_URL says {settings.PUBLIC_URL}: other",
            "  machines are refused. Set PUBLIC_URL to the address that they use.",
        ]
    if settings.IN_THE_CLEAR:
        lines += [
            "",
            "  By plain http, keys, passwords and sessions can be read by whoever is on the",
            "  network between. Use TLS=1, or a proxy that ends TLS: docs/deployment.md.",
        ]
    if certificate and not settings.TLS_CERT:
        lines += [
            "",
            "  The certificate is from an authority of this machine alone. Trust it once:",
            f"    browser  import {certificate.authority} as an authority",
            f"    ComfyUI  SSL_CERT_FILE={certificate.bundle} \\",
            f"             REQUESTS_CA_BUNDLE={certificate.bundle} python main.py …",
        ]
    return "\n".join([*lines, ""])


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
