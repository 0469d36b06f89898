"""Starting and stopping as an operator does: side by side, again, interrupted, port taken."""

import http.client
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.server.conftest import (
    Browser,
    Folder,
    Store,
    ask,
    join,
    new_database,
    refused_start,
    serving,
    until,
    validate,
)
from tests.servers import ROOT, Platform, free_port

pytestmark = pytest.mark.server


def together(stack: ExitStack, *platforms: dict[str, str], folders: list[Path]) -> list[Platform]:
    """Platforms that are launched at the same moment."""
    with ThreadPoolExecutor(len(platforms)) as pool:
        contexts = [
            serving(folder, **variables)
            for folder, variables in zip(folders, platforms, strict=True)
        ]
        return list(pool.map(stack.enter_context, contexts))


def assert_works(running: Platform) -> None:
    account = join(running, keys=1)
    assert validate(running, account.keys[0].token).status == 200
    browser = Browser(running, account)
    page = browser.get("/keys/")
    assert page.status_code == 200
    style = page.text.partition('rel="stylesheet" href="')[2].partition('"')[0]
    assert browser.get(style).status_code == 200


def test_a_key_of_one_platform_is_unknown_to_another(fresh_folder: Folder) -> None:
    with ExitStack() as stack:
        here, there = together(stack, {}, {}, folders=[fresh_folder(), fresh_folder()])
        for one, other in ((here, there), (there, here)):
            (key,) = join(one, keys=1).keys
            assert validate(one, key.token).status == 200
            answer = validate(other, key.token)
            assert (answer.status, answer.json()["error"]) == (401, "NOT_FOUND")


def test_two_platforms_start_from_nothing_in_one_folder_at_the_same_moment(
    tmp_path: Path,
) -> None:
    """Secrets, migrations and static files are made by one of them, and both go on."""
    shared = tmp_path / "var"
    names = ["one", "two"]
    with ExitStack() as stack:
        platforms = together(
            stack,
            *(
                {"VAR_DIR": str(shared), "DATABASE_URL": f"sqlite:///{shared}/{name}.sqlite3"}
                for name in names
            ),
            folders=[tmp_path / name for name in names],
        )
        for running in platforms:
            assert_works(running)
        here, there = platforms
        (key,) = join(here, keys=1).keys
        # The secrets are the same: it is the row that is missing.
        answer = validate(there, key.token)
        assert (answer.status, answer.json()["error"]) == (401, "NOT_FOUND")
    assert not list(shared.glob(".secret_key*"))
    assert not list(shared.glob(".key_pepper*"))


def test_two_machines_start_on_one_empty_database_at_the_same_moment(
    fresh_folder: Folder, postgresql: str
) -> None:
    url = new_database(postgresql)
    variables = {
        "DATABASE_URL": url,
        "SECRET_KEY": "the same on every machine, and long enough",
        "KEY_PEPPER": "this one is the same on every machine, too",
    }
    with ExitStack() as stack:
        platforms = together(stack, variables, variables, folders=[fresh_folder(), fresh_folder()])
        for running in platforms:
            assert_works(running)
        here, there = platforms
        (key,) = join(here, keys=1).keys
        assert validate(there, key.token).status == 200


def test_what_was_made_at_the_first_start_is_kept_at_the_second(tmp_path: Path) -> None:
    secrets = [tmp_path / "secret_key", tmp_path / "key_pepper"]
    static = [tmp_path / ".static-stamp", tmp_path / "static" / "staticfiles.json"]
    with serving(tmp_path) as running:
        account = join(running, keys=1)
        token = account.keys[0].token
        assert validate(running, token).status == 200
        made = [(path.read_bytes(), path.stat().st_mtime_ns) for path in secrets + static]

    with serving(tmp_path) as running:
        assert validate(running, token).status == 200
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in secrets + static] == made
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600, 0o600]
    assert len({path.read_bytes() for path in secrets}) == 2


