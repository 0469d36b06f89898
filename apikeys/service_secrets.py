"""The entries of SERVICE_SECRETS: services that may validate or report any key.

Pure Python: no Django, no database. An entry of SERVICE_SECRETS is

    gateway:batch+introspect:3f1c…   a name, its scopes and the secret
    3f1c…                            a secret alone, as in earlier versions: all scopes
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MIN_LENGTH: Final = 32
# The name of a service without one in the audit log.
UNNAMED: Final = "unnamed"

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?", re.IGNORECASE)
_BETWEEN_SCOPES: Final = re.compile(r"[+,]")


class ServiceScope(StrEnum):
    """A request that a service may make."""

    VERIFY = "verify"
    """`POST /admin/verify-api-key`: the owner of a key and the owner's other keys"""

    BATCH = "batch"
    """`POST /api/v1/keys/validate/batch`, and naming the client at `POST /api/v1/keys/validate`"""

    INTROSPECT = "introspect"
    """`POST /oauth/introspect`"""

    LEAKS = "leaks"
    """`POST /api/v1/leaks`, which revokes or suspends keys"""


_ALL: Final = frozenset(ServiceScope)
_SCOPES: Final = {str(scope) for scope in ServiceScope}


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    scopes: frozenset[ServiceScope]
    secret: str = field(repr=False)


def split(text: str) -> list[str]:
    """Return the entries of SERVICE_SECRETS, separated by commas or white space.

    Scopes may have commas between them as well: `gateway:batch,introspect:3f1c…` is one entry.
    """
    entries: list[str] = []
    partial = ""
    for piece in re.split(r"[,\s]+", text.strip()):
        is_whole = True
        if partial:
            head, colon, _secret = piece.partition(":")
            if head not in _SCOPES:
                # Not a scope: the entry ended with the last piece.
                entries.append(partial)
                partial = ""
            else:
                piece, partial = f"{partial},{piece}", ""
                is_whole = bool(colon)
        if piece.count(":") == 1 and {*_BETWEEN_SCOPES.split(piece.partition(":")[2])} <= _SCOPES:
            is_whole = False
        if is_whole:
            entries.append(piece)
        else:
            partial = piece
    return [entry for entry in (*entries, partial) if entry]


def parse(entry: str) -> Service:
    """Return the service. Raise ValueError with a message for the operator, without the secret."""
    name, colon, rest = entry.partition(":")
    if not colon:
        return Service(UNNAMED, _ALL, _checked_length(entry, "has a secret"))
    scopes, colon, secret = rest.partition(":")
    if not _NAME.fullmatch(name) or not colon:
        raise ValueError(
            "has an entry with a colon in it that is not name:scopes:secret, such as "
            "gateway:batch+introspect:3f1c… (a secret alone has no colon)."
        )
    wanted = {*_BETWEEN_SCOPES.split(scopes)}
    if not wanted <= _SCOPES:
        known = ", ".join(ServiceScope)
        raise ValueError(f"gives {name!r} a scope that does not exist. The scopes are {known}.")
    return Service(
        name,
        frozenset(map(ServiceScope, wanted)),
        _checked_length(secret, f"has a secret of {name!r}"),
    )


def _checked_length(secret: str, subject: str) -> str:
    if len(secret) < MIN_LENGTH:
        raise ValueError(
            f"{subject} that is too short: each must be at least {MIN_LENGTH} characters of random "
            "text."
        )
    return secret


def parse_all(entries: Iterable[str]) -> list[Service]:
    """Return the services. Raise ValueError as `parse` does, and if two have the same secret."""
    services = [parse(entry) for entry in entries]
    if len({service.secret for service in services}) < len(services):
        raise ValueError("has one secret twice: a request could be that of either service.")
    return services
