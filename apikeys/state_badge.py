"""The state of a key as HTML, for the staff pages."""

from django.utils.html import format_html
from django.utils.safestring import SafeString

from apikeys.models import APIKey, Reason


def state_badge(key: APIKey) -> SafeString:
    """Return the state as HTML: a colored dot and words."""
    if key.revoked_at is not None:
        kind = "exposed" if key.revoked_reason == Reason.LEAKED else "revoked"
    elif key.suspended_at is not None:
        kind = "suspended"
    else:
        kind = "expired" if key.is_expired else "live"
    return format_html('<span class="state {}">{}</span>', kind, key.state_label)
