"""Encryption of stored sessions: they hold e-mail codes and secrets of new authenticator apps."""

import json
from typing import Any

from core.encryption import decrypt, encrypt


class SessionSerializer:
    """JSON encrypted under SECRET_KEY. Sessions stored as plain JSON stay readable."""

    def dumps(self, session: dict[str, Any]) -> bytes:
        plain = json.dumps(session, separators=(",", ":"))
        return encrypt(plain, purpose="session").encode()

    def loads(self, stored: bytes) -> Any:
        """Return the session. Raise DecryptionError, for which Django starts an empty session."""
        text = stored.decode("latin-1")
        return json.loads(text if text.startswith("{") else decrypt(text, purpose="session"))
