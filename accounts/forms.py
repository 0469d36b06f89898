"""The forms of signing in and up, where ours differ from django-allauth's."""

from typing import Any

from allauth.account import forms as allauth_forms
from django import forms
from django.contrib.auth.hashers import make_password
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from config import text

# The validators' own help is a list of four sentences, of which people read none.
PASSWORD_HELP = _("At least 10 characters, and not one of the common ones.")


class LoginForm(allauth_forms.LoginForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Password managers look for a username; here that is the address.
        self.fields["login"].widget.attrs["autocomplete"] = "username"
        # The page has its own link for this, beside the label.
        self.fields["password"].help_text = ""


class SignupForm(allauth_forms.SignupForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].widget.attrs["autocomplete"] = "username"
        self.fields["password1"].help_text = PASSWORD_HELP

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        if self.account_already_exists:
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


class ResetPasswordKeyForm(_ShortHelp, allauth_forms.ResetPasswordKeyForm):  # type: ignore[misc]
    pass


class ProfileForm(forms.ModelForm[User]):
    class Meta:
        model = User
        fields = ["name"]
        widgets = {"name": forms.TextInput(attrs={"autocomplete": "name"})}

    def clean_name(self) -> str:
        name = text.tidy(self.cleaned_data["name"])
        if text.has_controls(name):
            raise forms.ValidationError(
                _("This name has an invisible control character. Remove it."), code="controls"
            )
        return name
