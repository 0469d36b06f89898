"""Rotate the pepper of key hashes step by step, or print the state and the next steps."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from backups import pepper_rotation
from backups.archive import BackupError

_IN_VAR = """\
  1. manage.py rotate_pepper --begin     makes a new one, which nothing uses yet
  2. restart the platform                now every process knows it
  3. manage.py rotate_pepper --switch    new keys and hashes are made with it
  4. restart the platform                each hash moves over at its key's next use
  5. manage.py rotate_pepper --finish --restarted   removes former ones that no key needs"""
_IN_ENVIRONMENT = """\
  1. put a new one (32 or more random characters) at the end of KEY_PEPPER_FALLBACKS, everywhere
  2. restart one machine after another   now every process knows it
  3. make it KEY_PEPPER, and the former KEY_PEPPER the first of KEY_PEPPER_FALLBACKS, everywhere
  4. restart one machine after another   each hash moves over at its key's next use
  5. take a former one away once this command says that no key needs it, and restart"""


class Command(BaseCommand):
    help = "Says where the keys' pepper stands, and how it is rotated without a stop."

    def add_arguments(self, parser: CommandParser) -> None:
        step = parser.add_mutually_exclusive_group()
        step.add_argument("--begin", action="store_true", help="make a new pepper in var/")
        step.add_argument("--switch", action="store_true", help="use it from the next start on")
        step.add_argument(
            "--finish", action="store_true", help="remove former peppers that no key needs"
        )
        parser.add_argument(
            "--restarted", action="store_true", help="every process was restarted since that step"
        )

    def handle(
        self,
        *args: Any,
        begin: bool,
        switch: bool,
        finish: bool,
        restarted: bool,
        **options: Any,
    ) -> None:
        try:
            if begin:
                self.stdout.write(
                    f"Made the pepper {pepper_rotation.begin()}. Restart, then: --switch."
                )
            elif switch:
                keyid = pepper_rotation.switch(restarted=restarted)
                self.stdout.write(f"From the next start on, {keyid} is the pepper. Restart.")
            elif finish:
                removed = pepper_rotation.finish(restarted=restarted)
                self.stdout.write(
                    f"Removed {', '.join(removed)}. Restart." if removed else "Removed nothing."
                )
                self._report(pepper_rotation.report())
            else:
                self._report(pepper_rotation.report())
        except (BackupError, OSError) as error:
            raise CommandError(str(error)) from None

    def _report(self, report: pepper_rotation.Report) -> None:
        need = report.need(report.current)
        self.stdout.write(
            f"KEY_PEPPER is {report.current}: {report.hashes.get(report.current, 0)} keys"
            f"{_expired(need)}"
        )
        for keyid in report.fallbacks:
            need = report.need(keyid)
            self.stdout.write(
                f"a former or coming one, {keyid}: {report.hashes.get(keyid, 0)} keys; "
                f"{need.live} live keys need it for their hash or their tag{_expired(need)}"
            )
        self._report_broken(report)
        self._report_removable(report)
        self.stdout.write("To rotate, while the platform runs:")
        self.stdout.write(_IN_VAR if settings.KEY_PEPPER_IN_VAR else _IN_ENVIRONMENT)

    def _report_broken(self, report: pepper_rotation.Report) -> None:
        """Print the keys whose pepper is unknown or missing."""
        if report.unknown.live or report.unknown.expired:
            self.stdout.write(
                f"{report.unknown.live} live keys were not used since the update of the platform "
                "that notes the pepper of their tag: each of them may need any former pepper. "
                f"Their next use tells.{_expired(report.unknown)}"
            )
        for keyid, count in report.lost.items():
            self.stdout.write(
                f"{count} keys don't work: their pepper {keyid} is not here. Put it into "
                "KEY_PEPPER_FALLBACKS."
                if keyid
                else f"{count} keys don't work: their hash is damaged."
            )

    def _report_removable(self, report: pepper_rotation.Report) -> None:
        for keyid in report.fallbacks:
            if not report.is_needed(keyid):
                self.stdout.write(
                    f"No live key needs {keyid}. If it is a former one, it may be removed once "
                    "every process, on every machine, was restarted with the current one: a "
                    "process that was not makes keys with the former one still."
                )


def _expired(need: pepper_rotation.Need) -> str:
    return f" ({need.expired} expired ones beside)" if need.expired else ""
