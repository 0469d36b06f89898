"""Encryption of pending e-mails, so that a copy of the database reveals no code and no link."""

from core import encryption
from core.encryption import DecryptionError

__all__ = ["DecryptionError", "decrypt", "encrypt", "key_of"]


def encrypt(text: str) -> str:
    """Return `text` encrypted under SECRET_KEY; an empty text stays empty."""
    return encryption.encrypt(text, purpose="outbox") if text else ""


def decrypt(encrypted: str) -> str:
    """Return the text that `encrypt` was given. Raise DecryptionError."""
    return encryption.decrypt(encrypted, purpose="outbox") if encrypted else ""


def key_of(encrypted: str) -> str | None:
    """Return the id of the SECRET_KEY that `encrypted` needs, or None if none decrypts it."""
    return encryption.key_of(encrypted, purpose="outbox")
