"""What accounts ask of this room: what it keeps of a person, and to forget them.

Connected to accounts' signals when the application starts; accounts know nothing of keys.
"""

from typing import Any

from django.dispatch import receiver

from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, DailyUse, Reason
from audit.models import Via
from audit.trail import Actor


@receiver(accounts.collecting)
def collect(sender: type[User], *, user: User, **_: object) -> dict[str, Any]:
    """`user`'s keys, what they were used for and what happened to them. Never a secret."""
    return {
        "keys": [
            {
                "id": key.pk,
                "key": key.masked,
                "name": key.name,
                "description": key.description,
                "created_at": key.created_at,
                "scopes": key.granted,
                "expires_at": key.expires_at,
                "last_used_at": key.last_used_at,
                "revoked_at": key.revoked_at,
                "revoked_reason": key.revoked_reason,
            }
            for key in APIKey.objects.filter(owner=user)
        ],
        "daily_uses": list(
            DailyUse.objects.filter(key__owner=user)
            .order_by("day", "key")
            .values("key_id", "day", "calls")
        ),
    }


@receiver(accounts.leaving)
def forget(sender: type[User], *, user: User, address: str | None, **_: object) -> None:
    """Ends every key of `user`, then removes them and what they were used for."""
    by = Actor(user=user, via=Via.PAGE, address=address)
    for key in APIKey.objects.kept().filter(owner=user):
        services.revoke(key, reason=Reason.ACCOUNT_DELETED, by=by)
    # Uses go with their keys.
    APIKey.objects.filter(owner=user).delete()
