"""Find the key in a request, and reject ambiguous requests."""

import re
from urllib.parse import unquote_plus

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from apikeys import tokens
from apikeys.api.errors import BadRequest

_QUERY_NAMES = re.compile(r"(^|&)(x[-_])?api[-_]?key=", re.IGNORECASE)


def presented_key(request: HttpRequest) -> str | None:
    """Return the text in `X-API-Key` or else `Authorization: Bearer`, or None.

    X-API-Key takes precedence (Comfy API's OpenAPI document). An empty or blank header counts as
    absent: clients without a configured key send it. Raise BadRequest for two keys in one header,
    and for a key in the query string.
    """
    reject_key_in_query(request)
    return _key_with_prefix(request, "")


def forwarded_key(request: HttpRequest) -> str | None:
    """Return the key that a proxy's client sent, as the proxy forwards it, or None.

    `X-Original-X-API-Key` or else `X-Original-Authorization: Bearer`, for a proxy that needs the
    plain headers itself; without them, `presented_key`. An empty header counts as absent: some
    proxies send it if their client sent none. Raise BadRequest as presented_key does, and for
    another key in the plain headers.

    Clients may send these headers as well: they grant no more than a key.
    """
    plain = presented_key(request)
    original = _key_with_prefix(request, "X-Original-")
    if not original:
        return plain
    # Other values of the plain headers belong to the proxy.
    if plain and plain.strip().startswith(tokens.PREFIX) and plain.strip() != original.strip():
        raise BadRequest(
            "AMBIGUOUS_KEY",
            _(
                "The X-Original headers contain one key and the other headers contain "
                "another. Send one key."
            ),
        )
    return original


def _key_with_prefix(request: HttpRequest, prefix: str) -> str | None:
    name = f"{prefix}X-API-Key"
    value = request.headers.get(name, "")
    if not is_blank(value):
        return _single_value(name, value)
    name = f"{prefix}Authorization"
    scheme, _space, value = request.headers.get(name, "").strip().partition(" ")
    return (
        _single_value(name, value) if scheme.lower() == "bearer" and not is_blank(value) else None
    )


def is_blank(value: str) -> bool:
    """Return whether a header is empty: an empty one sent twice arrives as a comma."""
    return not value.replace(",", "").strip()


def _single_value(header: str, value: str) -> str:
    # Repeated headers arrive joined with commas (RFC 9110 §5.3). An empty one among them counts as
    # absent (§5.6.1).
    values = [one for one in value.split(",") if one.strip()]
    if len(values) == 1:
        return values[0]
    if tokens.PREFIX in value.lower():
        raise BadRequest(
            "AMBIGUOUS_KEY",
            _("The %(header)s header contains more than one key. Send one.") % {"header": header},
        )
    # Another text with a comma.
    return value


def reject_key_in_query(request: HttpRequest) -> None:
    """Raise BadRequest for a key in the query string, since logs and histories store URLs."""
    query = request.META.get("QUERY_STRING", "")
    if query and (tokens.PREFIX in unquote_plus(query).lower() or _QUERY_NAMES.search(query)):
        raise BadRequest(
            "KEY_IN_ADDRESS",
            _(
                "Keys in URLs end up in logs and browser history. Send the key in the "
                "X-API-Key header. If it was a real key, delete it and create a new "
                "one."
            ),
        )
