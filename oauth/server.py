"""The protocols, as Authlib speaks them: which grants there are, and what they come to here.

The token of an answer is a key (docs/adr/0014-oauth-gives-keys.md).
"""

from typing import Any, Final
from urllib.parse import urlsplit

from authlib.common.urls import add_params_to_uri
from authlib.consts import default_json_headers
from authlib.integrations.django_oauth2 import AuthorizationServer
from authlib.integrations.django_oauth2.requests import DjangoOAuth2Payload
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    AuthorizationCodeGrant,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
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
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from config.errors import RETRY_AFTER
from oauth import clients, codes, services
from oauth.clients import Client
from oauth.models import INTERVAL, AuthorizationCode, DeviceRequest

# What a program shows its person, where the error's name says nothing to them. English, as all of
# the API, and ASCII (RFC 6749 §5.2).
WORDS: Final = {
    "access_denied": "The person said no, or may not hold keys here.",
    "authorization_pending": "Nobody has confirmed this yet. Ask again in a moment.",
    "expired_token": "Nobody confirmed this in time. Start anew.",
    "invalid_client": (
        "This client is not known here. The client id of a site is its origin, and staff have to "
        "list it."
    ),
    "invalid_grant": "This code is not good: it is unknown, over, or was used. Start anew.",
    "invalid_request": "This request can't be understood.",
    "invalid_scope": (
        "There is no such scope. The scopes are customers:read, proxy:*, proxy:<provider> and "
        "keys:manage."
    ),
    "invalid_target": "This resource is not on this platform.",
    "slow_down": "Asked too soon. Wait longer between two questions.",
    "temporarily_unavailable": "That can't be done just now. Ask again shortly.",
    "unauthorized_client": "This client may not have a key in this way.",
    "unsupported_grant_type": (
        "The grants here are authorization_code and urn:ietf:params:oauth:grant-type:device_code."
    ),
    "unsupported_response_type": "The only response type here is code.",
}


class UnsupportedResponseTypeError(OAuth2Error):  # type: ignore[misc]
    error = "unsupported_response_type"


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]
    """RFC 8707 §2."""

    error = "invalid_target"


class InteractionRequiredError(OAuth2Error):  # type: ignore[misc]
    """Whoever asks with `prompt=none` learns nothing of who is here (OpenID Core §3.1.2.6)."""

    error = "interaction_required"


class TemporarilyUnavailableError(OAuth2Error):  # type: ignore[misc]
    error = "temporarily_unavailable"
    status_code = 503


class Fields(DjangoOAuth2Payload):  # type: ignore[misc]
    """What was sent: of the address or of the body, never of both."""

    def __init__(self, fields: QueryDict) -> None:
        self.data = {name: str(value) for name, value in fields.dict().items()}
        self.datalist = dict(fields.lists())


class Asked(OAuth2Request):  # type: ignore[misc]
    """A request as Authlib reads it."""

    def __init__(self, request: HttpRequest, fields: QueryDict) -> None:
        # Authlib refuses plain http. Whether this platform is served so, as on a LAN, is its
        # operator's decision, and not one of a single request.
        super().__init__(request.method, "https://checked.invalid")
        self.payload = Fields(fields)
        self.http = request
        # What the person said who allows it: by, name and expires_at, for services.allow.
        self.consent: dict[str, Any] = {}

    @property
    def form(self) -> dict[str, str]:
        sent: dict[str, str] = self.payload.data
        return sent

    def refuse_unclear(self) -> None:
        """What is said twice (RFC 6749 §3.1, §3.2), and what is asked for another platform."""
        if any(len(said) > 1 for name, said in self.payload.datalist.items() if name != "resource"):
            raise InvalidRequestError("A parameter is there more than once.")
        # RFC 8707: who wants a token for elsewhere is told that this would not be one.
        ours = {urlsplit(settings.PUBLIC_URL).netloc, self.http.get_host()}
        for resource in self.payload.datalist.get("resource", []):
            try:
                is_ours = urlsplit(resource).netloc in ours
            except ValueError:
                is_ours = False
            if not is_ours:
                raise InvalidTargetError

    def scopes(self) -> tuple[str, ...]:
        try:
            return services.narrowed(self.payload.scope)
        except ValueError:
            raise InvalidScopeError from None


