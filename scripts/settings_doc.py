"""Write docs/settings.md from the environment variables that config.settings reads.

    python scripts/settings_doc.py [--print]

tests/config/test_settings_doc.py fails when the file is out of date.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.env import Variable

DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"
# In this order.
_SECTIONS = (
    "Basics",
    "Appearance",
    "Secrets",
    "Network",
    "Database",
    "Cache",
    "Mail",
    "Accounts",
    "Login with Google and GitHub",
    "API keys",
    "Uploads",
    "Validation cache",
    "Retention",
    "Browsers",
    "Logging",
    "Monitoring",
    "Traces",
)
_HEAD = """\
# Settings

<!-- Written by `make settings-doc`. Edit the descriptions in platform/config/settings/. -->

Settings are environment variables. `make run` takes them on its command line as well: `make run PORT=9000`.

- **Files:** each variable can be read from a file instead, for secrets: `KEY_PEPPER_FILE=/run/secrets/pepper`.
- **Empty values:** a variable that is empty counts as not set. Blanks around a value are removed.
- **Lists:** commas or blanks separate the items.
- **Errors:** the start reports all variables that are missing or not understood together, and names that are one
  letter away from a variable's.
"""
_TAIL = """\

## Read by commands

These are no settings and can't be read from a file.

| variable | read by | meaning |
|---|---|---|
| `EMAIL`, `PASSWORD`, `ROLE` | `make staff` | The staff account to create; asked for where it is missing. |
| `PGSSLMODE`, `PGSSLROOTCERT`, `PGSERVICE` and others of libpq | connections to PostgreSQL | Defaults of options that the URL does not name. |
"""


def document() -> str:
    """Return the page. config.settings is imported without variables, in an empty VAR_DIR."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.clear()
        os.environ["VAR_DIR"] = folder
        from config.settings import env
    variables = env.variables.values()
    unknown = {variable.section for variable in variables} - set(_SECTIONS)
    if unknown:
        raise SystemExit(f"Add to _SECTIONS: {', '.join(unknown)}")
    parts = [_HEAD]
    for section in _SECTIONS:
        parts += [
            f"\n## {section}\n\n",
            "| variable | value | default | meaning |\n|---|---|---|---|\n",
        ]
        parts += [_row(variable) for variable in variables if variable.section == section]
    return "".join([*parts, _TAIL])


def _row(variable: "Variable") -> str:
    meaning = variable.help
    if variable.old_name:
        meaning += f" Formerly `{variable.old_name}`, which still works in this release."
    return f"| `{variable.name}` | {variable.kind} | {variable.default} | {meaning} |\n"


if __name__ == "__main__":
    if "--print" in sys.argv[1:]:
        sys.stdout.write(document())
    else:
        DOCUMENT.write_text(document())
