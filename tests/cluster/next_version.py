"""The next version of the platform, for upgrades: this one, with one more migration.

The migration adds a column with a default, as docs/upgrading.md says that migrations do, and the
new version writes it.
"""

import shutil
from pathlib import Path

from tests.platforms import ROOT

# Folders of the project that a running platform does not need.
_LEFT_OUT = {"bench", "clients", "deploy", "docs", "requirements", "scripts", "tests", "var"}
COLUMNS = (
    "SELECT 1 FROM information_schema.columns"
    " WHERE table_name = 'apikeys_apikey' AND column_name = 'cluster_note'"
)
_FIELD = 'models.CharField(max_length=20, default="", db_default="", blank=True)'
_MIGRATION = f"""
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("apikeys", "%s")]
    operations = [migrations.AddField("apikey", "cluster_note", {_FIELD})]
"""
_MODEL = f"""

from django.db import models  # noqa: E402

APIKey.add_to_class("cluster_note", {_FIELD})
"""


def write(folder: Path) -> Path:
    """Write the next version to the new folder `folder`, and return it."""
    shutil.copytree(ROOT, folder, ignore=_left_out)
    migrations = folder / "apikeys/migrations"
    last = max(path.stem for path in migrations.glob("[0-9]*.py"))
    (migrations / "9999_cluster_note.py").write_text(_MIGRATION % last)
    with (folder / "apikeys/models/keys.py").open("a") as file:
        file.write(_MODEL)
    return folder


def _left_out(folder: str, names: list[str]) -> set[str]:
    if Path(folder) != ROOT:
        return {"__pycache__"}
    return {name for name in names if name.startswith(".") or name in _LEFT_OUT}
