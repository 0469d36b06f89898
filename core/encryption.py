"""Encryption and digests under SECRET_KEY, with rotation: a key is derived for each purpose.

Keys in SECRET_KEY_FALLBACKS decrypt and never encrypt. A text that no key decrypts raises
DecryptionError.
"""

import base64
import functools
import hmac
from hashlib import blake2b, sha256

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.utils.crypto import salted_hmac


class DecryptionError(Exception):
    """A text was encrypted under another SECRET_KEY, for another purpose, or is damaged."""


def encrypt(text: str, *, purpose: str) -> str:
    """Return `text` encrypted under the current SECRET_KEY, as a Fernet token in ASCII.

    purpose: 1 to 16 bytes. A text encrypted for one purpose can't be decrypted for another.
    """
    return _fernet(settings.SECRET_KEY, purpose).encrypt(text.encode()).decode("ascii")


def decrypt(encrypted: str, *, purpose: str) -> str:
    """Return the plain text. Raise DecryptionError."""
    try:
        plain = MultiFernet([_fernet(key, purpose) for key in secret_keys()]).decrypt(
            encrypted.encode()
        )
    except InvalidToken:
        raise DecryptionError("No configured SECRET_KEY decrypts this.") from None
    return plain.decode()


def key_of(encrypted: str, *, purpose: str) -> str | None:
    """Return the id of the configured SECRET_KEY that decrypts `encrypted`, or None."""
    for key in secret_keys():
        try:
            _fernet(key, purpose).decrypt(encrypted.encode())
        except InvalidToken:
            continue
        return key_id(key)
    return None


def digests(text: str, *, purpose: str) -> list[str]:
    """Return HMAC-SHA-256 of `text` in hexadecimal under each SECRET_KEY, the current one first.

    Store the first one; look up all of them.
    """
    return [
        salted_hmac(purpose, text, secret=key, algorithm="sha256").hexdigest()
        for key in secret_keys()
    ]


def secret_keys() -> list[str]:
    """Return every configured SECRET_KEY, the current one first."""
    return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]


def key_id(key: str) -> str:
    """Return a public id of a SECRET_KEY: 8 characters that do not reveal the key."""
    digest = hmac.digest(key.encode(), b"comfyui-keys/v1/secret key id", sha256)
    return base64.b64encode(digest[:6]).decode("ascii")


@functools.lru_cache(maxsize=64)
def _fernet(key: str, purpose: str) -> Fernet:
    digest = blake2b(key.encode(), digest_size=32, person=purpose.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
