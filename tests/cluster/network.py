"""A network for one instance that can be cut: a network namespace, where the kernel permits one.

The namespace has one cable (a veth pair) to this machine. Nothing else of the machine is reachable
from it, and nothing in it from elsewhere.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.alone.test_start_and_stop import in_session
from tests.cluster.parts import PATH, Part


@dataclass(frozen=True)
class Network:
    """The addresses of both ends of the cable. Without a namespace, both are loopback."""

    outside: str = "127.0.0.1"
    inside: str = "127.0.0.1"
    namespace: str | None = None

    @property
    def prefix(self) -> list[str]:
        """Return the command that runs another one in the namespace."""
        return ["ip", "netns", "exec", self.namespace] if self.namespace else []

    @property
    def kind(self) -> str:
        return "network namespace, cable pulled" if self.namespace else "processes suspended"

    @contextmanager
    def cut(self, part: Part) -> Iterator[None]:
        """Cut off `part`, which runs in the namespace: packets are lost, connections stay open.

        Without a namespace its processes are suspended, which looks the same from outside.
        """
        if self.namespace:
            _ip("-n", self.namespace, "link", "set", "cable", "down")
            try:
                yield
            finally:
                _ip("-n", self.namespace, "link", "set", "cable", "up")
            return
        assert part.process is not None
        suspended = in_session(part.process.pid)
        for pid in suspended:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in suspended:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@contextmanager
def network() -> Iterator[Network]:
    """Yield a network with a namespace, or one without where the kernel does not permit it."""
    # RFC 2544: addresses for tests of networks, which are not routed.
    number = os.getpid() % 16_000
    base = f"198.{18 + number // 8_000}.{number % 8_000 // 64 + 1}."
    first = number % 64 * 4
    made = Network(f"{base}{first + 1}", f"{base}{first + 2}", f"keys-cluster-{os.getpid()}")
    if not _is_permitted(made):
        yield Network()
        return
    try:
        yield made
    finally:
        # The cable goes with it.
        _ip("netns", "delete", str(made.namespace))


def _is_permitted(made: Network) -> bool:
    """Make the namespace and its cable; return whether that worked."""
    if os.getuid() or not shutil.which("ip", path=PATH):
        return False
    name, outer = str(made.namespace), f"kf{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        return False
    try:
        _ip("link", "add", outer, "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("address", "add", f"{made.outside}/30", "dev", outer)
        _ip("link", "set", outer, "up")
        _ip("-n", name, "address", "add", f"{made.inside}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        _ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError:
        _ip("netns", "delete", name)
        return False
    return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], env={"PATH": PATH}, check=True, capture_output=True)
