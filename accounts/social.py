"""Signing in with Google or GitHub: who may come in, as whom, and what joins two logins.

An address alone never opens an account that is there. Whoever holds it, proved on both sides,
is led to the way they signed in before; that done, the new login is connected to it.
"""

import hmac
from dataclasses import dataclass
from typing import Any, cast

from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount import forms
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import services
from accounts.models import User
from config import text

# Where a login waits in the session until its person has shown who they are.
_WAITING = "login_to_connect"


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        """The environment's word counts before what staff entered: one client for a provider."""
        apps = super().list_apps(request, provider=provider, client_id=client_id)
        chosen: dict[str, SocialApp] = {}
        for app in apps:
            if app.provider not in chosen or app.pk is None:
                chosen[app.provider] = app
        return list(chosen.values())

    def get_app(
        self, request: HttpRequest, provider: str, client_id: str | None = None
    ) -> SocialApp:
        try:
            return super().get_app(request, provider, client_id=client_id)
        except SocialApp.DoesNotExist:
            # Nobody is led there while it is not set up; whoever comes all the same finds nothing.
            raise Http404 from None

    def get_requests_session(self) -> Any:
        """Asks a provider at its own addresses, and nowhere that an answer leads to."""
        session = super().get_requests_session()
        session.max_redirects = 0
        return session

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        _require_our_nonce(sociallogin)
        # The provider's access token is of no use to us, and none of any session's business.
        sociallogin.token = None
        if sociallogin.is_existing or sociallogin.state.get("process") == "connect":
            return
        address = proved_address(sociallogin)
        if address is None:
            raise ImmediateHttpResponse(_say_unproved(request, sociallogin))
        owner = services.account_of(address)
        if owner is not None:
            raise ImmediateHttpResponse(_lead_to_owner(request, sociallogin, owner, address))

    def populate_user(
        self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]
    ) -> User:
        user = cast("User", sociallogin.user)
        user.email = (proved_address(sociallogin) or "").lower()
        # As the person wrote it: put together from first and last, it has the wrong order in half
        # the world.
        told = sociallogin.account.extra_data
        user.name = _tidy_name(told.get("name") or data.get("username") or "")
        return user

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        # Of all addresses that the provider knows, the account takes the one that was proved.
        sociallogin.email_addresses = [
            address
            for address in sociallogin.email_addresses
            if address.email.lower() == sociallogin.user.email
        ]
        try:
            # Whole or not at all: half an account would have no way in.
            with transaction.atomic():
                return cast("User", super().save_user(request, sociallogin, form))
        except IntegrityError:
            raise ImmediateHttpResponse(once_more(request)) from None


class DisconnectForm(forms.DisconnectForm):  # type: ignore[misc]
    """Disconnects a login, unless it is the last way in. allauth counts passwords alone."""

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super(forms.DisconnectForm, self).clean() or {}
        login = data.get("account")
        if login is not None and not services.other_ways_in(login.user, besides=login):
            raise ValidationError(
                gettext_lazy(
                    "This is your last way in. Set a password or connect another login first."
                ),
                code="last_way_in",
            )
        return data


def once_more(request: HttpRequest) -> HttpResponse:
    """Two windows began one account at once, say. The next try finds it."""
    messages.info(request, _("That was interrupted. Press the button once more."))
    return redirect("account_login")


@dataclass(frozen=True, slots=True)
class ProviderSetup:
    """What staff have to know of a provider: whether it is set up, and what is missing."""

    name: str
    callback: str
    variables: tuple[str, str]
    register_at: str
    is_set_up: bool
    is_from_environment: bool


