"""Audit events as sentences for the owner of the account: what happened, who did it, from where.

A sentence has no ids and no codes. A value without a text here gets the general sentence of its
action. Staff pages show the detail itself (audit.formatting).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any, Final, Protocol
from uuid import UUID

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from audit.models import Action, Event, Via
from core import dates

type Text = str | Promise


class KeyPage(Protocol):
    """A key for sentences: the URL of its page, and its names over time."""

    @property
    def url(self) -> str: ...

    def name_at(self, at: datetime) -> str: ...


type KeyLookup = Callable[[Collection[UUID]], Mapping[UUID, KeyPage]]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as shown to the owner of the account."""

    event: Event
    # A symbol of static/icons.svg.
    icon: str
    text: SafeString
    # Who did it, and from where.
    source: SafeString
    # What others wrote about it: a reason, the URLs of a leaked key. May be empty.
    note: SafeString | str


class _Lookup:
    """The registered function that finds keys. Without one, sentences show public ids."""

    find: KeyLookup = staticmethod(lambda ids: {})


def register_key_lookup(lookup: KeyLookup) -> None:
    """Set the function that returns keys by id, for the app that has them."""
    _Lookup.find = staticmethod(lookup)


def describe(events: Sequence[Event], *, reader_id: UUID | None) -> list[Entry]:
    """Return `events` in sentences, for the account `reader_id`. Costs one lookup of keys."""
    keys = _Lookup.find({event.key_id for event in events if event.key_id})
    return [
        Entry(
            event=event,
            icon=_icon(event),
            text=_sentence(event, keys.get(event.key_id) if event.key_id else None),
            source=_source(event, reader_id),
            note=_note(event),
        )
        for event in events
    ]


def key_link(key_id: UUID) -> SafeString | None:
    """Return a link to the page of a key; None if it was deleted with everything about it."""
    page = _Lookup.find({key_id}).get(key_id)
    return None if page is None else _linked(page, timezone.now())


def by_day(entries: Sequence[Entry]) -> list[tuple[date, str, list[Entry]]]:
    """Group entries by local day: the day, its words (`Today`), its entries."""
    return [
        (day, dates.relative_day(day), list(group))
        for day, group in groupby(
            entries, key=lambda entry: timezone.localtime(entry.event.at).date()
        )
    ]


# --- Sentences ---

# By action. {key} is the name of the key.
_SENTENCES: Final[Mapping[str, Text]] = {
    Action.KEY_ISSUED: gettext_lazy("Created {key}."),
    Action.KEY_ROTATED: gettext_lazy("Rotated {key}. The old key no longer works."),
    Action.KEY_CHANGED: gettext_lazy("Changed {key}."),
    Action.KEY_REVOKED: gettext_lazy("Deleted {key}."),
    Action.KEY_SUSPENDED: gettext_lazy("Suspended {key}. It's refused until it is restored."),
    Action.KEY_RESTORED: gettext_lazy("Restored {key}. It works again."),
    Action.KEY_LEAKED: gettext_lazy("{key} was reported as exposed."),
    Action.KEY_NEW_NETWORK: gettext_lazy("{key} was used from a new network."),
    Action.KEY_REFUSED: gettext_lazy("{key} was refused."),
    Action.ACCOUNT_CREATED: gettext_lazy("Created the account."),
    Action.SIGNED_IN: gettext_lazy("Logged in."),
    Action.SIGN_IN_REFUSED: gettext_lazy("A login failed."),
    Action.SIGNED_OUT: gettext_lazy("Logged out."),
    Action.SITE_SIGNED_IN: gettext_lazy("Logged in to a ComfyUI."),
    Action.PASSWORD_CHANGED: gettext_lazy("Changed the password."),
    Action.EMAIL_CHANGED: gettext_lazy("Changed the email."),
    Action.FACTOR_ADDED: gettext_lazy("Added a two-factor authentication method."),
    Action.FACTOR_REMOVED: gettext_lazy("Removed a two-factor authentication method."),
    Action.LOGIN_ADDED: gettext_lazy("Connected a login."),
    Action.LOGIN_REMOVED: gettext_lazy("Disconnected a login."),
    Action.ACCOUNT_DISABLED: gettext_lazy("Disabled the account. Its keys are refused."),
    Action.ACCOUNT_ENABLED: gettext_lazy("Enabled the account. Its keys work again."),
    Action.ACCOUNT_DELETED: gettext_lazy("Deleted the account."),
    Action.STAFF_VIEWED: gettext_lazy("Viewed this account."),
    Action.STAFF_CHANGED: gettext_lazy("Changed this account."),
    Action.STAFF_LOOKED_UP: gettext_lazy("Looked up {key}."),
    Action.STAFF_REFUSED: gettext_lazy("Was refused a staff page."),
    Action.STAFF_EXPORTED: gettext_lazy("Exported the audit log."),
    Action.SERVICE_USED: gettext_lazy("A service asked about keys."),
    Action.SERVICE_REFUSED: gettext_lazy("A service was refused."),
}

