"""Admin actions on keys, each after a confirmation page: revoke, suspend, restore."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django_stubs_ext import StrPromise

from apikeys import services
from apikeys.leaks import services as leaks
from apikeys.models import APIKey, Reason
from audit.services import Actor


@dataclass(frozen=True, slots=True)
class AdminAction:
    """An admin action with its texts."""

    name: str
    permission: str
    title: StrPromise
    asks: StrPromise
    button: StrPromise
    # Shown when no key qualifies; when none qualified any more after the confirmation.
    nothing: StrPromise
    too_late: StrPromise
    # The message for a number of keys.
    done: Callable[[int], str]
    # Applies it to one key; False if nothing changed.
    apply: Callable[..., bool]
    # Narrows to the keys that qualify.
    among: Callable[[QuerySet[APIKey]], QuerySet[APIKey]]

    def apply_to_all(self, keys: Iterable[APIKey], *, by: Actor) -> int:
        """Apply it to each key in its own transaction. Return how many changed."""
        return sum(self.apply(key, by=by) for key in keys)


def _in_use(keys: QuerySet[APIKey]) -> QuerySet[APIKey]:
    return keys.filter(revoked_at__isnull=True, suspended_at__isnull=True)


def _suspended(keys: QuerySet[APIKey]) -> QuerySet[APIKey]:
    return keys.filter(revoked_at__isnull=True, suspended_at__isnull=False)


def _kept(keys: QuerySet[APIKey]) -> QuerySet[APIKey]:
    return keys.filter(revoked_at__isnull=True)


def _revoked_message(count: int) -> str:
    return ngettext(
        "%(count)d key was revoked. It no longer works.",
        "%(count)d keys were revoked. They no longer work.",
        count,
    ) % {"count": count}


def _suspended_message(count: int) -> str:
    return ngettext(
        "%(count)d key was suspended. Its owner is notified.",
        "%(count)d keys were suspended. Their owners are notified.",
        count,
    ) % {"count": count}


def _restored_message(count: int) -> str:
    return ngettext(
        "%(count)d key works again. Its owner is notified.",
        "%(count)d keys work again. Their owners are notified.",
        count,
    ) % {"count": count}


REVOKE: Final = AdminAction(
    name="revoke",
    permission="apikeys.revoke_apikey",
    title=_("Revoke keys"),
    asks=_("These keys stop working immediately. This can't be undone."),
    button=_("Revoke"),
    nothing=_("All of these keys are already revoked: there is nothing to revoke."),
    too_late=_("These keys were already revoked."),
    done=_revoked_message,
    apply=partial(services.revoke, reason=Reason.REVOKED_BY_STAFF),
    among=_kept,
)
REVOKE_LEAKED: Final = AdminAction(
    name="revoke",
    permission="apikeys.revoke_apikey",
    title=_("Revoke an exposed key"),
    asks=_(
        "This key stops working immediately. This can't be undone. Its owner is notified that the "
        "key was exposed."
    ),
    button=_("Revoke"),
    nothing=REVOKE.nothing,
    too_late=REVOKE.too_late,
    done=_revoked_message,
    apply=leaks.revoke_found,
    among=_kept,
)
SUSPEND: Final = AdminAction(
    name="suspend",
    permission="apikeys.suspend_apikey",
    title=_("Suspend keys"),
    asks=_("These keys are refused until staff restore them. Their owners are notified by email."),
    button=_("Suspend"),
    nothing=_("All of these keys are already suspended or revoked: there is nothing to suspend."),
    too_late=_("These keys were already suspended or revoked."),
    done=_suspended_message,
    apply=services.suspend,
    among=_in_use,
)
RESTORE: Final = AdminAction(
    name="restore",
    permission="apikeys.suspend_apikey",
    title=_("Restore keys"),
    asks=_("These keys work again. Their owners are notified by email."),
    button=_("Restore"),
    nothing=_("None of these keys is suspended: there is nothing to restore."),
    too_late=_("These keys were already restored or revoked."),
    done=_restored_message,
    apply=services.restore,
    among=_suspended,
)
