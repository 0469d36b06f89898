"""The endpoints: ask for an upload, upload the file, download it."""

import re
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import scopes
from apikeys.api import schema
from apikeys.api.authentication import NetworkRefused
from apikeys.api.base import BaseView
from apikeys.api.comfyui.base import KeyRequiredView
from apikeys.api.errors import BadRequest, NotFound, Refused
from apikeys.api.parsers import refuse_encoded
from apikeys.api.serializers import ErrorSerializer, StrictStringField
from apikeys.models import APIKey
from core.private_names.rest_framework import django_request
from core.requests import request_ip
from core.text import has_controls, is_visible
from core.validators import reject_api_key
from uploads import downloads, s3, services, signed_urls, spooling
from uploads.models import MAX_CONTENT_TYPE, MAX_FILE_NAME, Upload
from uploads.signed_urls import PARAMETER, PERMISSION, ExpiredToken, InvalidToken, Permission

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# RFC 9110 §8.3.1.
_MEDIA_TYPE: Final = re.compile(
    rf'{_WORD}/{_WORD}(\s*;\s*{_WORD}=({_WORD}|"[\x20-\x21\x23-\x5b\x5d-\x7e]*"))*'
)


class ForbiddenURL(Refused):
    """403 for a URL whose token does not permit the request."""

    def __init__(self, code: str, message: Any) -> None:
        super().__init__(code, message, status.HTTP_403_FORBIDDEN)


class NewUploadSerializer(serializers.Serializer[dict[str, object]]):
    """A file that is going to be uploaded. Other members are ignored."""

    file_name = StrictStringField(
        max_length=4096,
        help_text=f"At most {MAX_FILE_NAME} characters after the last slash, which count.",
    )
    content_type = StrictStringField(
        max_length=MAX_CONTENT_TYPE,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="The upload has to send the same `Content-Type`. Without it, any is accepted.",
    )

    def validate_file_name(self, value: str) -> str:
        name = re.split(r"[/\\]", value)[-1].strip()
        if has_controls(name) or not is_visible(name.replace(".", "")):
            raise serializers.ValidationError(
                _("Send a name with visible characters and without control characters.")
            )
        if len(name) > MAX_FILE_NAME:
            raise serializers.ValidationError(
                _("Send a name of at most %(most)d characters.") % {"most": MAX_FILE_NAME}
            )
        reject_api_key(name)
        return name

    def validate_content_type(self, value: str | None) -> str:
        if value and not _MEDIA_TYPE.fullmatch(value):
            raise serializers.ValidationError(_("Send a media type such as image/png."))
        return value or ""


# Docstrings of serializers are descriptions in the published OpenAPI document.
class NewUploadURLsSerializer(serializers.Serializer[dict[str, object]]):
    """Where to upload the file, and where it can be downloaded afterwards. Keep both secret."""

    upload_url = serializers.URLField(help_text="For PUT, without a key. Valid for an hour.")
    download_url = serializers.URLField(help_text="For GET, without a key. Valid until expires_at.")
    expires_at = serializers.DateTimeField(help_text="When the file is deleted.")
    existing_file = serializers.BooleanField(
        help_text="Always false: a file with the same hash is not looked for."
    )


class StorageView(KeyRequiredView):
    """Called by API nodes with an image, audio or video for a provider."""

    def wanted_scope(self, request: Request) -> str | None:
        key = request.auth
        # The request does not say for which provider the file is: any will do.
        if isinstance(key, APIKey) and any(one.startswith("proxy:") for one in key.granted):
            return None
        return scopes.ANY_PROVIDER

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="create_upload",
        summary="Get URLs to upload a file and to download it",
        description=(
            "For nodes that hand a file to a provider by its URL. PUT the content to "
            "`upload_url` with its `Content-Length`, and with the same `Content-Type` if "
            "`content_type` was sent. Neither URL needs a key. The file is deleted after "
            "`expires_at`, a day later by default. Needs a scope for any provider."
        ),
        request=NewUploadSerializer,
        responses={
            200: NewUploadURLsSerializer,
            403: OpenApiResponse(
                ErrorSerializer,
                "The scopes of the key or the network of the client don't allow this, or the "
                "account has used its space for uploads.",
            ),
            404: OpenApiResponse(ErrorSerializer, "This site stores no files."),
            **schema.READS,
        },
    )
    def post(self, request: Request) -> Response:
        _check_is_on(
            _(
                "This site stores no files, so nodes that upload an image, audio or video to a "
                "provider don't work here. Nodes that only send text do. Your API key is valid."
            )
        )
        serializer = NewUploadSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        fields = serializer.validated_data
        key = request.auth
        assert isinstance(key, APIKey)  # noqa: S101 (KeyRequiredView accepts nothing else)
        try:
            upload = services.create(
                key=key,
                file_name=fields["file_name"],
                content_type=fields.get("content_type", ""),
            )
        except services.UploadsExceeded:
            raise _space_is_used() from None
        upload_url, download_url = _urls(upload)
        answer = {
            "upload_url": upload_url,
            "download_url": download_url,
            "expires_at": upload.expires_at,
            "existing_file": False,
        }
        return Response(NewUploadURLsSerializer(answer).data)


