"""The shape of an API key: how one is made, read, checked and shown.

Pure Python: no Django, no database, no clock.

A token is `comfyui-` and 64 lower-case hexadecimal digits, 72 characters in all, because
unmodified ComfyUI frontends accept that prefix and that length and nothing else:

    comfyui- 87d01e28d3f4 9f0c…(36)… 5e1f9a02 0b7c44d1
             public id    secret     tag      CRC32

public id   48 bits   finds the row; may be shown and logged
secret     144 bits   what only the holder knows
tag         32 bits   truncated HMAC-SHA-256 of all before it: an invented token is refused with
                      no I/O and no Argon2, so nobody can burn our CPU with guesses
CRC32       32 bits   of all before it: anybody, offline, can tell a typo from a key
"""

import functools
import hmac
import re
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Final

PREFIX: Final = "comfyui-"
LENGTH: Final = 72

_PUBLIC_ID = slice(len(PREFIX), len(PREFIX) + 12)
_UP_TO_TAG = slice(0, LENGTH - 16)
_TAG = slice(LENGTH - 16, LENGTH - 8)
_UP_TO_CRC = slice(0, LENGTH - 8)
_CRC = slice(LENGTH - 8, LENGTH)

_SHAPE = re.compile(r"comfyui-[0-9a-f]{64}")
# The c of a key that follows at once is a hexadecimal digit, too.
_IN_TEXT = re.compile(r"(comfyui-[0-9a-f]{12})(?:(?!comfyui-)[0-9a-f])+", re.IGNORECASE)


class Refusal(Enum):
    """Why a text is no token of ours."""

    MALFORMED = "malformed"
    """Wrong prefix, length or digits, or a CRC that doesn't match: a typo, or not a key at all."""

    FORGED = "forged"
    """Well formed, but its tag was made with no key of ours."""


class Flaw(Enum):
    """What is wrong with a text that is no token, for a person who has it before them."""

    PREFIX = "prefix"
    LENGTH = "length"
    DIGITS = "digits"
    CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A well-formed token. Its text is had from `reveal()` alone; repr and str show it masked."""

    public_id: str
    _text: str = field(repr=False)

    def reveal(self) -> str:
        """The plaintext, 72 ASCII characters. Whoever calls this answers for where it goes."""
        return self._text

    def __str__(self) -> str:
        return mask(self.public_id)


def make(*, tag_key: bytes) -> Token:
    """A new token from the operating system's random source, tagged with `tag_key`."""
    body = PREFIX + secrets.token_hex(6) + secrets.token_hex(18)
    tagged = body + _tag(body, tag_key)
    text = tagged + _crc(tagged)
    return Token(text[_PUBLIC_ID], text)


def parse(text: str, *, tag_keys: Sequence[bytes]) -> Token | Refusal:
    """Reads what a client presented. Any text is answered, none raises.

    text: trimmed here, because a key travels by copy and paste.
    tag_keys: the keys whose tags are honoured, the likeliest first.
    """
    text = text.strip()
    # All that flaw() tells apart, in one step: this is what a flood of guesses costs.
    if not _SHAPE.fullmatch(text) or not _has_its_crc(text):
        return Refusal.MALFORMED
    for key in tag_keys:
        if hmac.compare_digest(_tag(text[_UP_TO_TAG], key), text[_TAG]):
            return Token(text[_PUBLIC_ID], text)
    return Refusal.FORGED


def flaw(text: str) -> Flaw | None:
    """The first thing that is wrong with the shape of `text`; None if nothing is."""
    text = text.strip()
    if not text.startswith(PREFIX):
        return Flaw.PREFIX
    if len(text) != LENGTH:
        return Flaw.LENGTH
    if not _SHAPE.fullmatch(text):
        return Flaw.DIGITS
    return None if _has_its_crc(text) else Flaw.CHECKSUM


def mask(public_id: str) -> str:
    """How a key is shown to people: `comfyui-87d01e28d3f4…`."""
    return f"{PREFIX}{public_id}…"


def redact(text: str) -> str:
    """`text` with every key in it cut down to its public part, whole keys and broken ones alike."""
    return _IN_TEXT.sub(r"\1…", text)


def _tag(body: str, key: bytes) -> str:
    mac = _keyed(key).copy()
    mac.update(body.encode("ascii"))
    return mac.digest()[:4].hex()


@functools.cache
def _keyed(key: bytes) -> hmac.HMAC:
    """The key's own half of the work, done once. `hmac.digest` would let go of the GIL each time:
    with many threads that costs more than the hash.
    """
    return hmac.new(key, digestmod=sha256)


def _has_its_crc(text: str) -> bool:
    # The CRC is no secret: an ordinary comparison tells nobody anything.
    return zlib.crc32(text[_UP_TO_CRC].encode("ascii")) == int(text[_CRC], 16)


def _crc(tagged: str) -> str:
    return f"{zlib.crc32(tagged.encode('ascii')):08x}"
