"""The grants: device code (RFC 8628), and authorization code with PKCE (RFC 6749, RFC 7636)."""

from typing import Any

from authlib.common.urls import add_params_to_uri
from authlib.consts import default_json_headers
from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    AuthorizationCodeGrant,
    InvalidGrantError,
    InvalidRequestError,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import (
    AuthorizationPendingError,
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    ExpiredTokenError,
    SlowDownError,
)
from django.conf import settings
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from apikeys.models import APIKey
from apikeys.tokens import Token
from core import text
from core.causes import Cause
from core.requests import request_ip
from oauth import codes, services
from oauth.clients import Client
from oauth.models import INTERVAL, AuthorizationCode, DeviceRequest
from oauth.server.errors import DESCRIPTIONS, TemporarilyUnavailableError, to_ascii
from oauth.server.request import AuthlibRequest


class DeviceGrant(DeviceCodeGrant):  # type: ignore[misc]
    """A device redeems its device code (RFC 8628 §3.4)."""

    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

    def query_device_credential(self, device_code: str) -> DeviceRequest:
        device = services.find_device_request(device_code)
        if device is None:
            raise InvalidGrantError(DESCRIPTIONS["invalid_grant"])
        return device

    def validate_device_credential(self, credential: DeviceRequest) -> User | None:
        # Authlib looks up the decision by the plain user code, of which only a digest is stored.
        if credential.is_expired():
            raise ExpiredTokenError
        if credential.decided_at is None:
            raise AuthorizationPendingError if services.record_poll(credential) else SlowDownError
        if not credential.approved:
            raise AccessDeniedError
        return credential.owner

    def create_token_response(self) -> Any:
        # Authlib creates a token before it marks the code as used: two concurrent polls get two.
        return 200, _token(self.request.credential), self.TOKEN_RESPONSE_HEADER


class CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]
    """A program or site redeems its authorization code (RFC 6749 §4.1)."""

    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

    def generate_authorization_code(self) -> str:
        return codes.generate_code()

    def save_authorization_code(self, code: str, request: AuthlibRequest) -> None:
        services.create_authorization_code(
            client_id=request.client.get_client_id(),
            redirect_uri=request.payload.redirect_uri,
            code_challenge=request.payload.data["code_challenge"],
            requested=request.scopes(),
            code=code,
            **request.consent,
        )

    def query_authorization_code(self, code: str, client: Client) -> AuthorizationCode | None:
        found = services.find_authorization_code(code, client_id=client.client_id)
        if found is None or services.revoke_reused(found) or found.is_expired():
            return None
        return found

    def create_token_response(self) -> Any:
        # As in DeviceGrant.
        return 200, _token(self.request.authorization_code), self.TOKEN_RESPONSE_HEADER


class RequiredS256(CodeChallenge):  # type: ignore[misc]
    """PKCE with S256 for all requests. Authlib allows none, and `plain`, at authorization."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: CodeGrant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if data.get("code_challenge_method") != "S256" or len(data.get("code_challenge", "")) != 43:
            raise InvalidRequestError("A code_challenge is needed, by S256: 43 characters.")
        super().validate_code_challenge(grant, redirect_uri)

    def get_authorization_code_challenge_method(self, authorization_code: AuthorizationCode) -> str:
        return "S256"


class DeviceAuthorization(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    """A device requests a device code and a user code (RFC 8628 §3.1)."""

    CLIENT_AUTH_METHODS = ["none"]

    def create_endpoint_request(self, request: AuthlibRequest) -> AuthlibRequest:
        return request

    def create_endpoint_response(self, request: AuthlibRequest) -> Any:
        # Authlib's version passes on neither the HTTP request nor further parameters.
        request.reject_ambiguous()
        client = self.authenticate_client(request)
        if not client.check_grant_type(DeviceGrant.GRANT_TYPE):
            raise UnauthorizedClientError
        device_code, user_code = codes.generate_code(), codes.generate_user_code()
        while services.user_code_exists(user_code):
            user_code = codes.generate_user_code()
        self._store(request, client, device_code=device_code, user_code=user_code)
        shown, page = codes.format_user_code(user_code), f"{settings.PUBLIC_URL}{reverse('device')}"
        body = {
            "device_code": device_code,
            "user_code": shown,
            "verification_uri": page,
            "verification_uri_complete": add_params_to_uri(page, [("user_code", shown)]),
            "expires_in": int(DeviceRequest.LIFETIME.total_seconds()),
            "interval": INTERVAL,
        }
        return 200, body, default_json_headers

    def _store(
        self, request: AuthlibRequest, client: Client, *, device_code: str, user_code: str
    ) -> None:
        device_name = request.payload.data.get("device_name", "")
        if text.contains_key(device_name):
            raise InvalidRequestError(
                "The device_name contains a whole API key. Send the name of the device."
            )
        try:
            services.create_device_request(
                client_id=client.get_client_id(),
                requested=request.scopes(),
                device_code=device_code,
                user_code=user_code,
                device_name=device_name,
                user_agent=request.http.headers.get("User-Agent", ""),
                client_ip=request_ip(request.http),
            )
        except services.TooManyPendingGrants:
            raise TemporarilyUnavailableError(Cause.PENDING_GRANTS_FULL) from None


def _token(grant: DeviceRequest | AuthorizationCode) -> dict[str, object]:
    """Redeem `grant` and return the token response (RFC 6749 §5.1): its token is the key."""
    key, token = _redeem(grant)
    body: dict[str, object] = {
        "access_token": token.reveal(),
        "token_type": "Bearer",
        "scope": " ".join(key.granted),
        "key_id": str(key.pk),
        "key_name": key.name,
    }
    if key.expires_at is not None:
        body["expires_in"] = int((key.expires_at - timezone.now()).total_seconds())
    return body


def _redeem(grant: DeviceRequest | AuthorizationCode) -> tuple[APIKey, Token]:
    """Return the key of `grant`. Raise an OAuth2Error."""
    try:
        return services.redeem(grant)
    except services.AlreadyRedeemed:
        if isinstance(grant, AuthorizationCode):
            services.revoke_reused(grant)
        raise InvalidGrantError(DESCRIPTIONS["invalid_grant"]) from None
    except services.OwnerDisabled:
        raise AccessDeniedError from None
    except ValidationError as error:
        # The user can correct this, such as too many keys; the device's page shows it as well.
        raise TemporarilyUnavailableError(
            Cause.KEY_NOT_CREATED, to_ascii(" ".join(error.messages))
        ) from None
