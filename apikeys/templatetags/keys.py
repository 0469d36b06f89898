"""Template tags for keys."""

from typing import Any

from django import template

from apikeys.models import APIKey
from apikeys.owner_state import owner_state

register = template.Library()


@register.inclusion_tag("apikeys/state.html")
def key_state(key: APIKey) -> dict[str, Any]:
    """Render the one state that matters most of a key: a dot, and words beside it."""
    return {"key": key, "state": owner_state(key)}
