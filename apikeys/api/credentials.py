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
    if (value := request.headers.get("X-API-Key")) is not None:
        return _one("X-API-Key", value)
    scheme, _space, value = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return _one("Authorization", value)
    return None


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
