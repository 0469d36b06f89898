"""Middleware that rejects API keys in URLs."""

from collections.abc import Callable
from urllib.parse import unquote_plus

from django.http import HttpRequest, HttpResponseBase

from apikeys import tokens
from core import error_views

type GetResponse = Callable[[HttpRequest], HttpResponseBase]


def reject_key_in_query_string(get_response: GetResponse) -> GetResponse:
    """Reject a query string that holds a whole key: URLs are logged, stored and shown again.

    Pages pass it on, to the language form and to the login page. The public part of a key, which
    may be shown, may be searched for.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if query and tokens.redact(decoded := unquote_plus(query)) != decoded:
            return error_views.key_in_query_string(request)
        return get_response(request)

    return middleware
