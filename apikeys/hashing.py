"""How a token is kept: Argon2id with a pepper.

Pure Python and argon2-cffi: no Django, no database. docs/security.md says what each part defends
against.
"""

import hmac
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import BoundedSemaphore

import argon2
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from apikeys.tokens import Token


class Busy(Exception):  # noqa: N818 (the same word as HTTP's answer to it)
    """Argon2's line did not move within the time that the caller could wait."""


class UnknownPepper(Exception):  # noqa: N818
    """A hash was made with a pepper that is no longer configured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one Argon2id pass takes (RFC 9106 §3.1)."""

    memory_kib: int
    passes: int
    lanes: int


class Hasher:
    """Hashes and verifies tokens, with a bound on how many passes run at once.

    peppers: the first one hashes, all of them verify. Each yields three independent keys
    (HKDF-style, by HMAC-SHA-256 over a label): for the tag, for what Argon2 is fed, and for the
    digest by which a process remembers a proof.
    """

    def __init__(self, *, peppers: Sequence[str], cost: Cost, concurrency: int) -> None:
        self._peppers = {_derive(pepper, "id")[:6]: pepper for pepper in peppers}
        self.cost = cost
        self._argon2 = argon2.PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes
        )
        self._line = BoundedSemaphore(concurrency)
        self.tag_keys = [_derive(pepper, "tag") for pepper in peppers]
        self._digest_key = _derive(peppers[0], "digest")
        self._current = _keyid(next(iter(self._peppers)))
        # A hash that no token matches, for what must cost the same as a real refusal.
        self.decoy = self._label(self._argon2.hash(b"no token hashes to this"))

    def hash(self, token: Token, *, wait: float) -> str:
        """`token` as a PHC string: `$argon2id$v=19$m=19456,t=2,p=1,keyid=Zm9vYmFy$salt$hash`.

        keyid names the pepper, as the PHC format has it for Argon2's secret input, so that a
        verification costs one pass however many peppers are configured. Raises Busy after
        `wait` seconds in line.
        """
        peppered = self._peppered(token, self._current)
        with self._turn(wait):
            return self._label(self._argon2.hash(peppered))

    def verify(self, token: Token, encoded: str, *, wait: float) -> bool:
        """Whether `token` is the one that `encoded` was made from.

        Cost: one Argon2id pass, Cost.memory_kib of memory. Raises Busy after `wait` seconds in
        line, UnknownPepper, and argon2's InvalidHashError for another format.
        """
        plain, keyid = _split(encoded)
        peppered = self._peppered(token, keyid)
        with self._turn(wait):
            try:
                return self._argon2.verify(plain, peppered)
            except VerifyMismatchError:
                return False

    def needs_rehash(self, encoded: str) -> bool:
        """Whether `encoded` was made with another pepper or another cost than today's."""
        plain, keyid = _split(encoded)
        return keyid != self._current or self._argon2.check_needs_rehash(plain)

    def digest(self, token: Token) -> bytes:
        """32 bytes that stand for `token` in a process's memory; worthless without the pepper."""
        return self.digest_of(token.reveal())

    def digest_of(self, text: str) -> bytes:
        """The same of any text, for what is to be named without telling the pepper."""
        return hmac.digest(self._digest_key, text.encode(), sha256)

    @contextmanager
    def _turn(self, wait: float) -> Iterator[None]:
        if not self._line.acquire(timeout=wait):
            raise Busy
        try:
            yield
        finally:
            self._line.release()

    def _peppered(self, token: Token, keyid: str) -> bytes:
        for name, pepper in self._peppers.items():
            if _keyid(name) == keyid:
                return hmac.digest(
                    _derive(pepper, "argon2"), token.reveal().encode("ascii"), sha256
                )
        raise UnknownPepper(keyid)

    def _label(self, plain: str) -> str:
        """Adds today's keyid to the parameters of a PHC string."""
        kind, version, parameters, salt, digest = plain.split("$")[1:]
        return f"${kind}${version}${parameters},keyid={self._current}${salt}${digest}"


def _split(encoded: str) -> tuple[str, str]:
    """A labelled PHC string as argon2-cffi reads it, and its keyid."""
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
    """What hashes made with `pepper` say it is called."""
    return _keyid(_derive(pepper, "id")[:6])


def keyid_in(encoded: str) -> str:
    """Which pepper `encoded` says it was made with. Raises InvalidHashError for another format."""
    return _split(encoded)[1]
