"""Forms for passkeys and codes where they differ from django-allauth's."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.core import context, ratelimit
from allauth.mfa import app_settings
from allauth.mfa.adapter import get_adapter
from allauth.mfa.base import forms as factor
from allauth.mfa.models import Authenticator
from allauth.mfa.totp import forms as totp
from allauth.mfa.webauthn import forms as webauthn
from django import forms
from django.core.cache import cache
from django.utils.translation import gettext_lazy as _

from accounts import audit_receivers, device_tracking, mfa
from accounts.models import User
from core import text
from core.encryption import DecryptionError
from core.private_names.allauth import (
    normalize_user_code,
    validate_can_add_authenticator,
    validate_totp_code,
)
from core.private_names.allauth import webauthn_auth as auth
from core.validators import validate_name

logger = logging.getLogger(__name__)

MAX_PASSKEY_NAME = 80
_UNREADABLE = _(
    "This code can't be checked: this site can no longer decrypt your authenticator "
    "app's secret or your recovery codes. Use a passkey, or ask your administrator to "
    "reset your two-factor authentication."
)
# Exceptions of allauth and fido2 for malformed credentials.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def use_code(user: User, code: str) -> bool:
    """Mark a code of an authenticator app as used. Return False if it was used before.

    allauth remembers a used code for one step, but with a tolerance it is valid for longer.
    """
    lifetime = app_settings.TOTP_PERIOD * (2 * app_settings.TOTP_TOLERANCE + 1)
    key = f"spent-code:{user.pk}:{normalize_user_code(code)}"
    return bool(cache.add(key, True, timeout=lifetime))


@contextmanager
def rate_limited(user: User) -> Iterator[None]:
    """Count one attempt at a factor of `user`. Raise ValidationError if the limit is exceeded.

    A browser that `user` has logged in with before has a separate limit. Success resets only the
    limit for factors, not the one for passwords.
    """
    key = device_tracking.rate_limit_key(context.request, user) or str(user.pk)
    if not ratelimit.consume(context.request, action="factor", key=key):
        raise get_account_adapter().validation_error("too_many_login_attempts")
    try:
        yield
    except forms.ValidationError:
        audit_receivers.record_login_failure(context.request, user, reason="factor")
        raise
    ratelimit.clear(context.request, action="factor", key=key)


class _RateLimitedCode:
    """Mixin that limits attempts, and accepts each code of an app and each recovery code once."""

    user: User
    cleaned_data: dict[str, Any]
    authenticator: Authenticator

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        with rate_limited(self.user):
            self.authenticator = self._authenticator_for(code)
        return code

    def _authenticator_for(self, code: str) -> Authenticator:
        """Return the factor that `code` belongs to. Raise ValidationError for other codes."""
        is_unreadable = False
        factors = Authenticator.objects.filter(user=self.user)
        for candidate in factors.exclude(type=Authenticator.Type.WEBAUTHN):
            try:
                if not candidate.wrap().validate_code(code):
                    continue
            except DecryptionError:
                is_unreadable = True
                _log_unreadable(candidate)
                continue
            if candidate.type != Authenticator.Type.TOTP or use_code(self.user, code):
                mfa.reencrypt_all_of(self.user)
                return candidate
            raise forms.ValidationError(_("This code was already used. Wait for the next one."))
        if is_unreadable:
            raise forms.ValidationError(_UNREADABLE, code="unreadable")
        raise get_adapter().validation_error("incorrect_code")


def _log_unreadable(factor_of_user: Authenticator) -> None:
    logger.error(
        "The secret of factor %s (%s) can't be decrypted, so its codes are refused. "
        "Put the SECRET_KEY it was encrypted under into SECRET_KEY_FALLBACKS.",
        factor_of_user.pk,
        factor_of_user.type,
    )


class AuthenticateForm(_RateLimitedCode, factor.AuthenticateForm):  # type: ignore[misc]
    pass


class ReauthenticateForm(_RateLimitedCode, factor.ReauthenticateForm):  # type: ignore[misc]
    pass


class ActivateTOTPForm(totp.ActivateTOTPForm):  # type: ignore[misc]
    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        validate_can_add_authenticator(self.user)
        with rate_limited(self.user):
            if not validate_totp_code(self.secret, code):
                raise get_adapter().validation_error("incorrect_code")
            use_code(self.user, code)
        return code


def _with_one_error[Result](read: Callable[[], Result]) -> Result:
    """Return `read()`, with one error message for everything that is wrong with a passkey."""
    invalid = forms.ValidationError(
        _("This passkey was not accepted. Try again or use another method."), code="passkey"
    )
    try:
        return read()
    except forms.ValidationError as error:
        if getattr(error, "code", None) == "incorrect_code":
            raise invalid from None
        raise
    except _MALFORMED:
        raise invalid from None


class _RateLimitedCredential:
    """Mixin for a passkey as second factor or for reauthentication."""

    user: User
    cleaned_data: dict[str, Any]

    def clean_credential(self) -> Any:
        credential = self.cleaned_data["credential"]
        with rate_limited(self.user):
            return _with_one_error(lambda: self._authenticate(credential))

    def _authenticate(self, credential: Any) -> Any:
        auth.parse_authentication_response(credential)
        return auth.complete_authentication(self.user, credential)


class AuthenticateWebAuthnForm(_RateLimitedCredential, webauthn.AuthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class ReauthenticateWebAuthnForm(_RateLimitedCredential, webauthn.ReauthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class LoginWebAuthnForm(webauthn.LoginWebAuthnForm):  # type: ignore[misc]
    def clean_credential(self) -> Any:
        return _with_one_error(self._authenticate)

    def _authenticate(self) -> Any:
        # The challenge for a second factor does not require user verification (fingerprint, PIN).
        state = auth.get_state() or {}
        if state.get("user_verification") != "required":
            raise get_adapter().validation_error("incorrect_code")
        return super().clean_credential()


class _CreatesPasskey:
    def clean_name(self) -> str:
        # A name that is too long is cut, since the device has already created the passkey.
        return _validated_name(str(super().clean_name()))[:MAX_PASSKEY_NAME]  # type: ignore[misc]

    def clean(self) -> Any:
        return _with_one_error(super().clean)  # type: ignore[misc]


class AddWebAuthnForm(_CreatesPasskey, webauthn.AddWebAuthnForm):  # type: ignore[misc]
    pass


class SignupWebAuthnForm(_CreatesPasskey, webauthn.SignupWebAuthnForm):  # type: ignore[misc]
    pass


class EditWebAuthnForm(webauthn.EditWebAuthnForm):  # type: ignore[misc]
    name = forms.CharField(label=_("Name"), max_length=MAX_PASSKEY_NAME)

    def clean_name(self) -> str:
        return _validated_name(self.cleaned_data["name"])


def _validated_name(name: str) -> str:
    name = text.tidy(name)
    validate_name(name)
    return name
