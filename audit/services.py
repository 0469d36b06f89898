"""Writing to the audit log, in the transaction of the recorded change."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.utils import timezone

from audit.models import Action, Event, Via
from core.requests import request_ip


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, through which interface, from which client IP."""

    user: AbstractBaseUser | None = None
    via: Via = Via.COMMAND
    client_ip: str | None = None


class Key(Protocol):
    """The attributes of an API key that an event stores."""

    @property
    def pk(self) -> UUID: ...

    public_id: str


class Request(Protocol):
    """Django's HttpRequest, or Django REST framework's Request."""

    @property
    def META(self) -> dict[str, Any]: ...  # noqa: N802 (Django's name)

    @property
    def user(self) -> Any: ...


def actor(request: Request, *, via: Via) -> Actor:
    """Return the logged-in user and the client IP of `request` as an Actor."""
    # Middleware that runs before authentication has no request.user.
    user = getattr(request, "user", None)
    account = user if isinstance(user, get_user_model()) else None
    return Actor(user=account, via=via, client_ip=request_ip(request))


def record(
    action: Action,
    *,
    account_id: UUID | None = None,
    key: Key | None = None,
    by: Actor,
    detail: Mapping[str, str] | None = None,
    at: datetime | None = None,
) -> Event:
    """Create an event.

    detail: short texts and numbers for readers of the audit log; never a secret. Raises
    django.db.Error, on which the caller must roll the recorded change back.
    """
    return Event.objects.create(
        action=action,
        account_id=account_id,
        actor_id=None if by.user is None else by.user.pk,
        key_id=None if key is None else key.pk,
        public_id="" if key is None else key.public_id,
        via=by.via,
        address=by.client_ip,
        detail=dict(detail or {}),
        at=at or timezone.now(),
    )
