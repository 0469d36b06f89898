"""Backup files: damaged ones are rejected with a message, killed processes leave no files."""

import fcntl
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.conf import settings as django_settings

from accounts.models import User
from backups import archive, contents, temporary_folders
from backups.archive import BackupError, Manifest
from backups.sqlite import SQLite
from core import encryption, running

OTHER_KEY = "the SECRET_KEY of another platform or another time"


def manifest(**changed: Any) -> Manifest:
    return Manifest(
        **{
            "made_at": "2026-11-30T12:00:00+00:00",
            "database": "sqlite",
            "server": "3",
            "migrations": [],
            "peppers": {},
            "accounts": 0,
            "keys": 0,
            **changed,
        }
    )


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of 200 kB of incompressible data."""
    path = tmp_path / "backups" / "one.zip"
    archive.write(path, manifest(), lambda to: Path(to).write_bytes(os.urandom(200_000)) and None)
    return path


def rejection(path: Path) -> str:
    with pytest.raises(BackupError) as rejected, archive.open_archive(path):
        raise AssertionError("A damaged backup was opened.")
    assert list(path.parent.glob(".unfinished-*")) == []
    return str(rejected.value)


def test_a_damaged_file_never_yields_another_database(backup: Path) -> None:
    good = backup.read_bytes()
    with archive.open_archive(backup) as (_manifest, dump):
        database = sha256(dump.read_bytes()).digest()
    rejected = 0
    for at in [*range(0, len(good), len(good) // 40), *range(len(good) - 250, len(good), 8)]:
        content = bytearray(good)
        content[at] ^= 0xFF
        # A new file each time is faster: overwriting a file flushes it to the disk.
        damaged = backup.with_name(f"{at}.zip")
        damaged.write_bytes(content)
        try:
            with archive.open_archive(damaged) as (_manifest, dump):
                # A byte without meaning, such as a timestamp.
                assert sha256(dump.read_bytes()).digest() == database
        except BackupError:
            rejected += 1
    assert rejected > 40


@pytest.mark.parametrize("kept", [0, 1, 1000, 100_000, -30, -1])
def test_a_truncated_file_is_rejected(backup: Path, kept: int) -> None:
    backup.write_bytes(backup.read_bytes()[:kept])
    assert "damaged" in rejection(backup)


def test_a_damaged_compressed_member_is_rejected(tmp_path: Path) -> None:
    """A damaged compressed member raises an exception of zlib, not of zipfile."""
    path = tmp_path / "one.zip"
    archive.write(
        path, manifest(), lambda to: Path(to).write_bytes(b"row after row" * 9999) and None
    )
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as packed:
        info = packed.getinfo("database")
    start = info.header_offset + 30 + len("database")
    raw[start : start + info.compress_size] = b"\xff" * info.compress_size
    path.write_bytes(raw)
    assert "damaged" in rejection(path)


@pytest.mark.parametrize(
    "fields",
    [
        "[]",
        "7",
        "{}",
        '{"format": 2}',
        "[" * 100_000,
        json.dumps({"format": 2, "made_at": "yesterday"}),
        b"\xff\xfe",
    ],
    ids=range(7),
)
def test_a_foreign_manifest_is_rejected(tmp_path: Path, fields: str | bytes) -> None:
    path = tmp_path / "one.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("manifest.json", fields)
        packed.writestr("database", b"")
    assert str(path) in rejection(path) or "format" in rejection(path)


@pytest.mark.parametrize(
    "changed",
    [{"made_at": "2026-11-30"}, {"peppers": []}, {"encrypted": {"a": "b"}}, {"size": "large"}],
    ids=str,
)
def test_a_manifest_with_invalid_values_is_rejected(backup: Path, changed: dict[str, Any]) -> None:
    rewrite(backup, changed)
    assert "damaged" in rejection(backup)


def rewrite(path: Path, changed: dict[str, Any]) -> None:
    with zipfile.ZipFile(path) as packed:
        fields = json.loads(packed.read("manifest.json"))
        database = packed.read("database")
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("manifest.json", json.dumps({**fields, **changed}))
        packed.writestr("database", database)


def test_no_more_is_unpacked_than_the_manifest_announces(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    archive.write(path, manifest(), lambda to: Path(to).write_bytes(bytes(50_000_000)) and None)
    rewrite(path, {"size": 1_000_000})
    assert "larger" in rejection(path)


def test_unpacked_files_are_readable_by_their_owner_only(backup: Path) -> None:
    before = os.umask(0)
    try:
        with archive.open_archive(backup) as (_manifest, dump):
            modes = {stat.S_IMODE(each.stat().st_mode) for each in dump.parent.iterdir()}
            assert modes == {0o600}
            assert stat.S_IMODE(dump.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600


HOLD = """
import sys
from pathlib import Path
from backups import temporary_folders
with temporary_folders.create_folder(Path(sys.argv[1])) as folder:
    (folder / "database").write_text("rows")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_folders_of_killed_processes_are_removed_and_others_are_not(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _number in range(2)
    ]
    folders = []
    for process in processes:
        assert process.stdout is not None
        folders.append(Path(process.stdout.readline().strip()))
    killed, working = processes
    try:
        temporary_folders.remove_abandoned(tmp_path)
        assert all(folder.exists() for folder in folders)
        killed.kill()
        killed.communicate()
        assert folders[0].exists()
        temporary_folders.remove_abandoned(tmp_path)
        assert [folder.exists() for folder in folders] == [False, True]
    finally:
        working.communicate()
    assert not folders[1].exists()


