"""OAuth clients: two programs, and the sites that staff list. There is no registration."""

from dataclasses import dataclass
from typing import Final

from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc8628 import DEVICE_CODE_GRANT_TYPE

from core import origins
from oauth.models import Site

AUTHORIZATION_CODE: Final = "authorization_code"
# Client ids. They are shown as the programs' names.
PROGRAMS: Final = {"comfy-cli", "comfy-key"}


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]
    """A public client (RFC 6749 §2.1) with Authlib's interface."""

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
            return origins.is_page_of(self.client_id, redirect_uri)
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


def find_client(client_id: str) -> Client | None:
    """Return the client with this id, or None for an unknown program or an unlisted site."""
    if client_id in PROGRAMS:
        return Client(client_id, is_site=False)
    return Client(client_id, is_site=True) if is_allowed_site(client_id) else None


def is_allowed_site(origin: str) -> bool:
    """Return whether a site may sign users in: it is on loopback, or staff listed it."""
    if origins.is_loopback(origin):
        return True
    return origins.is_origin(origin) and Site.objects.filter(origin=origin).exists()
