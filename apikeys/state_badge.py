"""The state of a key as HTML, for the staff pages."""

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from apikeys.models import APIKey, Reason
from apikeys.verdict_codes import VerdictCode


def state_badge(key: APIKey) -> SafeString:
    """Return the state as HTML: a colored dot and words."""
    match key.state(owner_is_active=key.owner.is_active):
        case VerdictCode.REVOKED:
            kind = "exposed" if key.revoked_reason == Reason.LEAKED else "revoked"
            words = key.get_revoked_reason_display()
        case VerdictCode.SUSPENDED:
            kind, words = "suspended", gettext("suspended")
        case VerdictCode.ACCOUNT_DISABLED:
            kind, words = "suspended", gettext("account disabled")
        case VerdictCode.EXPIRED:
            kind, words = "expired", gettext("expired")
        case _:
            kind, words = "live", gettext("live")
    return format_html('<span class="state {}">{}</span>', kind, words)
