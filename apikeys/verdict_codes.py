"""The results of a validation. Pure Python: no Django."""

from enum import StrEnum


class VerdictCode(StrEnum):
    """The result of a validation. All but the first three need the right secret."""

    VALID = "VALID"
    MALFORMED = "MALFORMED"
    NOT_FOUND = "NOT_FOUND"
    REVOKED = "REVOKED"
    SUSPENDED = "SUSPENDED"
    EXPIRED = "EXPIRED"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    NETWORK_NOT_ALLOWED = "NETWORK_NOT_ALLOWED"
