"""Forms for login, sign-up and account pages where they differ from django-allauth's."""

from typing import Any, ClassVar

from allauth.account import app_settings
from allauth.account import forms as allauth_forms
from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from django import forms
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts import services
from accounts.models import User

# Replaces the list of four sentences made of the validators' help texts.
PASSWORD_HELP = _("At least 10 characters. Common passwords are not accepted.")


class PublicDeviceField(forms.BooleanField):
    """The checkbox "public device": the session ends with the browser."""

    def __init__(self) -> None:
        super().__init__(
            label=_("This is a public device"),
            required=False,
            help_text=_("You will be logged out when the browser closes."),
        )


def end_with_browser(request: HttpRequest) -> None:
    """Let the session end with the browser if the submitted form has "public device" checked."""
    # Without a session there is nothing to end, and an anonymous client must not create one.
    if request.POST.get("public_device") and not request.session.is_empty():
        request.session.set_expiry(0)


class LoginForm(allauth_forms.LoginForm):  # type: ignore[misc]
    public_device = PublicDeviceField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Password managers look for a username, which is the email here.
        self.fields["login"].widget.attrs["autocomplete"] = "username"
        # allauth's help text is a link to the password reset, which the template renders.
        self.fields["password"].help_text = ""

    def login(self, request: HttpRequest, redirect_url: str | None = None) -> HttpResponse:
        response: HttpResponse = super().login(request, redirect_url=redirect_url)
        end_with_browser(request)
        return response


class CodeForm(forms.Form):
    """Takes an email code."""

    code = forms.CharField(
        label=pgettext_lazy("sent by email", "Code"),
        max_length=32,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "one-time-code",
                "autocapitalize": "characters",
                # Also on right-to-left pages.
                "dir": "ltr",
            }
        ),
    )


class DeleteAccountForm(forms.Form):
    """Takes the account's email as a confirmation."""

    email = forms.CharField(
        label=_("Email"),
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off", "inputmode": "email", "dir": "ltr"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = user

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"].strip()
        if email.lower() != self._user.email:
            raise forms.ValidationError(
                _("This is not the email of this account. Nothing was deleted."), code="other"
            )
        return email


class SignupForm(allauth_forms.SignupForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].widget.attrs["autocomplete"] = "username"
        # Sign-up by passkey has no password field.
        if "password1" in self.fields:
            self.fields["password1"].help_text = PASSWORD_HELP

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        if self.account_already_exists and "password1" in self.cleaned_data:
            # Hash as for a new account, so that timing does not reveal that the account exists.
            User().set_password(self.cleaned_data["password1"])
        user, response = super().try_save(request)
        return user, response


class _ShortHelp:
    """Mixin that shortens the help text of a new password."""

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
        # Only the account's email counts: an unverified new email may belong to someone else.
        self.users = list(User.objects.filter(email=email.lower(), is_active=True))
        return email


class RequestLoginCodeForm(allauth_forms.RequestLoginCodeForm):  # type: ignore[misc]
    def clean_email(self) -> str:
        email: str = super().clean_email()
        get_adapter().clean_email(email)
        # As in ResetPasswordForm.
        self._user = User.objects.filter(email=email.lower(), is_active=True).first()
        return email


class AddEmailForm(allauth_forms.AddEmailForm):  # type: ignore[misc]
    """Adds a new email, which replaces the current one once it is verified.

    Without codes, allauth would remove the account's current email if that was never verified.
    """

    def save(self, request: HttpRequest) -> EmailAddress:
        if app_settings.EMAIL_VERIFICATION_BY_CODE_ENABLED:
            return super().save(request)
        emails = EmailAddress.objects.filter(user=self.user)
        with transaction.atomic():
            emails.filter(verified=False).exclude(email=self.user.email).delete()
            emails.filter(email=self.user.email).update(primary=True)
            added = EmailAddress.objects.create(user=self.user, email=self.cleaned_data["email"])
        added.send_confirmation(request)
        return added


class ResetPasswordKeyForm(_ShortHelp, allauth_forms.ResetPasswordKeyForm):  # type: ignore[misc]
    def save(self) -> None:
        super().save()
        # Following the link proves access to the mailbox.
        services.verify_email(self.user)


class ProfileForm(forms.ModelForm[User]):
    class Meta:
        model = User
        fields = ["name", "language", "notices"]
        widgets = {
            "name": forms.TextInput(attrs={"autocomplete": "name"}),
            "notices": forms.RadioSelect,
        }
        help_texts: ClassVar = {
            "notices": _(
                "We always email you about new devices, password or two-factor changes, and keys "
                "that expire."
            )
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Each language's name is in that language, not translated.
        self.fields["language"].choices = [("", _("Same as my browser")), *settings.LANGUAGES]  # type: ignore[attr-defined]
