"""Reports of leaked keys: GitHub's secret scanning, other scanners, and what they look for."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import IO, Any, Final

from django.conf import settings
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import githubkeys, leaks, tokens
from apikeys.api import schema
from apikeys.api.authentication import refuse_strange_bearers
from apikeys.api.base import Endpoint
from apikeys.api.errors import Refused, Unavailable
from apikeys.api.serializers import ErrorSerializer, StrictStringField
from apikeys.leaks import Find, Label, Reporter
from audit.trail import address

IDENTIFIER: Final = "Github-Public-Key-Identifier"
SIGNATURE: Final = "Github-Public-Key-Signature"

# Bytes.
_MAX_BODY: Final = 1024 * 1024
_MAX_FINDS: Final = 1000
# For a service that can as well send two reports.
_MAX_LEAKS: Final = 100
_MAX_TEXT: Final = 4096

# Made up: the checksum of the first one is right, and that of the second is not. No platform
# issued either.
WELL_FORMED: Final = "comfyui-5ca1ab1e0ddb8d3f61b09ce27a54f8160b3d92c7e45a1f602b9d47e05d13c324"
MISTYPED: Final = "comfyui-5ca1ab1e0ddb8d3f61b09ce27a54f8160b3d92c7e45a1f602b9d47e05d13c325"


class RawParser(BaseParser):
    """The body's very bytes, at most _MAX_BODY: those are signed, and not what they say."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, bytes]:
        # Not by Content-Length: a chunked body has none.
        body: bytes = stream.read(_MAX_BODY + 1)
        if len(body) > _MAX_BODY:
            raise ParseError(_("The body is too large: send at most 1 MiB."))
        return {"bytes": body}


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
    token_type = serializers.CharField(help_text="`type`, as it came.")
    label = serializers.ChoiceField(  # type: ignore[assignment]  # as above
        choices=[(label.value, label.value) for label in Label]
    )


class LeakSerializer(serializers.Serializer[dict[str, Any]]):
    key = StrictStringField(trim_whitespace=False, allow_blank=True, max_length=_MAX_TEXT)
    url = StrictStringField(
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=_MAX_TEXT,
        help_text="Where it was found; the owner is told.",
    )
    note = StrictStringField(
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=_MAX_TEXT,
        help_text="For the staff of this platform; 300 characters are kept.",
    )


class LeaksSerializer(serializers.Serializer[dict[str, Any]]):
    leaks = serializers.ListField(
        child=LeakSerializer(), min_length=1, max_length=_MAX_LEAKS, help_text="100 at most."
    )


class LabelSerializer(serializers.Serializer[dict[str, str]]):
    label = serializers.ChoiceField(  # type: ignore[assignment]  # as above
        choices=[(label.value, label.value) for label in Label]
    )


class LabelsSerializer(serializers.Serializer[dict[str, Any]]):
    leaks = LabelSerializer(many=True, help_text="One for each, in the order sent.")


class LeakEndpoint(Endpoint):
    """Nobody signs in here: a signature or a secret says who reports."""

    authentication_classes = []
    permission_classes = []
    parser_classes = [RawParser]


class GitHubEndpoint(LeakEndpoint):
    @extend_schema(
        tags=["Leaks"],
        operation_id="report_leaks_github",
        summary="Keys that GitHub found in public (secret scanning partner program)",
        description=(
            "GitHub signs the body with a key of its own. Each key of this platform among the "
            "matches is out of use when the answer arrives, and its owner is told. There once the "
            "operator has set `GITHUB_LEAK_REPORTS`."
        ),
        parameters=[
            OpenApiParameter(name, str, OpenApiParameter.HEADER, required=True)
            for name in (IDENTIFIER, SIGNATURE)
        ],
        request=GitHubFindSerializer(many=True),
        responses={
            200: GitHubLabelSerializer(many=True),
            400: schema.BAD_REQUEST,
            403: OpenApiResponse(ErrorSerializer, "Not signed by GitHub."),
            404: OpenApiResponse(ErrorSerializer, "Off."),
            415: schema.NOT_JSON,
            503: schema.UNAVAILABLE,
        },
        auth=[],
    )
    def post(self, request: Request) -> Response:
        if not settings.GITHUB_LEAK_REPORTS:
            raise Refused(
                "NOT_FOUND", _("There is nothing here by that name."), status.HTTP_404_NOT_FOUND
            )
        body = _bytes_of(request)
        _refuse_others_than_github(request, body)
        found = serializers.ListSerializer[Any](
            child=GitHubFindSerializer(), data=_json(body), max_length=_MAX_FINDS
        )
        found.is_valid(raise_exception=True)
        labels = leaks.report(
            [
                Find(match["token"], match.get("url") or "", match.get("source") or "")
                for match in found.validated_data
            ],
            reporter=Reporter.GITHUB,
            address=address(request),
        )
        return Response(
            [
                # The key itself, which GitHub would take as well, is in no answer of ours.
                {
                    "token_hash": sha256(match["token"].encode()).hexdigest(),
                    "token_type": match["type"],
                    "label": label,
                }
                for match, label in zip(found.validated_data, labels, strict=True)
            ]
        )


