"""Endpoints for scanners: reports of leaked keys, and the format of keys."""

from collections.abc import Mapping
from hashlib import sha256
from typing import IO, Any, Final

from django.conf import settings
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import tokens
from apikeys.api import schema
from apikeys.api.authentication import require_bearer_secret
from apikeys.api.base import BaseView
from apikeys.api.errors import NotFound, Refused, Unavailable
from apikeys.api.parsers import BoundedParser, read_json
from apikeys.api.serializers import ErrorSerializer, StrictSerializer, StrictStringField
from apikeys.leaks import github
from apikeys.leaks import services as leaks
from apikeys.leaks.services import Find, Label, Reporter
from apikeys.service_secrets import ServiceScope
from core.causes import Cause
from core.requests import request_ip
from core.validators import reject_api_key

IDENTIFIER: Final = "Github-Public-Key-Identifier"
SIGNATURE: Final = "Github-Public-Key-Signature"

# Bytes.
_MAX_BODY: Final = 1024 * 1024
_MAX_FINDS: Final = 1000
# Services can send several reports.
_MAX_LEAKS: Final = 100
_MAX_TEXT: Final = 4096

# Test vectors that no site issued: with a right and a wrong checksum.
WELL_FORMED: Final = "comfyui-5ca1ab1e0ddb8d3f61b09ce27a54f8160b3d92c7e45a1f602b9d47e05d13c324"
MISTYPED: Final = "comfyui-5ca1ab1e0ddb8d3f61b09ce27a54f8160b3d92c7e45a1f602b9d47e05d13c325"


_CHECKSUM_AT: Final = tokens.LENGTH - 8
_KEY_FORMAT: Final = {
    "prefix": tokens.PREFIX,
    "length": tokens.LENGTH,
    "regex": f"{tokens.PREFIX}[0-9a-f]{{64}}",
    "public_part": {"from": 0, "to": len(tokens.PREFIX) + 12},
    "checksum": {
        "algorithm": "CRC-32/ISO-HDLC",
        "over": {"from": 0, "to": _CHECKSUM_AT},
        "at": {"from": _CHECKSUM_AT, "to": tokens.LENGTH},
        "written_as": "8 lower-case hexadecimal digits, the most significant first",
    },
    "test_vectors": [
        {"text": WELL_FORMED, "checksum": True},
        {"text": MISTYPED, "checksum": False},
    ],
}


class RawParser(BoundedParser):
    """Return the raw body, at most _MAX_BODY bytes, to verify its signature."""

    most = _MAX_BODY

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, bytes]:
        return {"bytes": self.read(stream, parser_context)}


class GitHubFindSerializer(serializers.Serializer[dict[str, Any]]):
    """A match, as GitHub's secret scanning reports it."""

    token = StrictStringField(trim_whitespace=False, allow_blank=True, max_length=_MAX_TEXT)
    type = StrictStringField(allow_blank=True, max_length=255)
    url = StrictStringField(required=False, allow_blank=True, allow_null=True, max_length=_MAX_TEXT)
    source = StrictStringField(  # type: ignore[assignment]  # GitHub's name; also one of a field
        required=False, allow_blank=True, allow_null=True, max_length=255
    )


class GitHubLabelSerializer(serializers.Serializer[dict[str, str]]):
    token_hash = serializers.CharField(help_text="SHA-256 of `token`, hexadecimal.")
    token_type = serializers.CharField(help_text="`type`, as sent.")
    label = serializers.ChoiceField(  # type: ignore[assignment]  # as above
        choices=[(label.value, label.value) for label in Label]
    )


class LeakSerializer(StrictSerializer[dict[str, Any]]):
    key = StrictStringField(trim_whitespace=False, allow_blank=True, max_length=_MAX_TEXT)
    url = StrictStringField(
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=_MAX_TEXT,
        help_text="The URL where it was found, for the owner.",
    )
    note = StrictStringField(
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=_MAX_TEXT,
        validators=[reject_api_key],
        help_text="For the staff of this site; 300 characters are stored. A key in it is a 400.",
    )


class LeaksSerializer(StrictSerializer[dict[str, Any]]):
    leaks = serializers.ListField(
        child=LeakSerializer(), min_length=1, max_length=_MAX_LEAKS, help_text="At most 100."
    )


class LabelSerializer(serializers.Serializer[dict[str, str]]):
    label = serializers.ChoiceField(  # type: ignore[assignment]  # as above
        choices=[(label.value, label.value) for label in Label]
    )


class LabelsSerializer(serializers.Serializer[dict[str, Any]]):
    leaks = LabelSerializer(many=True, help_text="One per report, in the order sent.")


class LeakView(BaseView):
    """Base of views that authenticate by a signature or a secret."""

    authentication_classes = []
    permission_classes = []
    parser_classes = [RawParser]