def setup_of_providers(request: HttpRequest) -> list[ProviderSetup]:
    """The providers that there could be, with the exact callback address to register there."""
    apps = {app.provider: app for app in SocialAccountAdapter(request).list_apps(request)}
    return [
        ProviderSetup(
            name=name,
            callback=f"{settings.PUBLIC_URL}{reverse(f'{provider}_callback')}",
            variables=(f"{provider.upper()}_CLIENT_ID", f"{provider.upper()}_CLIENT_SECRET"),
            register_at=register_at,
            is_set_up=provider in apps,
            is_from_environment=provider in apps and apps[provider].pk is None,
        )
        for provider, name, register_at in (
            ("google", "Google", "https://console.cloud.google.com/auth/clients"),
            ("github", "GitHub", f"{settings.GITHUB_URL}/settings/developers"),
        )
    ]


def proved_address(sociallogin: SocialLogin) -> str | None:
    """The address that the provider vouches for, its primary one if it vouches for that."""
    proved = [address for address in sociallogin.email_addresses if address.verified]
    proved.sort(key=lambda address: not address.primary)
    return str(proved[0].email) if proved else None


def connect_waiting(request: HttpRequest, user: User) -> None:
    """Connects the login that waits for `user`, who has just signed in another way.

    Only for the account whose address the provider vouched for, and that has proved it too: the
    session may have been somebody else's before.
    """
    waiting = request.session.pop(_WAITING, None)
    if waiting is None:
        return
    try:
        sociallogin = SocialLogin.deserialize(waiting)
    except ValueError:
        return
    address = proved_address(sociallogin)
    known = EmailAddress.objects.filter(user=user, verified=True, email__iexact=address or "")
    taken = SocialAccount.objects.filter(
        provider=sociallogin.account.provider, uid=sociallogin.account.uid
    )
    if address is None or not known.exists() or taken.exists():
        return
    sociallogin.connect(request, user)
    messages.success(
        request,
        _("Your %(provider)s login is connected: from now on it opens this account.")
        % {"provider": sociallogin.provider.name},
    )


def _require_our_nonce(sociallogin: SocialLogin) -> None:
    """OpenID Connect Core §3.1.3.7: the ID token's nonce is the one that was sent."""
    sent = sociallogin.state.pop("nonce", None)
    received = sociallogin.account.extra_data.pop("nonce", "")
    if sent is not None and not hmac.compare_digest(sent.encode(), str(received).encode()):
        raise PermissionDenied


def _lead_to_owner(
    request: HttpRequest, sociallogin: SocialLogin, owner: User, address: str
) -> HttpResponse:
    """The account is there. Nobody gets in by its address; we say how its owner does."""
    provider = sociallogin.provider.name
    if not EmailAddress.objects.filter(user=owner, email__iexact=address, verified=True).exists():
        # Somebody signed up with this address and never proved it: perhaps not its owner.
        return _explain(
            request,
            _(
                "An account with the address %(email)s was begun here, but the address was never "
                "confirmed, so %(provider)s can't open it. Press “Forgot password?” on the log-in "
                "page: the mail that comes lets you in. Then connect %(provider)s under User."
            )
            % {"email": address, "provider": provider},
            provider,
        )
    if request.user.is_authenticated:
        get_account_adapter(request).logout(request)
    request.session[_WAITING] = sociallogin.serialize()
    messages.info(
        request,
        _(
            "There is an account with the address %(email)s already. Log in the way you did "
            "before, and %(provider)s is connected to it."
        )
        % {"email": address, "provider": provider},
    )
    return redirect("account_login")


def _say_unproved(request: HttpRequest, sociallogin: SocialLogin) -> HttpResponse:
    provider = sociallogin.provider.name
    return _explain(
        request,
        _(
            "%(provider)s gave us no email address that it has confirmed to be yours and that can "
            "be used here. Confirm your address at %(provider)s and try again, or sign up with an "
            "email address here."
        )
        % {"provider": provider},
        provider,
    )


def _explain(request: HttpRequest, message: str, provider: str) -> HttpResponse:
    return render(
        request,
        "socialaccount/refused.html",
        {"message": message, "provider_name": provider},
        status=403,
    )


def _tidy_name(name: str) -> str:
    name = text.tidy(name)[: User.MAX_NAME]
    return "" if text.has_controls(name) else name
