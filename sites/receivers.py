"""Receivers for changes on which a session at a site, or the access to one, depends."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import receiver

from accounts import services as accounts
from accounts import signals
from accounts.models import User
from accounts.sessions import StoredKey
from apikeys.cache import invalidation
from sites.models import ComfyUIUser, ProtectedSite, SiteSession


@receiver(signals.session_ended)
def end_at_sites(sender: Any, *, key: StoredKey, **_: object) -> None:
    """End the sessions at sites with the session here."""
    SiteSession.objects.filter(session_key=key).delete()


@receiver(signals.session_renamed)
def rename(sender: Any, *, former: StoredKey, key: StoredKey, **_: object) -> None:
    SiteSession.objects.filter(session_key=former).update(session_key=key)


@contextmanager
def accounts_changing(ids: Collection[UUID]) -> Iterator[None]:
    """Invalidate the sessions of accounts around a change to them, also those begun in between."""
    if not invalidation.version_tables():
        yield
        return
    before = _digests(ids)
    with invalidation.changing_sessions(before):
        yield
        newer = _digests(ids) - before
    if newer:
        with invalidation.changing_sessions(newer):
            pass


def _digests(owners: Collection[UUID]) -> set[str]:
    sessions = SiteSession.objects.filter(owner__in=owners)
    return set(sessions.order_by().values_list("digest", flat=True))


signals.watch(accounts_changing)


@receiver(post_save, sender=User)
def password_changed(
    sender: Any, *, instance: User, update_fields: Iterable[str] | None, created: bool, **_: object
) -> None:
    """Invalidate the sessions of an account with another password: those of before are over."""
    if not created and (update_fields is None or "password" in update_fields):
        with invalidation.changing_sessions(_digests([instance.pk])):
            pass


@receiver(m2m_changed, sender=ProtectedSite.accounts.through)
@receiver(m2m_changed, sender=ProtectedSite.groups.through)
@receiver(m2m_changed, sender=User.groups.through)
def access_changed(sender: Any, *, action: str, pk_set: set[Any] | None, **_: object) -> None:
    if action in {"post_add", "post_remove"} and not pk_set:
        return
    if action.startswith("post_"):
        with invalidation.changing_access():
            pass


@receiver(post_delete, sender=Group)
def group_deleted(sender: Any, **_: object) -> None:
    with invalidation.changing_access():
        pass


@receiver(accounts.exporting_data)
def export_sites(sender: type[User], *, user: User, **_: object) -> dict[str, Any]:
    """Return the sites that `user` has a session or a ComfyUI user at."""
    return {
        "site_sessions": list(
            SiteSession.objects.filter(owner=user).values("site__origin", "created_at")
        ),
        "comfyui_users": list(
            ComfyUIUser.objects.filter(owner=user).values("site__origin", "user_id")
        ),
    }