class GitHubView(LeakView):
    @extend_schema(
        tags=["Leaks"],
        operation_id="report_leaks_github",
        summary="Report exposed keys found by GitHub (secret scanning partner program)",
        description=(
            "GitHub signs the body. Each key of this site among the matches is revoked "
            "when this responds, and its owner gets an email. Available if the operator "
            "has set `GITHUB_LEAK_REPORTS`."
        ),
        parameters=[
            OpenApiParameter(
                name, str, OpenApiParameter.HEADER, description="Required; 403 without it."
            )
            for name in (IDENTIFIER, SIGNATURE)
        ],
        request=GitHubFindSerializer(many=True),
        responses={
            200: GitHubLabelSerializer(many=True),
            400: schema.BAD_REQUEST,
            403: OpenApiResponse(ErrorSerializer, "Not signed by GitHub."),
            404: OpenApiResponse(ErrorSerializer, "Not available on this site."),
            415: schema.NOT_JSON,
            503: schema.UNAVAILABLE,
        },
        auth=[],
    )
    def post(self, request: Request) -> Response:
        if not settings.GITHUB_LEAK_REPORTS:
            raise NotFound
        body = _bytes_of(request)
        _require_github_signature(request, body)
        serializer = serializers.ListSerializer[Any](
            child=GitHubFindSerializer(), data=read_json(body), max_length=_MAX_FINDS
        )
        serializer.is_valid(raise_exception=True)
        matches = serializer.validated_data
        labels = leaks.report(
            [
                Find(match["token"], match.get("url") or "", match.get("source") or "")
                for match in matches
            ],
            reporter=Reporter.GITHUB,
            client_ip=request_ip(request),
        )
        return Response(list(map(_labelled, matches, labels)))


def _labelled(match: dict[str, str], label: Label) -> dict[str, str]:
    """Return the label of a match for GitHub, which also accepts the key itself.

    Responses must not contain keys.
    """
    token_hash = sha256(match["token"].encode()).hexdigest()
    return {"token_hash": token_hash, "token_type": match["type"], "label": label}


class LeaksView(LeakView):
    @extend_schema(
        tags=["Leaks"],
        operation_id="report_leaks",
        summary="Report exposed keys (for services)",
        description=(
            "For services, with a secret that has the scope `leaks` in `Authorization: "
            "Bearer`. Available if the operator has set `SERVICE_SECRETS`. Each key of "
            "this site is revoked when this responds, and its owner gets an email with "
            "the URL. Repeating a report changes nothing. After a 503, a later attempt "
            "gets further."
        ),
        request=LeaksSerializer,
        responses={
            200: LabelsSerializer,
            403: schema.FORBIDDEN,
            404: schema.NOT_FOUND,
            **schema.READS,
        },
        # As in validation.py.
        auth=[{"bearer": []}],  # type: ignore[list-item]
    )
    def post(self, request: Request) -> Response:
        service = require_bearer_secret(request, scope=ServiceScope.LEAKS)
        serializer = LeaksSerializer(data=read_json(_bytes_of(request)))
        serializer.is_valid(raise_exception=True)
        labels = leaks.report(
            [
                Find(leak["key"], leak.get("url") or "", leak.get("note") or "")
                for leak in serializer.validated_data["leaks"]
            ],
            reporter=Reporter.SERVICE,
            service=service.name,
            client_ip=request_ip(request),
        )
        return Response({"leaks": [{"label": label} for label in labels]})


class KeyFormatSerializer(serializers.Serializer[dict[str, Any]]):
    """The format of keys, for scanners that search for exposed ones."""

    name = serializers.CharField()
    issuer = serializers.URLField()
    prefix = serializers.CharField()
    length = serializers.IntegerField()
    regex = serializers.CharField(help_text="For RE2 and other dialects.")
    public_part = serializers.DictField(help_text="The part of a key that may be shown and logged.")
    checksum = serializers.DictField()
    test_vectors = serializers.ListField(child=serializers.DictField())
    report = serializers.DictField(help_text="Where to report exposed keys.")


class KeyFormatView(BaseView):
    authentication_classes = []
    permission_classes = []
    parameters = None

    @extend_schema(
        tags=["Leaks"],
        operation_id="key_format",
        summary="The format of keys and their checksum",
        responses={200: KeyFormatSerializer},
        auth=[],
    )
    def get(self, request: Request) -> Response:
        return Response(
            {
                "name": "ComfyUI API key",
                "issuer": settings.PUBLIC_URL,
                **_KEY_FORMAT,
                "report": _report_urls(),
            }
        )


def _report_urls() -> dict[str, str]:
    """Return the URLs for reports of leaked keys, by kind of reporter."""
    names = {"people": "leaks"}
    if settings.SERVICE_SECRETS:
        names["services"] = "api_leaks"
    if settings.GITHUB_LEAK_REPORTS:
        names["github"] = "api_leaks_github"
    return {kind: f"{settings.PUBLIC_URL}{reverse(name)}" for kind, name in names.items()}


def _bytes_of(request: Request) -> bytes:
    # Without a body, no parser is called.
    data = request.data
    return data.get("bytes", b"") if isinstance(data, dict) else b""


def _require_github_signature(request: Request, body: bytes) -> None:
    try:
        is_valid = github.has_signed(
            body,
            identifier=request.headers.get(IDENTIFIER, ""),
            signature=request.headers.get(SIGNATURE, ""),
        )
    except github.Unreachable:
        raise Unavailable(
            _("GitHub's public keys are unavailable right now. Try again shortly."),
            Cause.GITHUB_KEYS_UNAVAILABLE,
        ) from None
    if not is_valid:
        raise Refused(
            "BAD_SIGNATURE",
            _("GitHub's signature is missing or doesn't match the request body."),
            status.HTTP_403_FORBIDDEN,
        )
