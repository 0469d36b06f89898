"""Signal receivers for changed, exported and deleted accounts: accounts do not import apikeys."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import batched
from typing import Any, Final
from uuid import UUID

from django.dispatch import receiver

from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.cache import invalidation
from apikeys.models import APIKey, DailyUse, HourlyRefusal, Reason
from audit.models import Via
from audit.services import Actor
from core import batches

# Keys whose use is exported by one series of reads.
_KEYS_AT_A_TIME: Final = 20


@receiver(accounts.exporting_data)
def export_keys(sender: type[User], *, user: User, **_: object) -> dict[str, Any]:
    """Return the keys of `user` and their use, without secrets."""
    keys = list(APIKey.objects.filter(owner=user).values_list("pk", flat=True))
    return {
        "keys": _keys(keys),
        "daily_uses": _of_keys(keys, DailyUse, "key_id", "day", "calls", order=["key_id", "day"]),
        "hourly_refusals": _of_keys(
            keys,
            HourlyRefusal,
            "key_id",
            "hour",
            "code",
            "calls",
            order=["key_id", "hour", "code"],
        ),
    }


def _keys(keys: list[UUID]) -> Iterator[dict[str, Any]]:
    for ids in batched(keys, batches.BATCH):
        for key in APIKey.objects.filter(pk__in=ids).prefetch_related("former_names"):
            yield _exported(key)


def _of_keys(
    keys: list[UUID], model: type[DailyUse | HourlyRefusal], *fields: str, order: list[str]
) -> Iterator[dict[str, Any]]:
    # A batch of keys is sorted for each read: rows of all keys at once would be sorted many times.
    for ids in batched(keys, _KEYS_AT_A_TIME):
        yield from batches.read(model._default_manager.filter(key__in=ids), *fields, order=order)


def _exported(key: APIKey) -> dict[str, Any]:
    return {
        "id": key.pk,
        "key": key.masked,
        "name": key.name,
        "former_names": [former.name for former in key.former_names.all()],
        "description": key.description,
        "created_at": key.created_at,
        "scopes": key.granted,
        "allowed_networks": key.allowed_network_list,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
        "revoked_reason": key.revoked_reason,
    }


@receiver(accounts.account_deleting)
def delete_keys(sender: type[User], *, user: User, client_ip: str | None, **_: object) -> None:
    """Revoke the keys of `user`, then delete them with their use."""
    by = Actor(user=user, via=Via.PAGE, client_ip=client_ip)
    for key in APIKey.objects.kept().filter(owner=user):
        services.revoke(key, reason=Reason.ACCOUNT_DELETED, by=by)
    # The counts of use are deleted by cascade.
    APIKey.objects.filter(owner=user).delete()


@contextmanager
def accounts_changing(ids: Collection[UUID]) -> Iterator[None]:
    """Invalidate the keys of accounts around a change to them, also keys created in between.

    Revoked keys are left out: they are refused in any case.
    """
    if not invalidation.version_tables():
        yield
        return
    before = _public_ids(ids)
    with invalidation.changing(before):
        yield
        newer = _public_ids(ids) - before
    if newer:
        with invalidation.changing(newer):
            pass


def _public_ids(owners: Collection[UUID]) -> set[str]:
    kept = APIKey.objects.kept().filter(owner__in=owners)
    return set(kept.order_by().values_list("public_id", flat=True))
