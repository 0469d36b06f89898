"""Responses to a social login that does not simply log in or sign up."""

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialLogin
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import audit_receivers, reauthentication
from accounts.models import User
from accounts.social.connect import store_pending_login
from core.private_names.allauth import record_authentication


def restart_social_login(request: HttpRequest) -> HttpResponse:
    """Redirect to the login page after a conflict, such as two concurrent sign-ups."""
    messages.info(request, _("The login was interrupted. Press the button again."))
    return redirect("account_login")


def reauthenticate(request: HttpRequest, user: User, sociallogin: SocialLogin) -> HttpResponse:
    """Handle a social login by a logged-in user as a reauthentication.

    With a login of another account, nothing changes and the user stays logged in.
    """
    next_url = sociallogin.get_redirect_url(request)
    if sociallogin.is_existing and sociallogin.user == user:
        record_authentication(
            request,
            user,
            "socialaccount",
            provider=sociallogin.account.provider,
            uid=sociallogin.account.uid,
            reauthenticated=True,
        )
        return redirect(next_url or settings.LOGIN_REDIRECT_URL)
    _refuse_other_account(request, user, sociallogin)
    if reauthentication.is_fresh(request):
        return redirect("account")
    return reauthentication.ask(request, then=next_url or reverse("account"))


def _refuse_other_account(request: HttpRequest, user: User, sociallogin: SocialLogin) -> None:
    audit_receivers.record_login_failure(request, user, reason=sociallogin.account.provider)
    messages.error(
        request,
        _(
            "This %(provider)s account is not connected to your account. You are still "
            "logged in as %(email)s, and nothing was changed. To use another account, "
            "log out first."
        )
        % {"provider": sociallogin.provider.name, "email": user.email},
    )


def redirect_to_other_login(
    request: HttpRequest, sociallogin: SocialLogin, owner: User, email: str
) -> HttpResponse:
    """Handle a social login whose email belongs to the existing account of `owner`.

    The email alone does not log in. The owner is directed to another login method.
    """
    provider = sociallogin.provider.name
    if not EmailAddress.objects.filter(user=owner, email__iexact=email, verified=True).exists():
        # The account may have been created by someone other than the owner of the mailbox.
        return _refuse_unverified_account(request, email, provider)
    store_pending_login(request, sociallogin)
    messages.info(
        request,
        _(
            "An account with the email %(email)s already exists. Log in as you did "
            "before to connect %(provider)s to it."
        )
        % {"email": email, "provider": provider},
    )
    return redirect("account_login")


def _refuse_unverified_account(request: HttpRequest, email: str, provider: str) -> HttpResponse:
    return _refuse(
        request,
        _(
            "An account with the email %(email)s exists, but its email was never "
            "confirmed, so you can't log in to it with %(provider)s. Press “Forgot "
            "password?” on the login page and use the link in the email. Then connect "
            "%(provider)s under User."
        )
        % {"email": email, "provider": provider},
        provider,
    )


def refuse_unverified_email(request: HttpRequest, sociallogin: SocialLogin) -> HttpResponse:
    """Respond with 403: the provider returned no verified email."""
    provider = sociallogin.provider.name
    return _refuse(
        request,
        _(
            "%(provider)s did not give us a confirmed email that can be used here. "
            "Confirm your email at %(provider)s and try again, or sign up here with an "
            "email."
        )
        % {"provider": provider},
        provider,
    )


def _refuse(request: HttpRequest, message: str, provider: str) -> HttpResponse:
    return render(
        request,
        "socialaccount/refused.html",
        {"message": message, "provider_name": provider},
        status=403,
    )
