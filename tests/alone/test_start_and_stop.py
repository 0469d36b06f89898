"""Start and stop the platform: several at once, again, interrupted, with a taken port."""

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

from tests.live.conftest import (
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
from tests.platforms import ROOT, Platform, free_port


def start_together(
    stack: ExitStack, *platforms: dict[str, str], folders: list[Path]
) -> list[Platform]:
    """Start platforms at the same time."""
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
        here, there = start_together(stack, {}, {}, folders=[fresh_folder(), fresh_folder()])
        for one, other in ((here, there), (there, here)):
            (key,) = join(one, keys=1).keys
            assert validate(one, key.token).status == 200
            answer = validate(other, key.token)
            assert (answer.status, answer.json()["error"]) == (401, "NOT_FOUND")


def test_two_platforms_start_in_one_empty_folder_at_the_same_time(
    tmp_path: Path,
) -> None:
    """One creates secrets, tables and static files, the other waits, and both serve."""
    shared = tmp_path / "var"
    names = ["one", "two"]
    with ExitStack() as stack:
        platforms = start_together(
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
        # Not MALFORMED: the secrets are the same, and the row is missing.
        answer = validate(there, key.token)
        assert (answer.status, answer.json()["error"]) == (401, "NOT_FOUND")
    assert not list(shared.glob(".secret_key*"))
    assert not list(shared.glob(".key_pepper*"))


def test_two_hosts_start_on_one_empty_database_at_the_same_time(
    fresh_folder: Folder, postgresql: str
) -> None:
    url = new_database(postgresql)
    variables = {
        "DATABASE_URL": url,
        "SECRET_KEY": "the same on every machine, and long enough",
        "KEY_PEPPER": "this one is the same on every machine, too",
    }
    with ExitStack() as stack:
        platforms = start_together(
            stack, variables, variables, folders=[fresh_folder(), fresh_folder()]
        )
        for running in platforms:
            assert_works(running)
        here, there = platforms
        (key,) = join(here, keys=1).keys
        assert validate(there, key.token).status == 200


def test_secrets_and_static_files_are_kept_at_the_second_start(tmp_path: Path) -> None:
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


def test_pending_uses_are_written_when_the_platform_stops(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    written: list[int] = []
    # granian sometimes fails to end a worker and kills it. A killed process loses its pending uses,
    # so the test is repeated.
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
def test_a_taken_port_is_reported_in_one_line(fresh_folder: Folder, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = refused_start(PORT=port, HOST=host, VAR_DIR=str(fresh_folder()))
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert port in line
    assert "make run PORT=" in line


def test_a_second_platform_on_the_same_port_does_not_start(fresh_folder: Folder) -> None:
    with serving(fresh_folder()) as running:
        ended = refused_start(**running.environment)
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        assert ask(running, "GET", "/ready").status == 200


def test_an_unreachable_database_is_reported_at_the_start(
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
    """Return a copy of this folder with a .venv that scripts/install considers up to date."""
    clone = tmp_path / "clone"
    venv = clone / ".venv"
    venv.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in {".venv", ".git", "var"}:
            (clone / path.name).symlink_to(path)
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".installed-"):
            (venv / path.name).symlink_to(path)
    # The checksum that scripts/install compares.
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
    """Run `make run` or `command` as a new session; yield the process and its port."""
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
    """Return the process ids of a session, without zombies."""
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


def is_ready(port: int) -> bool:
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
    ("number", "target"),
    [(signal.SIGINT, "group"), (signal.SIGTERM, "group"), (signal.SIGTERM, "make")],
    ids=["Ctrl-C", "SIGTERM to all", "SIGTERM to make"],
)
def test_make_run_ends_all_its_processes(
    clone: Path, fresh_folder: Folder, number: signal.Signals, target: str
) -> None:
    folder = fresh_folder()
    with (
        make_run(clone, folder) as (process, port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as browser,
    ):
        assert until(lambda: is_ready(port), seconds=60), (folder / "make.log").read_text()
        assert len(in_session(process.pid)) > 2
        # An idle connection does not delay the end.
        browser.request("GET", "/health")
        browser.getresponse().read()

        if target == "group":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)

        process.wait(timeout=20)
        assert until(lambda: not in_session(process.pid)), in_session(process.pid)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert "Traceback" not in (folder / "make.log").read_text()


# manage.py serve, with races that always happen.
SIGNALLED_TWICE = """
import os, signal, sys, threading
from server import granian_server
from server.management.commands import serve

class SignallingCondition(threading.Condition):
    def notify_all(self):
        # The second signal arrives while the first one is handled.
        os.kill(os.getpid(), signal.SIGTERM)
        super().notify_all()

class Server(granian_server.Granian):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.main_loop_interrupt._cond = SignallingCondition(threading.Lock())

granian_server.Granian = Server
sys.exit(serve.main())
"""
SIGNALLED_EARLY = """
import os, sys, time
from server import granian_server
from server.management.commands import serve

class Server(granian_server.Granian):
    def __init__(self, *args, **kwargs):
        # A worker that missed the signal would stay for longer than the test waits.
        super().__init__(*args, **{**kwargs, "workers_kill_timeout": 600})

def late(*args):
    print("a worker starts", flush=True)
    time.sleep(2)

granian_server.Granian, MOMENT = Server, late
sys.exit(serve.main())
"""
# As after an upgrade of granian that renames the function which server.granian_server replaces.
RENAMED_FUNCTION = """
import sys
from granian.server import mp
from server.management.commands import serve

mp.renamed = mp._wsgi_call_wrap
del mp._wsgi_call_wrap
worker = mp.MPServer._spawn_wsgi_worker.__wrapped__
names = ["renamed" if n == "_wsgi_call_wrap" else n for n in worker.__code__.co_names]
worker.__code__ = worker.__code__.replace(co_names=tuple(names))
sys.exit(serve.main())
"""


def test_the_platform_serves_with_a_granian_that_lacks_the_private_function(
    clone: Path, fresh_folder: Folder
) -> None:
    folder = fresh_folder()
    with make_run(clone, folder, sys.executable, "-c", RENAMED_FUNCTION) as (process, port):
        log = folder / "make.log"
        assert until(lambda: is_ready(port), seconds=60), log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            connection.request("POST", "/customers", "{}", {"X-API-Key": "comfyui-0"})
            assert connection.getresponse().status == 401
        assert log.read_text().count("plain pool of 24 threads") == 1
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_a_second_signal_while_the_first_is_handled_does_not_hang(
    clone: Path, fresh_folder: Folder
) -> None:
    """`make` passes on the SIGTERM that the whole process group received."""
    with make_run(clone, fresh_folder(), sys.executable, "-c", SIGNALLED_TWICE) as (process, port):
        assert until(lambda: is_ready(port), seconds=60)
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert until(lambda: not in_session(process.pid)), in_session(process.pid)


@pytest.mark.parametrize("moment", ["os.setpgid", "granian_server._return_freed_memory"])
def test_workers_that_are_signalled_before_they_serve_end(
    clone: Path, fresh_folder: Folder, moment: str
) -> None:
    """Before they have left the process group that is signalled, and after."""
    folder = fresh_folder()
    program = SIGNALLED_EARLY.replace("MOMENT", moment)
    with make_run(clone, folder, sys.executable, "-c", program) as (process, _port):
        log = folder / "make.log"
        assert until(lambda: log.read_text().count("a worker starts") == 2, seconds=60), (
            log.read_text()
        )
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
        assert until(lambda: not in_session(process.pid)), in_session(process.pid)


def test_make_run_prints_its_url(clone: Path, fresh_folder: Folder) -> None:
    folder = fresh_folder()
    with make_run(clone, folder) as (_process, port):
        assert until(lambda: is_ready(port), seconds=60)
        output = (folder / "make.log").read_text()
    assert f"http://127.0.0.1:{port}" in output
    assert "Ctrl-C" in output
    assert "Installing" not in output


def make_staff(
    clone: Path, environment: dict[str, str], **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "staff"],
        cwd=clone,
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_make_staff_creates_an_account_that_may_use_the_admin(
    clone: Path, fresh_folder: Folder
) -> None:
    # Characters that a shell, make or Python might interpret.
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


def test_make_staff_reports_what_is_wrong(clone: Path, fresh_folder: Folder) -> None:
    folder = fresh_folder()
    environment = {"PATH": os.environ["PATH"], "VAR_DIR": str(folder)}
    for given, message in (
        ({"EMAIL": "sam@example.org", "PASSWORD": "password"}, "too common"),
        ({}, "Set EMAIL and PASSWORD"),
    ):
        refused = make_staff(clone, environment, **given)
        assert refused.returncode != 0, given
        assert message in refused.stderr, given
        assert "Traceback" not in refused.stderr


def test_find_python_rejects_one_that_is_too_old(tmp_path: Path) -> None:
    """The fake fails the version check, as python3 of an older system does."""
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
    home = tmp_path / "home"
    home.mkdir()

    found = subprocess.run(
        [shutil.which("sh") or "sh", str(ROOT / "scripts" / "find-python")],
        env={"PATH": str(tools), "HOME": str(home), "PYENV_ROOT": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert str(tools) not in found.stdout
    if found.returncode == 0:
        # This machine has a good Python in a folder that find-python knows.
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
