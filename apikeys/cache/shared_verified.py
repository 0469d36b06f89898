"""A verified-hash cache in shared memory, for the workers of a host.

It survives a worker and a restart, but not a reboot, and is never on a disk, where it would allow
cheaper guesses than Argon2id. An entry is half of a token's keyed digest and a MAC of the hash it
was verified against: without the pepper both are worthless. docs/security.md says what it reveals.

Pure Python: no Django, no database.
"""

import mmap
import os
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Final

_WAYS: Final = 4
_SETS: Final = 32_768
_HALF: Final = 16
_ENTRY: Final = 2 * _HALF
_SIZE: Final = _SETS * _WAYS * _ENTRY


class SharedVerifiedCache:
    """A 4-way set-associative table of 131,072 entries (4 MiB) at `path`, on tmpfs (`/dev/shm`).

    Raise PermissionError for a file that another user may have written, since its entries decide
    which tokens are accepted; OSError where memory is missing. Reads and writes take no lock: an
    entry that two processes write at once has no valid MAC, so it matches nothing.
    """

    def __init__(self, path: Path) -> None:
        # O_NOFOLLOW: another user may have created a link of this name.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to another user.")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise PermissionError(f"{path} can be read or written by others.")
            if found.st_size != _SIZE:
                os.ftruncate(fd, _SIZE)
            # Allocate everything now or fail: memory that is missing when it is written to kills
            # the process (SIGBUS).
            os.posix_fallocate(fd, 0, _SIZE)
            self._table = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)

    def has(self, digest: bytes, encoded: str) -> bool:
        """Return whether the token of `digest` (32 bytes) was verified against `encoded`."""
        wanted = _entry(digest, encoded)
        start = _start(digest)
        found = self._table[start : start + _WAYS * _ENTRY]
        return any(found[at : at + _ENTRY] == wanted for at in range(0, len(found), _ENTRY))

    def add(self, digest: bytes, encoded: str) -> None:
        """Store a verified pair, replacing another entry where the set is full."""
        entry = _entry(digest, encoded)
        start = _start(digest)
        ways = [start + way * _ENTRY for way in range(_WAYS)]
        same = [at for at in ways if self._table[at : at + _HALF] == digest[:_HALF]]
        free = [at for at in ways if not any(self._table[at : at + _ENTRY])]
        # Random replacement: digests are uniformly distributed.
        chosen = (same or free or [ways[digest[-1] % _WAYS]])[0]
        self._table[chosen : chosen + _ENTRY] = entry


def mac(digest: bytes, encoded: str) -> bytes:
    """Return 16 bytes that bind the token of `digest` to the hash it was verified against."""
    return blake2b(encoded.encode(), key=digest, digest_size=_HALF).digest()


def _entry(digest: bytes, encoded: str) -> bytes:
    return digest[:_HALF] + mac(digest, encoded)


def _start(digest: bytes) -> int:
    return int.from_bytes(digest[_HALF : _HALF + 4]) % _SETS * _WAYS * _ENTRY
