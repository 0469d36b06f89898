"""The forms of signing in and up, where ours differ from django-allauth's."""

from typing import Any

from allauth.account import app_settings
from allauth.account import forms as allauth_forms
from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from django import forms
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from accounts import services
from accounts.models import User
from config import text

# The validators' own help is a list of four sentences, of which people read none.
PASSWORD_HELP = _("At least 10 characters, and not one of the common ones.")


class PublicDeviceField(forms.BooleanField):
    """ "Public device": the session is to end with the browser."""

    def __init__(self) -> None:
        super().__init__(
            label=_("This is a public device"),
            required=False,
            help_text=_("You are logged out when the browser closes."),
        )


def end_with_browser(request: HttpRequest) -> None:
    """Ends the session with the browser, whenever the form that was sent says so."""
    if request.POST.get("public_device"):
        request.session.set_expiry(0)


class LoginForm(allauth_forms.LoginForm):  # type: ignore[misc]
    public_device = PublicDeviceField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Password managers look for a username; here that is the address.
        self.fields["login"].widget.attrs["autocomplete"] = "username"
        # The page has its own link for this, beside the label.
        self.fields["password"].help_text = ""

    def login(self, request: HttpRequest, redirect_url: str | None = None) -> HttpResponse:
        response: HttpResponse = super().login(request, redirect_url=redirect_url)
        end_with_browser(request)
        return response


class CodeForm(forms.Form):
    """A code that came by mail."""

    code = forms.CharField(
        label=_("Code"),
        max_length=32,
        widget=forms.TextInput(
            attrs={"autocomplete": "one-time-code", "autocapitalize": "characters"}
        ),
    )


class DeleteAccountForm(forms.Form):
    """What one types to show that one means it: the address of the account."""

    email = forms.CharField(
        label=_("Email address"),
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off", "inputmode": "email"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = user

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"].strip()
        if email.lower() != self._user.email:
            raise forms.ValidationError(
                _("This is not the address of this account. Nothing was deleted."), code="other"
            )
        return email


class SignupForm(allauth_forms.SignupForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].widget.attrs["autocomplete"] = "username"
        # With a passkey there is no password.
        if "password1" in self.fields:
            self.fields["password1"].help_text = PASSWORD_HELP

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        if self.account_already_exists and "password1" in self.cleaned_data:
            # A new account hashes its password. An existing one takes as long to say nothing.
            make_password(self.cleaned_data["password1"])
        user, response = super().try_save(request)
        return user, response


class _ShortHelp:
    """A new password, with one sentence on what makes a good one."""

    fields: dict[str, forms.Field]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password1"].help_text = PASSWORD_HELP
        if "oldpassword" in self.fields:
            self.fields["oldpassword"].help_text = ""


class ChangePasswordForm(_ShortHelp, allauth_forms.ChangePasswordForm):  # type: ignore[misc]
    pass


class SetPasswordForm(_ShortHelp, allauth_forms.SetPasswordForm):  # type: ignore[misc]
    pass


class ResetPasswordForm(allauth_forms.ResetPasswordForm):  # type: ignore[misc]
    def clean_email(self) -> str:
        email: str = super().clean_email()
        # An address that somebody only asked to change to may be another person's mailbox.
        self.users = list(User.objects.filter(email=email.lower(), is_active=True))
        return email


class RequestLoginCodeForm(allauth_forms.RequestLoginCodeForm):  # type: ignore[misc]
    def clean_email(self) -> str:
        email: str = super().clean_email()
        get_adapter().clean_email(email)
        # The same as with a reset.
        self._user = User.objects.filter(email=email.lower(), is_active=True).first()
        return email


class AddEmailForm(allauth_forms.AddEmailForm):  # type: ignore[misc]
    """A new address, which counts once it is confirmed. Until then the one so far stays.

    Without codes, allauth takes an account's own address, where that was never confirmed, for the
    one asked for before, and removes it.
    """

    def save(self, request: HttpRequest) -> EmailAddress:
        if app_settings.EMAIL_VERIFICATION_BY_CODE_ENABLED:
            return super().save(request)
        addresses = EmailAddress.objects.filter(user=self.user)
        with transaction.atomic():
            addresses.filter(verified=False).exclude(email=self.user.email).delete()
            addresses.filter(email=self.user.email).update(primary=True)
            asked_for = EmailAddress.objects.create(
                user=self.user, email=self.cleaned_data["email"]
            )
        asked_for.send_confirmation(request)
        return asked_for


class ResetPasswordKeyForm(_ShortHelp, allauth_forms.ResetPasswordKeyForm):  # type: ignore[misc]
    def save(self) -> None:
        super().save()
        # Whoever follows the link has the mailbox.
        services.prove_address(self.user)


class ProfileForm(forms.ModelForm[User]):
    class Meta:
        model = User
        fields = ["name", "language", "notices"]
        widgets = {
            "name": forms.TextInput(attrs={"autocomplete": "name"}),
            "notices": forms.RadioSelect,
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Names of languages are read by those who speak them: they are not translated.
        self.fields["language"].choices = [("", _("As my browser asks")), *settings.LANGUAGES]  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name = text.tidy(self.cleaned_data["name"])
        if text.has_controls(name):
            raise forms.ValidationError(
                _("This name has an invisible control character. Remove it."), code="controls"
            )
        return name
