"""Keys for sentences of the audit log, which has no names: URL and name at a time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.urls import reverse

from apikeys.models import APIKey


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The names of a key. former: names with the time until which the key had them, in order."""

    url: str
    name: str
    former: Sequence[tuple[datetime, str]] = ()

    def name_at(self, at: datetime) -> str:
        """Return the name that the key had at this time."""
        return next((name for until, name in self.former if until > at), self.name)


def find(ids: Collection[UUID]) -> dict[UUID, KeyHistory]:
    """Return the keys of these ids that exist, in two queries."""
    if not ids:
        return {}
    keys = APIKey.objects.filter(pk__in=ids).only("name").prefetch_related("former_names")
    return {
        key.pk: KeyHistory(
            url=reverse("key", args=[key.pk]),
            name=key.name,
            former=[(former.replaced_at, former.name) for former in key.former_names.all()],
        )
        for key in keys.order_by()
    }
