"""Receiver for data exports. Deleting an account deletes its grants by cascade."""

from typing import Any

from django.dispatch import receiver

from accounts import services as accounts
from accounts.models import User
from oauth.models import AuthorizationCode, DeviceRequest


@receiver(accounts.exporting_data)
def export_grants(sender: type[User], *, user: User, **_: object) -> dict[str, Any]:
    """Return the grants that `user` decided within about the last hour."""
    fields = ["client_id", "scopes", "created_at", "decided_from", "key_name"]
    return {
        "machines_answered": list(
            DeviceRequest.objects.filter(owner=user).values(
                *fields, "device_name", "user_agent", "address", "approved"
            )
        ),
        "sites_answered": list(AuthorizationCode.objects.filter(owner=user).values(*fields)),
    }
