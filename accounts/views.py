"""The User section: what a person sees and changes of their own account."""

from typing import Any

from allauth.account import views as allauth_views
from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.login import record_authentication
from allauth.account.internal.flows.manage_email import add_email
from allauth.account.internal.flows.reauthentication import resume_request
from allauth.account.models import EmailAddress
from allauth.account.utils import get_next_redirect_url
from allauth.core import ratelimit
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME, logout
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST
from django.views.i18n import set_language

from accounts import devices, events, mailcodes, reauthentication, services
from accounts.forms import AddEmailForm, CodeForm, DeleteAccountForm, ProfileForm
from accounts.models import User

_NEW_EMAIL = "new_email"
_TO_REAUTHENTICATE = "reauthenticate"
_TOO_MANY_CODES = gettext_lazy("That is enough codes for now. Try again in an hour.")


def _account(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    # A fresh copy: a refused name must not show up in the page's head as if it had been saved.
    user = get_object_or_404(User, pk=request.user.pk)
    form = ProfileForm(request.POST or None, instance=user)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Your profile was saved."))
        return redirect("account")
    factors = Authenticator.objects.filter(user=user)
    return render(
        request,
        "accounts/profile.html",
        {
            "form": form,
            "section": "user",
            "logins": SocialAccount.objects.filter(user=user),
            "passkeys": factors.filter(type=Authenticator.Type.WEBAUTHN).count(),
            "has_app": factors.filter(type=Authenticator.Type.TOTP).exists(),
        },
    )


# --- Email address ---------------------------------------------------------------------------


class EmailView(allauth_views.EmailView):  # type: ignore[misc]
    """A change of address is confirmed from both: the one that there is, then the new one."""

    def get_initial(self) -> dict[str, Any]:
        return {**super().get_initial(), **reauthentication.take_draft(self.request)}

    def _action_primary(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing: an address becomes the account's own by being confirmed, and no other way."""

    def form_valid(self, form: Any) -> HttpResponse:
        current = EmailAddress.objects.get_verified(self.request.user)
        if not settings.HAS_MAIL_SERVER or current is None:
            response: HttpResponse = super().form_valid(form)
            return response
        get_adapter(self.request).is_reauthentication_required(app="allauth.account")
        new = form.cleaned_data["email"]
        if not mailcodes.send(
            self.request,
            _to_change_to(new),
            template="accounts/email/approve_change",
            to=current.email,
            new_email=new,
        ):
            messages.error(self.request, _TOO_MANY_CODES)
            return redirect("account_email")
        self.request.session[_NEW_EMAIL] = new
        return redirect("approve_email")


email = login_required(EmailView.as_view())


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def approve_email(request: HttpRequest) -> HttpResponse:
    """The first half of a change of address: the code that the address so far has got."""
    new = request.session.get(_NEW_EMAIL)
    if new is None or not mailcodes.is_waiting(request, _to_change_to(new)):
        messages.error(request, _("That code is not good any more. Ask for the change once more."))
        return redirect("account_email")
    if request.method == "POST" and not reauthentication.is_fresh(request):
        return reauthentication.ask(request)
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if mailcodes.accept(request, _to_change_to(new), form.cleaned_data["code"]):
            return _ask_new_address(request, request.session.pop(_NEW_EMAIL))
        if not mailcodes.is_waiting(request, _to_change_to(new)):
            return redirect("approve_email")
        form.add_error("code", _("This is not the code that we sent. Look at the newest mail."))
    return render(
        request,
        "accounts/approve_email.html",
        {"form": form, "section": "user", "new_email": new, "email": _account(request).email},
    )


def _to_change_to(new: str) -> str:
    """What such a code is for: this address and no other."""
    return f"change the address to {new}"


def _ask_new_address(request: HttpRequest, new: str) -> HttpResponse:
    form = AddEmailForm(data={"email": new}, user=request.user)
    if not form.is_valid():
        messages.error(request, " ".join(form.errors.get("email", [])))
        return redirect("account_email")
    add_email(request, form)
    return redirect("account_email_verification_sent")


# --- Showing who one is, once more -----------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def reauthenticate_by_mail(request: HttpRequest) -> HttpResponse:
    """For whoever has no password and no factor at hand: a code by mail."""
    methods = get_adapter(request).get_reauthentication_methods(request.user)
    if not any(method["id"] == "mail" for method in methods):
        return redirect("account_reauthenticate")
    form = CodeForm(request.POST if "code" in request.POST else None)
    if request.method == "POST" and form.is_valid():
        if limited := ratelimit.consume_or_429(request, action="reauthenticate", user=request.user):
            return limited  # type: ignore[no-any-return]
        if mailcodes.accept(request, _TO_REAUTHENTICATE, form.cleaned_data["code"]):
            record_authentication(request, request.user, "code", reauthenticated=True)
            return resume_request(request) or redirect("account")
        if not mailcodes.is_waiting(request, _TO_REAUTHENTICATE):
            messages.error(request, _("That code is not good any more. Ask for another one."))
            return redirect(request.get_full_path())
        form.add_error("code", _("This is not the code that we sent. Look at the newest mail."))
    elif request.method == "POST" and "send" in request.POST:
        _send_code_to_reauthenticate(request)
    return render(
        request,
        "accounts/reauthenticate_by_mail.html",
        {
            "form": form,
            "is_waiting": mailcodes.is_waiting(request, _TO_REAUTHENTICATE),
            "email": _account(request).email,
            "next": get_next_redirect_url(request, REDIRECT_FIELD_NAME),
        },
    )


def _send_code_to_reauthenticate(request: HttpRequest) -> None:
    if not mailcodes.send(
        request,
        _TO_REAUTHENTICATE,
        template="account/email/login_code",
        to=_account(request).email,
    ):
        messages.error(request, _TOO_MANY_CODES)


# --- Sessions --------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def sessions(request: HttpRequest) -> HttpResponse:
    """Where one is signed in. POST ends all of them but this one."""
    user = _account(request)
    if request.method == "POST":
        if not reauthentication.is_fresh(request):
            return reauthentication.ask(request)
        services.end_sessions(user, besides=request.session.session_key)
        events.ended_elsewhere(request, user)
        messages.success(request, _("You are logged out everywhere else."))
        return redirect("sessions")
    return render(
        request,
        "accounts/sessions.html",
        {"sessions": devices.listed(request, user), "section": "user"},
    )


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: int) -> HttpResponse:
    session = get_object_or_404(UserSession, pk=session_id, user=_account(request))
    is_here = session.session_key == request.session.session_key
    if not is_here and not reauthentication.is_fresh(request):
        return reauthentication.ask(request, then=reverse("sessions"))
    session.end()
    if is_here:
        logout(request)
        return redirect("account_login")
    events.ended_elsewhere(request, _account(request))
    messages.success(request, _("That device is logged out."))
    return redirect("sessions")


# --- One's data, and the end of it -----------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD"])
@reauthentication.required
def data(request: HttpRequest) -> HttpResponse:
    """Everything that is kept of the person, as a file."""
    user = _account(request)
    response = JsonResponse(
        {"taken_at": timezone.now(), **services.personal_data(user)},
        json_dumps_params={"indent": 2, "ensure_ascii": False},
    )
    day = timezone.now().date()
    response["Content-Disposition"] = f'attachment; filename="comfyui-keys-{day}.json"'
    response["Cache-Control"] = "no-store, private"
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@reauthentication.required
def delete(request: HttpRequest) -> HttpResponse:
    user = _account(request)
    form = DeleteAccountForm(request.POST or None, user=user)
    if request.method == "POST" and form.is_valid() and services.may_leave(user):
        services.delete_account(user, address=get_adapter(request).get_client_ip(request))
        logout(request)
        messages.success(
            request, _("Your account is deleted. Its keys work no more; nothing of you is left.")
        )
        return redirect("account_login")
    return render(
        request,
        "accounts/delete.html",
        {"form": form, "section": "user", "may_leave": services.may_leave(user)},
        status=400 if form.errors else 200,
    )


# --- Language --------------------------------------------------------------------------------


@require_POST
def language(request: HttpRequest) -> HttpResponse:
    """Chooses what these pages speak: in this browser, and in the account of who is signed in."""
    wanted = request.POST.get("language", "")
    if wanted not in dict(settings.LANGUAGES):
        raise Http404
    if request.user.is_authenticated:
        User.objects.filter(pk=request.user.pk).update(language=wanted)
    response: HttpResponse = set_language(request)
    return response
