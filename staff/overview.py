"""One page for an account: who it is, its keys, sessions, events and usage. Reads, and links.

As many queries for five hundred keys as for one, and each found by an index.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.db.models import Prefetch, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe
from django_stubs_ext import StrPromise

from accounts import devices, services
from accounts.models import User
from apikeys import deeds, words
from apikeys.models import APIKey, DailyUse, KeyNetwork
from audit.models import Event
from audit.words import told
from staff.pages import page, require, staff_member

# How much of each is shown. The lists have the rest.
KEYS: Final = 100
SESSIONS: Final = 50
EVENTS: Final = 50
NETWORKS: Final = 3
DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class KeyRow:
    key: APIKey
    state: str
    calls: int
    networks: list[str]
    # What can be done to it by who looks: where that is asked, and in what word.
    deeds: list[tuple[str, StrPromise]] = field(default_factory=list)


@require_safe
def account(request: HttpRequest, user_id: UUID) -> HttpResponse:
    require(request, "accounts.view_user")
    user = get_object_or_404(User, pk=user_id)
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
    if not services.may_act_on(user, by=staff_member(request)):
        may |= dict.fromkeys(("change", "disable", "end_sessions"), False)
    context: dict[str, Any] = {
        "title": user.email,
        "account": user,
        "may": may,
        "addresses": EmailAddress.objects.filter(user=user).order_by("email"),
        "factors": _factors(user),
        "logins": SocialAccount.objects.filter(user=user).order_by("pk"),
        "roles": user.groups.order_by("name"),
        "sessions": _sessions(user),
    }
    if may["see_keys"]:
        context |= _keys(request, user)
    if may["see_events"]:
        context |= _events(user)
    return page(request, "account.html", context)


def _factors(user: User) -> list[str]:
    kinds = Authenticator.objects.filter(user=user).order_by("pk").values_list("type", flat=True)
    return [str(Authenticator.Type(kind).label) for kind in kinds]


def _sessions(user: User) -> list[dict[str, Any]]:
    """Those that are alive, by last use. What has expired is left for whoever cleans up."""
    kept = UserSession.objects.filter(user=user).order_by("-last_seen_at")[:SESSIONS]
    alive = set(
        Session.objects.filter(
            session_key__in=[session.session_key for session in kept],
            expire_date__gt=timezone.now(),
        ).values_list("session_key", flat=True)
    )
    return [
        {
            "device": devices.describe(session.user_agent),
            "address": session.ip,
            "began_at": session.created_at,
            "seen_at": session.last_seen_at,
        }
        for session in kept
        if session.session_key in alive
    ]


def _keys(request: HttpRequest, user: User) -> dict[str, Any]:
    newest = KeyNetwork.objects.order_by("-first_used_at")[: NETWORKS + 1]
    found = list(
        APIKey.objects.filter(owner=user).prefetch_related(
            Prefetch("networks", queryset=newest, to_attr="newest_networks")
        )[: KEYS + 1]
    )
    calls, days = _usage(user, found)
    may = [deed for deed in _DEEDS if request.user.has_perm(deed.permission)]
    rows = [
        KeyRow(
            key=key,
            state=words.state(key),
            calls=calls.get(key.pk, 0),
            networks=_named(key.newest_networks),  # type: ignore[attr-defined]
            deeds=[(_asked_at(key, deed), deed.button) for deed in may if _can(deed, key)],
        )
        for key in found[:KEYS]
    ]
    return {
        "keys": rows,
        "has_more_keys": len(found) > KEYS,
        "all_keys": reverse("admin:apikeys_apikey_changelist", query={"owner__id__exact": user.pk}),
        "days": days,
        "calls": sum(count for _day, count in days),
    }


_DEEDS: Final = [deeds.SUSPEND, deeds.RESTORE, deeds.REVOKE]


def _can(deed: deeds.Deed, key: APIKey) -> bool:
    if key.revoked_at is not None:
        return False
    return deed is deeds.REVOKE or (deed is deeds.RESTORE) == (key.suspended_at is not None)


def _asked_at(key: APIKey, deed: deeds.Deed) -> str:
    return reverse(f"admin:apikeys_apikey_{deed.name}", args=[key.pk], query={"from": "account"})


def _named(networks: list[KeyNetwork]) -> list[str]:
    known = [row.network for row in networks[:NETWORKS]]
    return [*known, "…"] if len(networks) > NETWORKS else known


def _usage(user: User, keys: Iterable[APIKey]) -> tuple[dict[UUID, int], list[tuple[Any, int]]]:
    """Calls of the last days (UTC): by key, for these; by day, for all of the account's."""
    today = timezone.now().date()
    days = [today - timedelta(days=back) for back in range(DAYS)]
    lately = DailyUse.objects.filter(day__gte=days[-1]).order_by()
    by_key = lately.filter(key__in=[key.pk for key in keys]).values_list("key_id")
    by_day = lately.filter(key__owner=user).values_list("day")
    per_day: dict[Any, int] = dict(by_day.annotate(Sum("calls")))
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
    # Of staff it says to their like what it does not say to people.
    return told(event) or ", ".join(f"{name}: {value}" for name, value in event.detail.items())
