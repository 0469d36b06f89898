"""Account pages: profile, email, reauthentication by mail, sessions, data export, deletion."""

from collections.abc import Iterator
from typing import Any, Final

from allauth.account import views as allauth_views
from allauth.account.adapter import get_adapter
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
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django.views.i18n import set_language

from accounts import audit_receivers, device_tracking, email_codes, reauthentication, services
from accounts.forms import AddEmailForm, CodeForm, DeleteAccountForm, ProfileForm
from accounts.models import User
from accounts.requests import current_user
from accounts.sessions import stored_key
from core.json_stream import json_object
from core.private_names.allauth import add_email, record_authentication, resume_request
from core.slots import Slots

_NEW_EMAIL = "new_email"
_REAUTHENTICATE = "reauthenticate"
# Exports that a process sends at once. A slow client occupies a thread and a connection to the
# database: most of both are left to others.
_exports: Final = Slots(6, of_one_owner=2)
_TOO_MANY_CODES = gettext_lazy("Too many codes were requested. Try again in an hour.")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    # Not request.user: a form changes its instance even if invalid, and the header shows the name.
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
    """A change of the email is confirmed by a code to the current email, then to the new one."""

    def get_initial(self) -> dict[str, Any]:
        return {**super().get_initial(), **reauthentication.take_draft(self.request)}

    def _action_primary(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Do nothing: an email becomes primary only by being verified."""

    def form_valid(self, form: Any) -> HttpResponse:
        current = EmailAddress.objects.get_verified(self.request.user)
        if not settings.HAS_MAIL_SERVER or current is None:
            response: HttpResponse = super().form_valid(form)
            return response
        get_adapter(self.request).is_reauthentication_required(app="allauth.account")
        new = form.cleaned_data["email"]
        if not email_codes.send(
            self.request,
            _email_change(new),
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
    """Take the code sent to the current email, then send one to the new email."""
    new = request.session.get(_NEW_EMAIL)
    if new is None or not email_codes.is_pending(request, _email_change(new)):
        messages.error(request, _("This code has expired. Request the change again."))
        return redirect("account_email")
    if request.method == "POST" and not reauthentication.is_fresh(request):
        return reauthentication.ask(request)
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if email_codes.accept(request, _email_change(new), form.cleaned_data["code"]):
            return _confirm_new_email(request, request.session.pop(_NEW_EMAIL))
        if not email_codes.is_pending(request, _email_change(new)):
            return redirect("approve_email")
        form.add_error("code", _("This is not the code that we sent. Check the latest email."))
    return render(
        request,
        "accounts/approve_email.html",
        {"form": form, "section": "user", "new_email": new, "email": current_user(request).email},
    )


def _email_change(new: str) -> str:
    """Return the purpose of an email code, which binds it to the new email."""
    return f"change the address to {new}"


def _confirm_new_email(request: HttpRequest, new: str) -> HttpResponse:
    form = AddEmailForm(data={"email": new}, user=request.user)
    if not form.is_valid():
        messages.error(request, " ".join(form.errors.get("email", [])))
        return redirect("account_email")
    add_email(request, form)
    return redirect("account_email_verification_sent")


# --- Reauthentication ------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def reauthenticate_by_mail(request: HttpRequest) -> HttpResponse:
    """Reauthenticate by an email code."""
    methods = get_adapter(request).get_reauthentication_methods(request.user)
    if not any(method["id"] == "mail" for method in methods):
        return redirect("account_reauthenticate")
    form = CodeForm(request.POST if "code" in request.POST else None)
    if request.method == "POST" and form.is_valid():
        if response := _accept_reauthentication_code(request, form):
            return response
    elif request.method == "POST" and "send" in request.POST:
        _send_reauthentication_code(request)
    return render(
        request,
        "accounts/reauthenticate_by_mail.html",
        {
            "form": form,
            "is_waiting": email_codes.is_pending(request, _REAUTHENTICATE),
            "email": current_user(request).email,
            "next": get_next_redirect_url(request, REDIRECT_FIELD_NAME),
        },
    )


def _accept_reauthentication_code(request: HttpRequest, form: CodeForm) -> HttpResponse | None:
    """Return the response to a submitted code; None after adding an error to `form`."""
    if limited := ratelimit.consume_or_429(request, action="reauthenticate", user=request.user):
        return limited  # type: ignore[no-any-return]
    if email_codes.accept(request, _REAUTHENTICATE, form.cleaned_data["code"]):
        record_authentication(request, request.user, "code", reauthenticated=True)
        return resume_request(request) or redirect("account")
    if not email_codes.is_pending(request, _REAUTHENTICATE):
        messages.error(request, _("This code has expired. Request a new one."))
        return redirect(request.get_full_path())
    form.add_error("code", _("This is not the code that we sent. Check the latest email."))
    return None


def _send_reauthentication_code(request: HttpRequest) -> None:
    if not email_codes.send(
        request,
        _REAUTHENTICATE,
        template="account/email/login_code",
        to=current_user(request).email,
    ):
        messages.error(request, _TOO_MANY_CODES)


# --- Password --------------------------------------------------------------------------------


@require_safe
def change_password_url(request: HttpRequest) -> HttpResponse:
    """Redirect password managers (W3C, A Well-Known URL for Changing Passwords)."""
    return redirect("account_change_password")


# --- Sessions --------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def sessions(request: HttpRequest) -> HttpResponse:
    """List the account's sessions. POST ends all except the current one."""
    user = current_user(request)
    if request.method == "POST":
        if not reauthentication.is_fresh(request):
            return reauthentication.ask(request)
        services.end_sessions(user, besides=request.session.session_key)
        audit_receivers.record_logout_elsewhere(request, user)
        messages.success(request, _("You have been logged out on all other devices."))
        return redirect("sessions")
    return render(
        request,
        "accounts/sessions.html",
        {"sessions": device_tracking.list_sessions(request, user), "section": "user"},
    )


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: int) -> HttpResponse:
    session = get_object_or_404(UserSession, pk=session_id, user=current_user(request))
    is_current = session.session_key == stored_key(request.session.session_key)
    if not is_current and not reauthentication.is_fresh(request):
        return reauthentication.ask(request, then=reverse("sessions"))
    session.end()
    if is_current:
        logout(request)
        return redirect("account_login")
    audit_receivers.record_logout_elsewhere(request, current_user(request))
    messages.success(request, _("The device has been logged out."))
    return redirect("sessions")


