"""Who may ask for a key: two programs, and the sites that staff listed. Nobody registers."""

from dataclasses import dataclass
from typing import Final

from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc8628 import DEVICE_CODE_GRANT_TYPE

from oauth import origins
from oauth.models import Site

AUTHORIZATION_CODE: Final = "authorization_code"
# What they are called and how they call themselves is the same.
_PROGRAMS: Final = {"comfy-cli", "comfy-key"}


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]
    """A public client (RFC 6749 §2.1), as Authlib asks about one."""

    client_id: str
    is_site: bool

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        if self.is_site:
            return origins.is_on(self.client_id, redirect_uri)
        return origins.is_callback(redirect_uri)

    def check_client_secret(self, client_secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == AUTHORIZATION_CODE or (
            grant_type == DEVICE_CODE_GRANT_TYPE and not self.is_site
        )


def find(client_id: str) -> Client | None:
    """The client of this name, unless it is a site that nobody listed."""
    if client_id in _PROGRAMS:
        return Client(client_id, is_site=False)
    return Client(client_id, is_site=True) if may_sign_in(client_id) else None


def may_sign_in(origin: str) -> bool:
    """Whether a site may sign people in: it is on their own machine, or staff listed it."""
    if origins.is_loopback(origin):
        return True
    return origins.is_origin(origin) and Site.objects.filter(origin=origin).exists()
