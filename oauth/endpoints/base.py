"""Base class of the endpoints: forms as input, JSON as output, errors in OAuth's format."""

from collections.abc import Callable, Collection
from typing import Any, Final

from django.core.exceptions import SuspiciousOperation
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys.api.base import BaseView
from apikeys.api.errors import Refused, exception_handler
from apikeys.api.naming import shown, suggestion
from apikeys.api.parsers import MAX_BODY, refuse_encoded
from core.private_names.rest_framework import django_request
from oauth import cors
from oauth.server import error_body

FORM: Final = "application/x-www-form-urlencoded"

_ERRORS: Final = {
    401: "invalid_client",
    403: "access_denied",
    404: "not_found",
    429: "temporarily_unavailable",
    503: "temporarily_unavailable",
}


# Docstrings and help texts of serializers are descriptions in the published OpenAPI schema.
class ProblemSerializer(serializers.Serializer[dict[str, str]]):
    """RFC 6749 §5.2, with the message also in the field that ComfyUI reads."""

    error = serializers.CharField()
    error_description = serializers.CharField()
    message = serializers.CharField()


def error_responses(*statuses: int) -> dict[int, OpenApiResponse]:
    """Return the OpenAPI description of `statuses` and of 400, 415 and 503."""
    descriptions = {
        400: "See `error`.",
        401: "No valid service secret.",
        403: "Called from a website that is not listed, or by a service without the scope.",
        404: "Not available: the operator has set no `SERVICE_SECRETS`.",
        415: "The body is compressed.",
        429: "Too many requests from this network.",
        503: "Temporarily unavailable. Try again after `Retry-After` seconds.",
    }
    return {
        number: OpenApiResponse(ProblemSerializer, descriptions[number])
        for number in sorted({*statuses, 400, 415, 503})
    }


class OAuthView(BaseView):
    """Base of the OAuth endpoints, which need no login."""

    authentication_classes = []
    permission_classes = []
    # Whether pages of unlisted sites get 403.
    rejects_unlisted_origins = True
    # read_form rejects all query parameters.
    parameters = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.rejects_unlisted_origins and cors.is_unlisted_origin(django_request(request)):
            raise Refused(
                "ACCESS_DENIED",
                _(
                    "This website is not listed here, so it can't log people in. Use an "
                    "API key there."
                ),
                status.HTTP_403_FORBIDDEN,
            )

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return _oauth_exception_handler


def _oauth_exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    response = exception_handler(error, context)
    if response is not None:
        name = _ERRORS.get(response.status_code, "invalid_request")
        response.data = error_body(name, response.data["message"])
    return response


def read_form(request: Request) -> QueryDict:
    """Return the form in the body. Raise Refused for another body, or a query string."""
    http = django_request(request)
    refuse_encoded(http)
    if http.content_type != FORM or int(http.META.get("CONTENT_LENGTH") or 0) > MAX_BODY:
        raise bad_request(_("Send a form (application/x-www-form-urlencoded) of at most 64 KiB."))
    if http.GET:
        raise bad_request(_("Send the parameters in the body: URLs end up in logs."))
    try:
        return http.POST
    except SuspiciousOperation:
        raise bad_request(_("Too many fields were sent.")) from None


def reject_unknown_fields(form: QueryDict, allowed: Collection[str]) -> None:
    """Raise Refused for a field that is not in `allowed`, or is repeated."""
    for name, values in form.lists():
        if name not in allowed:
            raise bad_request(
                _("Unknown field “%(name)s”. %(suggestion)s")
                % {"name": shown(name), "suggestion": suggestion(name, allowed)}
            )
        if len(values) != 1:
            raise bad_request(_("Send %(name)s once.") % {"name": name})


def single_value(form: QueryDict, name: str) -> str:
    """Return the value of a field. Raise Refused if it is missing or repeated."""
    values = form.getlist(name)
    if len(values) != 1:
        raise bad_request(_("Send %(name)s once.") % {"name": name})
    return values[0]


def bad_request(message: Any) -> Refused:
    """Return the error for a form that is not as expected."""
    return Refused("INVALID_REQUEST", message, status.HTTP_400_BAD_REQUEST)
