"""Views for login, passkeys and MFA where they differ from django-allauth's."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from allauth.account import views as allauth_views
from allauth.account.utils import get_next_redirect_url
from allauth.core import ratelimit
from allauth.mfa.base import views as mfa_views
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.webauthn import views as webauthn
from allauth.socialaccount import views as social_views
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.core.cache import cache
from django.db import transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods
from django.views.generic.edit import FormView

from accounts import device_tracking, mfa, reauthentication, services, social
from accounts.forms import end_with_browser
from accounts.models import User
from core.encryption import DecryptionError
from core.private_names.allauth import STATE_SESSION_KEY

type View = Callable[..., HttpResponseBase]

# Validity of the challenge of a login by passkey.
CHALLENGE_LIFETIME = timedelta(minutes=10)
_CHALLENGE_SALT = "accounts.login_views.challenge"

# Retry-After of a limited login. The longest window: five minutes per account (allauth's
# `login_failed`, our `factor`). The window per client IP is a minute.
LOGIN_LIMIT_SECONDS = 300


def honor_public_device(view: View) -> View:
    """Wrap an allauth view to honor the "public device" checkbox of the login page."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        if request.method == "POST":
            end_with_browser(request)
        return response

    return wrapper


def with_limit_status(view: View) -> View:
    """Wrap an allauth form view to respond with 429 when a rate limit refused the form.

    allauth responds with 200 and a form error, which API clients don't recognize.
    """

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        form = (getattr(response, "context_data", None) or {}).get("form")
        if request.method == "POST" and isinstance(form, BaseForm) and _is_limited(form):
            response.status_code = 429
            response.headers["Retry-After"] = str(LOGIN_LIMIT_SECONDS)
        return response

    return wrapper


def _limit_unknown_browsers(view: View) -> View:
    """Limit logins by client IP, except with a browser that has logged in to the account before.

    Such a browser has a separate limit (accounts.adapters), so that others on the same network
    can't lock it out.
    """

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method == "POST":
            email = request.POST.get("login", "").strip()
            is_known = device_tracking.rate_limit_key_by_email(request, email) is not None
            if not is_known and (response := ratelimit.consume_or_429(request, action="log_in")):
                return cast("HttpResponse", response)
        return view(request, *args, **kwargs)

    return wrapper


def _is_limited(form: BaseForm) -> bool:
    errors = [error for errors in form.errors.as_data().values() for error in errors]
    return any(error.code == "too_many_login_attempts" for error in errors)


def redirect_to_provider(view: View) -> View:
    """Wrap allauth's view that redirects to Google or GitHub, with a fixed set of parameters."""

    @require_http_methods(["GET", "HEAD", "POST"])
    @honor_public_device
    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method == "HEAD":
            # allauth shows a confirmation for GET only, and would begin a login for HEAD.
            request.method = "GET"
        # allauth passes on `scope` from the query, so that a link could request more permissions.
        kept = [name for name in ("process", "next", "action") if name in request.GET]
        request.GET = QueryDict(urlencode({name: request.GET[name] for name in kept}))
        connects = "connect" in {request.GET.get("process"), request.POST.get("process")}
        page = reverse("socialaccount_connections" if connects else "account_login")
        if _is_other_loopback_name(request):
            return redirect(f"{settings.PUBLIC_URL}{page}")
        # Connecting adds a login method. Without this check, an anonymous client could start it
        # and have it completed in the account that logs in next.
        if connects and not reauthentication.is_fresh(request):
            return reauthentication.ask(request, then=page)
        if limited := ratelimit.consume_or_429(request, action="social_login"):
            return limited  # type: ignore[no-any-return]
        return view(request, *args, **kwargs)

    return wrapper


def _is_other_loopback_name(request: HttpRequest) -> bool:
    """Return whether the request uses another loopback name than PUBLIC_URL.

    The provider redirects to PUBLIC_URL, where the cookies of `localhost` are not sent.
    """
    host, public = urlsplit(f"//{request.get_host()}"), urlsplit(settings.PUBLIC_URL)
    return host.hostname in settings.LOOPBACK and host.netloc != public.netloc


def social_signup(request: HttpRequest) -> HttpResponse:
    """Replace allauth's sign-up form, which would accept an email that no provider verified."""
    request.session.pop("socialaccount_sociallogin", None)
    return social.restart_social_login(request)


# A password is a login method: it is not added from an unattended browser.
set_password = login_required(reauthentication.required(allauth_views.password_set))


def lock_account(view: View) -> View:
    """Wrap a view that removes a login method: requests of one account run one after another.

    Two concurrent requests for the last two methods would each see the other method remain.
    """

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST" or not request.user.is_authenticated:
            return view(request, *args, **kwargs)
        with transaction.atomic():
            User.objects.select_for_update().get(pk=request.user.pk)
            return view(request, *args, **kwargs)

    return wrapper


