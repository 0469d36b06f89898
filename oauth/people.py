"""What accounts ask of this room: what it keeps of a person. It goes with the account."""

from typing import Any

from django.dispatch import receiver

from accounts import services as accounts
from accounts.models import User
from oauth.models import AuthorizationCode, DeviceRequest


@receiver(accounts.collecting)
def collect(sender: type[User], *, user: User, **_: object) -> dict[str, Any]:
    """Machines and sites that `user` answered within the last hour or so."""
    fields = ["client_id", "scopes", "created_at", "decided_from", "key_name"]
    return {
        "machines_answered": list(
            DeviceRequest.objects.filter(owner=user).values(
                *fields, "device_name", "user_agent", "address", "approved"
            )
        ),
        "sites_answered": list(AuthorizationCode.objects.filter(owner=user).values(*fields)),
    }
