"""Coverage-guided: for any text the token parser returns a result, and never raises.

    mkdir -p var/fuzz/tokens
    .venv/bin/python -m tests.fuzz.atheris_tokens -runs=1000000 var/fuzz/tokens

The folder keeps inputs that reached new code, for the next run; `-runs=-1` runs until Ctrl-C.
"""

import sys
import zlib
from unittest import mock

from tests.fuzz import guided

with guided.instrumented():
    from apikeys import tokens
    from apikeys.tokens import ParseError, Token

KEY = b"k" * 32
FORMER = b"f" * 32


def made(digits: str, key: bytes) -> str:
    """Return a token with a fixed random part, so that findings can be reproduced."""
    with mock.patch("secrets.token_hex", side_effect=[(digits * 12)[:12], (digits * 36)[:36]]):
        return tokens.make(tag_key=key).reveal()


MADE = [made("0123456789abcdef", KEY), made("c0ffee", FORMER)]


def check(data: bytes) -> None:
    """Check the invariants for `data`, decoded as request headers and bodies are."""
    for text in (data.decode("latin-1"), data.decode("utf-8", "replace"), forged_from(data)):
        parsed = tokens.parse(text, tag_keys=[KEY, FORMER])
        is_shaped = tokens.shape_error(text) is None
        # The tag can't be guessed: only tokens made here are valid.
        assert isinstance(parsed, Token) == (text.strip() in MADE)
        assert is_shaped == (parsed is not ParseError.MALFORMED)
        for token in MADE:
            if token[20:] not in text:
                assert token[20:] not in tokens.redact(f"{text}{token}{token}{text}")
    for token in MADE:
        changed = change(token, data)
        if changed != token:
            assert tokens.parse(changed, tag_keys=[KEY, FORMER]) is ParseError.MALFORMED


def forged_from(data: bytes) -> str:
    """Return a token of the digits `data` with a correct checksum, which passes the first check."""
    body = tokens.PREFIX + data[:28].ljust(28, b"\0").hex()
    return f"{body}{zlib.crc32(body.encode()):08x}"


def change(token: str, data: bytes) -> str:
    """Return `token` with one character replaced, as `data` says."""
    if len(data) < 2:
        return token
    position = data[0] % len(token)
    character = data[1:].decode("utf-8", "replace")[0]
    return token[:position] + character + token[position + 1 :]


if __name__ == "__main__":
    seeds = [token.encode() for token in MADE] + [MADE[0][:-1].encode(), b" \n" + MADE[1].encode()]
    guided.run(check, seeds, sys.argv)
