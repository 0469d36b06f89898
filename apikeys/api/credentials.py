"""Finding the key in a request, and refusing what could be read in two ways."""

import re
from urllib.parse import unquote_plus

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from apikeys import tokens
from apikeys.api.errors import BadRequest

_QUERY_NAMES = re.compile(r"(^|&)(x[-_])?api[-_]?key=", re.IGNORECASE)


def presented_key(request: HttpRequest) -> str | None:
    """The text presented as a key: `X-API-Key`, or else `Authorization: Bearer`; None for none.

    With both, X-API-Key wins (Comfy API's OpenAPI document). Raises BadRequest for two keys in
    one header, and for a key in the address.
    """
    _refuse_key_in_address(request)
    return _key_under(request, "")


def handed_on_key(request: HttpRequest) -> str | None:
    """The key that a proxy's client presented to it, as the proxy hands it on; None for none.

    `X-Original-X-API-Key`, or else `X-Original-Authorization: Bearer`, for a proxy that needs the
    plain headers for itself on its way to us; without them, `presented_key`. An empty header is
    none: some proxies send it where their client sent nothing. Raises BadRequest as presented_key
    does, and for another key of ours under the plain names.

    Whoever sends these could as well send the plain ones: they open nothing that a key does not.
    """
    plain = presented_key(request)
    original = _key_under(request, "X-Original-")
    if not original:
        return plain
    # Anything else under the plain names is the proxy's own.
    if plain and plain.strip().startswith(tokens.PREFIX) and plain.strip() != original.strip():
        raise BadRequest(
            "AMBIGUOUS_KEY",
            _("There is one key in the X-Original headers, and another beside them. Send one."),
        )
    return original


def _key_under(request: HttpRequest, prefix: str) -> str | None:
    name = f"{prefix}X-API-Key"
    value = request.headers.get(name)
    if value or (value == "" and not prefix):
        return _one(name, value)
    name = f"{prefix}Authorization"
    scheme, _space, value = request.headers.get(name, "").strip().partition(" ")
    return _one(name, value) if scheme.lower() == "bearer" else None


def _one(header: str, value: str) -> str:
    # HTTP joins repeated headers with commas (RFC 9110 §5.3): this is how two of them arrive.
    if "," in value:
        raise BadRequest(
            "AMBIGUOUS_KEY",
            _("There is more than one key in the %(header)s header. Send one.")
            % {"header": header},
        )
    return value


def _refuse_key_in_address(request: HttpRequest) -> None:
    query = request.META.get("QUERY_STRING", "")
    if query and (tokens.PREFIX in unquote_plus(query).lower() or _QUERY_NAMES.search(query)):
        raise BadRequest(
            "KEY_IN_ADDRESS",
            _(
                "A key in the address is written into logs and histories on its way here. Send it "
                "in the X-API-Key header, and if it was a real key, delete it and make another."
            ),
        )
