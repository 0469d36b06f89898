"""Rotate the pepper of key hashes step by step, or print the state and the next steps."""

from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from backups import pepper_rotation
from backups.archive import BackupError
from core.interrupts import interruptible
from core.progress import Progress

_IN_VAR = """\
  1. manage.py rotate_pepper --begin     creates a new pepper, which nothing uses yet
  2. restart the platform                all processes can read it
  3. manage.py rotate_pepper --switch    new keys and hashes will use it
  4. restart the platform                each hash is replaced at the key's next use
  5. manage.py rotate_pepper --finish --restarted   removes old peppers that no key needs"""
_IN_ENVIRONMENT = """\
  1. append a new pepper (32 or more random characters) to KEY_PEPPER_FALLBACKS on all hosts
  2. restart one host after another      all processes can read it
  3. make it KEY_PEPPER, and the old KEY_PEPPER the first of KEY_PEPPER_FALLBACKS, on all hosts
  4. restart one host after another      each hash is replaced at the key's next use
  5. remove the old pepper once this command says that no key needs it, and restart"""


class Command(BaseCommand):
    help = "Shows which keys use which pepper, and rotates the pepper without downtime."

    def add_arguments(self, parser: CommandParser) -> None:
        step = parser.add_mutually_exclusive_group()
        step.add_argument("--begin", action="store_true", help="create a new pepper in var/")
        step.add_argument("--switch", action="store_true", help="use it from the next start")
        step.add_argument(
            "--finish", action="store_true", help="remove old peppers that no key needs"
        )
        parser.add_argument(
            "--restarted", action="store_true", help="all processes were restarted since that step"
        )

    def handle(
        self,
        *args: Any,
        begin: bool,
        switch: bool,
        finish: bool,
        restarted: bool,
        verbosity: int,
        **options: Any,
    ) -> None:
        progress = partial(Progress, verbosity=verbosity)
        with interruptible("No pepper is lost. Run it again."):
            try:
                if begin:
                    self.stdout.write(
                        f"Created the pepper {pepper_rotation.begin()}. Restart, then: --switch."
                    )
                elif switch:
                    keyid = pepper_rotation.switch(restarted=restarted)
                    self.stdout.write(f"{keyid} is the pepper from the next start. Restart.")
                elif finish:
                    removed = pepper_rotation.finish(restarted=restarted, progress=progress)
                    self.stdout.write(
                        f"Removed {', '.join(removed)}. Restart." if removed else "Removed nothing."
                    )
                    self._report(pepper_rotation.report(progress=progress))
                else:
                    self._report(pepper_rotation.report(progress=progress))
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
                f"old or new pepper {keyid}: {report.hashes.get(keyid, 0)} keys; "
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
                f"{report.unknown.live} live keys were not used since the update that records the "
                "pepper of their tag. They may need any old pepper, until their next use."
                f"{_expired(report.unknown)}"
            )
        for keyid, count in report.lost.items():
            self.stdout.write(
                f"{count} keys don't work: their pepper {keyid} is missing. Add it to "
                "KEY_PEPPER_FALLBACKS."
                if keyid
                else f"{count} keys don't work: their hash is damaged."
            )

    def _report_removable(self, report: pepper_rotation.Report) -> None:
        for keyid in report.fallbacks:
            if not report.is_needed(keyid):
                self.stdout.write(
                    f"No live key needs {keyid}. If it is an old one, remove it once all processes "
                    "on all hosts were restarted with the current one: others still create keys "
                    "with the old one."
                )


def _expired(need: pepper_rotation.Need) -> str:
    return f" (and {need.expired} expired ones)" if need.expired else ""
