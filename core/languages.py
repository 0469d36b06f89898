"""The language of responses."""

from django.http import HttpRequest
from django.utils import translation


def accepted_language(header: str) -> str:
    """Return the code in LANGUAGES that an Accept-Language header asks for (RFC 9110 §12.5.4)."""
    request = HttpRequest()
    request.META["HTTP_ACCEPT_LANGUAGE"] = header
    return translation.get_language_from_request(request)
