"""The reader of the environment, and what all other settings depend on."""

from pathlib import Path

import django_stubs_ext

from config.env import Environment
from config.parsers import folder_problem

# Django's generic classes can't be subscripted at run time; the type checker requires it.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parents[3]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

env = Environment()
env.section("Basics")

PRODUCTION: bool = env.boolean(
    "PRODUCTION",
    default=False,
    help="Nothing has a made-up default: missing secrets, `DATABASE_URL`, `EMAIL_URL` and "
    "`PUBLIC_URL` are errors, and connections to other hosts need verified TLS.",
)
DEBUG: bool = env.boolean(
    "DEBUG", default=False, help="Show Django's error pages. Not allowed with `PRODUCTION`."
)
if PRODUCTION and DEBUG:
    env.add_error("DEBUG", "must be off when PRODUCTION is on.")

VAR: Path = env.file_path(
    "VAR_DIR",
    default=BASE_DIR / "var",
    default_help="`var/`",
    help="The folder of the SQLite database, generated secrets, certificates and static files. "
    "Other users of the machine must not need it: its mode is set to 0700.",
).absolute()
if _problem := folder_problem(VAR):
    env.add_error("VAR_DIR", _problem)
    VAR = BASE_DIR / "var"
