"""The header Idempotency-Key: a repeated request creates no second key.

draft-ietf-httpapi-idempotency-key-header-07. The plaintext of a key is in the first response only:
a repeated request learns which key was created. The account and the header give the key's nonce, of
which the database allows one, so this holds for concurrent requests, for as long as the key's row
exists.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from accounts.requests import current_user
from apikeys import services
from apikeys.api.errors import BadRequest, Refused
from apikeys.models import APIKey

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
MAX_LENGTH: Final = 255
# Visible ASCII without the comma, which joins repeated headers (RFC 9110 §5.3).
_VALID: Final = re.compile(rf"[!-+\--~]{{1,{MAX_LENGTH}}}")

PARAMETER: Final = OpenApiParameter(
    HEADER,
    {"type": "string", "maxLength": MAX_LENGTH, "pattern": r"^[!-+\--~]+$"},
    OpenApiParameter.HEADER,
    description=(
        "A random text, such as a UUID, that makes the request repeatable. A repeated request with "
        "the same body creates nothing: it is answered 200 with the key that the first one "
        f"created, without `plaintext_key`, and `{REPLAYED}: true`. With another body it is 422."
    ),
)


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """What identifies a request. nonce: of the key that it creates, or None without the header."""

    nonce: UUID | None = None
    digest: str = ""


def create_once(
    request: Request,
    create: Callable[[RequestIdentity], Response],
    *,
    replay: Callable[[APIKey], Response],
) -> Response:
    """Return `create(identity)`, or for a repeated request `replay(key)` with the created key.

    create: gives nonce and digest to `services.issue` or `services.rotate`.
    Raise BadRequest for an invalid header, and Refused (422) for one that was used with another
    body or at another endpoint.
    """
    identity = _identity(request)
    key = None if identity.nonce is None else _created(current_user(request), identity.nonce)
    if key is None:
        try:
            return create(identity)
        except services.AlreadyIssued as already:
            # By a concurrent request.
            key = already.key
    if key.request_digest != identity.digest:
        raise Refused(
            "IDEMPOTENCY_KEY_REUSED",
            _("This Idempotency-Key was used for another request. Use a new one."),
            status.HTTP_422_UNPROCESSABLE_ENTITY,
        )
    response = replay(key)
    response[REPLAYED] = "true"
    return response


def _identity(request: Request) -> RequestIdentity:
    value = request.headers.get(HEADER)
    if value is None:
        return RequestIdentity()
    if not _VALID.fullmatch(value):
        raise BadRequest(
            "INVALID_IDEMPOTENCY_KEY",
            _("An Idempotency-Key is 1 to %(most)d visible ASCII characters, without a comma.")
            % {"most": MAX_LENGTH},
        )
    owner = current_user(request)
    nonce = sha256(b"Idempotency-Key" + owner.pk.bytes + value.encode()).digest()[:16]
    body = json.dumps([request.path, request.data], sort_keys=True)
    return RequestIdentity(UUID(bytes=nonce), sha256(body.encode()).hexdigest())


def _created(owner: User, nonce: UUID) -> APIKey | None:
    return APIKey.objects.filter(owner=owner, nonce=nonce).first()
