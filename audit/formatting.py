"""Formatting of an event's detail for users. Values without a translation stay as they are."""

from collections.abc import Iterator, Mapping
from typing import Final

from django.utils.translation import gettext_lazy as _

from audit.models import Action, Event

_STAFF_ACTIONS: Final = {Action.STAFF_VIEWED, Action.STAFF_CHANGED, Action.STAFF_LOOKED_UP}
# Login methods, and reasons for failed logins.
_LOGIN_METHODS: Final = {
    "password": _("password"),
    "code": _("code by email"),
    "factor": _("two-factor authentication"),
    "totp": _("authenticator app"),
    "webauthn": _("passkey"),
    "recovery_codes": _("recovery codes"),
    "signup": _("signed up"),
    "disabled": _("account disabled"),
    "provider": _("no answer from the login provider"),
    "google": "Google",
    "github": "GitHub",
}
_REFUSALS: Final = {
    "REVOKED": _("was deleted"),
    "SUSPENDED": _("is suspended"),
    "EXPIRED": _("has expired"),
    "ACCOUNT_DISABLED": _("account disabled"),
    "NETWORK_NOT_ALLOWED": _("network not allowed"),
}
# Fields of a key that its owner can change.
_KEY_FIELDS: Final = {
    "name": _("name"),
    "description": _("description"),
    "expires_at": _("expires"),
    "scopes": _("permissions"),
    "allowed_networks": _("allowed networks"),
}
# Names of details, and the labels of their values.
_LABELS: Final[dict[str, Mapping[str, object]]] = {
    "how": _LOGIN_METHODS,
    "why": _LOGIN_METHODS,
    "type": _LOGIN_METHODS,
    "provider": _LOGIN_METHODS,
    "code": _REFUSALS,
    "where": {"elsewhere": _("on other devices")},
}


def register_labels(detail: str, labels: Mapping[str, object]) -> None:
    """Set the labels of the values of a detail, for an app that records a detail of its own."""
    _LABELS[detail] = labels


def format_detail(event: Event) -> str:
    """Return the detail as one line: `password, authenticator app · Firefox on Windows`."""
    return " · ".join(_parts(event))


def _parts(event: Event) -> Iterator[str]:
    if event.action in _STAFF_ACTIONS:
        # Only staff see which of the account's pages it was.
        return
    if event.action == Action.KEY_CHANGED:
        yield from _changes(event.detail)
        return
    for name, value in event.detail.items():
        if name == "first":
            yield str(_("first use"))
        else:
            labels = _LABELS.get(name, {})
            yield ", ".join(str(labels.get(part, part)) for part in str(value).split(" + "))


def _changes(detail: Mapping[str, str]) -> Iterator[str]:
    """Yield `permissions: … → …` for each field; the label alone without values."""
    for field in detail.get("changed", "").split(" + "):
        label = str(_KEY_FIELDS.get(field, field))
        old, new = (detail.get(f"{moment}_{field}") for moment in ("old", "new"))
        yield label if new is None else f"{label}: {old or '–'} → {new or '–'}"
