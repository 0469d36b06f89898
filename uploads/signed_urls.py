"""URLs that carry a permission: to upload one file, or to download it. They need no key.

A token is signed with SECRET_KEY and valid for one upload, one method and a limited time; one for
an upload also fixes the content type and the maximum size.
"""

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.urls import reverse
from django.utils.crypto import salted_hmac

if TYPE_CHECKING:
    # The server reads permissions before Django is set up.
    from uploads.models import Upload

# Seconds from the request for an upload until its PUT has to begin.
UPLOAD_WINDOW: Final = 60 * 60
PARAMETER: Final = "token"
_SALTS: Final = {"PUT": "uploads.put", "GET": "uploads.get"}
_EXTENSION: Final = re.compile(r"\.[A-Za-z0-9]{1,16}")


class InvalidToken(Exception):  # noqa: N818 (an expected outcome)
    """The token was not made here, or for something else."""


class ExpiredToken(InvalidToken):
    """The token was valid."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a token permits.

    content_type: what the upload has to say; empty: anything. max_size: in bytes. owner: stands for
        the owner of an upload; empty in a URL of an older version.
    """

    upload: UUID
    content_type: str = ""
    max_size: int = 0
    owner: str = ""

    @classmethod
    def read(cls, token: str, *, upload: UUID, method: str) -> Self:
        """Return what `token` permits. Raise InvalidToken unless it is for `upload`.

        method: PUT or GET.
        """
        try:
            # Also signed with one of SECRET_KEY_FALLBACKS.
            claims = signing.Signer(salt=_SALTS[method]).unsign_object(token)
        except signing.BadSignature:
            raise InvalidToken from None
        if claims["id"] != str(upload):
            raise InvalidToken
        if claims["until"] <= time.time():
            raise ExpiredToken
        return cls(upload, claims.get("type", ""), claims.get("size", 0), claims.get("owner", ""))


def upload_url(upload: "Upload") -> str:
    """Return the URL for PUT, valid for UPLOAD_WINDOW seconds, at most as long as the upload."""
    until = min(upload.created_at.timestamp() + UPLOAD_WINDOW, upload.expires_at.timestamp())
    size = settings.UPLOAD_MAX_SIZE << 20
    # Not the id of the account: the token can be read by everyone who has the URL.
    owner = salted_hmac("uploads.owner", str(upload.owner_id), algorithm="sha256").hexdigest()[:16]
    return _url(upload, "PUT", until, type=upload.content_type, size=size, owner=owner)


def download_url(upload: "Upload") -> str:
    """Return the URL for GET, valid as long as the upload."""
    return _url(upload, "GET", upload.expires_at.timestamp())


def _url(upload: "Upload", method: str, until: float, **more: Any) -> str:
    claims = {"id": str(upload.pk), "until": int(until), **more}
    token = signing.Signer(salt=_SALTS[method]).sign_object(claims)
    path = reverse("api_stored_file", args=[upload.pk, f"file{extension(upload.file_name)}"])
    # In the query, which the proxies' logs leave out.
    return f"{settings.PUBLIC_URL}{path}?{urlencode({PARAMETER: token})}"


def extension(file_name: str) -> str:
    """Return the extension of a name with its dot, or "": some providers read it from the URL.

    The rest of the name is not in the URL, since URLs are logged.
    """
    found = _EXTENSION.fullmatch(f".{file_name.rpartition('.')[2]}") if "." in file_name else None
    return found[0] if found else ""


_PATH: Final = re.compile(r"/customers/storage/([0-9a-f-]{36})/[^/]+")


# In the environ of a PUT: its permission when it began. It may end after the URL expires.
PERMISSION: Final = "uploads.permission"


def permission_in(environ: dict[str, Any]) -> Permission | None:
    """Return what a WSGI request for PUT permits by its URL, or None."""
    if not settings.UPLOADS or settings.UPLOADS_IN_S3:
        return None
    path = _PATH.fullmatch(environ["PATH_INFO"])
    if environ["REQUEST_METHOD"] != "PUT" or path is None:
        return None
    tokens = parse_qs(environ.get("QUERY_STRING", "")).get(PARAMETER, [])
    try:
        return Permission.read(tokens[0], upload=UUID(path[1]), method="PUT") if tokens else None
    except (InvalidToken, ValueError):
        return None
