"""The first use of a key, for the page that waits for ComfyUI."""

from django.utils.translation import gettext as _

from apikeys.models import APIKey
from apikeys.templatetags.times import ago


def first_use_text(key: APIKey) -> str:
    """Return when and from which network `key` was first used, or "" if it was not used.

    Uses are written by a thread (apikeys.usage): the first one within a second.
    """
    if key.last_used_at is None:
        return ""
    first = key.networks.order_by("first_used_at").first()
    if first is None:
        # The client's IP is unknown.
        return _("ComfyUI connected, %(ago)s") % {"ago": ago(key.last_used_at)}
    return _("ComfyUI connected, %(ago)s from %(network)s") % {
        "ago": ago(first.first_used_at),
        "network": first.network,
    }
