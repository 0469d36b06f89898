"""Connect a social login to an existing account after a login with another method."""

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialLogin
from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.social.emails import verified_email

# Session key of a social login that waits for a login with another method.
_PENDING = "login_to_connect"


def store_pending_login(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Store `sociallogin` in the session until `connect_pending_login`."""
    request.session[_PENDING] = sociallogin.serialize()


def connect_pending_login(request: HttpRequest, user: User) -> None:
    """Connect the pending social login to `user`, who has just logged in with another method.

    Only if both the provider and `user` have verified the same email, since another user may have
    started the social login in this session.
    """
    pending = request.session.pop(_PENDING, None)
    if pending is None:
        return
    try:
        sociallogin = SocialLogin.deserialize(pending)
    except ValueError:
        return
    email = verified_email(sociallogin)
    same_email = EmailAddress.objects.filter(user=user, verified=True, email__iexact=email or "")
    connected = SocialAccount.objects.filter(
        provider=sociallogin.account.provider, uid=sociallogin.account.uid
    )
    if email is None or not same_email.exists() or connected.exists():
        return
    sociallogin.connect(request, user)
    messages.success(
        request,
        _("Your %(provider)s account is connected. You can now log in with it.")
        % {"provider": sociallogin.provider.name},
    )
