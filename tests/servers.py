"""The platform as a real process on a real port, as `make run` starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).parents[1]


@dataclass
class Platform:
    """A running platform. Its log holds all that the process printed."""

    url: str
    log: Path
    environment: dict[str, str] = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    def manage(self, *arguments: str) -> str:
        """Runs a management command as its operator would, and returns what it printed."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def printed(self) -> str:
        return self.log.read_text()


@contextmanager
def platform(folder: Path, **variables: str) -> Iterator[Platform]:
    """Starts a platform with its own port, database and secrets in `folder`; ends it by pid."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PORT": str(port),
        "VAR_DIR": str(folder),
        # Not in the system's own shared memory, where it would outlive the test.
        "SHARED_PROOFS_FOLDER": str(folder),
        "USAGE_FLUSH_INTERVAL": "0.2",
        # All tests come from one address, some with hundreds of keys that are none.
        "GUESSES_PER_MINUTE": "0",
        **variables,
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "config.serve"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    scheme = "https" if variables.get("TLS") else "http"
    url = f"{scheme}://127.0.0.1:{port}"
    try:
        _wait(f"http://127.0.0.1:{port}/ready" if scheme == "http" else None, process, log, port)
        yield Platform(url, log, environment, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(ready: str | None, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The platform ended at its start:\n{log.read_text()}")
        try:
            if ready is None:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            else:
                urlopen(ready, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"The platform did not get ready:\n{log.read_text()}")
