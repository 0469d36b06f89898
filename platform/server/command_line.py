"""The command line: `comfyui-keys` of an installed wheel, and `manage.py` of a clone.

    comfyui-keys serve      migrate and serve, as `make run`
    comfyui-keys staff      migrate and create a staff account, as `make staff`
    comfyui-keys backup     back up the database, as `make backup`
    comfyui-keys version    print the version

All of Django's and this project's commands work as well, such as `comfyui-keys issue_key`.
"""

import gc
import os
import sys
from importlib.metadata import version


def main() -> None:
    """Run the command in `sys.argv`."""
    # Imports make 100,000 objects that stay. Python would walk them after each 2,000 new ones, for
    # a tenth of the time of a start.
    gc.set_threshold(50_000)
    # After that, because these imports are half of it.
    from django.core.management import execute_from_command_line

    from server import migrate

    # What a command writes, such as a backup, is for this user alone.
    os.umask(0o077)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    program, *arguments = sys.argv
    match arguments:
        # Django's command of this name prints Django's version.
        case ["version" | "--version"]:
            sys.stdout.write(version("comfyui-keys") + "\n")
        case ["staff", *options]:
            if failed := migrate.main():
                sys.exit(failed)
            execute_from_command_line([program, "make_staff", *options])
        case _:
            execute_from_command_line([program, *arguments])
