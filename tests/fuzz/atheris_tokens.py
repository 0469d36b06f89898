"""Coverage-guided: whatever text is presented as a key, the parser judges it and never raises.

    mkdir -p var/fuzz/tokens
    .venv/bin/python -m tests.fuzz.atheris_tokens -runs=1000000 var/fuzz/tokens

The folder keeps what reached further, for the next time; `-runs=-1` goes on until Ctrl-C.
"""

import sys

from tests.fuzz import guided

with guided.instrumented():
    from apikeys import tokens
    from apikeys.tokens import Refusal, Token

KEY = b"k" * 32
FORMER = b"f" * 32


def made(digits: str, key: bytes) -> str:
    """A token whose random part is known beforehand: what is found once is found again."""
    body = tokens.PREFIX + (digits * 48)[:48]
    tagged = body + tokens._tag(body, key)
    return tagged + tokens._crc(tagged)


MADE = [made("0123456789abcdef", KEY), made("c0ffee", FORMER)]


def judge(data: bytes) -> None:
    """What holds of any bytes, read as text in the ways that text reaches us."""
    for text in (data.decode("latin-1"), data.decode("utf-8", "replace"), forged_from(data)):
        parsed = tokens.parse(text, tag_keys=[KEY, FORMER])
        is_shaped = tokens.flaw(text) is None
        # Its tag can't be guessed: only what was made here is good.
        assert isinstance(parsed, Token) == (text.strip() in MADE)
        assert is_shaped == (parsed is not Refusal.MALFORMED)
        for token in MADE:
            if token[20:] not in text:
                assert token[20:] not in tokens.redact(f"{text}{token}{token}{text}")
    for token in MADE:
        changed = change(token, data)
        if changed != token:
            assert tokens.parse(changed, tag_keys=[KEY, FORMER]) is Refusal.MALFORMED


def forged_from(data: bytes) -> str:
    """`data` as the digits of a token with a checksum that fits: past the first gate."""
    body = tokens.PREFIX + data[:28].ljust(28, b"\0").hex()
    return body + tokens._crc(body)


def change(token: str, data: bytes) -> str:
    """`token` with one character of it another, as `data` says."""
    if len(data) < 2:
        return token
    position = data[0] % len(token)
    character = data[1:].decode("utf-8", "replace")[0]
    return token[:position] + character + token[position + 1 :]


if __name__ == "__main__":
    seeds = [token.encode() for token in MADE] + [MADE[0][:-1].encode(), b" \n" + MADE[1].encode()]
    guided.run(judge, seeds, sys.argv)
