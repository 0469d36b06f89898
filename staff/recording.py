"""What the trail hears of staff: whose pages they opened, and what they changed in them.

A page that can't be written down is not shown: where the trail takes no rows, the staff pages say
503, as all that needs the store does. The pages themselves know nothing of this; site.py lays it
over every one of them.
"""

import re
from collections.abc import Callable, Mapping
from functools import wraps
from threading import Lock
from typing import Any, Final, NamedTuple
from uuid import UUID

from cachetools import TTLCache
from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase

from accounts.services import account_of
from apikeys.models import APIKey
from audit.models import Action, Via
from audit.trail import actor, record

type View = Callable[..., HttpResponseBase]

# The same page, opened again in the same session within so many seconds, is one look.
ONE_LOOK: Final = 300

# admin/accounts/user/<uuid:user_id>/overview/: the room, the model, what is done there. What
# has more words has an event of its own.
_ROUTE: Final = re.compile(r"admin/(\w+)/(\w+)/(?:<[^>]+>/)?(?:(\w[\w-]*)/)?")

# How to find whose a row is, for those models whose rows are somebody's.
_WHOSE: Final[Mapping[str, str]] = {
    "accounts.user": "pk",
    "apikeys.apikey": "owner_id",
    "audit.event": "account_id",
    "account.emailaddress": "user_id",
    "outbox.mail": "to",
}
# By what a list of those rows is narrowed to one account's.
_NARROWED: Final = ("owner__id__exact", "account__id__exact")


class _Look(NamedTuple):
    session: str | None
    model: str
    page: str
    object_id: str
    account_id: UUID | None
    refused: bool


_looks: TTLCache[_Look, bool] = TTLCache(maxsize=8192, ttl=ONE_LOOK)
_lock = Lock()


def watched(view: View) -> View:
    """A staff page. Writes down who opened it, and who wanted to and may not."""

    @wraps(view)
    def watching(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = view(request, *args, **kwargs)
        except PermissionDenied:
            _looked(request, refused=True)
            raise
        # A redirect has shown nothing.
        if response.status_code == 200:
            _looked(request)
        return response

    return watching


def _looked(request: HttpRequest, *, refused: bool = False) -> None:
    match = request.resolver_match
    route = match and _ROUTE.fullmatch(match.route)
    if not match or not route:
        return
    room, model, page = route.groups()
    label = f"{room}.{model}"
    if label not in _WHOSE and not refused:
        return
    object_id = str(next(iter([*match.args, *match.kwargs.values()]), ""))
    if page is None:
        page = "search" if request.GET.get("q") else "list"
    # Somebody who was kept out has seen nothing of anybody.
    account_id, key = (None, None) if refused else _whose(request, label, object_id)
    look = _Look(request.session.session_key, label, page, object_id, account_id, refused)
    with _lock:
        if look in _looks:
            return
    detail = {"model": label, "page": page}
    if object_id:
        detail["id"] = object_id[:100]
    action = Action.STAFF_REFUSED if refused else Action.STAFF_VIEWED
    by = actor(request, via=Via.ADMIN)
    record(action, account_id=account_id, key=key, by=by, detail=detail)
    with _lock:
        _looks[look] = True


class Recorded(admin.ModelAdmin[Any]):
    """What every ModelAdmin does beside its own: each change is an event, in the same transaction.

    An event names what was changed, and never what it was or is now.
    """

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _changed(request, obj, {"did": "add"})
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        if message:
            _changed(request, obj, {"did": "change", **_in_words(message)})
        return super().log_change(request, obj, message)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            _changed(request, obj, {"did": "delete"})
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                _changed(request, obj, {"did": "delete"})
            super().delete_queryset(request, queryset)


def _changed(request: HttpRequest, obj: Model, detail: Mapping[str, str]) -> None:
    label = obj._meta.label_lower
    record(
        Action.STAFF_CHANGED,
        account_id=_owner(label, obj),
        by=actor(request, via=Via.ADMIN),
        detail={"model": label, "id": str(obj.pk), **detail},
    )


def _in_words(message: Any) -> dict[str, str]:
    """Django's own note of a change: a sentence, or a list that names fields."""
    if isinstance(message, str):
        return {"what": message}
    names = [name for part in message for name in part.get("changed", {}).get("fields", [])]
    return {"fields": ", ".join(names)}


def _whose(request: HttpRequest, label: str, object_id: str) -> tuple[UUID | None, APIKey | None]:
    """The account that a page is about, if it is about one; and the key."""
    if not object_id:
        narrowed = (_uuid(request.GET.get(name, "")) for name in _NARROWED)
        return next(filter(None, narrowed), None), None
    if label == "accounts.user":
        return _uuid(object_id), None
    row = apps.get_model(label)._base_manager.filter(pk=object_id).first()
    return _owner(label, row), row if isinstance(row, APIKey) else None


def _owner(label: str, row: Model | None) -> UUID | None:
    if row is None or label not in _WHOSE:
        return None
    whose = getattr(row, _WHOSE[label])
    if isinstance(whose, str):
        user = account_of(whose)
        return None if user is None else user.pk
    found: UUID | None = whose
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
