"""The provider class that django-allauth imports by this module name."""

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.providers.google import provider as google
from allauth.socialaccount.providers.google.views import GoogleOAuth2Adapter
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import get_random_string

from accounts.google import idtokens
from accounts.providers import (
    ProviderError,
    StrictOAuth2Adapter,
    VerifiedEmailsOnly,
    pick_fields,
    validate_uid,
)


class _VerifyingAdapter(GoogleOAuth2Adapter):  # type: ignore[misc]
    """Verifies the signature of the ID token, also of one that Google sent directly.

    allauth skips that, and without an ID token calls the UserInfo endpoint, whose response
    has no nonce and no audience.
    """

    def complete_login(
        self, request: HttpRequest, app: Any, token: Any, *, response: dict[str, Any]
    ) -> Any:
        claims = idtokens.verify(
            response["id_token"], client_id=app.client_id, issuer=self.id_token_issuer
        )
        if "email" not in claims:
            claims = {**self._fetch_user_info(token.token, claims["sub"]), **claims}
        return self.get_provider().sociallogin_from_response(request, claims)

    def _fetch_user_info(self, access_token: str, sub: str) -> dict[str, Any]:
        """Return claims that some providers omit from ID tokens (OpenID Connect Core §5.4)."""
        with get_adapter().get_requests_session() as session:
            response = session.get(
                self.identity_url, headers={"Authorization": f"Bearer {access_token}"}
            )
        response.raise_for_status()
        info: dict[str, Any] = response.json()
        # §5.3.2: claims with another `sub` must not be used.
        if info["sub"] != sub:
            raise ProviderError("The user info is about somebody else.", code="wrong_sub")
        return info


class GoogleAdapter(StrictOAuth2Adapter, _VerifyingAdapter):
    pass


class GoogleProvider(VerifiedEmailsOnly, google.GoogleProvider):  # type: ignore[misc]
    """Sends a nonce (OpenID Connect Core §3.1.2.1) and stores it in the request's state.

    `accounts.social` compares it with the nonce in the ID token, so that a token of another login
    is refused. allauth's provider sends no nonce.
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
        auth_params = kwargs.pop("auth_params", None) or self.get_auth_params()
        response: HttpResponse = super().redirect(
            request,
            process,
            next_url=next_url,
            data=data,
            auth_params={**auth_params, "nonce": nonce},
            nonce=nonce,
            **kwargs,
        )
        return response

    def extract_uid(self, data: dict[str, Any]) -> str:
        return validate_uid(data, lambda value: isinstance(value, str), "sub")

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        # Only the boolean counts: the string "false" is true.
        if data.get("email_verified") is not True or not isinstance(data.get("email"), str):
            return []
        return [EmailAddress(email=data["email"], verified=True, primary=True)]

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        # `nonce` is removed after the comparison.
        return pick_fields(data, ("sub", "email", "email_verified", "name", "nonce"))


provider_classes = [GoogleProvider]