@login_required
@lock_account
def remove_passkey(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Call allauth's view, unless this passkey is the last login method."""
    passkey = get_object_or_404(
        Authenticator, pk=pk, user=request.user, type=Authenticator.Type.WEBAUTHN
    )
    if not services.has_other_login_method(passkey.user, besides=passkey):
        messages.error(
            request,
            _("This is your only way to log in. Set a password or connect another login first."),
        )
        return redirect("mfa_list_webauthn")
    response: HttpResponseBase = webauthn.remove_webauthn(request, pk=pk)
    return response


class PasskeyLoginView(webauthn.LoginWebAuthnView):  # type: ignore[misc]
    """Keeps `next` after a failed login, and the challenge in a signed cookie.

    allauth stores the challenge in a session, so that any client could fill the session table.
    """

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().get(request, *args, **kwargs)
        state = request.session.pop(STATE_SESSION_KEY, None)
        if state is not None:
            response.set_cookie(
                _challenge_cookie(),
                signing.dumps(state, salt=_CHALLENGE_SALT),
                max_age=CHALLENGE_LIFETIME,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        # A challenge in the session belongs to another form, such as reauthentication.
        request.session.pop(STATE_SESSION_KEY, None)
        if (state := _take_challenge(request)) is not None:
            request.session[STATE_SESSION_KEY] = state
        try:
            response: HttpResponse = super().post(request, *args, **kwargs)
        finally:
            request.session.pop(STATE_SESSION_KEY, None)
        response.delete_cookie(_challenge_cookie(), samesite="Lax")
        return response

    def form_invalid(self, form: Any) -> HttpResponse:
        response: HttpResponse = super().form_invalid(form)
        if next_url := get_next_redirect_url(self.request, REDIRECT_FIELD_NAME):
            return redirect(f"{reverse('account_login')}?{urlencode({'next': next_url})}")
        return response


def _challenge_cookie() -> str:
    return settings.SESSION_COOKIE_NAME.replace("session", "passkey")


def _take_challenge(request: HttpRequest) -> Any:
    """Return the state of this browser's challenge, once; None if it is invalid or was used."""
    given = request.COOKIES.get(_challenge_cookie(), "")
    try:
        state = signing.loads(given, salt=_CHALLENGE_SALT, max_age=CHALLENGE_LIFETIME)
    except signing.BadSignature:
        return None
    used_key = f"spent-challenge:{hashlib.sha256(given.encode()).hexdigest()}"
    is_first = cache.add(used_key, True, timeout=CHALLENGE_LIFETIME.total_seconds())
    return state if is_first else None


class PasskeyReauthenticationView(webauthn.ReauthenticateWebAuthnView):  # type: ignore[misc]
    """Redirects back to the form with an error after a failed attempt."""

    def form_invalid(self, form: Any) -> HttpResponse:
        for message in form.errors.get("credential", []):
            messages.error(self.request, message)
        return redirect(self.passthrough_next_url(self.request.path))


class MFAIndexView(mfa_views.IndexView):  # type: ignore[misc]
    """Adds the factor types that can't be decrypted to the context."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        unreadable = mfa.unreadable_types(self.request.user)
        return {**super().get_context_data(**kwargs), "unreadable": unreadable}


class GenerateRecoveryCodesView(recovery_codes.GenerateRecoveryCodesView):  # type: ignore[misc]
    """Also replaces recovery codes that can't be decrypted."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        try:
            context: dict[str, Any] = super().get_context_data(**kwargs)
        except DecryptionError:
            # allauth's context includes the number of unused codes, which can't be decrypted.
            context = FormView.get_context_data(self, **kwargs)
        return context


@login_required
def view_recovery_codes(request: HttpRequest) -> HttpResponseBase:
    """Show the recovery codes; if they can't be decrypted, redirect to the page to replace them."""
    if Authenticator.Type.RECOVERY_CODES in mfa.unreadable_types(request.user):
        messages.error(request, _("Your recovery codes can no longer be read. Create new ones."))
        return redirect("mfa_generate_recovery_codes")
    response: HttpResponseBase = recovery_codes.view_recovery_codes(request)
    return response


class MFAAuthenticateView(mfa_views.AuthenticateView):  # type: ignore[misc]
    """Adds the account's factor types to the context."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {
            **super().get_context_data(**kwargs),
            "kinds": mfa.types(self.stage.login.user),
        }


login_by_passkey = honor_public_device(PasskeyLoginView.as_view())
connections = login_required(lock_account(social_views.connections))
reauthenticate_by_passkey = login_required(PasskeyReauthenticationView.as_view())
login = with_limit_status(_limit_unknown_browsers(allauth_views.login))
login_by_factor = with_limit_status(MFAAuthenticateView.as_view())
reauthenticate = with_limit_status(allauth_views.reauthenticate)
reauthenticate_by_factor = with_limit_status(mfa_views.reauthenticate)
mfa_index = MFAIndexView.as_view()
generate_recovery_codes = GenerateRecoveryCodesView.as_view()
