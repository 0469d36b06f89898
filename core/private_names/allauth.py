"""Private names of django-allauth. Imports models: not before Django is set up."""

from allauth.account.internal.flows.login import record_authentication
from allauth.account.internal.flows.manage_email import add_email
from allauth.account.internal.flows.reauthentication import resume_request
from allauth.account.internal.stagekit import clear_login
from allauth.core.internal import ratelimit
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa.internal.flows.add import validate_can_add_authenticator
from allauth.mfa.totp.internal.auth import validate_totp_code
from allauth.mfa.webauthn.internal import auth as webauthn_auth
from allauth.mfa.webauthn.internal.auth import STATE_SESSION_KEY

__all__ = [
    "STATE_SESSION_KEY",
    "add_email",
    "clear_login",
    "normalize_user_code",
    "ratelimit",
    "record_authentication",
    "resume_request",
    "validate_can_add_authenticator",
    "validate_totp_code",
    "webauthn_auth",
]
