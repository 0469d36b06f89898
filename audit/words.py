"""What an event's detail says, in words for a person. What has none is said as it was written."""

from collections.abc import Iterator, Mapping
from typing import Final

from django.utils.translation import gettext_lazy as _

from audit.models import Action, Event

_OF_STAFF: Final = {Action.STAFF_VIEWED, Action.STAFF_CHANGED, Action.STAFF_LOOKED_UP}
# How somebody signed in, or what was wrong when they did not.
_MEANS: Final = {
    "password": _("password"),
    "code": _("code by mail"),
    "factor": _("second factor"),
    "totp": _("authenticator app"),
    "webauthn": _("passkey"),
    "recovery_codes": _("recovery codes"),
    "signup": _("signed up"),
    "disabled": _("account disabled"),
    "google": "Google",
    "github": "GitHub",
}
_REFUSALS: Final = {
    "REVOKED": _("was deleted"),
    "SUSPENDED": _("is suspended"),
    "EXPIRED": _("has expired"),
    "ACCOUNT_DISABLED": _("account disabled"),
}
_REASONS: Final = {
    "owner": _("deleted by its owner"),
    "staff": _("revoked by staff"),
    "account": _("its account was deleted"),
    "rolled": _("replaced by a new key"),
    "leaked": _("found where others can read it"),
    "code": _("the code it was fetched with came twice"),
}
_WORDS: Final[Mapping[str, Mapping[str, object]]] = {
    "how": _MEANS,
    "why": _MEANS,
    "type": _MEANS,
    "provider": _MEANS,
    "code": _REFUSALS,
    "reason": _REASONS,
    "where": {"elsewhere": _("on other devices")},
}


def told(event: Event) -> str:
    """`password, authenticator app · Firefox on Windows`."""
    return " · ".join(_parts(event))


def _parts(event: Event) -> Iterator[str]:
    if event.action in _OF_STAFF:
        # Which page it was is for those who answer for the platform.
        return
    for name, value in event.detail.items():
        if name == "first":
            yield str(_("first use"))
        else:
            words = _WORDS.get(name, {})
            yield ", ".join(str(words.get(one, one)) for one in str(value).split(" + "))
