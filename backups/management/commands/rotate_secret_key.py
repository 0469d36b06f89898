"""Rotate SECRET_KEY: print what is encrypted under which key, and encrypt it anew."""

import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from backups import secret_keys, secretfiles
from core import encryption

_REMOVABLE = """\
No stored data needs an old key. Remove it once all processes were restarted with the current one
(others still encrypt with the old one) and the last restart is an hour ago: until then, links and
codes that were sent under the old key are valid. Afterwards, browsers that were not used to log in
since the rotation count as new devices."""
_IN_VAR = """\
  1. manage.py rotate_secret_key --new      creates a new key; the old one becomes a fallback
  2. restart the platform                   all processes use the new key
  3. manage.py rotate_secret_key --encrypt  encrypts with the new key, and counts what is left
  4. once nothing is left, empty var/secret_key_fallbacks and restart"""
_IN_ENVIRONMENT = """\
  1. append a new key (32 or more random characters) to SECRET_KEY_FALLBACKS on all hosts
  2. restart one host after another         all processes can read what the others encrypt
  3. make it SECRET_KEY, and the old SECRET_KEY the first of SECRET_KEY_FALLBACKS, on all hosts
  4. restart one host after another         nothing new is encrypted with the old key
  5. manage.py rotate_secret_key --encrypt  encrypts with the new key, and counts what is left
  6. once nothing is left, remove the old key and restart"""


class Command(BaseCommand):
    help = "Shows what is encrypted with which SECRET_KEY, and rotates the key without downtime."

    def add_arguments(self, parser: CommandParser) -> None:
        step = parser.add_mutually_exclusive_group()
        step.add_argument("--new", action="store_true", help="create a new key in var/")
        step.add_argument(
            "--encrypt", action="store_true", help="encrypt everything with the current key"
        )

    def handle(self, *args: Any, new: bool, encrypt: bool, **options: Any) -> None:
        if new:
            self._generate()
            return
        try:
            if encrypt:
                self.stdout.write(f"{_listed(secret_keys.reencrypt())} were encrypted again.")
            self._report()
        except Error as error:
            raise CommandError(f"The database does not answer: {error}") from None

    def _generate(self) -> None:
        if not settings.SECRET_KEY_IN_VAR:
            raise CommandError(
                "SECRET_KEY is set in the environment. Change it there, on all hosts. "
                "`manage.py rotate_secret_key` without an option prints the steps."
            )
        folder = Path(settings.VAR)
        current, fallbacks = folder / "secret_key", folder / "secret_key_fallbacks"
        key = secrets.token_urlsafe(48)
        try:
            former = secretfiles.read(current)
            # The current key is a fallback before it is replaced, so that it is never lost.
            others = [other for other in secretfiles.read(fallbacks) if other not in former]
            secretfiles.write(fallbacks, [*former, *others])
            secretfiles.write(current, [key])
        except OSError as error:
            raise CommandError(f"The key can't be written: {error}") from None
        name = encryption.key_id(key)
        self.stdout.write(f"{name} is the key from the next start. Restart, then: --encrypt.")

    def _report(self) -> None:
        report = secret_keys.report()
        in_use = _listed(report.under(report.current))
        self.stdout.write(f"SECRET_KEY is {report.current}: {in_use}")
        for key in report.fallbacks:
            self.stdout.write(f"old or new key {key}: {_listed(report.under(key))}")
        self.stdout.write(f"Left under old keys: {report.left}.")
        for kind, count in report.unreadable:
            self.stdout.write(
                f"{count} {kind.name} can't be read with any of these keys. {kind.unreadable}"
            )
        if report.fallbacks and not report.left:
            self.stdout.write(_REMOVABLE)
        self.stdout.write("To replace the key, while the platform runs:")
        self.stdout.write(_IN_VAR if settings.SECRET_KEY_IN_VAR else _IN_ENVIRONMENT)


def _listed(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts)
