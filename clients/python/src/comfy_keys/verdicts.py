"""What the platform says of a key. Nothing in here holds a key's text: all of it may be logged."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

VALID: Final = "VALID"
MALFORMED: Final = "MALFORMED"

_MISTYPED: Final = (
    "This is not an API key of ours: it is mistyped or incomplete. "
    "A key is comfyui- and 64 letters and digits; copy it whole."
)


@dataclass(frozen=True, slots=True)
class Key:
    """A good key, without its secret.

    prefix: what is shown of it, `comfyui-87d01e28d3f4`.
    """

    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    expires_at: datetime | None


@dataclass(frozen=True)
class Customer:
    """Whose key it is."""

    id: str
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a key is good, and whose it is. True in an `if` when it is good, and only then.

    code: VALID, MALFORMED, NOT_FOUND, REVOKED, SUSPENDED, EXPIRED, ACCOUNT_DISABLED, or one of
    later days.
    message: what to tell the person; "" for a good key.
    key, customer: None unless the key is good.
    """

    valid: bool
    code: str
    message: str = ""
    key: Key | None = None
    customer: Customer | None = None

    def __bool__(self) -> bool:
        return self.valid

    def covers(self, scope: str) -> bool:
        """Whether the key may be used for `scope`, such as "proxy:openai"."""
        if not self.valid or self.key is None:
            return False
        granted = self.key.scopes
        return scope in granted or (scope.startswith("proxy:") and "proxy:*" in granted)

    def is_over(self) -> bool:
        """Whether the key has expired since this was said, by this machine's clock."""
        if self.key is None or self.key.expires_at is None:
            return False
        return self.key.expires_at <= datetime.now(UTC)


MISTYPED: Final = Verdict(valid=False, code=MALFORMED, message=_MISTYPED)
"""What is said of a key that can't be one, without asking anybody."""


def good(answer: Mapping[str, Any]) -> Verdict:
    """The verdict in an answer about a good key. Raises KeyError, TypeError, ValueError."""
    key, customer = answer["key"], answer["customer"]
    scopes, expires_at = key["scopes"], key["expires_at"]
    if not isinstance(scopes, list):
        raise TypeError("scopes")
    return Verdict(
        valid=True,
        code=VALID,
        key=Key(
            id=_text(key["id"]),
            name=_text(key["name"]),
            prefix=_text(key["key_prefix"]),
            scopes=tuple(map(_text, scopes)),
            expires_at=None if expires_at is None else _moment(expires_at),
        ),
        customer=Customer(
            id=_text(customer["id"]),
            email=_text(customer["email"]),
            name=_text(customer["name"]),
        ),
    )


def bad(code: object, message: object) -> Verdict:
    """The verdict on a key that is not good. Raises TypeError, ValueError."""
    code = _text(code)
    if code == VALID or not code:
        raise ValueError("code")
    return Verdict(valid=False, code=code, message=_text(message))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment
