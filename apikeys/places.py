"""Where a key was found: an address that others chose, as it may be kept and told.

Pure Python: no Django.
"""

import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from apikeys import tokens

MAX_LENGTH: Final = 500
# In a mail, where a line that breaks is of no use to anybody.
_MAX_TOLD: Final = 200

_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
# What of RFC 3986 may stand in an address as it is; the rest is written as %XX.
_AS_IT_IS: Final = "/?%:@!$&'()*+,;=-._~#"


def tidy(url: str) -> str:
    """`url` as it may be kept, ASCII without spaces; "" if it is no web address.

    Keys in it are cut down to their public part, however often they were encoded. A user name and
    a password in it go.
    """
    try:
        parts = urlsplit(url.strip()[:4096])
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host) or _holds_key(host):
        return ""
    where = f"[{host}]" if ":" in host else host
    # Where a key is encoded, the host is all that is kept.
    rest = parts._replace(scheme="", netloc="").geturl() or "/"
    rest = without_keys(rest) or "/..."
    rest = quote(rest.replace("…", "..."), safe=_AS_IT_IS)
    return f"{parts.scheme}://{where}{f':{port}' if port else ''}{rest}"[:MAX_LENGTH]


def without_keys(text: str) -> str:
    """`text` with every key cut down to its public part; "" if one is in it encoded."""
    text = tokens.redact(text)
    return "" if _holds_key(text) else text


def inert(url: str) -> str:
    """A tidy `url` so that no mail program makes a link of it: `github[.]com/octocat/…`."""
    words = url.partition("://")[2]
    if len(words) > _MAX_TOLD:
        words = f"{words[:_MAX_TOLD]}..."
    return words.replace(".", "[.]")


def _holds_key(text: str) -> bool:
    """Whether a key is in `text`, or in what is left of it once it is decoded, again and again."""
    for _round in range(8):
        if tokens.redact(text) != text:
            return True
        decoded = unquote(text)
        if decoded == text:
            return False
        text = decoded
    # Whoever encodes so often hides something.
    return True
