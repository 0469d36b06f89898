"""Filters and pages of the list of keys, by query parameters.

A page continues after the last key of the previous one, so that keys which are created or deleted
in between neither repeat nor hide others.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from apikeys.api.errors import BadRequest
from apikeys.api.naming import shown, suggestion
from apikeys.api.parameters import read_number
from apikeys.models import APIKey, APIKeyQuerySet, KeyState

MAX_LIMIT: Final = 100
MAX_WORDS: Final = 200
_TIME_ZERO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

PARAMETERS: Final = [
    OpenApiParameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
        description="The most keys to return. Without it, all keys are returned.",
    ),
    OpenApiParameter(
        "cursor",
        str,
        description="`next_cursor` of the previous page, together with `limit`.",
    ),
    OpenApiParameter(
        "state",
        str,
        enum=KeyState.values,
        description=(
            "Only keys in this state. `unused`: not used for 90 days, nor created in that time. "
            "`expiring`: within 7 days."
        ),
    ),
    OpenApiParameter(
        "q",
        {"type": "string", "maxLength": MAX_WORDS, "pattern": r"^[^\u0000]*$"},
        description=(
            "Only keys with this text in the name or the description, or with a public part "
            "(after `comfyui-`) that starts with it."
        ),
    ),
]


@dataclass(frozen=True, slots=True)
class KeyListQuery:
    """What to list. limit: None for all keys. after: the last key of the previous page."""

    state: KeyState
    words: str
    limit: int | None
    after: tuple[datetime, UUID] | None

    def page(self, keys: APIKeyQuerySet) -> tuple[list[APIKey], str | None]:
        """Return the keys of this page, newest first, and the cursor of the next page or None."""
        found = keys.in_state(self.state).order_by("-created_at", "-id")
        if self.words:
            found = found.matching(self.words)
        if self.after is not None:
            created_at, pk = self.after
            found = found.filter(Q(created_at__lt=created_at) | Q(created_at=created_at, pk__lt=pk))
        if self.limit is None:
            return list(found), None
        page = list(found[: self.limit + 1])
        has_more = len(page) > self.limit
        page = page[: self.limit]
        return page, _cursor(page[-1]) if has_more else None


def read_query(request: Request) -> KeyListQuery:
    """Return the query of a request. Raise BadRequest for a wrong value."""
    given = request.query_params
    limit = read_number(request, "limit", default=1, most=MAX_LIMIT) if "limit" in given else None
    cursor = given.get("cursor")
    if cursor is not None and limit is None:
        raise BadRequest("INVALID_REQUEST", _("A cursor needs a limit. Send both."))
    return KeyListQuery(
        state=_read_state(given.get("state", KeyState.ALL.value)),
        words=_read_words(given.get("q", "")),
        limit=limit,
        after=None if cursor is None else _read_cursor(cursor),
    )


def _read_state(text: str) -> KeyState:
    try:
        return KeyState(text)
    except ValueError:
        raise BadRequest(
            "INVALID_REQUEST",
            _("There is no state “%(state)s”. %(suggestion)s")
            % {"state": shown(text), "suggestion": suggestion(text, KeyState.values)},
        ) from None


def _read_words(text: str) -> str:
    # PostgreSQL has no text with NUL.
    if len(text) > MAX_WORDS or "\0" in text:
        raise BadRequest(
            "INVALID_REQUEST",
            _("q is a text of at most %(most)d characters.") % {"most": MAX_WORDS},
        )
    return text.strip().rstrip("…")


def _cursor(key: APIKey) -> str:
    microseconds = (key.created_at - _TIME_ZERO) // _MICROSECOND
    return base64.urlsafe_b64encode(microseconds.to_bytes(8) + key.pk.bytes).decode()


def _read_cursor(text: str) -> tuple[datetime, UUID]:
    try:
        octets = base64.b64decode(text, altchars=b"-_", validate=True)
        created_at = _TIME_ZERO + int.from_bytes(octets[:-16]) * _MICROSECOND
        return created_at, UUID(bytes=octets[-16:])
    except (binascii.Error, ValueError, OverflowError):
        raise BadRequest(
            "INVALID_CURSOR",
            _("This cursor is invalid. Send the next_cursor of the previous page unchanged."),
        ) from None
