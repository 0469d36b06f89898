"""Rotation of SECRET_KEY: count stored data by its key, and re-encrypt it under the current one.

Signed cookies, links and codes are not stored. docs/runbook.md describes how a rotation affects
them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from accounts import mfa, stored_sessions
from core import encryption
from outbox import reencryption


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data that is encrypted under SECRET_KEY.

    count: returns the number of items by the id of their key, or by None if no key decrypts them.
    reencrypt: re-encrypts the items under former keys, and returns their number.
    unreadable: the consequence for items that no configured key decrypts, for the operator.
    """

    name: str
    count: Callable[[], Counter[str | None]]
    reencrypt: Callable[[], int]
    unreadable: str


KINDS = [
    Kind(
        "authenticator apps and sets of recovery codes",
        mfa.count_by_key,
        mfa.reencrypt_all,
        "They are refused. Put the key of that time into SECRET_KEY_FALLBACKS. If it is lost, "
        "their owners replace them on the page of their factors, or "
        "`manage.py remove_factors EMAIL` removes them.",
    ),
    Kind(
        "outgoing emails",
        reencryption.count_by_key,
        reencryption.reencrypt,
        "They are tried for a day and then given up, unless the key of that time comes back into "
        "SECRET_KEY_FALLBACKS.",
    ),
    Kind(
        "sessions",
        stored_sessions.count_by_key,
        stored_sessions.reencrypt,
        "They have ended: their users log in again.",
    ),
]


@dataclass(frozen=True, slots=True)
class Report:
    """The state of a rotation. Keys are identified by their ids.

    counts: for the name of each kind, the number of items by key.
    """

    current: str
    fallbacks: list[str]
    counts: dict[str, Counter[str | None]]

    def under(self, key: str) -> list[tuple[str, int]]:
        """Return the number of items of each kind under `key`."""
        return [(name, counter[key]) for name, counter in self.counts.items()]

    @property
    def left(self) -> int:
        """The number of items under former keys."""
        return sum(count for key in self.fallbacks for _name, count in self.under(key))

    @property
    def unreadable(self) -> list[tuple[Kind, int]]:
        """The kinds with items that no configured key decrypts, and their numbers."""
        found = [(kind, self.counts[kind.name][None]) for kind in KINDS]
        return [(kind, count) for kind, count in found if count]


def report() -> Report:
    """Return the state of the rotation, with exact counts from all rows."""
    current, *fallbacks = map(encryption.key_id, encryption.secret_keys())
    return Report(
        current=current,
        # Without duplicates and the current key.
        fallbacks=[key for key in dict.fromkeys(fallbacks) if key != current],
        counts={kind.name: kind.count() for kind in KINDS},
    )


def reencrypt() -> list[tuple[str, int]]:
    """Re-encrypt everything under the current key. Return the number of changes of each kind."""
    return [(kind.name, kind.reencrypt()) for kind in KINDS]
