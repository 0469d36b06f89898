"""Create a peer's tables, and keys by the peer's own code.

    DATABASE_URL=… DJANGO_SETTINGS_MODULE=bench.peers.knox.settings python -m bench.peers.seed 10000

prints one key a line.
"""

import importlib
import os
import sys

import django
from django.core.management import call_command
from django.db import transaction


def main(number: int) -> None:
    django.setup()
    call_command("migrate", verbosity=0)
    peer = importlib.import_module(
        os.environ["DJANGO_SETTINGS_MODULE"].replace(".settings", ".seed")
    )
    with transaction.atomic():
        for key in peer.keys(number):
            print(key)


if __name__ == "__main__":
    main(int(sys.argv[1]))