_TOKEN_PARAMETER: Final = OpenApiParameter(
    PARAMETER, str, required=True, description="Permits the request. It is part of the URL."
)
_URL_REFUSED: Final = OpenApiResponse(
    ErrorSerializer, "The URL is incomplete, expired or for something else; or see `error`."
)
_NOT_STORED: Final = OpenApiResponse(ErrorSerializer, "There is no such file, or not any more.")
_RETRY: Final = OpenApiResponse(ErrorSerializer, "Try again after `Retry-After` seconds.")


class StoredFileView(BaseView):
    """One file, by a URL that carries the permission: no key is read."""

    authentication_classes = []
    permission_classes = []
    parameters = frozenset({PARAMETER})

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="upload_file",
        summary="Upload a file to its upload_url",
        description="Can be repeated: the last content counts.",
        parameters=[_TOKEN_PARAMETER],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={
            200: OpenApiResponse(description="Stored. `ETag` has the SHA-256 of the content."),
            400: OpenApiResponse(ErrorSerializer, "The body is incomplete."),
            403: _URL_REFUSED,
            404: _NOT_STORED,
            408: OpenApiResponse(ErrorSerializer, "The body did not arrive in time."),
            411: OpenApiResponse(ErrorSerializer, "Content-Length is missing."),
            413: OpenApiResponse(ErrorSerializer, "The file is too large."),
            415: OpenApiResponse(ErrorSerializer, "The body is compressed."),
            503: _RETRY,
        },
        auth=[],
    )
    def put(self, request: Request, upload_id: UUID, name: str) -> HttpResponse:
        permission = _permission(request, upload_id, "PUT")
        http = django_request(request)
        refuse_encoded(http)
        upload = _find(upload_id)
        content_type = _content_type(http, permission)
        try:
            services.check_key(upload, client_ip=request_ip(request))
            length = _length(http, permission)
            with _body(http, length) as body:
                stored = services.store(upload, body, content_type=content_type)
        except services.NetworkNotAllowed:
            raise NetworkRefused from None
        except services.KeyNotUsable:
            raise _key_not_usable() from None
        except services.UploadsExceeded:
            raise _space_is_used() from None
        except services.NotStored:
            raise _not_stored() from None
        return HttpResponse(content_type="text/plain", headers={"ETag": f'"{stored.digest}"'})

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="download_file",
        summary="Download a file by its download_url",
        description=(
            "The content with its type, as an attachment. Ranges (`Range`, `If-Range`) and "
            "conditional requests are answered as RFC 9110 says."
        ),
        parameters=[_TOKEN_PARAMETER],
        responses={
            (200, "*/*"): OpenApiTypes.BINARY,
            (206, "*/*"): OpenApiTypes.BINARY,
            304: OpenApiResponse(description="Unchanged."),
            400: schema.BAD_REQUEST,
            403: _URL_REFUSED,
            404: _NOT_STORED,
            412: OpenApiResponse(ErrorSerializer, "The condition of the request is not met."),
            416: OpenApiResponse(ErrorSerializer, "The range begins after the end of the file."),
            503: _RETRY,
        },
        auth=[],
    )
    def get(self, request: Request, upload_id: UUID, name: str) -> HttpResponseBase:
        _permission(request, upload_id, "GET")
        upload = _find(upload_id)
        if not upload.owner.is_active:
            raise _not_stored()
        try:
            row, file = services.opened(upload)
        except services.NotStored:
            raise _not_stored() from None
        return downloads.respond(django_request(request), row, file)