def test_a_folder_without_a_lock_is_removed_after_a_day(tmp_path: Path) -> None:
    """Such as one of an older version."""
    young, old = tmp_path / ".unfinished-young", tmp_path / ".unfinished-old"
    for folder in [young, old]:
        folder.mkdir()
        (folder / "database").touch()
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    temporary_folders.remove_abandoned(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)


def test_an_empty_folder_without_a_lock_is_removed_at_once(tmp_path: Path) -> None:
    """Its process was killed before it had the lock."""
    folder = tmp_path / ".unfinished-empty"
    folder.mkdir()
    temporary_folders.remove_abandoned(tmp_path)
    assert not folder.exists()


def test_the_lock_excludes_a_restore_while_a_server_runs_and_the_reverse(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RUNNING_FILE = tmp_path / "running"
    monkeypatch.setattr(running, "_descriptor", None)
    with running.hold_exclusive(), pytest.raises(running.Locked):
        running.hold_shared(wait=False)
    running.hold_shared(wait=False)
    assert stat.S_IMODE(settings.RUNNING_FILE.stat().st_mode) == 0o600
    with pytest.raises(running.Locked), running.hold_exclusive():
        raise AssertionError("A restore began beside a platform.")
    # A second platform may run on the same database.
    with settings.RUNNING_FILE.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert running._descriptor is not None
    os.close(running._descriptor)
    with running.hold_exclusive():
        pass


@pytest.mark.django_db
def test_a_backup_that_needs_another_secret_key_is_rejected(alice: User, settings: Any) -> None:
    settings.SECRET_KEY = OTHER_KEY
    TOTP.activate(alice, generate_totp_secret())
    made = contents.describe(server="")
    assert made.secret_key == encryption.key_id(OTHER_KEY)
    assert made.encrypted == {made.secret_key: 1}
    assert OTHER_KEY not in repr(made)
    contents.check_secret_key(made)
    settings.SECRET_KEY = "the SECRET_KEY of this platform, which is another"
    with pytest.raises(BackupError, match=r"WITHOUT_SECRET_KEY=1") as rejected:
        contents.check_secret_key(made)
    assert "1 authenticator apps" in str(rejected.value)
    settings.SECRET_KEY_FALLBACKS = [OTHER_KEY]
    contents.check_secret_key(made)


@pytest.mark.django_db
def test_a_backup_that_needs_a_missing_fallback_key_is_rejected(alice: User, settings: Any) -> None:
    current, settings.SECRET_KEY = settings.SECRET_KEY, OTHER_KEY
    TOTP.activate(alice, generate_totp_secret())
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = current, [OTHER_KEY]
    made = contents.describe(server="")
    contents.check_secret_key(made)
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(BackupError, match="1 authenticator apps"):
        contents.check_secret_key(made)
    # Secrets that were unreadable when the backup was made do not prevent a restore.
    lost = contents.describe(server="")
    assert lost.encrypted == {"": 1}
    contents.check_secret_key(lost)
    assert Authenticator.objects.count() == 1


@pytest.fixture
def sqlite(settings: Any, tmp_path: Path) -> SQLite:
    """A database of some size with the table that verify looks for."""
    store = SQLite()
    store.path = tmp_path / "live.sqlite3"
    with closing(sqlite3.connect(store.path)) as live, live:
        live.execute("CREATE TABLE apikeys_apikey (text)")
        live.executemany("INSERT INTO apikeys_apikey VALUES (?)", [("x" * 3000,)] * 100)
    return store


def test_a_dump_that_sqlite_cannot_write_raises_a_message(sqlite: SQLite, tmp_path: Path) -> None:
    """tests/live/test_backup.py tests full disks."""
    with pytest.raises(BackupError, match="can't be copied"):
        sqlite.dump(tmp_path / "no such folder" / "dump", without_rows=[])


def test_a_foreign_or_damaged_dump_is_rejected(sqlite: SQLite, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as connected:
        connected.execute("CREATE TABLE something (text)")
    with pytest.raises(BackupError, match="no keys' table"):
        sqlite.verify(other)
    junk = tmp_path / "junk"
    junk.write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    with pytest.raises(BackupError, match="damaged"):
        sqlite.verify(junk)


def test_the_lock_file_is_beside_the_database() -> None:
    if django_settings.VERSION_TABLE_FILE.suffix == ".epochs":
        assert django_settings.RUNNING_FILE.suffix == ".running"
    assert "running" in django_settings.RUNNING_FILE.name
