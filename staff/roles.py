"""Staff roles: three groups, each with all permissions of the one before.

Every `migrate` resets the three groups to this table, so other sets of permissions need other
groups. Superusers have all permissions, and only they can change accounts of superusers.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

from django.apps import apps as installed
from django.apps.registry import Apps
from django.db.models import Q


class Role(StrEnum):
    """Names of the groups, from the fewest permissions to the most."""

    SUPPORT = "Support"
    SECURITY = "Security"
    ADMINISTRATORS = "Administrators"


_RANK: Final = list(Role)

# Each permission and the first role that has it.
PERMISSIONS: Final[tuple[tuple[str, Role], ...]] = (
    # View accounts, sessions, keys, usage and events; look up a key.
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
    # Settings: staff, providers, sites; and pending e-mail.
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
    ("comfyui_sites.view_protectedsite", Role.ADMINISTRATORS),
    ("comfyui_sites.add_protectedsite", Role.ADMINISTRATORS),
    ("comfyui_sites.change_protectedsite", Role.ADMINISTRATORS),
    ("comfyui_sites.delete_protectedsite", Role.ADMINISTRATORS),
    ("outbox.view_mail", Role.ADMINISTRATORS),
)


def permissions_of(role: Role) -> set[str]:
    """Return the permissions of `role` as `app_label.codename`."""
    return {name for name, first in PERMISSIONS if _RANK.index(first) <= _RANK.index(role)}


def sync_groups(*, using: str, apps: Apps = installed, **_: Any) -> None:
    """Set the permissions of the three groups. Receives post_migrate (also sent by `flush`)."""
    try:
        groups = apps.get_model("auth", "Group")._base_manager.using(using)
        permissions = apps.get_model("auth", "Permission")._base_manager.using(using)
    except LookupError:
        # Django's auth app is migrated back to zero.
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
