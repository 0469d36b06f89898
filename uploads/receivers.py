"""Signal receivers for exported and deleted accounts: accounts do not import uploads."""

from typing import Any

from django.dispatch import receiver

from accounts import services as accounts
from accounts.models import User
from uploads import services
from uploads.models import Upload


@receiver(accounts.exporting_data)
def export_uploads(sender: type[User], *, user: User, **_: object) -> dict[str, Any]:
    """Return the uploads of `user` that are stored now, without their content."""
    fields = ["file_name", "content_type", "size", "created_at", "expires_at"]
    return {"uploads": list(Upload.objects.filter(owner=user).order_by("pk").values(*fields))}


@receiver(accounts.account_deleting)
def delete_uploads(sender: type[User], *, user: User, **_: object) -> None:
    services.delete_of(user)
