"""What programs call: each reads, asks Authlib's server or a service, answers in OAuth's shape."""

import base64
import binascii
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote_plus

from allauth.core import ratelimit
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.http import HttpResponse, QueryDict
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import scopes
from apikeys import services as keys
from apikeys.api.authentication import Unauthorized, refuse_strangers
from apikeys.api.base import Endpoint
from apikeys.api.errors import Refused, exception_handler
from apikeys.api.parsers import MAX_BODY
from apikeys.models import Reason
from apikeys.services import Code
from audit.models import Via
from audit.trail import Actor
from oauth import cors
from oauth.clients import AUTHORIZATION_CODE
from oauth.server import Asked, Device, problem, server

FORM: Final = "application/x-www-form-urlencoded"

_BY_STATUS: Final = {
    401: "invalid_client",
    403: "access_denied",
    404: "not_found",
    429: "temporarily_unavailable",
    503: "temporarily_unavailable",
}


class ProblemSerializer(serializers.Serializer[dict[str, str]]):
    """RFC 6749 §5.2, and the same words where ComfyUI looks for them."""

    error = serializers.CharField()
    error_description = serializers.CharField()
    message = serializers.CharField()


def _refusals(*statuses: int) -> dict[int, OpenApiResponse]:
    words = {
        400: "As `error` says.",
        401: "Not a service that is known here.",
        403: "Called by a page of a site that nobody listed.",
        404: "Off: the operator has set no `SERVICE_SECRETS`.",
        429: "Too often from this address.",
        503: "Not now. Try again after `Retry-After` seconds.",
    }
    return {
        number: OpenApiResponse(ProblemSerializer, words[number])
        for number in sorted({*statuses, 400, 503})
    }


class OAuthEndpoint(Endpoint):
    """A form in, JSON out. Nobody signs in here: what is sent speaks for itself."""

    authentication_classes = []
    permission_classes = []
    # For pages: some may call, of sites that staff listed.
    refuses_strange_pages = True

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.refuses_strange_pages and cors.is_strange(request._request):
            raise Refused(
                "ACCESS_DENIED",
                _(
                    "A page of this site may not sign people in: staff have not listed it. Use a "
                    "key there."
                ),
                status.HTTP_403_FORBIDDEN,
            )

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return _in_oauths_shape


def _in_oauths_shape(error: Exception, context: dict[str, Any]) -> Response | None:
    response = exception_handler(error, context)
    if response is not None:
        name = _BY_STATUS.get(response.status_code, "invalid_request")
        response.data = problem(name, response.data["message"])
    return response


def form_of(request: Request) -> QueryDict:
    """The form that was sent, which is a small one. Raises Refused for anything else."""
    http = request._request
    if http.content_type != FORM or int(http.META.get("CONTENT_LENGTH") or 0) > MAX_BODY:
        raise Refused(
            "INVALID_REQUEST",
            _("Send a form (application/x-www-form-urlencoded) of at most 64 KiB."),
            status.HTTP_400_BAD_REQUEST,
        )
    if http.GET:
        raise Refused(
            "INVALID_REQUEST",
            _("Send it in the body: what is in an address is written into logs on its way."),
            status.HTTP_400_BAD_REQUEST,
        )
    try:
        return http.POST
    except SuspiciousOperation:
        raise Refused(
            "INVALID_REQUEST", _("There are too many fields."), status.HTTP_400_BAD_REQUEST
        ) from None


def _one(form: QueryDict, name: str) -> str:
    given = form.getlist(name)
    if len(given) != 1:
        raise Refused(
            "INVALID_REQUEST",
            _("Send %(name)s, once.") % {"name": name},
            status.HTTP_400_BAD_REQUEST,
        )
    return given[0]


# --- Machines ---------------------------------------------------------------------------------


class AskForDeviceSerializer(serializers.Serializer[dict[str, str]]):
    client_id = serializers.CharField(help_text="`comfy-key` or `comfy-cli`.")
    scope = serializers.CharField(
        required=False, help_text="Default: `customers:read proxy:*`. Scopes of others are ignored."
    )
    device_name = serializers.CharField(
        required=False, help_text="What the machine calls itself; its person sees it as unproved."
    )


