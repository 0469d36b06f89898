"""The provider that django-allauth finds for this application, by this module's name."""

from typing import Any

from allauth.socialaccount.providers.google import provider as google
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import get_random_string


class GoogleProvider(google.GoogleProvider):  # type: ignore[misc]
    """Sends a nonce (OpenID Connect Core §3.1.2.1), and keeps it with the request's state.

    `accounts.social` compares it with the one in the ID token: a token that was issued for
    another sign-in is no good here. allauth's own provider sends none.
    """

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

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        # What is kept of the ID token: who it is. `nonce` goes once it has been compared.
        kept = ("sub", "email", "email_verified", "name", "nonce")
        return {name: data[name] for name in kept if name in data}


provider_classes = [GoogleProvider]
