"""Template tags for keys."""

from typing import Any

from django import template
from django.utils import timezone

from apikeys.models import EXPIRING_SOON, APIKey

register = template.Library()


@register.inclusion_tag("apikeys/state.html")
def key_state(key: APIKey) -> dict[str, Any]:
    """Render the one state that matters most of a key: a dot, and words beside it."""
    return {"key": key, "state": _state(key)}


def _state(key: APIKey) -> str:
    if key.revoked_at is not None:
        return "deleted"
    if key.suspended_at is not None:
        return "suspended"
    if key.is_expired:
        return "expired"
    if key.successor_id is not None:
        return "rotating"
    if key.expires_at is not None and key.expires_at - timezone.now() <= EXPIRING_SOON:
        return "expiring"
    return "active"