# Values of details with a sentence of their own: by action, the name of the detail and its values.
# None: any value.
_VARIANTS: Final[Mapping[str, Sequence[tuple[str, Mapping[str | None, Text]]]]] = {
    Action.KEY_ISSUED: [
        (
            "replaces",
            {None: gettext_lazy("Created a new key for {key}, which replaces the old one.")},
        ),
    ],
    Action.KEY_CHANGED: [
        (
            "changed",
            {
                "name": gettext_lazy("Renamed {old_key} to {key}."),
                "description": gettext_lazy("Changed the description of {key}."),
                "scopes": gettext_lazy("Narrowed the permissions of {key}."),
                None: gettext_lazy("Changed {key}: {fields}."),
            },
        ),
    ],
    Action.KEY_REVOKED: [
        (
            "reason",
            {
                "account": gettext_lazy("Deleted {key} with the account."),
                "rolled": gettext_lazy("Deleted {key}, which was replaced by a new key."),
                "leaked": gettext_lazy("Deleted {key}, because it was reported as exposed."),
                "code": gettext_lazy("Deleted {key}, because the code for it was used twice."),
            },
        ),
    ],
    Action.KEY_LEAKED: [
        (
            "reporter",
            {
                "github": gettext_lazy("{key} was found in public by GitHub."),
                "service": gettext_lazy("{key} was found in public by a scanning service."),
                "person": gettext_lazy(
                    "{key} was reported as exposed by someone who had all of it."
                ),
                "staff": gettext_lazy("{key} was reported as exposed by an administrator."),
            },
        ),
    ],
    Action.KEY_NEW_NETWORK: [
        ("first", {"yes": gettext_lazy("{key} was used for the first time, from {network}.")}),
        ("network", {None: gettext_lazy("{key} was used from a new network, {network}.")}),
    ],
    Action.KEY_REFUSED: [
        (
            "code",
            {
                "REVOKED": gettext_lazy("{key} was refused, because it was deleted."),
                "SUSPENDED": gettext_lazy("{key} was refused, because it is suspended."),
                "EXPIRED": gettext_lazy("{key} was refused, because it has expired."),
                "ACCOUNT_DISABLED": gettext_lazy(
                    "{key} was refused, because the account is disabled."
                ),
                "NETWORK_NOT_ALLOWED": gettext_lazy(
                    "{key} was refused, because it may not be used from this network."
                ),
            },
        ),
    ],
    Action.SIGNED_IN: [
        ("how", {"": gettext_lazy("Logged in."), None: gettext_lazy("Logged in with {methods}.")}),
    ],
    Action.SIGN_IN_REFUSED: [
        (
            "why",
            {
                "password": gettext_lazy("A login failed: the password was wrong."),
                "factor": gettext_lazy(
                    "A login failed: the two-factor authentication code was wrong."
                ),
                "code": gettext_lazy("A login failed: the code from the email was wrong."),
                "disabled": gettext_lazy("A login failed: the account is disabled."),
                "provider": gettext_lazy("A login with {provider} failed."),
                "google": gettext_lazy("A Google login that is not connected here was refused."),
                "github": gettext_lazy("A GitHub login that is not connected here was refused."),
            },
        ),
    ],
    Action.SIGNED_OUT: [("where", {"elsewhere": gettext_lazy("Logged out on all other devices.")})],
    Action.SITE_SIGNED_IN: [("site", {None: gettext_lazy("Logged in to {site}.")})],
    Action.FACTOR_ADDED: [
        (
            "type",
            {
                "totp": gettext_lazy("Added an authenticator app."),
                "webauthn": gettext_lazy("Added a passkey."),
                "recovery_codes": gettext_lazy("Created new recovery codes."),
            },
        ),
    ],
    Action.FACTOR_REMOVED: [
        (
            "type",
            {
                "totp": gettext_lazy("Removed the authenticator app."),
                "webauthn": gettext_lazy("Removed a passkey."),
                "recovery_codes": gettext_lazy("Removed the recovery codes."),
            },
        ),
    ],
    Action.LOGIN_ADDED: [("provider", {None: gettext_lazy("Connected {provider}.")})],
    Action.LOGIN_REMOVED: [("provider", {None: gettext_lazy("Disconnected {provider}.")})],
    Action.STAFF_CHANGED: [
        (
            "did",
            {
                "end sessions": gettext_lazy("Logged this account out on all devices."),
                "make staff": gettext_lazy("Gave this account a staff role."),
            },
        ),
    ],
}
_ROTATED_WORKS: Final = gettext_lazy("Rotated {key}. The old key works until {until}.")
_ROTATED_WORKED: Final = gettext_lazy("Rotated {key}. The old key worked until {until}.")
_EXPIRY_SET: Final = gettext_lazy("Changed the expiry of {key} to {until}.")
_EXPIRY_REMOVED: Final = gettext_lazy("Removed the expiry of {key}.")
_NETWORKS_SET: Final = gettext_lazy("Allowed {key} only from {networks}.")
_NETWORKS_REMOVED: Final = gettext_lazy("Allowed {key} from all networks.")
_VIEWED_KEY: Final = gettext_lazy("Viewed {key}.")