class DeviceCodesSerializer(serializers.Serializer[dict[str, object]]):
    """RFC 8628 §3.2."""

    device_code = serializers.CharField()
    user_code = serializers.CharField()
    verification_uri = serializers.URLField()
    verification_uri_complete = serializers.URLField()
    expires_in = serializers.IntegerField()
    interval = serializers.IntegerField()


class DeviceCodeEndpoint(OAuthEndpoint):
    @extend_schema(
        tags=["OAuth"],
        operation_id="device_code",
        summary="A machine asks for a key (RFC 8628)",
        description=(
            "Show `user_code` and `verification_uri` to a person, as text or as a QR code of "
            "`verification_uri_complete`, and ask `/oauth/token` until they have confirmed."
        ),
        request={FORM: AskForDeviceSerializer},
        responses={200: DeviceCodesSerializer, **_refusals(403, 429)},
    )
    def post(self, request: Request) -> Response | HttpResponse:
        if not ratelimit.consume(request._request, action="device_code"):
            return Response(
                problem("temporarily_unavailable", "Too many machines ask from this address."),
                status.HTTP_429_TOO_MANY_REQUESTS,
                headers={"Retry-After": "120"},
            )
        asked = Asked(request._request, form_of(request))
        response: HttpResponse = server.create_endpoint_response("device_authorization", asked)
        return response


# --- The key ----------------------------------------------------------------------------------


class AskForTokenSerializer(serializers.Serializer[dict[str, str]]):
    grant_type = serializers.ChoiceField([AUTHORIZATION_CODE, Device.GRANT_TYPE])
    client_id = serializers.CharField()
    device_code = serializers.CharField(required=False)
    code = serializers.CharField(required=False)
    redirect_uri = serializers.URLField(required=False)
    code_verifier = serializers.CharField(required=False)


class TokenSerializer(serializers.Serializer[dict[str, object]]):
    access_token = serializers.CharField(
        help_text="A key, `comfyui-…`: it is in this answer and nowhere else, ever."
    )
    token_type = serializers.CharField(help_text="`Bearer`; `X-API-Key` takes it as well.")
    scope = serializers.CharField()
    expires_in = serializers.IntegerField(required=False, help_text="Absent: it does not expire.")
    key_id = serializers.UUIDField()
    key_name = serializers.CharField(help_text="As its owner called it.")


class TokenEndpoint(OAuthEndpoint):
    @extend_schema(
        tags=["OAuth"],
        operation_id="token",
        summary="Fetch the key that a person allowed (RFC 6749 §3.2, RFC 8628 §3.4)",
        description=(
            "There are no refresh tokens: a key lives until it expires or its owner deletes it. "
            "503 `temporarily_unavailable` takes nothing away: ask again. A `code` that comes "
            "twice ends the key that was made from it."
        ),
        request={FORM: AskForTokenSerializer},
        responses={200: TokenSerializer, **_refusals(403)},
    )
    def post(self, request: Request) -> HttpResponse:
        asked = Asked(request._request, form_of(request))
        response: HttpResponse = server.create_token_response(asked)
        return response


class RevocationSerializer(serializers.Serializer[dict[str, str]]):
    token = serializers.CharField()


class RevocationEndpoint(OAuthEndpoint):
    """By hand: Authlib's asks which client a token was given to, and a key is its holder's."""

    @extend_schema(
        tags=["OAuth"],
        operation_id="revoke",
        summary="Delete a key, as whoever holds it (RFC 7009)",
        description="200 as well if it was none, or had been deleted.",
        request={FORM: RevocationSerializer},
        responses={200: None, **_refusals(403)},
    )
    def post(self, request: Request) -> Response:
        verdict = keys.validate(_one(form_of(request), "token"))
        if verdict.key is not None and verdict.code is not Code.REVOKED:
            address = request.META.get("REMOTE_ADDR") or None
            by = Actor(user=verdict.key.owner, via=Via.OAUTH, address=address)
            keys.revoke(verdict.key, reason=Reason.DELETED_BY_OWNER, by=by)
        return Response({})


