"""What the workers of a machine share of the tokens they have seen proved.

A table in shared memory: it outlives a worker and a restart, not a reboot, and is never on a disk,
where it would be a second and cheaper verifier. An entry is half of a token's keyed digest and a
seal of the hash it was proved against: enough to know the same token again, worthless without the
pepper. docs/security.md says what it gives away.

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


class SharedProofs:
    """131,072 proofs in 4 MiB at `path`, which has to be in memory (`/dev/shm`).

    Raises PermissionError for a file that anybody else could have written: whoever can, decides
    which tokens are good; OSError where there is not that much memory. Reads and writes take no
    lock: an entry that two processes write at once is a mixture that seals nothing, so it is found
    by nobody.
    """

    def __init__(self, path: Path) -> None:
        # Not through a link that somebody left there.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise PermissionError(f"{path} is somebody else's.")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise PermissionError(f"{path} can be read or written by others.")
            if found.st_size != _SIZE:
                os.ftruncate(fd, _SIZE)
            # All of it now, or an error: memory that is not there when it is written to kills the
            # process (SIGBUS).
            os.posix_fallocate(fd, 0, _SIZE)
            self._table = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)

    def has(self, digest: bytes, encoded: str) -> bool:
        """Whether the token of `digest` (32 bytes) was proved against the hash `encoded`."""
        wanted = _entry(digest, encoded)
        start = _start(digest)
        found = self._table[start : start + _WAYS * _ENTRY]
        return any(found[at : at + _ENTRY] == wanted for at in range(0, len(found), _ENTRY))

    def add(self, digest: bytes, encoded: str) -> None:
        """Remembers it, in the place of another one's where the set is full."""
        entry = _entry(digest, encoded)
        start = _start(digest)
        ways = [start + way * _ENTRY for way in range(_WAYS)]
        same = [at for at in ways if self._table[at : at + _HALF] == digest[:_HALF]]
        free = [at for at in ways if not any(self._table[at : at + _ENTRY])]
        # Any will do: the digest is as good as random, and so is this choice.
        chosen = (same or free or [ways[digest[-1] % _WAYS]])[0]
        self._table[chosen : chosen + _ENTRY] = entry


def seal(digest: bytes, encoded: str) -> bytes:
    """16 bytes that tie the token of `digest` to the hash it was proved against."""
    return blake2b(encoded.encode(), key=digest, digest_size=_HALF).digest()


def _entry(digest: bytes, encoded: str) -> bytes:
    return digest[:_HALF] + seal(digest, encoded)


def _start(digest: bytes) -> int:
    return int.from_bytes(digest[_HALF : _HALF + 4]) % _SETS * _WAYS * _ENTRY
