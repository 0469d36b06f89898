"""What is said of a key in a word or two."""

from django.utils.translation import gettext as _

from apikeys.models import APIKey


def state(key: APIKey) -> str:
    """`live`, or what is in the way, as far as the row alone can tell. In a validation's order."""
    if key.revoked_at is not None:
        return str(key.get_revoked_reason_display())
    if key.suspended_at is not None:
        return _("suspended")
    return _("expired") if key.is_expired else _("live")
