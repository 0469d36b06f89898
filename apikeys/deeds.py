"""What staff do to keys, each after a page that asks: revoke, suspend, restore."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django_stubs_ext import StrPromise

from accounts.services import notify
from apikeys import services
from apikeys.models import APIKey, Reason
from audit.models import Action
from audit.trail import Actor, record


@dataclass(frozen=True, slots=True)
class Deed:
    """One of them, with its words."""

    name: str
    permission: str
    title: StrPromise
    asks: StrPromise
    button: StrPromise
    # Where there is nothing to do; and where there was nothing any more.
    nothing: StrPromise
    too_late: StrPromise
    # How many, in words.
    done: Callable[[int], str]
    # Does it to one key; False if that was so already.
    to: Callable[..., bool]
    # The keys to which it can be done.
    among: Callable[[QuerySet[APIKey]], QuerySet[APIKey]]

    def to_all(self, keys: Iterable[APIKey], *, by: Actor) -> int:
        """Does it to each for itself: what is done of a thousand holds. Returns how many."""
        return sum(self.to(key, by=by) for key in keys)


def _in_use(keys: QuerySet[APIKey]) -> QuerySet[APIKey]:
    return keys.filter(revoked_at__isnull=True, suspended_at__isnull=True)


def _suspended(keys: QuerySet[APIKey]) -> QuerySet[APIKey]:
    return keys.filter(revoked_at__isnull=True, suspended_at__isnull=False)


def _kept(keys: QuerySet[APIKey]) -> QuerySet[APIKey]:
    return keys.filter(revoked_at__isnull=True)


def _revoke_found(key: APIKey, *, by: Actor) -> bool:
    """Ends a key that staff were shown: somebody found it, and wrote to them instead of to us."""
    with transaction.atomic():
        if not services.revoke(key, reason=Reason.LEAKED, by=by):
            return False
        detail = {"reporter": "staff"}
        record(Action.KEY_LEAKED, account_id=key.owner_id, key=key, by=by, detail=detail)
    leak: dict[str, Any] = {"key": key, "places": []}
    context = {"leaks": [leak], "key": key, "timestamp": timezone.now()}
    notify(key.owner, "apikeys/email/leaked", context, is_security=True)
    return True


def _revoked(count: int) -> str:
    return ngettext(
        "%(count)d key was revoked. It works no more.",
        "%(count)d keys were revoked. They work no more.",
        count,
    ) % {"count": count}


def _were_suspended(count: int) -> str:
    return ngettext(
        "%(count)d key was suspended. Its owner is told.",
        "%(count)d keys were suspended. Their owners are told.",
        count,
    ) % {"count": count}


def _restored(count: int) -> str:
    return ngettext(
        "%(count)d key works again. Its owner is told.",
        "%(count)d keys work again. Their owners are told.",
        count,
    ) % {"count": count}


REVOKE: Final = Deed(
    name="revoke",
    permission="apikeys.revoke_apikey",
    title=_("Revoke keys"),
    asks=_("These keys stop working at once. This can't be undone."),
    button=_("Revoke"),
    nothing=_("None of these keys works any more: there is nothing to revoke."),
    too_late=_("These keys had ended already."),
    done=_revoked,
    to=partial(services.revoke, reason=Reason.REVOKED_BY_STAFF),
    among=_kept,
)
REVOKE_LEAKED: Final = Deed(
    name="revoke",
    permission="apikeys.revoke_apikey",
    title=_("Revoke a key that was found"),
    asks=_(
        "This key stops working at once. This can't be undone. Its owner is told that somebody "
        "found it."
    ),
    button=_("Revoke"),
    nothing=REVOKE.nothing,
    too_late=REVOKE.too_late,
    done=_revoked,
    to=_revoke_found,
    among=_kept,
)
SUSPEND: Final = Deed(
    name="suspend",
    permission="apikeys.suspend_apikey",
    title=_("Suspend keys"),
    asks=_(
        "These keys are refused from now on, until somebody restores them. Their owners are told."
    ),
    button=_("Suspend"),
    nothing=_("None of these keys is in use: there is nothing to suspend."),
    too_late=_("These keys were suspended already, or have ended."),
    done=_were_suspended,
    to=services.suspend,
    among=_in_use,
)
RESTORE: Final = Deed(
    name="restore",
    permission="apikeys.suspend_apikey",
    title=_("Restore keys"),
    asks=_("These keys work again. Their owners are told."),
    button=_("Restore"),
    nothing=_("None of these keys is suspended: there is nothing to restore."),
    too_late=_("These keys were not suspended any more, or have ended."),
    done=_restored,
    to=services.restore,
    among=_suspended,
)
