"""Migrate a restored copy of the database and replay tombstones in it, in a separate process.

    python -m backups.upgrade_copy < order.json

Models and services can be used as usual and cannot reach the live database: this process has
settings for the copy only.
"""

import json
import os
import sys
from datetime import datetime
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command


def main() -> int:
    order = json.load(sys.stdin)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    settings.DATABASES["default"]["NAME"] = order["database"]
    settings.DATABASES["default"]["OPTIONS"].pop("pool", None)
    # Replaying sends no e-mails, invalidates no live cache and writes no tombstones.
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.dummy.EmailBackend"}}
    settings.VALIDATION_CACHE = False
    settings.VERSION_TABLE_FILE = Path(f"{order['database']}.no-version-table")
    settings.TOMBSTONES_FILE = None
    django.setup()
    from accounts import mfa
    from backups.replay_tombstones import replay
    from backups.tombstones import read

    call_command("migrate", verbosity=0, interactive=False)
    call_command("createcachetable", verbosity=0)
    log = read(map(Path, order["tombstones"]))
    done = replay(log, made_at=datetime.fromisoformat(order["made_at"]))
    unreadable = mfa.count_by_key()[None]
    json.dump({"done": done, "torn": log.torn, "unreadable": unreadable}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
