"""Run a function in a forked child with limits of time and memory, and restore its files."""

import os
import resource
import select
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_MAX_MEMORY: Final = 4 << 30

type Report = Callable[[str], None]


class Forker:
    """Runs functions in children, one at a time.

    var: files below it are restored after each child. temporary: its folders are removed.
    """

    def __init__(self, *, var: Path, temporary: Path) -> None:
        self._files = _Files(var)
        self._temporary = temporary

    def run(self, work: Callable[[Report], None], *, seconds: float) -> tuple[list[str], bool]:
        """Return the lines that `work` reported, and whether it ended within `seconds`."""
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                os.close(reader)
                resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
                work(lambda line: _write(writer, line))
            finally:
                os._exit(0)
        os.close(writer)
        output, has_ended = _read_until(reader, time.monotonic() + seconds)
        # Also the processes that the child has started.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        self._files.restore()
        for folder in self._temporary.iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        return output.decode().splitlines(), has_ended


def _write(descriptor: int, line: str) -> None:
    os.write(descriptor, f"{line}\n".encode())


def _read_until(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """Return what is read until the other end closes or the deadline passes, and which it was."""
    output = b""
    while (remaining := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], remaining)[0]:
            break
        if not (part := os.read(descriptor, 65536)):
            return output, True
        output += part
    return output, False


class _Files:
    """The contents of the files below a folder at the time of the call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def restore(self) -> None:
        for path in self._folder.rglob("*"):
            if path.is_file() and path not in self._contents:
                path.unlink()
        for path, content in self._contents.items():
            # In place: the parent may have mapped the file into memory.
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("r+b" if path.exists() else "wb") as file:
                    file.write(content)
                    file.truncate()