_FIELDS: Final[Mapping[str, Text]] = {
    "name": gettext_lazy("name"),
    "description": gettext_lazy("description"),
    "expires_at": gettext_lazy("expiry"),
    "scopes": gettext_lazy("permissions"),
    "allowed_networks": gettext_lazy("allowed networks"),
}

_METHODS: Final[Mapping[str, Text]] = {
    "password": gettext_lazy("a password"),
    "password_reset": gettext_lazy("a new password"),
    "code": gettext_lazy("a code from an email"),
    "google": "Google",
    "github": "GitHub",
    "totp": gettext_lazy("an authenticator app"),
    "webauthn": gettext_lazy("a passkey"),
    "recovery_codes": gettext_lazy("a recovery code"),
    "mfa": gettext_lazy("two-factor authentication"),
}
_PROVIDERS: Final = {"google": "Google", "github": "GitHub"}


def _sentence(event: Event, key: KeyPage | None) -> SafeString:
    return format_html(
        str(_template(event)),
        key=_key(event, key, event.at),
        old_key=_key(event, key, event.at - timedelta.resolution),
        network=_isolated(event.detail.get("network", "")),
        networks=_isolated(", ".join(str(event.detail.get("new_allowed_networks", "")).split())),
        site=_isolated(event.detail.get("site", "")),
        provider=_PROVIDERS.get(event.detail.get("provider", ""), _("the login provider")),
        methods=_words(event, "how", _METHODS),
        fields=_words(event, "changed", _FIELDS),
        until=_until(event),
    )


def _template(event: Event) -> Text:
    """Return the text of an event, with placeholders in braces."""
    detail = event.detail
    if event.action == Action.KEY_ROTATED and (ends_at := _end(event)):
        return _ROTATED_WORKS if ends_at > timezone.now() else _ROTATED_WORKED
    if detail.get("changed") == "expires_at":
        return _EXPIRY_SET if detail.get("new_expires_at") else _EXPIRY_REMOVED
    if detail.get("changed") == "allowed_networks":
        return _NETWORKS_SET if detail.get("new_allowed_networks") else _NETWORKS_REMOVED
    if event.action == Action.STAFF_VIEWED and event.key_id:
        return _VIEWED_KEY
    for name, texts in _VARIANTS.get(event.action, ()):
        if name in detail and (text := texts.get(str(detail[name])) or texts.get(None)):
            return text
    # An event of a newer version, after an upgrade was undone.
    return _SENTENCES.get(event.action, gettext_lazy("Something else happened."))


def _key(event: Event, key: KeyPage | None, at: datetime) -> SafeString:
    if key is not None:
        return _linked(key, at)
    if event.public_id:
        # The key was deleted with everything about it.
        return format_html("<code>comfyui-{}…</code>", event.public_id)
    return escape(_("a key"))


def _linked(key: KeyPage, at: datetime) -> SafeString:
    return format_html('<a class="event-key" href="{}"><bdi>{}</bdi></a>', key.url, key.name_at(at))


def _words(event: Event, name: str, words: Mapping[str, Text]) -> str:
    """Return a detail such as `password + totp` in words: `a password and an authenticator app`."""
    parts = str(event.detail.get(name, "")).split(" + ")
    # In the order of `words`. Parts that a newer version has recorded have no words here.
    known = [str(text) for part, text in words.items() if part in parts]
    return get_text_list(known, _("and")) or _("something else")


def _end(event: Event) -> datetime | None:
    """Return when a key ends, after a rotation or a change; None if it ended at once, or never."""
    if stored := event.detail.get("until") or event.detail.get("new_expires_at"):
        return datetime.fromisoformat(stored)
    # Rotations of older versions have a duration such as `86400 s`.
    seconds, _space, _unit = str(event.detail.get("overlap", "")).partition(" ")
    return event.at + timedelta(seconds=int(seconds)) if seconds.strip("0").isdigit() else None


