"""Every command of docs/runbook.md runs, in the order in which an operator would need them.

A new command in the document needs a line in ROWS; a placeholder of the document is replaced by
what it stands for here.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg

from tests.live.conftest import (
    Account,
    Browser,
    Folder,
    join,
    migrated_database,
    programs,
    serving,
    shell,
    validate,
)
from tests.platforms import ROOT, Platform, free_port

RUNBOOK = ROOT / "docs" / "runbook.md"
# Commands in the text, beside those in blocks.
INLINE = re.compile(r"`((?:make|manage\.py|scp|systemctl|ALTER ROLE|DROP DATABASE) [^`]+)`")
# What a test elsewhere runs, since it needs more than one process.
ELSEWHERE = {
    "systemctl stop": "tests/gateways/test_systemd.py",
    "systemctl status comfyui-keys": "tests/gateways/test_systemd.py",
    # After a promotion, with tombstones of several hosts.
    "manage.py replay_tombstones": "tests/cluster/scenarios.py",
}


@dataclass
class Scene:
    """A platform on PostgreSQL: its folder, environment and database, and what a row needs."""

    folder: Path
    url: str
    variables: dict[str, str] = field(repr=False)
    stack: ExitStack = field(default_factory=ExitStack, repr=False)
    platform: Platform | None = None
    account: Account | None = None
    printed: str = ""
    names: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": os.environ["HOME"], "VAR_DIR": str(self.folder), **self.variables}

    def start(self) -> Platform:
        self.platform = self.stack.enter_context(serving(self.folder, **self.variables))
        return self.platform

    def stop(self) -> None:
        self.stack.close()
        self.platform = None

    def run(self, command: str) -> None:
        """Run a command in the project's folder, as an operator types it."""
        if command.startswith("# restart the platform"):
            self.stop()
            self.start()
            return
        if command.startswith(("ALTER", "DROP")):
            with psycopg.connect(self.names["server"], autocommit=True) as connection:
                connection.execute(command.encode())
            return
        done = subprocess.run(
            ["sh", "-c", command.replace("manage.py ", f"{sys.executable} manage.py ", 1)],
            cwd=ROOT,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Row:
    """A command as the document has it.

    fills: placeholders of the document, each with a template of Scene.names. prints: a part of the
    output. then: called afterwards, to check the effect or to note names for later rows.
    """

    command: str
    fills: dict[str, str] = field(default_factory=dict)
    prints: str = ""
    then: Callable[[Scene], None] = lambda scene: None

    def run(self, scene: Scene) -> None:
        command = self.command
        for placeholder, template in self.fills.items():
            assert placeholder in command, (placeholder, command)
            command = command.replace(placeholder, template.format(**scene.names))
        scene.run(command)
        assert self.prints in scene.printed, (command, scene.printed)
        self.then(scene)


def _key_is_revoked(scene: Scene) -> None:
    assert scene.platform is not None
    assert scene.account is not None
    assert validate(scene.platform, scene.account.keys[0].token).status == 401


def _sessions_have_ended(scene: Scene) -> None:
    assert scene.platform is not None
    assert "/login" in Browser(scene.platform, scene.account).get("/keys/").url


def _note_backup(scene: Scene) -> None:
    [scene.names["backup"]] = re.findall(r"\S+\.zip", scene.printed)
    assert Path(scene.names["backup"]).exists()


def _note_former(scene: Scene) -> None:
    [scene.names["former"]] = set(re.findall(r"\w+_before_\w+", scene.printed))


# While the platform runs.
LIVE = [
    Row("manage.py check", prints="no issues"),
    Row("manage.py revoke_key 87d01e28d3f4", {"87d01e28d3f4": "{public_id}"}, then=_key_is_revoked),
    Row(
        'manage.py shell -c "from django.contrib.sessions.models import Session; '
        'Session.objects.all().delete()"',
        then=_sessions_have_ended,
    ),
    Row(
        'curl -H "Authorization: Bearer $METRICS_SECRET" https://keys.example.org/ready',
        {"https://keys.example.org": "{public_url}"},
        prints='"degraded": []',
    ),
    Row("manage.py rotate_pepper", prints="KEY_PEPPER is"),
    Row("manage.py rotate_pepper --begin", prints="Created the pepper"),
    Row("# restart the platform: every process now has it"),
    Row("manage.py rotate_pepper --switch"),
    Row("# restart the platform"),
    Row("manage.py rotate_pepper --finish --restarted"),
    Row("manage.py remove_factors --everybody", prints="1 accounts had 1"),
    Row("manage.py remove_factors EMAIL", {"EMAIL": "{email}"}, prints="Removed"),
    Row("manage.py rotate_secret_key", prints="SECRET_KEY is"),
    Row("manage.py rotate_secret_key --new", prints="Restart, then: --encrypt"),
    Row("manage.py rotate_secret_key --encrypt", prints="Left under old keys: 0."),
    Row("make backup", prints=".zip"),
    Row("make backup DATABASE_URL=postgres://…", {"postgres://…": "'{url}'"}, prints=".zip"),
    Row("make backup TO=/backups", {"/backups": "{folder}/elsewhere"}, then=_note_backup),
]
# While it is stopped.
STOPPED = [
    Row("ALTER ROLE keys CREATEDB", {"keys": "{role}"}),
    Row(
        "make restore FROM=/backups/2026-11-27T01-36-26Z.zip",
        {"/backups/2026-11-27T01-36-26Z.zip": "{backup}"},
        then=_note_former,
    ),
    Row("ALTER DATABASE keys RENAME TO keys_restored;", {"keys": "{database}"}),
    Row(
        "ALTER DATABASE keys_before_20261127t014312 RENAME TO keys;",
        {"keys_before_20261127t014312": "{former}", "TO keys": "TO {database}"},
    ),
    Row(
        "scp machine-2:/path/to/tombstones machine-2.tombstones",
        {
            "scp machine-2:/path/to": "cp {folder}",
            "machine-2.tombstones": "{folder}/machine-2.tombstones",
        },
    ),
    Row(
        'make restore FROM=… TOMBSTONES="var/tombstones machine-2.tombstones machine-3.tombstones"',
        {
            "…": "{backup}",
            "var/tombstones": "{folder}/tombstones",
            "machine-2.tombstones": "{folder}/machine-2.tombstones",
            "machine-3.tombstones": "{folder}/tombstones",
        },
        then=_note_former,
    ),
    Row("DROP DATABASE keys_before_…", {"keys_before_…": "{former}"}),
]
# `make run` ends only when it is stopped, and has no row for that reason.
ROWS = [*LIVE, *STOPPED, Row("make run")]


def commands() -> Iterator[str]:
    """Yield the commands of the document: lines of its blocks, and those in its text."""
    text = RUNBOOK.read_text()
    block = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    for language, lines in block.findall(text):
        assert language in {"sh", "sql"}, language
        for line in lines.splitlines():
            if command := re.sub(r"(?<=\S)\s+#.*", "", line).strip():
                yield command
    for command in INLINE.findall(block.sub("", text)):
        yield " ".join(command.split())


@contextmanager
def make_run(scene: Scene) -> Iterator[Platform]:
    """Run `make run` until the context ends."""
    port, log = free_port(), scene.folder / "make-run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "run", f"PORT={port}"],
            cwd=ROOT,
            env=scene.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urlopen(f"{url}/ready").close()
                break
            except URLError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield Platform(url, log, scene.environment, process)
    finally:
        if process.poll() is None:
            # Not to make as well: it may wait for ever if its child ends while it handles it.
            tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            for server in tasks.read_text().split():
                os.kill(int(server), signal.SIGTERM)
        process.wait(30)


def test_every_command_of_the_runbook_has_a_row() -> None:
    found = set(commands())
    assert len(found) >= 20
    assert found - ELSEWHERE.keys() == {row.command for row in ROWS}
    assert ELSEWHERE.keys() <= found
    assert all((ROOT / file).exists() for file in ELSEWHERE.values())


_TOTP = """
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from accounts.models import User
TOTP.activate(User.objects.get(email=given["email"]), generate_totp_secret())
answer = True
"""


def test_every_command_of_the_runbook_runs(fresh_folder: Folder, postgresql: str) -> None:
    folder, url = fresh_folder(), migrated_database(postgresql)
    variables = {
        "DATABASE_URL": url,
        "PATH": programs(),
        "ARGON2_MEMORY_KIB": "8",
        "ARGON2_PASSES": "1",
        "WORKERS": "1",
        "SHARED_VERIFIED_FOLDER": str(folder),
        "LOG_LEVEL": "ERROR",
        "METRICS_SECRET": "a secret of monitors in this test only",
    }
    where = psycopg.conninfo.conninfo_to_dict(url)
    scene = Scene(folder, url, variables)
    (folder / "elsewhere").mkdir()
    with scene.stack:
        platform = scene.start()
        scene.account = account = join(platform, keys=1)
        assert validate(platform, account.keys[0].token).status == 200
        assert shell(platform, _TOTP, email=account.email)
        scene.names |= {
            "folder": str(folder),
            "url": url,
            "public_url": platform.url,
            "server": postgresql,
            "database": str(where["dbname"]),
            "role": str(where["user"]),
            "email": account.email,
            "public_id": account.keys[0].public_id,
        }
        for row in LIVE:
            row.run(scene)
    scene.stop()
    for row in STOPPED:
        row.run(scene)
    with make_run(scene) as platform:
        assert validate(platform, account.keys[0].token).status == 401
        scene.run(f"manage.py issue_key {account.email} --name anew")
        assert validate(platform, scene.printed.strip()).status == 200
