"""Changes the pepper of the keys' hashes while the platform runs, or says what comes next."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from backups import peppers
from backups.archive import Refused

_IN_VAR = """\
  1. manage.py rotate_pepper --begin     makes a new one, which nothing uses yet
  2. restart the platform                now every process knows it
  3. manage.py rotate_pepper --switch    new keys and hashes are made with it
  4. restart the platform                each hash moves over at its key's next use"""
_IN_ENVIRONMENT = """\
  1. put a new one (32 or more random characters) at the end of KEY_PEPPER_FALLBACKS, everywhere
  2. restart one machine after another   now every process knows it
  3. make it KEY_PEPPER, and the former KEY_PEPPER the first of KEY_PEPPER_FALLBACKS, everywhere
  4. restart one machine after another   each hash moves over at its key's next use"""


class Command(BaseCommand):
    help = "Says where the keys' pepper stands, and how it is rotated without a stop."

    def add_arguments(self, parser: CommandParser) -> None:
        step = parser.add_mutually_exclusive_group()
        step.add_argument("--begin", action="store_true", help="make a new pepper in var/")
        step.add_argument("--switch", action="store_true", help="use it from the next start on")
        parser.add_argument(
            "--restarted", action="store_true", help="every process was restarted since --begin"
        )

    def handle(
        self, *args: Any, begin: bool, switch: bool, restarted: bool, **options: Any
    ) -> None:
        try:
            if begin:
                self.stdout.write(f"Made the pepper {peppers.begin()}. Restart, then: --switch.")
            elif switch:
                keyid = peppers.switch(restarted=restarted)
                self.stdout.write(f"From the next start on, {keyid} is the pepper. Restart.")
            else:
                self._report(peppers.report())
        except (Refused, OSError) as error:
            raise CommandError(str(error)) from None

    def _report(self, report: peppers.Report) -> None:
        self.stdout.write(
            f"KEY_PEPPER is {report.current}: {report.hashes.get(report.current, 0)} keys"
        )
        for keyid in report.fallbacks:
            self.stdout.write(
                f"a former or coming one, {keyid}: {report.hashes.get(keyid, 0)} keys"
            )
        self.stdout.write(
            f"{report.tags} live keys are from before {report.since:%Y-%m-%d %H:%M} UTC: their "
            "tags may need a former one."
        )
        for keyid, count in report.lost.items():
            self.stdout.write(
                f"{count} keys don't work: their pepper {keyid} is not here. Put it into "
                "KEY_PEPPER_FALLBACKS."
            )
        self.stdout.write(
            "A former one may be removed once no hash is under it and no live key is that old."
        )
        self.stdout.write("To rotate, while the platform runs:")
        self.stdout.write(_IN_VAR if settings.KEY_PEPPER_IN_VAR else _IN_ENVIRONMENT)
