"""Brings a database that lies beside the live one up to date, in a process of its own.

    python -m backups.beside < order.json

Everything that the platform does with its database is at hand here, and nothing that is done in
here can reach the live one: this process knows of none but the one it is told.
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
    # Nobody is to be told, by mail or by epoch, of what happened long ago; nor is it written down
    # a second time.
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.dummy.EmailBackend"}}
    settings.FAST_LANE = False
    # The live database's would be told else.
    settings.EPOCHS_FILE = Path(f"{order['database']}.no-epochs")
    settings.TOMBSTONES_FILE = None
    django.setup()
    from backups.replay import replay
    from backups.tombstones import read

    call_command("migrate", verbosity=0, interactive=False)
    call_command("createcachetable", verbosity=0)
    known = read(map(Path, order["tombstones"]))
    done = replay(known, made_at=datetime.fromisoformat(order["made_at"]))
    json.dump({"done": done, "torn": known.torn}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
