"""core.file_permissions: only the platform's user can access its files."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import file_permissions
from tests.config.test_environment import ROOT


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The settings that file_permissions reads, without the database of the test run."""
    var = tmp_path / "var"
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(var / "platform.sqlite3")}
    settings = SimpleNamespace(
        VAR=var,
        VERSION_TABLE_FILE=var / "platform.sqlite3.epochs",
        RUNNING_FILE=var / "platform.sqlite3.running",
        TOMBSTONES_FILE=var / "tombstones",
        DATABASES={"default": database},
    )
    monkeypatch.setattr(file_permissions, "settings", settings)
    return settings


@pytest.fixture
def var(settings: SimpleNamespace) -> Path:
    """A folder with the file modes that older versions set."""
    var: Path = settings.VAR
    for folder in (var, var / "backups", var / "tls", var / "static"):
        folder.mkdir()
    for name in ("platform.sqlite3", "platform.sqlite3-wal", "platform.sqlite3-shm",
                 "platform.sqlite3.epochs", "tombstones", ".prepare.lock", "secret_key",
                 "backups/one.zip", "tls/ca.key"):  # fmt: skip
        (var / name).write_text("kept")
    return var


def everything(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


def test_existing_files_are_restricted_to_their_owner(var):
    assert all(mode(path) & 0o044 for path in everything(var))
    file_permissions.restrict_to_owner()
    assert [path for path in everything(var) if mode(path) & 0o077] == []
    assert mode(var) == 0o700
    assert mode(var / "platform.sqlite3") == 0o600


def test_new_files_are_restricted_to_their_owner(var):
    file_permissions.restrict_to_owner()
    (var / "new").write_text("kept")
    (var / "folder").mkdir()
    assert (mode(var / "new"), mode(var / "folder")) == (0o600, 0o700)


def test_the_check_names_each_path_that_others_can_access(var):
    named = "\n".join(found.msg for found in file_permissions.check_file_modes())
    for path in everything(var):
        assert f" {path} " in named
    file_permissions.restrict_to_owner()
    assert file_permissions.check_file_modes() == []
    (var / "platform.sqlite3-shm").chmod(0o640)
    (found,) = file_permissions.check_file_modes()
    assert "-shm (mode 640)" in found.msg
    assert found.id == "config.W001"


def test_a_database_outside_var_is_restricted_and_its_folder_is_not(var, tmp_path, settings):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for suffix in ("", "-wal", "-shm"):
        (elsewhere / f"keys.sqlite3{suffix}").write_text("kept")
    (elsewhere / "neighbour").write_text("of another program")
    settings.DATABASES["default"]["NAME"] = str(elsewhere / "keys.sqlite3")
    settings.TOMBSTONES_FILE = elsewhere / "tombstones"
    settings.TOMBSTONES_FILE.write_text("kept")
    file_permissions.restrict_to_owner()
    assert {path.name for path in elsewhere.iterdir() if not mode(path) & 0o077} == {
        "keys.sqlite3", "keys.sqlite3-wal", "keys.sqlite3-shm", "tombstones",
    }  # fmt: skip
    assert mode(elsewhere) == 0o755
    assert file_permissions.check_file_modes() == []


def test_the_check_names_a_folder_where_others_can_replace_the_database(var, tmp_path, settings):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings.DATABASES["default"]["NAME"] = str(elsewhere / "keys.sqlite3")
    file_permissions.restrict_to_owner()
    elsewhere.chmod(0o775)
    (found,) = file_permissions.check_file_modes()
    assert (found.id, str(elsewhere) in found.msg) == ("config.W002", True)
    elsewhere.chmod(0o1777)
    assert file_permissions.check_file_modes() == []


def test_links_are_not_followed(var, tmp_path):
    other = tmp_path / "other"
    other.write_text("of another program")
    (var / "link").symlink_to(other)
    file_permissions.restrict_to_owner()
    assert mode(other) == 0o644


@pytest.mark.parametrize(
    "command",
    [("manage.py", "createcachetable"), ("-c", "import config.wsgi")],
    ids=["manage", "wsgi"],
)
def test_all_entry_points_create_files_for_their_owner_only(tmp_path, command):
    """Each creates VAR_DIR if it comes first, in production as well."""
    for variables in (
        {},
        {
            "PRODUCTION": "1",
            "SECRET_KEY": "s" * 40,
            "KEY_PEPPER": "p" * 40,
            "PUBLIC_URL": "https://keys.example",
            "EMAIL_URL": "none",
            "DATABASE_URL": f"sqlite:///{tmp_path}/second/platform.sqlite3",
        },
    ):
        var = tmp_path / ("second" if variables else "first")
        subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "VAR_DIR": str(var), **variables},
            check=True,
            capture_output=True,
            umask=0o022,
        )
        assert mode(var) == 0o700
        assert [path for path in everything(var) if mode(path) & 0o077] == []


def test_manage_check_reports_files_that_others_can_access(tmp_path):
    (tmp_path / "old.zip").write_text("kept")
    (tmp_path / "old.zip").chmod(0o644)
    checked = subprocess.run(
        [sys.executable, "manage.py", "check", "--fail-level", "WARNING"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 1
    assert "config.W001" in checked.stderr
    assert "old.zip" in checked.stderr
