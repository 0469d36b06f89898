"""Views of signing in and of its means, where ours differ from django-allauth's."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode, urlsplit

from allauth.account import views as allauth_views
from allauth.account.utils import get_next_redirect_url
from allauth.mfa.base import views as mfa
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn import views as webauthn
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_required
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import reauthentication, services, social
from accounts.forms import end_with_browser

type View = Callable[..., HttpResponseBase]

# Seconds within which so many tries at a password or a factor are counted: a minute for an address
# of the network, five for an account's (allauth's `login_failed`, our `factor`).
TRIES_WITHIN = 300


def on_public_devices_too(view: View) -> View:
    """allauth's view, minding the "public device" tick that the log-in page sends along."""

    @wraps(view)
    def minding(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        if request.method == "POST":
            end_with_browser(request)
        return response

    return minding


def limited(view: View) -> View:
    """allauth's view of a form, with the status of a refusal (429) where a limit stood behind it.

    allauth says it among the form's errors alone: programs would go on.
    """

    @wraps(view)
    def saying(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        form = (getattr(response, "context_data", None) or {}).get("form")
        if request.method == "POST" and isinstance(form, BaseForm) and _is_limited(form):
            response.status_code = 429
            response.headers["Retry-After"] = str(TRIES_WITHIN)
        return response

    return saying


def _is_limited(form: BaseForm) -> bool:
    problems = [problem for problems in form.errors.as_data().values() for problem in problems]
    return any(problem.code == "too_many_login_attempts" for problem in problems)


def leads_to_provider(view: View) -> View:
    """allauth's view that leads to Google or GitHub, asking what we ask and nothing more."""

    @on_public_devices_too
    @wraps(view)
    def leading(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # allauth passes on a scope that stands in the address, so that a link could ask for more.
        kept = [name for name in ("process", "next", "action") if name in request.GET]
        request.GET = QueryDict(urlencode({name: request.GET[name] for name in kept}))
        connects = "connect" in {request.GET.get("process"), request.POST.get("process")}
        page = reverse("socialaccount_connections" if connects else "account_login")
        if _is_another_name_of_ours(request):
            return redirect(f"{settings.PUBLIC_URL}{page}")
        # Begun by somebody who is not signed in yet, it would end in the account of who is then.
        if connects and not reauthentication.is_fresh(request):
            return reauthentication.ask(request, then=page)
        return view(request, *args, **kwargs)

    return leading


def _is_another_name_of_ours(request: HttpRequest) -> bool:
    """`localhost` for 127.0.0.1: the provider sends people back where this session is not found."""
    here, ours = urlsplit(f"//{request.get_host()}"), urlsplit(settings.PUBLIC_URL)
    return here.hostname in settings.LOOPBACK and here.netloc != ours.netloc


def social_signup(request: HttpRequest) -> HttpResponse:
    """In the place of allauth's form, which would take an address that nobody vouched for."""
    request.session.pop("socialaccount_sociallogin", None)
    return social.once_more(request)


# A password is a way in: whoever finds an open browser must not be able to add one.
set_password = login_required(reauthentication.required(allauth_views.password_set))


@login_required
def remove_passkey(request: HttpRequest, pk: int) -> HttpResponseBase:
    """allauth's page, unless nothing would be left to log in with."""
    passkey = get_object_or_404(
        Authenticator, pk=pk, user=request.user, type=Authenticator.Type.WEBAUTHN
    )
    if not services.other_ways_in(passkey.user, besides=passkey):
        messages.error(request, _("This is your last way in. Set a password first."))
        return redirect("mfa_list_webauthn")
    response: HttpResponseBase = webauthn.remove_webauthn(request, pk=pk)
    return response


class LoginByPasskey(webauthn.LoginWebAuthnView):  # type: ignore[misc]
    """allauth's, where a refusal does not forget where one wanted to go."""

    def form_invalid(self, form: Any) -> HttpResponse:
        response: HttpResponse = super().form_invalid(form)
        if wanted := get_next_redirect_url(self.request, REDIRECT_FIELD_NAME):
            return redirect(f"{reverse('account_login')}?{urlencode({'next': wanted})}")
        return response


class ReauthenticateByPasskey(webauthn.ReauthenticateWebAuthnView):  # type: ignore[misc]
    """allauth's, where a refusal leaves one at the question."""

    def form_invalid(self, form: Any) -> HttpResponse:
        for message in form.errors.get("credential", []):
            messages.error(self.request, message)
        return redirect(self.passthrough_next_url(self.request.path))


login_by_passkey = on_public_devices_too(LoginByPasskey.as_view())
reauthenticate_by_passkey = login_required(ReauthenticateByPasskey.as_view())
login = limited(allauth_views.login)
login_by_factor = limited(mfa.authenticate)
reauthenticate = limited(allauth_views.reauthenticate)
reauthenticate_by_factor = limited(mfa.reauthenticate)
