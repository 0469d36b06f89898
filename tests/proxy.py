"""A TCP proxy between a platform and its PostgreSQL, on loopback, which tests interrupt."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Condition, Thread
from urllib.parse import parse_qs, urlsplit

# The application name in a client's startup message.
_NAME = re.compile(rb"application_name\0([^\0]*)\0")


class Proxy:
    """Forwards connections to `url` to the PostgreSQL at `server`, a Unix socket."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.{parts.port or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
        # Held while data is forwarded: after a cut has returned, no more is.
        self._passing = Condition()
        self._swallows: frozenset[str] = frozenset()
        self._only = ""
        self._refuses = False
        self._lines: set[_Line] = set()
        self._threads: list[Thread] = []
        self._run(self._accept)

    @property
    def number_of_connections(self) -> int:
        return len(self._lines)

    def swallow(self, *ways: str, only: str = "") -> None:
        """Drop all data without closing the connections.

        ways: "there" (to the server), "back" (to the client), or both if none is given.
        only: the application name of the connections to cut; all if none is given.
        """
        with self._passing:
            self._swallows, self._only = frozenset(ways or ("there", "back")), only
            self._passing.notify_all()

    def refuse(self) -> None:
        """Close all connections, and each new one."""
        with self._passing:
            self._refuses = True
            self._passing.notify_all()
            for line in self._lines:
                line.end()

    def heal(self, *, forget: bool = False) -> None:
        """Forward again. Dropped data arrives late, as TCP repeats lost packets.

        forget: interrupted connections stay interrupted, as after the restart of a router.
        """
        with self._passing:
            for line in self._lines if forget else ():
                line.is_forgotten = bool(self._swallows) and self._cuts(line)
            self._swallows, self._refuses = frozenset(), False
            self._passing.notify_all()

    def close(self) -> None:
        self.refuse()
        # close() alone would leave the thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self._threads:
            self._threads.pop().join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self._run(self._connect, client)

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(client, server)
            with self._passing:
                if self._refuses:
                    return
                self._lines.add(line)
            with suppress(OSError):
                server.connect(self._server)
                there = self._run(self._pass_on, line, "there")
                self._pass_on(line, "back")
                there.join()
            with self._passing:
                self._lines.remove(line)

    def _pass_on(self, line: "_Line", way: str) -> None:
        source, target = line.client, line.server
        if way == "back":
            source, target = target, source
        with suppress(OSError):
            while chunk := source.recv(65536):
                if way == "there" and (named := _NAME.search(chunk)):
                    line.application = named[1].decode()
                with self._passing:
                    while not self._refuses and (
                        line.is_forgotten or (way in self._swallows and self._cuts(line))
                    ):
                        self._passing.wait()
                    target.sendall(chunk)
        # When one end closes, the other is closed too.
        line.end()

    def _cuts(self, line: "_Line") -> bool:
        return self._only in ("", line.application)

    def _run(self, what: Callable[..., None], *given: object) -> Thread:
        thread = Thread(target=what, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread


@dataclass(eq=False)
class _Line:
    """A client's connection, and the one to the server for it."""

    client: socket.socket
    server: socket.socket
    application: str = ""
    is_forgotten: bool = False

    def end(self) -> None:
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def between(server: str) -> Iterator[Proxy]:
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