class LeaksEndpoint(LeakEndpoint):
    @extend_schema(
        tags=["Leaks"],
        operation_id="report_leaks",
        summary="Keys that a scanner found (for services)",
        description=(
            "With a service's secret in `Authorization: Bearer`; there once the operator has set "
            "`SERVICE_SECRETS`. Each key of this platform is out of use when the answer arrives, "
            "and its owner is told where it was. To report one again changes nothing. After a 503, "
            "asking again gets further."
        ),
        request=LeaksSerializer,
        responses={200: LabelsSerializer, 404: schema.NOT_FOUND, **schema.READS},
        # As in validation.py.
        auth=[{"bearer": []}],  # type: ignore[list-item]
    )
    def post(self, request: Request) -> Response:
        refuse_strange_bearers(request.headers.get("Authorization", ""))
        found = LeaksSerializer(data=_json(_bytes_of(request)))
        found.is_valid(raise_exception=True)
        labels = leaks.report(
            [
                Find(leak["key"], leak.get("url") or "", leak.get("note") or "")
                for leak in found.validated_data["leaks"]
            ],
            reporter=Reporter.SERVICE,
            address=address(request),
        )
        return Response({"leaks": [{"label": label} for label in labels]})


class KeyFormatSerializer(serializers.Serializer[dict[str, Any]]):
    """What a key looks like, for whoever looks for lost ones."""

    name = serializers.CharField()
    issuer = serializers.URLField()
    prefix = serializers.CharField()
    length = serializers.IntegerField()
    regex = serializers.CharField(help_text="RE2, and any other dialect.")
    public_part = serializers.DictField(help_text="Characters that may be shown and logged.")
    checksum = serializers.DictField()
    test_vectors = serializers.ListField(child=serializers.DictField())
    report = serializers.DictField(help_text="Where a key that was found is reported.")


class KeyFormatEndpoint(Endpoint):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Leaks"],
        operation_id="key_format",
        summary="What a key looks like, and how its checksum is made",
        responses={200: KeyFormatSerializer},
        auth=[],
    )
    def get(self, request: Request) -> Response:
        def at(name: str) -> str:
            return f"{settings.PUBLIC_URL}{reverse(name)}"

        reported = {"people": at("leaks")}
        if settings.SERVICE_SECRETS:
            reported["services"] = at("api_leaks")
        if settings.GITHUB_LEAK_REPORTS:
            reported["github"] = at("api_leaks_github")
        ends_at = tokens.LENGTH - 8
        return Response(
            {
                "name": "ComfyUI API key",
                "issuer": settings.PUBLIC_URL,
                "prefix": tokens.PREFIX,
                "length": tokens.LENGTH,
                "regex": f"{tokens.PREFIX}[0-9a-f]{{64}}",
                "public_part": {"from": 0, "to": len(tokens.PREFIX) + 12},
                "checksum": {
                    "algorithm": "CRC-32/ISO-HDLC",
                    "over": {"from": 0, "to": ends_at},
                    "at": {"from": ends_at, "to": tokens.LENGTH},
                    "written_as": "8 lower-case hexadecimal digits, the most significant first",
                },
                "test_vectors": [
                    {"text": WELL_FORMED, "checksum": True},
                    {"text": MISTYPED, "checksum": False},
                ],
                "report": reported,
            }
        )


def _bytes_of(request: Request) -> bytes:
    # Without a body there is nothing to parse, and no parser is asked.
    data = request.data
    return data.get("bytes", b"") if isinstance(data, dict) else b""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise ParseError(_("The body is no JSON.")) from None
    except RecursionError:
        raise ParseError(_("The JSON is nested too deeply.")) from None


def _refuse_others_than_github(request: Request, body: bytes) -> None:
    try:
        is_theirs = githubkeys.has_signed(
            body,
            identifier=request.headers.get(IDENTIFIER, ""),
            signature=request.headers.get(SIGNATURE, ""),
        )
    except githubkeys.Unreachable:
        raise Unavailable(_("GitHub's keys can't be had just now. Try again shortly.")) from None
    if not is_theirs:
        raise Refused(
            "BAD_SIGNATURE",
            _("This is not signed by GitHub, or not as it arrived here."),
            status.HTTP_403_FORBIDDEN,
        )
