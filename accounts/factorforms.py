"""The forms of passkeys and codes, where ours differ from django-allauth's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.core import context, ratelimit
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa import app_settings
from allauth.mfa.adapter import get_adapter
from allauth.mfa.base import forms as factor
from allauth.mfa.internal.flows.add import validate_can_add_authenticator
from allauth.mfa.models import Authenticator
from allauth.mfa.totp import forms as totp
from allauth.mfa.totp.internal.auth import validate_totp_code
from allauth.mfa.webauthn import forms as webauthn
from allauth.mfa.webauthn.internal import auth
from django import forms
from django.core.cache import cache
from django.utils.translation import gettext_lazy as _

from accounts import events
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


@contextmanager
def counted(user: User) -> Iterator[None]:
    """One try at a factor of `user`. So many wrong ones, and no more are looked at for a while.

    What a right one forgives are the wrong ones at factors alone.
    """
    key = str(user.pk)
    if not ratelimit.consume(context.request, action="factor", key=key):
        raise get_account_adapter().validation_error("too_many_login_attempts")
    try:
        yield
    except forms.ValidationError:
        events.refused(context.request, user, why="factor")
        raise
    ratelimit.clear(context.request, action="factor", key=key)


class _CountsTries:
    """A code of the app counts once, for as long as it is good; so does a recovery code."""

    user: User
    cleaned_data: dict[str, Any]
    authenticator: Authenticator

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        with counted(self.user):
            self.authenticator = self._of(code)
        return code

    def _of(self, code: str) -> Authenticator:
        for factor_of_user in Authenticator.objects.filter(user=self.user).exclude(
            type=Authenticator.Type.WEBAUTHN
        ):
            if not factor_of_user.wrap().validate_code(code):
                continue
            if factor_of_user.type != Authenticator.Type.TOTP or spend(self.user, code):
                return factor_of_user
            raise forms.ValidationError(_("This code was used already. Wait for the next one."))
        raise get_adapter().validation_error("incorrect_code")


class AuthenticateForm(_CountsTries, factor.AuthenticateForm):  # type: ignore[misc]
    pass


class ReauthenticateForm(_CountsTries, factor.ReauthenticateForm):  # type: ignore[misc]
    pass


class ActivateTOTPForm(totp.ActivateTOTPForm):  # type: ignore[misc]
    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        validate_can_add_authenticator(self.user)
        with counted(self.user):
            if not validate_totp_code(self.secret, code):
                raise get_adapter().validation_error("incorrect_code")
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
    """A passkey of somebody who is known by now, as a second factor or once more."""

    user: User
    cleaned_data: dict[str, Any]

    def clean_credential(self) -> Any:
        credential = self.cleaned_data["credential"]
        with counted(self.user):
            return _in_words(lambda: self._of(credential))

    def _of(self, credential: Any) -> Any:
        auth.parse_authentication_response(credential)
        return auth.complete_authentication(self.user, credential)


class AuthenticateWebAuthnForm(_AnswersInWords, webauthn.AuthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class ReauthenticateWebAuthnForm(_AnswersInWords, webauthn.ReauthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class LoginWebAuthnForm(webauthn.LoginWebAuthnForm):  # type: ignore[misc]
    def clean_credential(self) -> Any:
        return _in_words(self._of_somebody)

    def _of_somebody(self) -> Any:
        # A challenge that was made for a second factor asks for no finger and no PIN.
        state = auth.get_state() or {}
        if state.get("user_verification") != "required":
            raise get_adapter().validation_error("incorrect_code")
        return super().clean_credential()


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