# --- Data export and account deletion --------------------------------------------------------


class _Export:
    """Yields the data of `user` as JSON, and holds a slot until it is closed. Raise BodiesBusy."""

    def __init__(self, user: User) -> None:
        self._slot = _exports.take(str(user.pk), "Too many exports are being downloaded.")
        self._parts = json_object({"taken_at": timezone.now(), **services.personal_data(user)})

    def __iter__(self) -> Iterator[str]:
        return self._parts

    def close(self) -> None:
        self._slot.release()


@login_required
@require_http_methods(["GET", "HEAD"])
@reauthentication.required
def data(request: HttpRequest) -> StreamingHttpResponse:
    """Stream all personal data of the account as a JSON download."""
    response = StreamingHttpResponse(
        _Export(current_user(request)), content_type="application/json"
    )
    day = timezone.now().date()
    response["Content-Disposition"] = f'attachment; filename="comfyui-keys-{day}.json"'
    response["Cache-Control"] = "no-store, private"
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@reauthentication.required
def delete(request: HttpRequest) -> HttpResponse:
    user = current_user(request)
    form = DeleteAccountForm(request.POST or None, user=user)
    if request.method == "POST" and form.is_valid() and services.may_delete_account(user):
        services.delete_account(user, client_ip=get_adapter(request).get_client_ip(request))
        logout(request)
        messages.success(
            request,
            _(
                "Your account and your personal data have been deleted. Your API "
                "keys no longer work."
            ),
        )
        return redirect("account_login")
    return render(
        request,
        "accounts/delete.html",
        {"form": form, "section": "user", "may_delete_account": services.may_delete_account(user)},
        status=400 if form.errors else 200,
    )


# --- Language --------------------------------------------------------------------------------


@require_POST
def language(request: HttpRequest) -> HttpResponse:
    """Set the language of this browser and, when logged in, of the account."""
    chosen = request.POST.get("language", "")
    if chosen not in dict(settings.LANGUAGES):
        raise Http404
    if request.user.is_authenticated:
        User.objects.filter(pk=request.user.pk).update(language=chosen)
    response: HttpResponse = set_language(request)
    return response
