"""The one state of a key that matters most to its owner."""

from enum import StrEnum

from django.utils import timezone

from apikeys.models import EXPIRING_SOON, APIKey
from apikeys.verdict_codes import VerdictCode


class OwnerState(StrEnum):
    """The values are CSS classes."""

    DELETED = "deleted"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    ROTATING = "rotating"
    """Replaced by another key, and valid for a while."""
    EXPIRING = "expiring"
    ACTIVE = "active"


_REFUSED = {
    VerdictCode.REVOKED: OwnerState.DELETED,
    VerdictCode.SUSPENDED: OwnerState.SUSPENDED,
    VerdictCode.EXPIRED: OwnerState.EXPIRED,
}


def owner_state(key: APIKey) -> OwnerState:
    # An owner with a disabled account sees no pages.
    if refused := _REFUSED.get(key.state(owner_is_active=True)):
        return refused
    if key.successor_id is not None:
        return OwnerState.ROTATING
    if key.expires_at is not None and key.expires_at - timezone.now() <= EXPIRING_SOON:
        return OwnerState.EXPIRING
    return OwnerState.ACTIVE
