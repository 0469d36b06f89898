"""Endpoints that validate keys for services, such as a proxy of ComfyUI."""

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import messages, services
from apikeys.api import schema, serializers
from apikeys.api.authentication import (
    Unauthorized,
    accept,
    has_bearer_secret,
    presented_token,
    record_use_by_network,
    require_bearer_secret,
)
from apikeys.api.base import BaseView
from apikeys.api.errors import BadRequest
from apikeys.api.key_extraction import presented_key
from apikeys.service_secrets import ServiceScope
from apikeys.services import VerdictCode
from core import request_log
from core.client_ip import in_networks, was_forwarded
from core.requests import request_ip


class ValidateView(BaseView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Validation"],
        operation_id="validate_key",
        summary="Validate a key and look up its owner",
        description=(
            "There are two forms.\n\n**Header form**: the key is in `X-API-Key` or "
            "`Authorization: Bearer`, as its owner sends it (X-API-Key takes "
            "precedence). The key is the credential of the request, so an invalid key "
            "is a 401. Use it to forward the headers of a client.\n\n**JSON form**: the "
            'body is `{"key": "comfyui-…"}`. The key is not the credential of the '
            'request, so an invalid key is a 200 with `"valid": false` and a code. Use '
            "it in a gateway that has its own error responses.\n\nThe codes REVOKED, "
            "SUSPENDED, EXPIRED and ACCOUNT_DISABLED require the complete key; an "
            "unknown id and a wrong secret are both NOT_FOUND. A key in both places, "
            "two keys in one header or a key in the URL is a 400.\n\nA key with allowed "
            "networks is checked against the client's IP: in the header form that of "
            "the request, and the response is a 403 `NETWORK_NOT_ALLOWED` from elsewhere; in "
            "the JSON form `client_ip`, without which such a key is refused. A service names "
            "the IP of its client: it sends its secret with the scope `batch` in "
            "`Authorization: Bearer`. For all others the IP of the request has to be in an "
            "allowed network, too, since the holder of a key can name any IP."
        ),
        request=serializers.PresentedKeySerializer,
        responses={
            200: serializers.VerdictSerializer,
            403: schema.NETWORK_NOT_ALLOWED,
            **schema.READS,
        },
        examples=[
            OpenApiExample(
                "A deleted key, JSON form",
                value={
                    "valid": False,
                    "code": "REVOKED",
                    "message": str(messages.VERDICTS[VerdictCode.REVOKED]),
                },
                response_only=True,
                status_codes=["200"],
            ),
        ],
        # Security requirement objects (OpenAPI 3 §4.8.30), which the stubs do not allow. The secret
        # of a service is a bearer token as well.
        auth=[{"key": []}, {"bearer": []}, {}],  # type: ignore[list-item]
    )
    def post(self, request: Request) -> Response:
        presented = presented_key(request)
        if presented is None:
            verdict = _validate_body(request, may_name_client=_is_trusted_proxy(request))
        elif has_bearer_secret(request) and _has_json(request):
            require_bearer_secret(request, scope=ServiceScope.BATCH)
            verdict = _validate_body(request, may_name_client=True)
        else:
            verdict = _validate_header(request, presented)
        return Response(serializers.VERDICT.to_representation(_as_object(verdict)))


class BatchView(BaseView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Validation"],
        operation_id="validate_keys",
        summary="Validate keys and look up their owners (for services)",
        description=(
            "Validates up to 100 keys for a service, which sends its secret with the "
            "scope `batch` in `Authorization: Bearer`. Available if the operator has "
            "set `SERVICE_SECRETS`. The first validation of a key takes some 25 ms. If "
            "the site is too busy for that, the response is 503 for all keys, and a "
            "later attempt gets further."
        ),
        request=serializers.PresentedKeysSerializer,
        responses={
            200: serializers.VerdictsSerializer,
            403: schema.FORBIDDEN,
            404: schema.NOT_FOUND,
            **schema.READS,
        },
        auth=[{"bearer": []}],  # type: ignore[list-item]  # as above
    )
    def post(self, request: Request) -> Response:
        require_bearer_secret(request, scope=ServiceScope.BATCH)
        serializer = serializers.PresentedKeysSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        verdicts = []
        for key, client_ip in zip(asked["keys"], asked["client_ips"], strict=True):
            verdict = services.validate(key, client_ip=client_ip)
            record_use_by_network(client_ip, verdict)
            verdicts.append(verdict)
        # Those of many keys, of which the last was noted.
        request_log.note(verdict=None, account_id=None)
        represent = serializers.VERDICT.to_representation
        return Response({"verdicts": [represent(_as_object(verdict)) for verdict in verdicts]})


def _validate_header(request: Request, presented: str) -> services.Verdict:
    """Validate the client's own key. Raise as `accept` does, and BadRequest for two keys."""
    if _has_json(request):
        raise BadRequest(
            "AMBIGUOUS_KEY", _("Send the key in a header or in the body, not in both.")
        )
    token = presented_token(request, presented)
    verdict = services.validate(token, client_ip=request_ip(request))
    accept(request, verdict)
    return verdict


def _validate_body(request: Request, *, may_name_client: bool) -> services.Verdict:
    """Validate the key in the body. Raise Unauthorized without a body.

    may_name_client: whether the caller is trusted to name the IP of the client that uses the key.
    """
    # As with a key in a header, a body that is not JSON is ignored.
    is_header_form = {"X-API-Key", "Authorization"} & request.headers.keys()
    if not (_has_json(request) if is_header_form else request.data):
        raise Unauthorized(
            "UNAUTHORIZED",
            _('Send a key in the X-API-Key header, or in the body as {"key": "comfyui-…"}.'),
        )
    serializer = serializers.PresentedKeySerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    asked = serializer.validated_data
    client_ip = asked.get("client_ip")
    if may_name_client:
        verdict = services.validate(asked["key"], client_ip=client_ip)
        record_use_by_network(client_ip, verdict)
        return verdict
    # Anyone who has a key may ask, and name any IP: a named IP can only restrict the key further.
    # It is not recorded.
    return services.validate(asked["key"], client_ip=client_ip, caller_ip=request_ip(request) or "")


def _is_trusted_proxy(request: Request) -> bool:
    """Return whether the request is a trusted proxy's own, and not one that it forwards."""
    return not was_forwarded(request.META) and in_networks(
        request_ip(request) or "", settings.TRUSTED_PROXIES
    )


def _as_object(verdict: services.Verdict) -> dict[str, object]:
    """Return the verdict for VerdictSerializer."""
    if verdict.code is not VerdictCode.VALID or verdict.key is None:
        return {"valid": False, "code": verdict.code, "message": messages.VERDICTS[verdict.code]}
    return {
        "valid": True,
        "code": verdict.code,
        "key": verdict.key,
        "customer": verdict.key.owner,
    }


def _has_json(request: Request) -> bool:
    """Return whether the body is non-empty JSON; another type of body is ignored."""
    try:
        return bool(request.data)
    except UnsupportedMediaType:
        return False
