"""Authlib's authorization server with our clients, grants and responses."""

from typing import Any

from authlib.common.urls import add_params_to_uri
from authlib.integrations.django_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from django.conf import settings
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse

from core.causes import log_unavailable
from core.error_views import RETRY_AFTER
from oauth import clients
from oauth.clients import Client
from oauth.server.errors import TemporarilyUnavailableError, error_body
from oauth.server.grants import CodeGrant, DeviceAuthorization, DeviceGrant, RequiredS256
from oauth.server.request import AuthlibRequest


class Server(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server without its models: clients are not rows, and tokens are API keys."""

    def __init__(self) -> None:
        super().__init__(None, None)

    def query_client(self, client_id: str) -> Client | None:
        return clients.find_client(client_id)

    def create_oauth2_request(self, request: AuthlibRequest) -> AuthlibRequest:
        return request

    def create_token_response(self, request: AuthlibRequest) -> HttpResponse:
        try:
            request.reject_ambiguous()
        except OAuth2Error as error:
            return self.handle_error_response(request, error)
        response: HttpResponse = super().create_token_response(request)
        return response

    def handle_response(
        self, status_code: int, payload: Any, headers: list[tuple[str, str]]
    ) -> HttpResponse:
        if status_code == 302:
            # `iss` as in RFC 9207; 303, so that a browser that posted a form follows with GET.
            url = add_params_to_uri(dict(headers)["Location"], {"iss": settings.PUBLIC_URL})
            return HttpResponseRedirect(
                url, status=303, headers={"Cache-Control": "no-store", "Pragma": "no-cache"}
            )
        response = JsonResponse(payload, status=status_code)
        response["Cache-Control"] = "no-store"
        return response

    def handle_error_response(self, request: AuthlibRequest, error: OAuth2Error) -> HttpResponse:
        if error.redirect_uri:
            response: HttpResponse = super().handle_error_response(request, error)
            return response
        body = error_body(error.error, error.description)
        response = JsonResponse(body, status=error.status_code)
        response["Cache-Control"] = "no-store"
        if isinstance(error, TemporarilyUnavailableError):
            log_unavailable(error.cause)
            response["Retry-After"] = str(RETRY_AFTER)
        return response


server = Server()
server.register_grant(CodeGrant, [RequiredS256(required=True)])
server.register_grant(DeviceGrant)
server.register_endpoint(DeviceAuthorization)
