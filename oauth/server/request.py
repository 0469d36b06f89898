"""OAuth requests as Authlib reads them, with checks that Authlib does not make."""

from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import urlsplit

from authlib.integrations.django_oauth2.requests import DjangoOAuth2Payload
from authlib.oauth2 import OAuth2Request
from authlib.oauth2.rfc6749 import InvalidRequestError, InvalidScopeError
from django.conf import settings
from django.http import HttpRequest, QueryDict

from oauth import services
from oauth.server.errors import InvalidTargetError

# Parameters that must not be repeated. `resource` may be (RFC 8707 §2).
_SINGLE: Final = {
    "client_id", "code", "code_challenge", "code_challenge_method", "code_verifier", "device_code",
    "device_name", "grant_type", "prompt", "redirect_uri", "response_type", "scope", "state",
}  # fmt: skip


class Payload(DjangoOAuth2Payload):  # type: ignore[misc]
    """The parameters of the query or of the body, never of both."""

    def __init__(self, fields: QueryDict) -> None:
        self.data = {name: str(value) for name, value in fields.dict().items()}
        self.datalist = dict(fields.lists())


class AuthlibRequest(OAuth2Request):  # type: ignore[misc]
    """A Django request with Authlib's interface."""

    def __init__(self, request: HttpRequest, fields: QueryDict) -> None:
        # Authlib rejects plain http. Whether the platform uses it is the operator's choice, so
        # Authlib gets an https URL.
        super().__init__(request.method, "https://checked.invalid")
        self.payload = Payload(fields)
        self.http = request
        # by, name and expires_at for services.create_authorization_code.
        self.consent: dict[str, Any] = {}

    @property
    def form(self) -> dict[str, str]:
        data: dict[str, str] = self.payload.data
        return data

    def reject_ambiguous(self) -> None:
        """Raise an OAuth2Error for repeated or misspelt parameters, or another resource."""
        # RFC 6749 §3.1, §3.2.
        for name in _SINGLE & self.payload.datalist.keys():
            if len(self.payload.datalist[name]) > 1:
                raise InvalidRequestError(f"The parameter {name} is there more than once.")
        self._reject_misspelt()
        self._reject_other_resources()

    def _reject_misspelt(self) -> None:
        # Unknown parameters are ignored (RFC 6749 §3.1, §3.2), except those that were meant to
        # restrict the key.
        for name in self.payload.datalist:
            folded = name.replace("_", "").replace("-", "").casefold()
            if name != "scope" and get_close_matches("scope", [folded], cutoff=0.75):
                raise InvalidRequestError("There is no such parameter. Did you mean scope?")
            if folded.startswith(("expire", "expiry")):
                raise InvalidRequestError(
                    "There is no parameter for the expiry: the person chooses when the key ends."
                )

    def _reject_other_resources(self) -> None:
        # RFC 8707: this server issues no tokens for other servers.
        ours = {urlsplit(settings.PUBLIC_URL).netloc, self.http.get_host()}
        for resource in self.payload.datalist.get("resource", []):
            try:
                is_ours = urlsplit(resource).netloc in ours
            except ValueError:
                is_ours = False
            if not is_ours:
                raise InvalidTargetError

    def scopes(self) -> tuple[str, ...]:
        """Return the requested scopes, normalized. Raise InvalidScopeError."""
        try:
            return services.normalize_scopes(self.payload.scope)
        except ValueError:
            raise InvalidScopeError from None
