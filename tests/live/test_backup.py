"""Backups: what they hold, which of them are refused, and what a restore replaces."""

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

from tests.live.conftest import Place, code, delete, join, shell
from tests.platforms import ROOT

MIGRATIONS = "SELECT app, name FROM django_migrations"


def test_a_backup_has_no_secrets_and_is_readable_by_its_owner_only(sqlite_place: Place) -> None:
    with sqlite_place.running() as platform:
        join(platform, keys=1)
        assert shell(
            platform,
            "from outbox.models import Mail\n"
            "Mail.objects.create(to='a@example.org', sender='b', subject='c', text='123456')\n"
            "answer = True",
        )
        done = sqlite_place.manage("backup")
        assert "KEY_PEPPER" in done.stderr
    path = Path(done.stdout.strip())
    assert path.parent == sqlite_place.folder / "backups"
    assert [stat.S_IMODE(each.stat().st_mode) for each in [path, path.parent]] == [0o600, 0o700]
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        dumped = Path(archive.extract("database", sqlite_place.folder))
    for secret in ["key_pepper", "secret_key"]:
        found = (sqlite_place.folder / secret).read_bytes().strip() in content
        assert not found, secret
    with closing(sqlite3.connect(dumped)) as copy:
        for table in ["django_session", "usersessions_usersession", "outbox_mail"]:
            assert not copy.execute(f"SELECT 1 FROM {table}").fetchall()  # noqa: S608
        assert copy.execute("SELECT count(*) FROM apikeys_apikey").fetchall() == [(1,)]


def test_a_full_disk_and_another_secret_key_are_reported(
    sqlite_place: Place, postgresql: str
) -> None:
    with sqlite_place.running() as platform:
        join(platform, keys=1)
        path = sqlite_place.backup()
    before = sqlite_place.rows("SELECT id, encoded FROM apikeys_apikey")
    with zipfile.ZipFile(path) as packed:
        size = packed.getinfo("database").file_size
    limited = ["/bin/sh", "-c", 'ulimit -f "$0"; exec "$@"']
    # A file size limit, in bytes: first for the unpacked dump, then for the copy of the database.
    for most in [size // 4, size - 4096, size + 4096]:
        for command in [["restore", str(path)], ["backup", "--to", str(path.with_name("2.zip"))]]:
            done = subprocess.run(
                [*limited, str(most // 512), sys.executable, "manage.py", *command],
                cwd=ROOT,
                env=sqlite_place.environment,
                check=False,
                capture_output=True,
                text=True,
                timeout=180,
            )
            assert "Traceback" not in done.stderr
            if done.returncode:
                assert "CommandError: " in done.stderr
        assert most > size or done.returncode == 1
        assert sqlite_place.rows("SELECT id, encoded FROM apikeys_apikey") == before
        assert sqlite_place.leftovers(postgresql) == []
        path.with_name("2.zip").unlink(missing_ok=True)

    other = {"SECRET_KEY": "another key, of another machine, for this test alone"}
    assert "with a SECRET_KEY that is not configured" in sqlite_place.refused(path, **other)
    former = (sqlite_place.folder / "secret_key").read_text()
    fallback = {**other, "SECRET_KEY_FALLBACKS": former}
    assert sqlite_place.manage("restore", str(path), **fallback).returncode == 0
    confirmed = sqlite_place.manage("restore", str(path), "--without-secret-key", **other)
    assert confirmed.returncode == 0


def test_an_invalid_backup_is_refused_with_a_message(sqlite_place: Place) -> None:
    with sqlite_place.running() as platform:
        key = join(platform, keys=1).keys[0]
        path = sqlite_place.backup()
    damaged, newer, other = (sqlite_place.folder / f"{name}.zip" for name in "abc")
    damaged.write_bytes(path.read_bytes()[:-4000])
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        database = archive.read("database")
    for to, change in [
        (newer, {"migrations": [*manifest["migrations"], "apikeys.9999_from_the_future"]}),
        (other, {"database": "postgresql"}),
    ]:
        with zipfile.ZipFile(to, "w") as archive:
            archive.writestr("manifest.json", json.dumps({**manifest, **change}))
            archive.writestr("database", database)
    changed = sqlite_place.folder / "changed.zip"
    with zipfile.ZipFile(changed, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("database", database[:-1] + bytes([database[-1] ^ 1]))

    assert "no backup" in sqlite_place.refused(Path(sqlite_place.folder / "none.zip"))
    assert "damaged" in sqlite_place.refused(damaged)
    assert "damaged" in sqlite_place.refused(changed)
    assert "apikeys.9999_from_the_future" in sqlite_place.refused(newer)
    assert "This backup is of postgresql" in sqlite_place.refused(other)
    pepper = {"KEY_PEPPER": "another pepper, of another machine, for this test alone"}
    assert "1 of the 1 keys" in sqlite_place.refused(path, **pepper)
    with sqlite_place.running() as platform:
        assert code(platform, key) == "VALID"


def test_a_backup_of_an_older_version_is_migrated(sqlite_place: Place) -> None:
    with sqlite_place.running() as platform:
        key = join(platform, keys=1).keys[0]
    live = sqlite_place.folder / "platform.sqlite3"
    # The last connection that closes moves the journal into the file: here, and before it is
    # replaced.
    applied = set(sqlite_place.rows(MIGRATIONS))
    newer = shutil.copy2(live, live.with_name("newer"))
    assert sqlite_place.manage("migrate", "accounts", "0002").returncode == 0
    path = sqlite_place.backup()
    assert set(sqlite_place.rows(MIGRATIONS)) < applied
    # The platform is newer than the backup.
    newer.replace(live)
    assert set(sqlite_place.rows(MIGRATIONS)) == applied
    sqlite_place.restore(path)
    assert set(sqlite_place.rows(MIGRATIONS)) == applied
    with sqlite_place.running() as platform:
        assert code(platform, key) == "VALID"


def test_a_damaged_database_is_replaced_and_kept(sqlite_place: Place) -> None:
    with sqlite_place.running() as platform:
        lives, dies = join(platform, keys=2).keys
        path = sqlite_place.backup()
        delete(platform, dies)
    live = sqlite_place.folder / "platform.sqlite3"
    wreck = b"no database at all" * 1000
    live.write_bytes(wreck)
    # A journal left in place is replayed into the new file.
    for journal in sqlite_place.folder.glob("platform.sqlite3-*"):
        journal.unlink()
    assert "kept" in sqlite_place.restore(path)
    (kept,) = sqlite_place.folder.glob("replaced-*/platform.sqlite3")
    assert kept.read_bytes() == wreck
    with sqlite_place.running() as platform:
        assert [code(platform, key) for key in [lives, dies]] == ["VALID", "REVOKED"]
