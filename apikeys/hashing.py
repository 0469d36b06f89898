"""Hash and verify tokens: Argon2id with a pepper.

Pure Python and argon2-cffi: no Django, no database. docs/security.md says what each part defends
against.
"""

import hmac
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import BoundedSemaphore

import argon2
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from apikeys.tokens import Token, has_tag_of
from core import metrics
from core.exceptions import HashingBusy


class UnknownPepper(Exception):  # noqa: N818
    """A hash was made with a pepper that is no longer configured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The parameters of Argon2id (RFC 9106 §3.1)."""

    memory_kib: int
    passes: int
    lanes: int


class Hasher:
    """Hashes and verifies tokens, with at most `concurrency` passes at a time.

    peppers: the first one hashes, all of them verify. Three independent keys are derived from each
    (HKDF-style, HMAC-SHA-256 over a label): for the tag, for the input of Argon2id, and for the
    digest in the verified-hash cache.
    """

    def __init__(self, *, peppers: Sequence[str], cost: Cost, concurrency: int) -> None:
        self._peppers = {_derive(pepper, "id")[:6]: pepper for pepper in peppers}
        self.cost = cost
        self._argon2 = argon2.PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes
        )
        self._slots = BoundedSemaphore(concurrency)
        self.tag_keys = [_derive(pepper, "tag") for pepper in self._peppers.values()]
        self._digest_key = _derive(peppers[0], "digest")
        # The id of the pepper that hashes and tags are made with.
        self.current = _keyid(next(iter(self._peppers)))
        # A hash that no token matches: refusals without a row must take as long as others.
        self.decoy = self._label(self._argon2.hash(b"no token hashes to this"))

    def hash(self, token: Token, *, wait: float) -> str:
        """Return the hash of `token` as a PHC string.

        `$argon2id$v=19$m=19456,t=2,p=1,keyid=Zm9vYmFy$salt$hash`

        keyid is the id of the pepper, as in the PHC format for Argon2's secret input, so that a
        verification takes one pass with any number of peppers. Raise HashingBusy if no pass starts
        within `wait` seconds.
        """
        peppered = self._peppered(token, self.current)
        with self._slot(wait):
            return self._label(self._argon2.hash(peppered))

    def verify(self, token: Token, encoded: str, *, wait: float) -> bool:
        """Return whether `encoded` was made from `token`.

        Takes one Argon2id pass and Cost.memory_kib of memory. Raise HashingBusy if it does not
        start within `wait` seconds, UnknownPepper, and InvalidHashError for another format.
        """
        plain, keyid = _split(encoded)
        peppered = self._peppered(token, keyid)
        with self._slot(wait):
            try:
                return self._argon2.verify(plain, peppered)
            except VerifyMismatchError:
                return False

    def needs_rehash(self, encoded: str) -> bool:
        """Return whether `encoded` was made with another pepper or cost than the current ones."""
        plain, keyid = _split(encoded)
        return keyid != self.current or self._argon2.check_needs_rehash(plain)

    def tag_pepper(self, token: Token) -> str | None:
        """Return the id of the pepper of the tag of `token`; None if it is not configured."""
        for name, key in zip(self._peppers, self.tag_keys, strict=True):
            if has_tag_of(token, key):
                return _keyid(name)
        return None

    def digest(self, token: Token) -> bytes:
        """Return the 32-byte keyed digest of `token`; it reveals nothing without the pepper."""
        return self.digest_of(token.reveal())

    def digest_of(self, text: str) -> bytes:
        """Return the keyed digest of any text."""
        return hmac.digest(self._digest_key, text.encode(), sha256)

    @contextmanager
    def _slot(self, wait: float) -> Iterator[None]:
        started = time.monotonic()
        with metrics.ARGON2_WAITING.track():
            has_slot = self._slots.acquire(timeout=wait)
        if not has_slot:
            metrics.ARGON2_REFUSED.inc()
            raise HashingBusy
        metrics.ARGON2_WAIT.observe(time.monotonic() - started)
        metrics.ARGON2_PASSES.inc()
        try:
            yield
        finally:
            self._slots.release()

    def _peppered(self, token: Token, keyid: str) -> bytes:
        for name, pepper in self._peppers.items():
            if _keyid(name) == keyid:
                return hmac.digest(
                    _derive(pepper, "argon2"), token.reveal().encode("ascii"), sha256
                )
        raise UnknownPepper(keyid)

    def _label(self, plain: str) -> str:
        """Add the current keyid to the parameters of a PHC string."""
        kind, version, parameters, salt, digest = plain.split("$")[1:]
        return f"${kind}${version}${parameters},keyid={self.current}${salt}${digest}"


def _split(encoded: str) -> tuple[str, str]:
    """Return a PHC string without its keyid, as argon2-cffi reads it, and the keyid."""
    plain, found, rest = encoded.partition(",keyid=")
    keyid, dollar, tail = rest.partition("$")
    if not (found and dollar):
        raise InvalidHashError
    return f"{plain}${tail}", keyid


def _derive(pepper: str, label: str) -> bytes:
    return hmac.digest(pepper.encode(), f"comfyui-keys/v1/{label}".encode(), sha256)


def _keyid(name: bytes) -> str:
    return b64encode(name).decode("ascii")


def keyid_of(pepper: str) -> str:
    """Return the id of `pepper`, as it is in hashes."""
    return _keyid(_derive(pepper, "id")[:6])


def keyid_in(encoded: str) -> str:
    """Return the id of the pepper in `encoded`. Raise InvalidHashError for another format."""
    return _split(encoded)[1]
