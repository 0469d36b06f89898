"""Sanitize the URL where a key was found: it is untrusted input for a mail and the audit log.

Pure Python: no Django.
"""

import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from apikeys import tokens

MAX_LENGTH: Final = 500
# For a mail, where long lines break.
_MAX_IN_MAIL: Final = 200

_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
# Characters of RFC 3986 that remain; others are percent-encoded.
_SAFE: Final = "/?%:@!$&'()*+,;=-._~#"


def sanitize(url: str) -> str:
    """Return `url` in ASCII without spaces, or "" if it is not an HTTP URL.

    Keys in it are masked, or dropped if they are percent-encoded. User name and password are
    removed.
    """
    try:
        parts = urlsplit(url.strip()[:4096])
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host) or _holds_key(host):
        return ""
    netloc = f"[{host}]" if ":" in host else host
    # With an encoded key, only the host remains.
    rest = parts._replace(scheme="", netloc="").geturl() or "/"
    rest = without_keys(rest) or "/..."
    rest = quote(rest.replace("…", "..."), safe=_SAFE)
    return f"{parts.scheme}://{netloc}{f':{port}' if port else ''}{rest}"[:MAX_LENGTH]


def without_keys(text: str) -> str:
    """Return `text` with all keys masked, or "" if one of them is percent-encoded."""
    text = tokens.redact(text)
    return "" if _holds_key(text) else text


def defang(url: str) -> str:
    """Return a sanitized `url` that mail programs do not link: `github[.]com/octocat/…`."""
    words = url.partition("://")[2]
    shown = words[:_MAX_IN_MAIL].replace(".", "[.]")
    return f"{shown}..." if len(words) > _MAX_IN_MAIL else shown


def _holds_key(text: str) -> bool:
    """Return whether a key is in `text`, also percent-encoded several times."""
    for _round in range(8):
        if tokens.redact(text) != text:
            return True
        decoded = unquote(text)
        if decoded == text:
            return False
        text = decoded
    # Encoded more often than any honest client does.
    return True
