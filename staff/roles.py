"""Who of the staff may do what: three roles, each with all of the one before.

A role is a group of Django's. Every `migrate` brings the three back to this table; whoever needs
something else makes a group of their own. Superusers may do everything, and they alone make
superusers, or touch their accounts.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

from django.apps import apps as installed
from django.apps.registry import Apps
from django.db.models import Q


class Role(StrEnum):
    """By the names of their groups, the one that may least first."""

    SUPPORT = "Support"
    SECURITY = "Security"
    ADMINISTRATORS = "Administrators"


_RANK: Final = list(Role)

# What one may do, and from which role on.
FROM: Final[tuple[tuple[str, Role], ...]] = (
    # Look at people: accounts, sessions, keys, usage, events; and say whose key it is.
    ("accounts.view_user", Role.SUPPORT),
    ("account.view_emailaddress", Role.SUPPORT),
    ("apikeys.view_apikey", Role.SUPPORT),
    ("audit.view_event", Role.SUPPORT),
    # Keys.
    ("apikeys.revoke_apikey", Role.SUPPORT),
    ("apikeys.suspend_apikey", Role.SECURITY),
    # Accounts.
    ("accounts.disable_user", Role.SECURITY),
    ("accounts.end_sessions", Role.SECURITY),
    ("audit.export_event", Role.SECURITY),
    ("accounts.add_user", Role.ADMINISTRATORS),
    ("accounts.change_user", Role.ADMINISTRATORS),
    ("accounts.recover_user", Role.ADMINISTRATORS),
    # Settings: who is staff, providers, sites; and mail that waits.
    ("accounts.manage_staff", Role.ADMINISTRATORS),
    ("auth.view_group", Role.ADMINISTRATORS),
    ("auth.add_group", Role.ADMINISTRATORS),
    ("auth.change_group", Role.ADMINISTRATORS),
    ("auth.delete_group", Role.ADMINISTRATORS),
    ("socialaccount.view_socialapp", Role.ADMINISTRATORS),
    ("socialaccount.add_socialapp", Role.ADMINISTRATORS),
    ("socialaccount.change_socialapp", Role.ADMINISTRATORS),
    ("socialaccount.delete_socialapp", Role.ADMINISTRATORS),
    ("oauth.view_site", Role.ADMINISTRATORS),
    ("oauth.add_site", Role.ADMINISTRATORS),
    ("oauth.change_site", Role.ADMINISTRATORS),
    ("oauth.delete_site", Role.ADMINISTRATORS),
    ("outbox.view_mail", Role.ADMINISTRATORS),
)


def permissions_of(role: Role) -> set[str]:
    """As `app.codename`."""
    return {name for name, first in FROM if _RANK.index(first) <= _RANK.index(role)}


def establish(*, using: str, apps: Apps = installed, **_: Any) -> None:
    """Makes the three groups what the table says. Heard after each `migrate`, and each `flush`."""
    try:
        groups = apps.get_model("auth", "Group")._base_manager.using(using)
        permissions = apps.get_model("auth", "Permission")._base_manager.using(using)
    except LookupError:
        # Migrated back to before there were any.
        return
    for role in Role:
        group, _is_new = groups.get_or_create(name=role.value)
        group.permissions.set(permissions.filter(_any_of(permissions_of(role))))


def _any_of(names: Collection[str]) -> Q:
    found = Q()
    for name in names:
        app, _dot, codename = name.partition(".")
        found |= Q(content_type__app_label=app, codename=codename)
    return found
