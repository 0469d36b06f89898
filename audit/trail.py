"""Writing to the trail. Call it inside the transaction of what it tells of."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.utils import timezone

from audit.models import Action, Event, Via


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, through which door, from which address."""

    user: AbstractBaseUser | None = None
    via: Via = Via.COMMAND
    address: str | None = None


class Key(Protocol):
    """What the trail has to know of a key."""

    @property
    def pk(self) -> UUID: ...

    public_id: str


class Request(Protocol):
    """Django's, or what the REST framework makes of it."""

    @property
    def META(self) -> dict[str, Any]: ...  # noqa: N802 (Django's name)

    @property
    def user(self) -> Any: ...


def actor(request: Request, *, via: Via) -> Actor:
    """The signed-in person, and the address that the server saw or a trusted proxy told."""
    # Some are answered before it is asked who is signed in.
    user = getattr(request, "user", None)
    person = user if isinstance(user, get_user_model()) else None
    return Actor(user=person, via=via, address=address(request))


def address(request: Request) -> str | None:
    """Where a request came from; by X-Forwarded-For where a trusted proxy says so."""
    return request.META.get("REMOTE_ADDR") or None


def record(
    action: Action,
    *,
    account_id: UUID | None = None,
    key: Key | None = None,
    by: Actor,
    detail: Mapping[str, str] | None = None,
    at: datetime | None = None,
) -> Event:
    """Adds an event. detail: words and numbers for whoever reads it; never a secret.

    Raises django.db.Error where it can't be written: then what it tells of must not happen either.
    """
    return Event.objects.create(
        action=action,
        account_id=account_id,
        actor_id=None if by.user is None else by.user.pk,
        key_id=None if key is None else key.pk,
        public_id="" if key is None else key.public_id,
        via=by.via,
        address=by.address,
        detail=dict(detail or {}),
        at=at or timezone.now(),
    )