# --- For services -----------------------------------------------------------------------------


class IntrospectionSerializer(serializers.Serializer[dict[str, object]]):
    """RFC 7662 §2.2. Of a token that is not good, nothing is said but that."""

    active = serializers.BooleanField()
    scope = serializers.CharField(required=False)
    username = serializers.EmailField(required=False)
    sub = serializers.UUIDField(required=False, help_text="The account.")
    token_type = serializers.CharField(required=False)
    iat = serializers.IntegerField(required=False)
    exp = serializers.IntegerField(required=False, help_text="Absent: it does not expire.")
    iss = serializers.URLField(required=False)
    key_id = serializers.UUIDField(required=False)


class IntrospectionEndpoint(OAuthEndpoint):
    """By hand: Authlib's breaks on a Basic header that is no UTF-8, and refuses unknown hints."""

    refuses_strange_pages = False

    @extend_schema(
        tags=["OAuth"],
        operation_id="introspect",
        summary="Is this key good, and whose is it? (for services, RFC 7662)",
        description=(
            "There once the operator has set `SERVICE_SECRETS`: one of them in `Authorization: "
            "Bearer`, or as the password of HTTP Basic with any name."
        ),
        request={FORM: RevocationSerializer},
        responses={200: IntrospectionSerializer, **_refusals(401, 404)},
        # A security requirement object (OpenAPI 3 §4.8.30); the stubs know of names alone.
        auth=[{"bearer": []}],  # type: ignore[list-item]
    )
    def post(self, request: Request) -> Response:
        _refuse_other_services(request)
        verdict = keys.validate(_one(form_of(request), "token"))
        key = verdict.key
        if verdict.code is not Code.VALID or key is None:
            return Response({"active": False})
        told: dict[str, object] = {
            "active": True,
            "scope": " ".join(key.granted),
            "username": key.owner.email,
            "sub": str(key.owner.pk),
            "token_type": "Bearer",
            "iat": int(key.created_at.timestamp()),
            "iss": settings.PUBLIC_URL,
            "key_id": str(key.pk),
        }
        if key.expires_at is not None:
            told["exp"] = int(key.expires_at.timestamp())
        return Response(told)


def _refuse_other_services(request: Request) -> None:
    scheme, _space, value = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() != "basic":
        refuse_strangers(value if scheme.lower() == "bearer" else "", where="Authorization")
        return
    try:
        secret = base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        secret = ""
    try:
        refuse_strangers(secret, where="Authorization")
    except Unauthorized:
        # Written as a form's fields are (RFC 6749 §2.3.1), which not everybody does.
        refuse_strangers(unquote_plus(secret), where="Authorization")


class MetadataEndpoint(OAuthEndpoint):
    refuses_strange_pages = False

    @extend_schema(
        tags=["OAuth"],
        operation_id="metadata",
        summary="What this authorization server can do (RFC 8414)",
        responses={200: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request) -> Response:
        def at(name: str) -> str:
            return f"{settings.PUBLIC_URL}{reverse(name)}"

        told: dict[str, object] = {
            "issuer": settings.PUBLIC_URL,
            "authorization_endpoint": at("oauth_authorize"),
            "token_endpoint": at("oauth_token"),
            "device_authorization_endpoint": at("oauth_device_code"),
            "revocation_endpoint": at("oauth_revoke"),
            "scopes_supported": list(scopes.ALL),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": [AUTHORIZATION_CODE, Device.GRANT_TYPE],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
            "ui_locales_supported": [code for code, _name in settings.LANGUAGES],
        }
        if settings.SERVICE_SECRETS:
            told["introspection_endpoint"] = at("oauth_introspect")
            told["introspection_endpoint_auth_methods_supported"] = [
                "client_secret_basic",
                "Bearer",
            ]
        return Response(told)
