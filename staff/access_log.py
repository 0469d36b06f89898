"""Record in the audit log which staff pages were viewed, and what was changed on them.

A page view that can't be recorded is not shown: without a writable audit log, staff pages respond
with 503. site.py applies this to every staff page.
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
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase

from accounts.services import find_by_email
from apikeys.models import APIKey
from audit.models import Action, Via
from audit.services import actor, record

type View = Callable[..., HttpResponseBase]

# Seconds within which a repeated view of a page in one session is not recorded again.
REPEAT_SECONDS: Final = 300

# admin/accounts/user/<uuid:user_id>/overview/: app label, model, page. Pages with longer routes
# record events themselves.
_ROUTE: Final = re.compile(r"admin/(\w+)/(\w+)/(?:<[^>]+>/)?(?:(\w[\w-]*)/)?")

# The field that leads to the account, for each model with rows that belong to one.
_OWNER_FIELDS: Final[Mapping[str, str]] = {
    "accounts.user": "pk",
    "apikeys.apikey": "owner_id",
    "audit.event": "account_id",
    "account.emailaddress": "user_id",
    "outbox.mail": "to",
}
# Query parameters that filter a list to one account.
_OWNER_FILTERS: Final = ("owner__id__exact", "account__id__exact")


class _PageView(NamedTuple):
    session: str | None
    model: str
    page: str
    object_id: str
    account_id: UUID | None
    refused: bool


_recent_views: TTLCache[_PageView, bool] = TTLCache(maxsize=8192, ttl=REPEAT_SECONDS)
_lock = Lock()


def audited(view: View) -> View:
    """Wrap a staff page to record each view and each refused request."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = view(request, *args, **kwargs)
        except (PermissionDenied, SuspiciousOperation):
            # SuspiciousOperation: a filter on a field that the list does not allow.
            _record_view(request, refused=True)
            raise
        # A redirect has shown nothing.
        if response.status_code == 200:
            _record_view(request)
        return response

    return wrapper


def _record_view(request: HttpRequest, *, refused: bool = False) -> None:
    requested = _requested_page(request)
    if requested is None:
        return
    label, page, object_id = requested
    if label not in _OWNER_FIELDS and not refused:
        return
    # A refused request has shown no account's data.
    account_id, key = (None, None) if refused else _subject(request, label, object_id)
    page_view = _PageView(request.session.session_key, label, page, object_id, account_id, refused)
    with _lock:
        if page_view in _recent_views:
            return
    detail = {"model": label, "page": page}
    if object_id:
        detail["id"] = object_id[:100]
    action = Action.STAFF_REFUSED if refused else Action.STAFF_VIEWED
    by = actor(request, via=Via.ADMIN)
    record(action, account_id=account_id, key=key, by=by, detail=detail)
    with _lock:
        _recent_views[page_view] = True


def _requested_page(request: HttpRequest) -> tuple[str, str, str] | None:
    """Return model label, page and object id; None for a page that records events itself."""
    match = request.resolver_match
    route = match and _ROUTE.fullmatch(match.route)
    if not match or not route:
        return None
    app_label, model, page = route.groups()
    if page is None:
        page = "search" if request.GET.get("q") else "list"
    object_id = str(next(iter([*match.args, *match.kwargs.values()]), ""))
    return f"{app_label}.{model}", page, object_id


class AuditedModelAdmin(admin.ModelAdmin[Any]):
    """Mixin for every ModelAdmin: records each change in its transaction.

    An event has the names of changed fields, never their values.
    """

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _record_change(request, obj, {"did": "add"})
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        if message:
            _record_change(request, obj, {"did": "change", **_change_detail(message)})
        return super().log_change(request, obj, message)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            _record_change(request, obj, {"did": "delete"})
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                _record_change(request, obj, {"did": "delete"})
            super().delete_queryset(request, queryset)


def _record_change(request: HttpRequest, obj: Model, detail: Mapping[str, str]) -> None:
    label = obj._meta.label_lower
    record(
        Action.STAFF_CHANGED,
        account_id=_owner(label, obj),
        by=actor(request, via=Via.ADMIN),
        detail={"model": label, "id": str(obj.pk), **detail},
    )


def _change_detail(message: Any) -> dict[str, str]:
    """Return the event detail for Django's change message: a sentence, or a list with fields."""
    if isinstance(message, str):
        return {"what": message}
    names = [name for part in message for name in part.get("changed", {}).get("fields", [])]
    return {"fields": ", ".join(names)}


def _subject(request: HttpRequest, label: str, object_id: str) -> tuple[UUID | None, APIKey | None]:
    """Return the account and the key that a page shows; None for pages about neither."""
    if not object_id:
        owners = (_uuid(request.GET.get(name, "")) for name in _OWNER_FILTERS)
        return next(filter(None, owners), None), None
    if label == "accounts.user":
        return _uuid(object_id), None
    row = apps.get_model(label)._base_manager.filter(pk=object_id).first()
    return _owner(label, row), row if isinstance(row, APIKey) else None


def _owner(label: str, row: Model | None) -> UUID | None:
    if row is None or label not in _OWNER_FIELDS:
        return None
    owner = getattr(row, _OWNER_FIELDS[label])
    if isinstance(owner, str):
        user = find_by_email(owner)
        return None if user is None else user.pk
    found: UUID | None = owner
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
