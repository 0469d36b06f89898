"""Reading a request's body, within bounds."""

import io
from collections.abc import Mapping
from typing import IO, Any

from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

# Bytes. The largest body that means anything here is a name and a description.
MAX_BODY = 64 * 1024


class BoundedJSONParser(JSONParser):
    """JSON of at most MAX_BODY bytes. All that can be wrong with it is a 400 with words."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        # Not by Content-Length: a chunked body has none.
        body = stream.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise ParseError(_("The body is too large: send at most 64 KiB."))
        # JSON is UTF-8 (RFC 8259 §8.1), whatever charset is named: Python knows some, such as
        # punycode, that take a second for 64 KiB.
        context = {**(parser_context or {}), "encoding": "utf-8"}
        try:
            data = super().parse(io.BytesIO(body), media_type, context)
        except RecursionError:
            raise ParseError(_("The JSON is nested too deeply.")) from None
        if not isinstance(data, dict):
            raise ParseError(_('The body must be a JSON object, such as {"key": "comfyui-…"}.'))
        return data