class Device(DeviceCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

    def query_device_credential(self, device_code: str) -> DeviceRequest:
        device = services.device_of(device_code)
        if device is None:
            raise InvalidGrantError(WORDS["invalid_grant"])
        return device

    def validate_device_credential(self, credential: DeviceRequest) -> User | None:
        # Authlib asks who granted by the user code, of which nothing but a digest is kept.
        if credential.is_expired():
            raise ExpiredTokenError
        if credential.decided_at is None:
            raise AuthorizationPendingError if services.note_poll(credential) else SlowDownError
        if not credential.approved:
            raise AccessDeniedError
        return credential.owner

    def create_token_response(self) -> Any:
        # Not Authlib's, which makes a token first and says that it is somebody's afterwards, so
        # that two polls at once get two.
        return 200, _token(self.request.credential), self.TOKEN_RESPONSE_HEADER


class Code(AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

    def generate_authorization_code(self) -> str:
        return codes.make()

    def save_authorization_code(self, code: str, request: Asked) -> None:
        services.allow(
            client_id=request.client.get_client_id(),
            redirect_uri=request.payload.redirect_uri,
            code_challenge=request.payload.data["code_challenge"],
            asked=request.scopes(),
            code=code,
            **request.consent,
        )

    def query_authorization_code(self, code: str, client: Client) -> AuthorizationCode | None:
        found = services.authorization_of(code, client_id=client.client_id)
        if found is None or services.end_what_came_of(found) or found.is_expired():
            return None
        return found

    def create_token_response(self) -> Any:
        # Not Authlib's: as above.
        return 200, _token(self.request.authorization_code), self.TOKEN_RESPONSE_HEADER


class Challenge(CodeChallenge):  # type: ignore[misc]
    """PKCE with S256, always. Authlib would let an authorization begin without, or with `plain`."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: Code, redirect_uri: str) -> None:
        sent = grant.request.payload.data
        if sent.get("code_challenge_method") != "S256" or len(sent.get("code_challenge", "")) != 43:
            raise InvalidRequestError("A code_challenge is needed, by S256: 43 characters.")
        super().validate_code_challenge(grant, redirect_uri)

    def get_authorization_code_challenge_method(self, authorization_code: AuthorizationCode) -> str:
        return "S256"


class DeviceAuthorization(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = ["none"]

    def create_endpoint_request(self, request: Asked) -> Asked:
        return request

    def create_endpoint_response(self, request: Asked) -> Any:
        # Not Authlib's, which hands on neither the request nor what else is in it.
        request.refuse_unclear()
        client = self.authenticate_client(request)
        if not client.check_grant_type(Device.GRANT_TYPE):
            raise UnauthorizedClientError
        device_code, user_code = codes.make(), codes.make_typed()
        while services.is_taken(user_code):
            user_code = codes.make_typed()
        sent, http = request.payload.data, request.http
        try:
            services.ask_for_device(
                client_id=client.get_client_id(),
                asked=request.scopes(),
                device_code=device_code,
                user_code=user_code,
                device_name=sent.get("device_name", ""),
                user_agent=http.headers.get("User-Agent", ""),
                address=http.META.get("REMOTE_ADDR") or None,
            )
        except services.TooManyWaiting:
            raise TemporarilyUnavailableError from None
        page = f"{settings.PUBLIC_URL}{reverse('device')}"
        told = {
            "device_code": device_code,
            "user_code": codes.shown(user_code),
            "verification_uri": page,
            "verification_uri_complete": add_params_to_uri(
                page, [("user_code", codes.shown(user_code))]
            ),
            "expires_in": int(DeviceRequest.LIFE.total_seconds()),
            "interval": INTERVAL,
        }
        return 200, told, default_json_headers


def _token(asking: DeviceRequest | AuthorizationCode) -> dict[str, object]:
    """The key that was allowed, as a token (RFC 6749 §5.1): in this answer, and nowhere else."""
    try:
        key, token = services.fetch(asking)
    except services.Spent:
        if isinstance(asking, AuthorizationCode):
            services.end_what_came_of(asking)
        raise InvalidGrantError(WORDS["invalid_grant"]) from None
    except services.CannotHold:
        raise AccessDeniedError from None
    except ValidationError as error:
        # A name or a limit, which the person can do something about: they are told on the page.
        raise TemporarilyUnavailableError(_ascii(" ".join(error.messages))) from None
    told: dict[str, object] = {
        "access_token": token.reveal(),
        "token_type": "Bearer",
        "scope": " ".join(key.granted),
        "key_id": str(key.pk),
        "key_name": key.name,
    }
    if key.expires_at is not None:
        told["expires_in"] = int((key.expires_at - timezone.now()).total_seconds())
    return told


class Server(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server without models of its own: clients are no rows, and tokens are keys."""

    def __init__(self) -> None:
        super().__init__(None, None)

    def query_client(self, client_id: str) -> Client | None:
        return clients.find(client_id)

    def create_oauth2_request(self, request: Asked) -> Asked:
        return request

    def create_token_response(self, request: Asked) -> HttpResponse:
        try:
            request.refuse_unclear()
        except OAuth2Error as error:
            return self.handle_error_response(request, error)
        response: HttpResponse = super().create_token_response(request)
        return response

    def handle_response(
        self, status_code: int, payload: Any, headers: list[tuple[str, str]]
    ) -> HttpResponse:
        if status_code == 302:
            # Who answers is said (RFC 9207), and a browser that sent a form comes with GET.
            where = add_params_to_uri(dict(headers)["Location"], {"iss": settings.PUBLIC_URL})
            return HttpResponseRedirect(
                where, status=303, headers={"Cache-Control": "no-store", "Pragma": "no-cache"}
            )
        response = JsonResponse(payload, status=status_code)
        response["Cache-Control"] = "no-store"
        return response

    def handle_error_response(self, request: Asked, error: OAuth2Error) -> HttpResponse:
        if error.redirect_uri:
            response: HttpResponse = super().handle_error_response(request, error)
            return response
        response = JsonResponse(problem(error.error, error.description), status=error.status_code)
        response["Cache-Control"] = "no-store"
        if error.status_code == 503:
            response["Retry-After"] = str(RETRY_AFTER)
        return response


def problem(error: str, words: str = "") -> dict[str, str]:
    """An error as OAuth has it (RFC 6749 §5.2), and in the words where ComfyUI looks for them."""
    words = words or WORDS.get(error, "")
    return {"error": error, "error_description": _ascii(words), "message": words}


def _ascii(words: str) -> str:
    """What may stand in an error_description (RFC 6749 §5.2)."""
    plain = words.translate(_QUOTES).encode("ascii", "replace").decode()
    return "".join(mark if " " <= mark <= "~" and mark not in '"\\' else "'" for mark in plain)


_QUOTES: Final = str.maketrans({"“": "'", "”": "'", "’": "'", "…": "..."})

server = Server()
server.register_grant(Code, [Challenge(required=True)])
server.register_grant(Device)
server.register_endpoint(DeviceAuthorization)
