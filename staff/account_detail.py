"""Overview page of an account: profile, keys, sessions, events and usage. Read-only, with links.

The number of queries does not depend on the number of keys, and each query uses an index.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.apps import apps
from django.contrib.sessions.models import Session
from django.db.models import Prefetch, Sum, prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext, pgettext
from django.views.decorators.http import require_safe
from django_stubs_ext import StrPromise

from accounts import device_tracking, services
from accounts.models import User
from accounts.requests import current_user
from apikeys import admin_actions
from apikeys.models import APIKey, DailyUse, KeyNetwork
from apikeys.state_badge import state_badge
from audit.formatting import format_detail
from audit.models import Event
from core.admin_mixins import bounded_count
from core.charts import Bar, Chart
from staff.pages import render_page, require

# Rows shown of each kind. The page links to the full lists.
KEYS: Final = 10
SESSIONS: Final = 50
EVENTS: Final = 20
NETWORKS: Final = 3
DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class KeyRow:
    key: APIKey
    state: SafeString
    calls: int
    networks: list[str]
    # URL and label of each action that the staff member may apply.
    actions: list[tuple[str, StrPromise]] = field(default_factory=list)


@require_safe
def account(request: HttpRequest, user_id: UUID) -> HttpResponse:
    require(request, "accounts.view_user")
    user = get_object_or_404(User, pk=user_id)
    may = _permissions(request, user)
    context: dict[str, Any] = {
        "title": user.email,
        "account": user,
        "may": may,
        "emails": EmailAddress.objects.filter(user=user).order_by("email"),
        "factors": _factors(user),
        "logins": SocialAccount.objects.filter(user=user).order_by("pk"),
        "roles": user.groups.order_by("name"),
        "sessions": _sessions(user),
    }
    if may["see_keys"]:
        context |= _keys(request, user)
    if may["see_events"]:
        context |= _events(user)
    return render_page(request, "account.html", context)


def _permissions(request: HttpRequest, user: User) -> dict[str, bool]:
    """Return what the staff member may view and change of `user`."""
    may = {
        name: request.user.has_perm(permission)
        for name, permission in (
            ("see_keys", "apikeys.view_apikey"),
            ("see_events", "audit.view_event"),
            ("change", "accounts.change_user"),
            ("disable", "accounts.disable_user"),
            ("end_sessions", "accounts.end_sessions"),
        )
    }
    if not services.may_act_on(user, by=current_user(request)):
        may |= dict.fromkeys(("change", "disable", "end_sessions"), False)
    return may


def _factors(user: User) -> list[str]:
    kinds = Authenticator.objects.filter(user=user).order_by("pk").values_list("type", flat=True)
    return [str(Authenticator.Type(kind).label) for kind in kinds]


def _sessions(user: User) -> list[dict[str, Any]]:
    """Return the unexpired sessions by last use."""
    recent = UserSession.objects.filter(user=user).order_by("-last_seen_at")[:SESSIONS]
    active = set(
        Session.objects.filter(
            session_key__in=[session.session_key for session in recent],
            expire_date__gt=timezone.now(),
        ).values_list("session_key", flat=True)
    )
    return [
        {
            "device": device_tracking.describe(session.user_agent),
            "client_ip": session.ip,
            "began_at": session.created_at,
            "seen_at": session.last_seen_at,
        }
        for session in recent
        if session.session_key in active
    ]


def _keys(request: HttpRequest, user: User) -> dict[str, Any]:
    keys = APIKey.objects.filter(owner=user).select_related("owner")
    # Two queries, since each has an index: a sort by the state would read all keys.
    revoked = keys.filter(revoked_at__isnull=False)
    shown = [*keys.kept()[:KEYS], *revoked[:KEYS]][:KEYS]
    newest = KeyNetwork.objects.order_by("-first_used_at")[: NETWORKS + 1]
    networks = Prefetch("networks", queryset=newest, to_attr="newest_networks")
    prefetch_related_objects(shown, networks)
    calls, days = _usage(user, shown)
    actions = _permitted_actions(request, user)
    return {
        "keys": [_key_row(key, calls.get(key.pk, 0), actions) for key in shown],
        "key_count": bounded_count(keys),
        "all_keys": reverse("admin:apikeys_apikey_changelist", query={"owner__id__exact": user.pk}),
        "calls": sum(count for _day, count in days),
        "chart": _chart(days),
    }


def _chart(days: list[tuple[date, int]]) -> Chart:
    narrow = pgettext("a day in a narrow column, as Django formats dates", "j M")
    bars = [
        Bar(
            label=date_format(day, "MONTH_DAY_FORMAT"),
            value=count,
            tick=date_format(day, narrow),
            is_minor=number % 2 == 1,
        )
        for number, (day, count) in enumerate(days)
    ]
    title = gettext("API calls per day, last %(days)d days (UTC)") % {"days": DAYS}
    return Chart(title, bars, (gettext("Calls"),))


def _key_row(key: APIKey, calls: int, actions: Iterable[admin_actions.AdminAction]) -> KeyRow:
    return KeyRow(
        key=key,
        state=state_badge(key),
        calls=calls,
        networks=_network_names(key.newest_networks),  # type: ignore[attr-defined]
        actions=[
            (_confirmation_url(key, action), action.button)
            for action in actions
            if _is_applicable(action, key)
        ],
    )


_KEY_ACTIONS: Final = [admin_actions.SUSPEND, admin_actions.RESTORE, admin_actions.REVOKE]


def _permitted_actions(request: HttpRequest, user: User) -> list[admin_actions.AdminAction]:
    """Return the actions that the staff member may apply to the keys of `user`."""
    if not services.may_act_on(user, by=current_user(request)):
        return []
    return [action for action in _KEY_ACTIONS if request.user.has_perm(action.permission)]


def _is_applicable(action: admin_actions.AdminAction, key: APIKey) -> bool:
    if key.revoked_at is not None:
        return False
    return action is admin_actions.REVOKE or (action is admin_actions.RESTORE) == (
        key.suspended_at is not None
    )


def _confirmation_url(key: APIKey, action: admin_actions.AdminAction) -> str:
    return reverse(f"admin:apikeys_apikey_{action.name}", args=[key.pk], query={"from": "account"})


def _network_names(networks: list[KeyNetwork]) -> list[str]:
    names = [row.network for row in networks[:NETWORKS]]
    return [*names, "…"] if len(networks) > NETWORKS else names


def _usage(user: User, keys: Iterable[APIKey]) -> tuple[dict[UUID, int], list[tuple[date, int]]]:
    """Return the calls of the last DAYS days (UTC): per key of `keys`, and per day of all keys."""
    today = timezone.now().date()
    days = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    lately = DailyUse.objects.filter(day__gte=days[0]).order_by()
    by_key = lately.filter(key__in=[key.pk for key in keys]).values_list("key_id")
    by_day = lately.filter(key__owner=user).values_list("day")
    per_day: dict[date, int] = dict(by_day.annotate(Sum("calls")))
    return dict(by_key.annotate(Sum("calls"))), [(day, per_day.get(day, 0)) for day in days]


def _events(user: User) -> dict[str, Any]:
    latest = Event.objects.filter(account=user.pk).prefetch_related("actor")[:EVENTS]
    return {
        "events": [(event, _detail(event)) for event in latest],
        "all_events": reverse(
            "admin:audit_event_changelist", query={"account__id__exact": user.pk}
        ),
    }


def _detail(event: Event) -> str:
    # Staff also see details that have no text for account owners.
    return format_detail(event) or " · ".join(
        _list_name(value) if name == "model" else str(value)
        for name, value in event.detail.items()
        # The link leads to the event, which has the id.
        if name != "id"
    )


def _list_name(label: str) -> str:
    """Return the name of a model as lists show it, for a label such as `apikeys.apikey`."""
    try:
        return str(capfirst(apps.get_model(label)._meta.verbose_name_plural))
    except (LookupError, ValueError):
        # A model of an earlier version.
        return label
