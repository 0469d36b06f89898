"""Parsers with a maximum size of the body."""

import json
from collections.abc import Mapping
from typing import IO, Any, Final

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.request import Request

from apikeys.api.naming import shown
from core import content_encoding
from core.private_names.rest_framework import django_request

# In bytes. The largest valid body is a name with a description.
MAX_BODY: Final = 64 * 1024


class EncodedBody(APIException):
    """The body is compressed."""

    status_code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE
    default_detail = _(
        "The request body is compressed. Send it uncompressed, without a Content-Encoding header."
    )
    default_code = "unsupported_media_type"
    headers = content_encoding.ACCEPTED


def refuse_encoded(request: HttpRequest) -> None:
    """Raise EncodedBody for a body with a Content-Encoding other than identity."""
    if content_encoding.is_encoded(request):
        raise EncodedBody


def read_json(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8, with or without a byte order mark.

    Raise ParseError, also for an object with two members of one name: which one counts is
    unspecified (RFC 8259 §4), and a proxy that checked the request may have read the other.
    """
    try:
        # JSON is UTF-8 (RFC 8259 §8.1), whatever Content-Type says: some charsets, such as Python's
        # punycode, take a second for 64 KiB.
        text = body.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise ParseError(_("The JSON is nested too deeply.")) from None
    except ValueError as error:
        raise ParseError(
            _("The request body is not valid JSON: %(error)s") % {"error": error}
        ) from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ParseError(
            _("The JSON contains “%(name)s” more than once. Send it once.") % {"name": shown(twice)}
        )
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number.")


class BoundedParser(BaseParser):
    """Read a body of at most `most` bytes. Raise ParseError for a larger one."""

    media_type = "application/json"
    most = MAX_BODY

    def read(self, stream: IO[Any], parser_context: Mapping[str, Any] | None) -> bytes:
        request: Request = (parser_context or {})["request"]
        refuse_encoded(django_request(request))
        # A chunked body has no Content-Length.
        body: bytes = stream.read(self.most + 1)
        if len(body) > self.most:
            raise ParseError(
                _("The request body is too large. Send at most %(most)d KiB.")
                % {"most": self.most // 1024}
            )
        return body


class BoundedJSONParser(BoundedParser, JSONParser):
    """Parse a JSON object."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        data = read_json(self.read(stream, parser_context))
        if not isinstance(data, dict):
            raise ParseError(
                _('The request body must be a JSON object, such as {"key": "comfyui-…"}.')
            )
        return data