def _urls(upload: Upload) -> tuple[str, str]:
    """Return the URLs for PUT and for GET."""
    if not settings.UPLOADS_IN_S3:
        return signed_urls.upload_url(upload), signed_urls.download_url(upload)
    lifetime = int(settings.UPLOAD_LIFETIME)
    return (
        s3.upload_url(
            upload.stored_as,
            content_type=upload.content_type,
            seconds=min(signed_urls.UPLOAD_WINDOW, lifetime),
        ),
        s3.download_url(
            upload.stored_as, disposition=downloads.disposition(upload), seconds=lifetime
        ),
    )


def _check_is_on(message: Any) -> None:
    if not settings.UPLOADS:
        raise Refused("NOT_FOUND", message, status.HTTP_404_NOT_FOUND)


def _permission(request: Request, upload_id: UUID, method: str) -> Permission:
    """Return what the token in the URL permits. Raise ForbiddenURL."""
    if not settings.UPLOADS or settings.UPLOADS_IN_S3:
        raise NotFound
    begun: Permission | None = request.META.get(PERMISSION)
    if method == "PUT" and begun is not None and begun.upload == upload_id:
        return begun
    token = request.query_params.get(PARAMETER, "")
    try:
        return Permission.read(token, upload=upload_id, method=method)
    except ExpiredToken:
        raise ForbiddenURL("URL_EXPIRED", _("This URL has expired.")) from None
    except InvalidToken:
        raise ForbiddenURL(
            "INVALID_URL", _("This URL is incomplete or isn't valid for this request.")
        ) from None


def _find(upload_id: UUID) -> Upload:
    uploads = Upload.objects.live().select_related("owner", "key")
    upload = uploads.filter(pk=upload_id).first()
    if upload is None:
        raise _not_stored()
    return upload


def _content_type(http: HttpRequest, permission: Permission) -> str:
    """Return the content type of an upload. Raise Refused for another one than was agreed."""
    sent: str = http.META.get("CONTENT_TYPE", "").strip()
    if permission.content_type and sent != permission.content_type:
        raise ForbiddenURL(
            "WRONG_CONTENT_TYPE",
            _("Send the Content-Type that this URL was made for: %(type)s.")
            % {"type": permission.content_type},
        )
    if len(sent) > MAX_CONTENT_TYPE or (sent and not _MEDIA_TYPE.fullmatch(sent)):
        raise BadRequest("INVALID_REQUEST", _("Send a media type such as image/png."))
    return sent


def _length(http: HttpRequest, permission: Permission) -> int:
    """Return the stated length of an upload. Raise Refused if it is missing or too large."""
    stated = http.META.get("CONTENT_LENGTH") or ""
    if "HTTP_TRANSFER_ENCODING" in http.META or not stated.isdecimal():
        # A chunked body that ends looks like a connection that ends.
        raise Refused(
            "LENGTH_REQUIRED",
            _("Send the Content-Length of the file."),
            status.HTTP_411_LENGTH_REQUIRED,
        )
    if int(stated) > permission.max_size:
        raise Refused(
            "BODY_TOO_LARGE",
            _("The file is too large. Send at most %(most)d MiB.")
            % {"most": permission.max_size // services.MIB},
            status.HTTP_413_REQUEST_ENTITY_TOO_LARGE,
        )
    return int(stated)


def _body(http: HttpRequest, length: int) -> spooling.SpooledBody:
    """Return the body in a file, in which the platform's server has put it already."""
    body = http.META["wsgi.input"]
    if isinstance(body, spooling.SpooledBody):
        return body
    try:
        return spooling.spool(http.read, length)
    except spooling.Incomplete:
        raise BadRequest("INVALID_REQUEST", _("The request body is incomplete.")) from None


def _space_is_used() -> Refused:
    return Refused(
        "UPLOAD_QUOTA_EXCEEDED",
        _(
            "Your uploads take all of the space that an account has here. They are deleted some "
            "time after they were made. Try again later."
        ),
        status.HTTP_403_FORBIDDEN,
    )


def _key_not_usable() -> Refused:
    return ForbiddenURL(
        "KEY_NOT_USABLE", _("The API key that asked for this upload can't be used any more.")
    )


def _not_stored() -> Refused:
    return Refused(
        "NOT_FOUND",
        _("There is no such file. It may be deleted, or not be uploaded yet."),
        status.HTTP_404_NOT_FOUND,
    )