def test_uses_that_were_not_written_yet_are_written_at_the_end(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    written: list[int] = []
    # granian now and then fails to end a worker and kills it after a while, and then they are
    # lost, as with every process that is killed: so it has another try.
    while 20 not in written and len(written) < 3:
        with serving(folder, USAGE_FLUSH_INTERVAL="3600") as running:
            account = join(running, keys=1)
            for _ in range(20):
                assert validate(running, account.keys[0].token).status == 200
        with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
            counts = database.execute("SELECT calls FROM apikeys_dailyuse").fetchall()
        written.append(sum(calls for (calls,) in counts) - sum(written))
    assert 20 in written


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_taken_port_is_said_in_one_line(fresh_folder: Folder, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = refused_start(PORT=port, HOST=host, VAR_DIR=str(fresh_folder()))
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert port in line
    assert "make run PORT=" in line


def test_a_second_platform_on_the_same_port_leaves_the_first_alone(fresh_folder: Folder) -> None:
    with serving(fresh_folder()) as running:
        ended = refused_start(**running.environment)
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        assert ask(running, "GET", "/ready").status == 200


def test_a_store_that_is_away_at_the_start_is_said_in_words(
    fresh_folder: Folder, store: Store
) -> None:
    url = new_database(store.url)
    with store.stopped():
        ended = refused_start(PORT=str(free_port()), VAR_DIR=str(fresh_folder()), DATABASE_URL=url)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "The database can't be reached" in ended.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This working copy, with a .venv in which all is installed, whatever a lock file says now."""
    clone = tmp_path / "clone"
    venv = clone / ".venv"
    venv.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in {".venv", ".git", "var"}:
            (clone / path.name).symlink_to(path)
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".installed-"):
            (venv / path.name).symlink_to(path)
    # As scripts/install has it.
    locked = subprocess.run(
        ["cksum"],
        input=(ROOT / "requirements/runtime.txt").read_bytes()
        + (ROOT / "pyproject.toml").read_bytes(),
        capture_output=True,
        check=True,
    ).stdout
    (venv / ".installed-runtime").write_bytes(locked)
    return clone


@contextmanager
def make_run(
    clone: Path, folder: Path, *command: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`make run`, or `command` in its place, as a session of its own, and its port."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PORT": str(port),
        "VAR_DIR": str(folder),
    }
    with (folder / "make.log").open("wb") as log:
        process = subprocess.Popen(
            command or ["make", "run"],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, port
    finally:
        for pid in in_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)


def in_session(session: int) -> list[int]:
    """The processes of a session, without those that have ended and wait to be asked for it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _parent, _group, its = (
                    (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                )
            except OSError:
                continue
            if int(its) == session and state != "Z":
                found.append(int(entry.name))
    return found


def says_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "whom"),
    [(signal.SIGINT, "group"), (signal.SIGTERM, "group"), (signal.SIGTERM, "make")],
    ids=["Ctrl-C", "SIGTERM to all", "SIGTERM to make"],
)
def test_make_run_ends_with_all_its_processes(
    clone: Path, fresh_folder: Folder, number: signal.Signals, whom: str
) -> None:
    folder = fresh_folder()
    with (
        make_run(clone, folder) as (process, port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as browser,
    ):
        assert until(lambda: says_ready(port), seconds=60), (folder / "make.log").read_text()
        assert len(in_session(process.pid)) > 2
        # A browser keeps its connection open; nobody waits for it.
        browser.request("GET", "/health")
        browser.getresponse().read()

        if whom == "group":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)

        process.wait(timeout=20)
        assert until(lambda: not in_session(process.pid)), in_session(process.pid)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert "Traceback" not in (folder / "make.log").read_text()


# config.serve, with what happens once in a hundred times happening each time.
TOLD_TWICE = """
import os, signal, sys, threading
from config import serve

class Bell(threading.Condition):
    def notify_all(self):
        # The second word comes while the first is being passed on.
        os.kill(os.getpid(), signal.SIGTERM)
        super().notify_all()

class Server(serve.Granian):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.main_loop_interrupt._cond = Bell(threading.Lock())

serve.Granian = Server
sys.exit(serve.main())
"""
TOLD_EARLY = """
import os, sys, time
from config import serve

class Server(serve.Granian):
    def __init__(self, *given, **named):
        # Nobody comes to the aid of a worker that missed the word.
        super().__init__(*given, **{**named, "workers_kill_timeout": 600})

def late(*given):
    print("a worker is on its way", flush=True)
    time.sleep(2)

serve.Granian, MOMENT = Server, late
sys.exit(serve.main())
"""


def test_being_told_a_second_time_while_listening_to_the_first_hangs_nothing(
    clone: Path, fresh_folder: Folder
) -> None:
    """`make` passes on the SIGTERM that the whole group got."""
    with make_run(clone, fresh_folder(), sys.executable, "-c", TOLD_TWICE) as (process, port):
        assert until(lambda: says_ready(port), seconds=60)
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert until(lambda: not in_session(process.pid)), in_session(process.pid)


@pytest.mark.parametrize("moment", ["os.setpgid", "serve._give_memory_back"])
def test_workers_that_are_told_before_they_serve_end_as_well(
    clone: Path, fresh_folder: Folder, moment: str
) -> None:
    """Before they have left the group that is told, and after."""
    folder = fresh_folder()
    program = TOLD_EARLY.replace("MOMENT", moment)
    with make_run(clone, folder, sys.executable, "-c", program) as (process, _port):
        log = folder / "make.log"
        assert until(lambda: log.read_text().count("on its way") == 2, seconds=60), log.read_text()
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
        assert until(lambda: not in_session(process.pid)), in_session(process.pid)


def test_make_run_says_where_it_is(clone: Path, fresh_folder: Folder) -> None:
    folder = fresh_folder()
    with make_run(clone, folder) as (_process, port):
        assert until(lambda: says_ready(port), seconds=60)
        said = (folder / "make.log").read_text()
    assert f"http://127.0.0.1:{port}" in said
    assert "Ctrl-C" in said
    # What is installed is not installed again.
    assert "Installing" not in said


def make_staff(
    clone: Path, environment: dict[str, str], **given: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "staff"],
        cwd=clone,
        env={**environment, **given},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_make_staff_makes_an_account_that_opens_the_admin(
    clone: Path, fresh_folder: Folder
) -> None:
    # What a shell, make or Python could take for something else.
    given = {"EMAIL": "Sam@example.org", "PASSWORD": "correct $horse #battery 'st$$aple %s"}
    with serving(fresh_folder()) as running:
        made = make_staff(clone, running.environment, **given)
        assert made.returncode == 0, made.stderr
        assert "sam@example.org" in made.stdout
        assert given["PASSWORD"] not in made.stdout + made.stderr

        sam = Browser(running)
        hidden = sam.hidden("/login")
        signed_in = sam.post(
            "/login", **hidden, login="sam@example.org", password=given["PASSWORD"]
        )
        assert signed_in.status_code == 302, signed_in.text
        page = sam.get("/admin/")
        assert page.status_code == 200
        assert page.url == f"{running.url}/admin/"
        assert "API keys" in page.text


def test_make_staff_refuses_with_words(clone: Path, fresh_folder: Folder) -> None:
    folder = fresh_folder()
    environment = {"PATH": os.environ["PATH"], "VAR_DIR": str(folder)}
    for given, words in (
        ({"EMAIL": "sam@example.org", "PASSWORD": "password"}, "too common"),
        ({}, "Set EMAIL and PASSWORD"),
    ):
        refused = make_staff(clone, environment, **given)
        assert refused.returncode != 0, given
        assert words in refused.stderr, given
        assert "Traceback" not in refused.stderr


def test_find_python_takes_none_that_is_too_old(tmp_path: Path) -> None:
    """A stand-in that fails when it is run, as python3 of an older system does for the check."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "env", "dirname", "cat"):
        program = shutil.which(tool)
        assert program
        (tools / tool).symlink_to(program)
    for name in ("python", "python3"):
        fake = tools / name
        fake.write_text(
            '#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\necho "$0"\nexit 0\n'
        )
        fake.chmod(0o755)
    nobody = tmp_path / "home"
    nobody.mkdir()

    found = subprocess.run(
        [shutil.which("sh") or "sh", str(ROOT / "scripts" / "find-python")],
        env={"PATH": str(tools), "HOME": str(nobody), "PYENV_ROOT": str(nobody)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert str(tools) not in found.stdout
    if found.returncode == 0:
        # A machine with a good Python where only find-python's own list of places leads.
        assert found.stderr == ""
        subprocess.run(
            [found.stdout.strip(), "-c", "import sys; sys.exit(sys.version_info < (3, 12))"],
            check=True,
        )
    else:
        assert found.returncode == 1
        assert found.stdout == ""
        (line,) = found.stderr.splitlines()
        assert "Python 3.12" in line
