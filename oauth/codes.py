"""Codes that stand for something for some minutes. What is kept of one is its digest."""

import secrets
from typing import Final

from django.utils.crypto import salted_hmac

# No vowels, so that no words come up; none that look alike (RFC 8628 §6.1).
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
_HALF: Final = 4
# Of what a person typed as a code. Nobody types more.
_TYPED: Final = 64


def make() -> str:
    """A code for programs: 256 bits."""
    return secrets.token_urlsafe(32)


def digest(code: str) -> str:
    return salted_hmac("oauth.codes", code, algorithm="sha256").hexdigest()


def make_typed() -> str:
    """A code for people: eight letters, 20⁸ of them."""
    return "".join(secrets.choice(_LETTERS) for _ in range(2 * _HALF))


def digest_typed(code: str) -> str:
    return salted_hmac("oauth.codes.typed", _plain(code), algorithm="sha256").hexdigest()


def shown(code: str) -> str:
    """A code for people as it is shown: `WDJB-MJHT`."""
    plain = _plain(code)
    return f"{plain[:_HALF]}-{plain[_HALF:]}" if len(plain) > _HALF else plain


def _plain(code: str) -> str:
    """Case, spaces and dashes don't count."""
    return "".join(filter(str.isalnum, code[:_TYPED])).upper()
