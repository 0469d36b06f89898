"""Verdicts on keys. They never contain the key itself, so they may be logged."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

VALID: Final = "VALID"
MALFORMED: Final = "MALFORMED"
NETWORK_NOT_ALLOWED: Final = "NETWORK_NOT_ALLOWED"

_MISTYPED: Final = (
    "This is not an API key of ours: it is mistyped or incomplete. "
    "A key is comfyui- and 64 letters and digits; copy it whole."
)


@dataclass(frozen=True, slots=True)
class Key:
    """A valid key, without its secret.

    prefix: its public part, `comfyui-87d01e28d3f4`.
    allowed_networks: from where it may be used, as CIDR; empty: from everywhere.
    """

    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    allowed_networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Customer:
    """The owner of a key."""

    id: str
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class GoodVerdict:
    """The key is valid, with its owner. True in an `if`."""

    key: Key
    customer: Customer
    valid: Literal[True] = True
    code: Literal["VALID"] = VALID
    message: str = ""

    def __bool__(self) -> Literal[True]:
        return True

    def covers(self, scope: str) -> bool:
        """Return whether the key may be used for `scope`, such as "proxy:openai"."""
        granted = self.key.scopes
        return scope in granted or (scope.startswith("proxy:") and "proxy:*" in granted)

    def is_over(self) -> bool:
        """Return whether the key has expired since, by this machine's clock."""
        return self.key.expires_at is not None and self.key.expires_at <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class BadVerdict:
    """The key is invalid. False in an `if`.

    code: MALFORMED, NOT_FOUND, REVOKED, SUSPENDED, EXPIRED, ACCOUNT_DISABLED, NETWORK_NOT_ALLOWED,
        or a later one.
    message: text for the user.
    """

    code: str
    message: str = ""
    valid: Literal[False] = False
    key: None = None
    customer: None = None

    def __bool__(self) -> Literal[False]:
        return False

    def covers(self, scope: str) -> Literal[False]:
        """Return False: an invalid key covers no scope."""
        return False

    def is_over(self) -> Literal[False]:
        """Return False: an invalid key does not expire."""
        return False


# Two classes, so that type checkers infer from `if verdict:` that there is a customer.
Verdict = GoodVerdict | BadVerdict
"""The result of a validation. True in an `if` for a valid key only."""


def depends_on_client_ip(verdict: Verdict) -> bool:
    """Return whether the verdict could be another one for a client with another IP."""
    if isinstance(verdict, BadVerdict):
        return verdict.code == NETWORK_NOT_ALLOWED
    return bool(verdict.key.allowed_networks)


MISTYPED: Final = BadVerdict(MALFORMED, _MISTYPED)
"""The verdict on a malformed key, which needs no request."""


def good(response: Mapping[str, Any]) -> GoodVerdict:
    """Return the verdict in a response for a valid key. Raise KeyError, TypeError, ValueError."""
    key, customer = response["key"], response["customer"]
    scopes, expires_at = key["scopes"], key["expires_at"]
    # Platforms before allowed networks do not send them.
    networks = key.get("allowed_networks", [])
    if not isinstance(scopes, list) or not isinstance(networks, list):
        raise TypeError("scopes or networks")
    return GoodVerdict(
        key=Key(
            id=_text(key["id"]),
            name=_text(key["name"]),
            prefix=_text(key["key_prefix"]),
            scopes=tuple(map(_text, scopes)),
            expires_at=None if expires_at is None else _moment(expires_at),
            allowed_networks=tuple(map(_text, networks)),
        ),
        customer=Customer(
            id=_text(customer["id"]),
            email=_text(customer["email"]),
            name=_text(customer["name"]),
        ),
    )


def bad(code: object, message: object) -> BadVerdict:
    """Return the verdict on an invalid key. Raise TypeError, ValueError."""
    code = _text(code)
    if code == VALID or not code:
        raise ValueError("code")
    return BadVerdict(code, _text(message))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment
