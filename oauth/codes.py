"""Short-lived OAuth codes, of which the database stores digests only."""

import secrets
from typing import Final

from core.encryption import digests

# No vowels, so that no words occur; no letters that look alike (RFC 8628 §6.1).
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
_HALF: Final = 4
# Characters of a typed code that are read.
_MAX_TYPED: Final = 64


def generate_code() -> str:
    """Return a device code or authorization code: 256 bits in URL-safe Base64."""
    return secrets.token_urlsafe(32)


def digest(code: str) -> str:
    """Return the digest of a device code or authorization code."""
    return stored(code)[0]


def stored(code: str) -> list[str]:
    """Return the digests under which a code may be stored, under each SECRET_KEY."""
    return digests(code, purpose="oauth.codes")


def generate_user_code() -> str:
    """Return a user code (RFC 8628 §6.1): eight of 20 letters, about 34 bits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(2 * _HALF))


def digest_user_code(code: str) -> str:
    return stored_user_codes(code)[0]


def stored_user_codes(code: str) -> list[str]:
    """Return the digests under which a user code may be stored, under each SECRET_KEY."""
    return digests(_plain(code), purpose="oauth.codes.typed")


def format_user_code(code: str) -> str:
    """Return a user code as it is shown: `WDJB-MJHT`."""
    plain = _plain(code)
    return f"{plain[:_HALF]}-{plain[_HALF:]}" if len(plain) > _HALF else plain


def _plain(code: str) -> str:
    """Return `code` in upper case without spaces and dashes."""
    return "".join(filter(str.isalnum, code[:_MAX_TYPED])).upper()
