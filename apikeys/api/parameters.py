"""Parameters with a value of a certain form."""

from uuid import UUID

from django.utils.translation import gettext_lazy as _
from rest_framework.request import Request

from apikeys.api.errors import BadRequest


def read_key_id(text: str) -> UUID:
    """Return the id of a key. Raise BadRequest for a text that is no UUID."""
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(
            "INVALID_ID", _("The id of a key must be a UUID, as in the list of keys.")
        ) from None


def read_number(request: Request, name: str, *, default: int, most: int) -> int:
    """Return the number from 1 to `most` in a query parameter. Raise BadRequest."""
    values = request.query_params.getlist(name) or [str(default)]
    text = values[0] if len(values) == 1 else ""
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and 1 <= int(text) <= most):
        raise BadRequest(
            "INVALID_REQUEST",
            _("%(name)s must be a whole number from 1 to %(most)d, sent once.")
            % {"name": name, "most": most},
        )
    return int(text)
