"""`manage.py serve`: prepare the platform, print how to reach it, and serve it."""

import fcntl
import hashlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
import psycopg
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import Error

from core import file_permissions, postgres, running
from core.metrics import slots
from server import granian_server, migrate, tls

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Migrate the database, collect static files and serve with the production server."
    # `manage.py check --deploy` runs them; here, settings report their faults themselves.
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(main())


def main() -> int:
    # Before the settings are read: they may create secret files.
    os.umask(0o077)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    for old, new in settings.RENAMED_VARIABLES.items():
        logger.warning("%s is now %s. The next release ignores the old name.", old, new)
    try:
        _check()
        certificate = _prepare()
    except migrate.CannotStart as error:
        return _fail(str(error))
    except (Error, psycopg.Error) as error:
        return _fail(f"The database can't be reached: {error}")
    if settings.METRICS:
        try:
            slots.prepare(settings.METRICS_FILES)
        except (OSError, slots.FolderRefused) as error:
            return _fail(f"Metrics can't be counted: {error} Set another METRICS_FOLDER.")
    # Workers that fork would share the sockets.
    postgres.close_all()
    # Before the server starts: its workers may already print an e-mail.
    print(_welcome(certificate), flush=True)
    granian_server.serve(certificate)
    return 0


def _check() -> None:
    """Raise CannotStart where database file, port or a restore prevent the start."""
    if settings.DATABASES["default"]["NAME"] == ":memory:":
        raise migrate.CannotStart(
            "DATABASE_URL must name a file: the server's processes share no memory."
        )
    file_permissions.restrict_to_owner()
    _check_port()
    try:
        running.hold_shared(wait=False)
    except running.Locked:
        raise migrate.CannotStart("A backup is being restored. Start again afterwards.") from None


def _prepare() -> tls.Certificate | None:
    """Bring database, static files and certificate up to date; return the certificate, if any."""
    from backups import copying, pepper_rotation, restore  # need Django set up

    if copying.is_unfinished():
        raise migrate.CannotStart(
            "DATABASE_URL names an unfinished copy: with the former DATABASE_URL, stop the "
            "platform on every host and run `manage.py copy_to` again."
        )
    with _exclusively():
        restore.sweep()
        migrate.migrate()
        pepper_rotation.warn_if_lost()
        _collect_static()
        return _certificate() if settings.TLS else None


@contextmanager
def _exclusively() -> Iterator[None]:
    """Hold a lock, because two platforms with one VAR_DIR may start at the same time."""
    with (settings.VAR / ".prepare.lock").open("w") as lock:

        def take() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        migrate.wait_for_lock(
            take,
            holder=f"another platform that is starting in {settings.VAR}",
            advice="Stop it, or set another VAR_DIR.",
        )
        yield


def _collect_static() -> None:
    """Collect static files if any has changed: hashing and compressing takes seconds."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list(ignore_patterns=[]):
            stat = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    stamp = settings.STATIC_ROOT.parent / ".static-stamp"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print("Collecting static files …", flush=True)
    call_command("collectstatic", verbosity=0, interactive=False, clear=False)
    stamp.write_text(digest.hexdigest())


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


def _check_port() -> None:
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, settings.PORT))
        except OSError as error:
            raise migrate.CannotStart(
                f"Can't listen on {settings.HOST}, port {settings.PORT}: {error.strerror}. "
                "Is another server already running there? Choose another port: make run PORT=8001"
            ) from None


def _welcome(certificate: tls.Certificate | None) -> str:
    # One piece, although long: the lines in the order in which they are printed.
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
    if settings.PLAINTEXT_PUBLIC:
        lines += [
            "",
            "  Over plain http, others on the network can read keys, passwords and sessions.",
            "  Use TLS=1, or a proxy that terminates TLS: docs/deployment.md.",
        ]
    if settings.NO_MAIL:
        lines += [
            "",
            "  No email is sent (EMAIL_URL=none): emails are not verified, passwords can't be",
            "  reset, and there are no notices of new devices or exposed keys: docs/deployment.md.",
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