def _until(event: Event) -> SafeString | str:
    ends_at = _end(event)
    if ends_at is None:
        return ""
    return format_html('<time datetime="{}">{}</time>', ends_at.isoformat(), dates.moment(ends_at))


# --- Who, from where ---


def _source(event: Event, reader_id: UUID | None) -> SafeString:
    who, device = _who(event, reader_id), _device(event)
    if event.address and device:
        text = _("{who}, from {ip} ({device})")
    elif event.address:
        text = _("{who}, from {ip}")
    else:
        text = _("{who} ({device})") if device else "{who}"
    ip = format_html("<bdi>{}</bdi>", event.address or "")
    return format_html(text, who=who, ip=ip, device=format_html("<bdi>{}</bdi>", device))


def _who(event: Event, reader_id: UUID | None) -> str:
    via = event.via
    if event.actor_id == reader_id:
        if via == Via.API:
            return _("You, through the REST API")
        return _("You, for a device or site") if via == Via.OAUTH else _("You")
    # Users do not see which member of staff it was.
    if event.actor_id is not None or via == Via.ADMIN:
        return _("An administrator")
    if event.action in {Action.SERVICE_USED, Action.SERVICE_REFUSED}:
        return _("A service")
    return {
        Via.COMMAND.value: _("An administrator, on the server"),
        Via.API.value: _("ComfyUI or another program"),
        Via.OAUTH.value: _("This site"),
        Via.LEAK_REPORT.value: _("A report of exposed keys"),
    }.get(via, _("Someone"))


def _device(event: Event) -> str:
    """Return browser and system of a login in the current language; empty if unknown."""
    browser, on, system = str(event.detail.get("device", "")).partition(" on ")
    if not on:
        return "" if browser == "Unknown device" else browser
    return _("%(browser)s on %(system)s") % {"browser": browser, "system": system}


def _note(event: Event) -> SafeString | str:
    detail = event.detail
    if event.action in {Action.ACCOUNT_DISABLED, Action.ACCOUNT_ENABLED} and detail.get("reason"):
        return format_html(_("Reason: {reason}"), reason=_isolated(detail["reason"]))
    if event.action != Action.KEY_LEAKED:
        return ""
    if detail.get("found_at"):
        # Not links: what is found there may do harm.
        return format_html(_("Found at {urls}"), urls=_isolated(detail["found_at"]))
    if detail.get("note"):
        return format_html(_("They wrote: {text}"), text=_isolated(detail["note"]))
    return ""


def _isolated(text: Any) -> SafeString:
    return format_html("<bdi>{}</bdi>", text)


# --- Icons and filters ---

_ICONS: Final[Mapping[str, str]] = {
    Action.KEY_ISSUED: "plus",
    Action.KEY_ROTATED: "rotate",
    Action.KEY_CHANGED: "edit",
    Action.KEY_REVOKED: "delete",
    Action.KEY_SUSPENDED: "pause",
    Action.KEY_RESTORED: "resume",
    Action.KEY_LEAKED: "alert",
    Action.KEY_NEW_NETWORK: "network",
    Action.KEY_REFUSED: "block",
    Action.SIGNED_IN: "login",
    Action.SIGN_IN_REFUSED: "alert",
    Action.SIGNED_OUT: "logout",
    Action.SITE_SIGNED_IN: "login",
    Action.PASSWORD_CHANGED: "lock",
    Action.EMAIL_CHANGED: "mail",
    Action.FACTOR_ADDED: "shield",
    Action.FACTOR_REMOVED: "shield",
    Action.LOGIN_ADDED: "link",
    Action.LOGIN_REMOVED: "link",
    Action.ACCOUNT_DISABLED: "pause",
    Action.ACCOUNT_ENABLED: "resume",
    Action.STAFF_VIEWED: "eye",
    Action.STAFF_LOOKED_UP: "eye",
    Action.STAFF_REFUSED: "block",
}


def _icon(event: Event) -> str:
    return f"event-{_ICONS.get(event.action, 'account')}"


_LOGINS: Final = (
    Action.SIGNED_IN, Action.SIGN_IN_REFUSED, Action.SIGNED_OUT, Action.SITE_SIGNED_IN,
)  # fmt: skip
_KEYS: Final = tuple(action for action in Action if action.startswith("key."))
# The filters of the page: the value of `kind`, its words and its actions.
KINDS: Final[Mapping[str, tuple[Text, Sequence[Action]]]] = {
    "keys": (gettext_lazy("Keys"), _KEYS),
    "logins": (gettext_lazy("Logins"), _LOGINS),
    "account": (
        gettext_lazy("Account"),
        tuple(action for action in Action if action not in {*_KEYS, *_LOGINS}),
    ),
}
