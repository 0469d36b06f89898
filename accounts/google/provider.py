"""The provider that django-allauth finds for this application, by this module's name."""

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.providers.google import provider as google
from allauth.socialaccount.providers.google.views import GoogleOAuth2Adapter
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import get_random_string

from accounts.providers import Careful, known, told


class GoogleAdapter(Careful, GoogleOAuth2Adapter):  # type: ignore[misc]
    pass


class GoogleProvider(google.GoogleProvider):  # type: ignore[misc]
    """Sends a nonce (OpenID Connect Core §3.1.2.1), and keeps it with the request's state.

    `accounts.social` compares it with the one in the ID token: a token that was issued for
    another sign-in is no good here. allauth's own provider sends none.
    """

    oauth2_adapter_class = GoogleAdapter

    def redirect(
        self,
        request: HttpRequest,
        process: str,
        next_url: str | None = None,
        data: Any = None,
        **kwargs: Any,
    ) -> HttpResponse:
        nonce = get_random_string(32)
        asked = kwargs.pop("auth_params", None) or self.get_auth_params()
        response: HttpResponse = super().redirect(
            request,
            process,
            next_url=next_url,
            data=data,
            auth_params={**asked, "nonce": nonce},
            nonce=nonce,
            **kwargs,
        )
        return response

    def extract_uid(self, data: dict[str, Any]) -> str:
        return known(data, lambda value: isinstance(value, str), "sub")

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        # Proved by the word True alone: a text that says "false" is no less than one.
        proved = data.get("email_verified") is True
        return super().extract_email_addresses(  # type: ignore[no-any-return]
            {"email": data.get("email"), "email_verified": proved}
        )

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        # What is kept of the ID token: who it is. `nonce` goes once it has been compared.
        return told(data, ("sub", "email", "email_verified", "name", "nonce"))


provider_classes = [GoogleProvider]
