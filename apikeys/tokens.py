"""The format of an API key: create, parse, check and mask tokens.

Pure Python: no Django, no database, no clock.

A token is `comfyui-` and 64 lower-case hexadecimal digits, 72 characters in all, because
unmodified ComfyUI frontends accept that prefix and that length and nothing else:

    comfyui- 87d01e28d3f4 9f0c…(36)… 5e1f9a02 0b7c44d1
             public id    secret     tag      CRC32

public id   48 bits   finds the row; may be shown and logged
secret     144 bits   known to the holder only
tag         32 bits   truncated HMAC-SHA-256 of all before it: an invented token is refused
                      without I/O or Argon2id, so that guesses cost little CPU
CRC32       32 bits   of all before it: detects typos, also offline
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
# A key may follow without a separator, and its first letter is a hexadecimal digit.
_IN_TEXT = re.compile(r"(comfyui-[0-9a-f]{12})(?:(?!comfyui-)[0-9a-f])+", re.IGNORECASE)


class ParseError(Enum):
    """Why a text is not a token of this site."""

    MALFORMED = "malformed"
    """Wrong prefix, length or digits, or a CRC that doesn't match: a typo, or another text."""

    FORGED = "forged"
    """Well formed, but its tag was made with an unknown key."""


class ShapeError(Enum):
    """Which part of the format a text violates, for messages to users."""

    PREFIX = "prefix"
    LENGTH = "length"
    DIGITS = "digits"
    CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A well-formed token. Only `reveal()` returns its text; repr and str mask it."""

    public_id: str
    _text: str = field(repr=False)

    def reveal(self) -> str:
        """Return the plaintext, 72 ASCII characters. Callers must keep it out of logs."""
        return self._text

    def __str__(self) -> str:
        return mask(self.public_id)


def make(*, tag_key: bytes) -> Token:
    """Return a new random token, tagged with `tag_key`."""
    body = PREFIX + secrets.token_hex(6) + secrets.token_hex(18)
    tagged = body + _tag(body, tag_key)
    text = tagged + _crc(tagged)
    return Token(text[_PUBLIC_ID], text)


def parse(text: str, *, tag_keys: Sequence[bytes]) -> Token | ParseError:
    """Return the token in `text`, or a ParseError. Raise nothing, whatever the text is.

    text: is stripped, since users copy and paste keys.
    tag_keys: keys of accepted tags, the most likely first.
    """
    text = text.strip()
    # The checks of shape_error() in one step: this runs for every guess.
    if not _SHAPE.fullmatch(text) or not _has_valid_crc(text):
        return ParseError.MALFORMED
    for key in tag_keys:
        if hmac.compare_digest(_tag(text[_UP_TO_TAG], key), text[_TAG]):
            return Token(text[_PUBLIC_ID], text)
    return ParseError.FORGED


def has_tag_of(token: Token, key: bytes) -> bool:
    """Return whether the tag of `token` was made with `key`."""
    text = token.reveal()
    return hmac.compare_digest(_tag(text[_UP_TO_TAG], key), text[_TAG])


def shape_error(text: str) -> ShapeError | None:
    """Return the first error in the format of `text`, or None."""
    text = text.strip()
    if not text.startswith(PREFIX):
        return ShapeError.PREFIX
    if len(text) != LENGTH:
        return ShapeError.LENGTH
    if not _SHAPE.fullmatch(text):
        return ShapeError.DIGITS
    return None if _has_valid_crc(text) else ShapeError.CHECKSUM


def mask(public_id: str) -> str:
    """Return the part of a key that may be shown: `comfyui-87d01e28d3f4…`."""
    return f"{PREFIX}{public_id}…"


def redact(text: str) -> str:
    """Return `text` with all keys masked, also incomplete ones."""
    return _IN_TEXT.sub(r"\1…", text)


def _tag(body: str, key: bytes) -> str:
    mac = _keyed(key).copy()
    mac.update(body.encode("ascii"))
    return mac.digest()[:4].hex()


@functools.cache
def _keyed(key: bytes) -> hmac.HMAC:
    """Return an HMAC with `key` set, which is half of the work.

    `hmac.digest` releases the GIL each time, which costs more than the hash with many threads.
    """
    return hmac.new(key, digestmod=sha256)


def _has_valid_crc(text: str) -> bool:
    # The CRC is not secret, so the comparison need not take constant time.
    return zlib.crc32(text[_UP_TO_CRC].encode("ascii")) == int(text[_CRC], 16)


def _crc(tagged: str) -> str:
    return f"{zlib.crc32(tagged.encode('ascii')):08x}"
