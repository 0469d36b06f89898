"""The reader of the environment, and what all other settings depend on."""

import os
from pathlib import Path

import django_stubs_ext

from config.env import Environment
from config.parsers import folder_problem

# Django's generic classes can't be subscripted at run time; the type checker requires it.
django_stubs_ext.monkeypatch()

_RESOURCES = Path(__file__).resolve().parents[1] / "resources"
# Whether the project runs from a wheel, which has templates, static files and catalogs in this
# package. A clone has them in its top folder.
IS_INSTALLED = _RESOURCES.is_dir()
BASE_DIR = _RESOURCES if IS_INSTALLED else Path(__file__).resolve().parents[3]


def _default_var() -> Path:
    if not IS_INSTALLED:
        return BASE_DIR / "var"
    # XDG Base Directory Specification. An empty or relative value counts as absent.
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    home = Path.home() / ".local" / "share"
    return (data if data.is_absolute() else home) / "comfyui-keys"


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
    default=_default_var(),
    default_help="`var/`; installed from a wheel: `~/.local/share/comfyui-keys`",
    help="The folder of the SQLite database, generated secrets, certificates and static files. "
    "Other users of the machine must not need it: its mode is set to 0700.",
).absolute()
if _problem := folder_problem(VAR):
    env.add_error("VAR_DIR", _problem)
    VAR = _default_var()
