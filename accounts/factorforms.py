"""The forms of passkeys and codes, where ours differ from django-allauth's."""

from collections.abc import Callable
from typing import Any

from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa import app_settings
from allauth.mfa.base import forms as factor
from allauth.mfa.models import Authenticator
from allauth.mfa.totp import forms as totp
from allauth.mfa.webauthn import forms as webauthn
from django import forms
from django.core.cache import cache
from django.utils.translation import gettext_lazy as _

from accounts.models import User

MAX_PASSKEY_NAME = 80
# What allauth and the library below it raise at an answer that no browser gives.
_NONSENSE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def spend(user: User, code: str) -> bool:
    """Uses up a code of an authenticator app. False for one that was used before.

    allauth remembers one for a step. With a tolerance it is good for longer than that.
    """
    good_for = app_settings.TOTP_PERIOD * (2 * app_settings.TOTP_TOLERANCE + 1)
    name = f"spent-code:{user.pk}:{normalize_user_code(code)}"
    return bool(cache.add(name, True, timeout=good_for))


class _SpendsCodes:
    """A code of the app counts once, for as long as it is good."""

    user: User
    authenticator: Authenticator

    def clean_code(self) -> str:
        code: str = super().clean_code()  # type: ignore[misc]
        if self.authenticator.type == Authenticator.Type.TOTP and not spend(self.user, code):
            raise forms.ValidationError(_("This code was used already. Wait for the next one."))
        return code


class AuthenticateForm(_SpendsCodes, factor.AuthenticateForm):  # type: ignore[misc]
    pass


class ReauthenticateForm(_SpendsCodes, factor.ReauthenticateForm):  # type: ignore[misc]
    pass


class ActivateTOTPForm(totp.ActivateTOTPForm):  # type: ignore[misc]
    def clean_code(self) -> str:
        code: str = super().clean_code()
        spend(self.user, code)
        return code


def _in_words[Result](read: Callable[[], Result]) -> Result:
    """`read()`, with one refusal in words for all that can be wrong with a passkey."""
    refusal = forms.ValidationError(
        _("This passkey was not accepted here. Try again, or take another way."), code="passkey"
    )
    try:
        return read()
    except forms.ValidationError as error:
        if getattr(error, "code", None) == "incorrect_code":
            raise refusal from None
        raise
    except _NONSENSE:
        raise refusal from None


class _AnswersInWords:
    def clean_credential(self) -> Any:
        return _in_words(super().clean_credential)  # type: ignore[misc]


class AuthenticateWebAuthnForm(_AnswersInWords, webauthn.AuthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class LoginWebAuthnForm(_AnswersInWords, webauthn.LoginWebAuthnForm):  # type: ignore[misc]
    pass


class ReauthenticateWebAuthnForm(_AnswersInWords, webauthn.ReauthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class _MakesPasskeys:
    def clean_name(self) -> str:
        # Never refused: the device has made the passkey by now.
        return str(super().clean_name())[:MAX_PASSKEY_NAME]  # type: ignore[misc]

    def clean(self) -> Any:
        return _in_words(super().clean)  # type: ignore[misc]


class AddWebAuthnForm(_MakesPasskeys, webauthn.AddWebAuthnForm):  # type: ignore[misc]
    pass


class SignupWebAuthnForm(_MakesPasskeys, webauthn.SignupWebAuthnForm):  # type: ignore[misc]
    pass


class EditWebAuthnForm(webauthn.EditWebAuthnForm):  # type: ignore[misc]
    name = forms.CharField(label=_("Name"), max_length=MAX_PASSKEY_NAME)
