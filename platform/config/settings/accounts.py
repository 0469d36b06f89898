"""Accounts: login, passwords, sessions, rate limits of allauth, and MFA."""

from datetime import timedelta

from config.settings.base import PRODUCTION, env

env.section("Accounts")

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
PASSWORD_HASHERS = [
    "accounts.hashers.PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "accounts.password_validation.SimilarityValidator",
        "OPTIONS": {"user_attributes": ["email", "name"]},
    },
    {"NAME": "accounts.password_validation.LengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "accounts.password_validation.DecoratedCommonPasswordValidator"},
    {"NAME": "accounts.password_validation.SiteWordsValidator"},
]

LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "keys"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "accounts.adapters.AccountAdapter"
ACCOUNT_FORMS = {
    "login": "accounts.forms.LoginForm",
    "signup": "accounts.forms.SignupForm",
    "change_password": "accounts.forms.ChangePasswordForm",
    "set_password": "accounts.forms.SetPasswordForm",
    "reset_password": "accounts.forms.ResetPasswordForm",
    "reset_password_from_key": "accounts.forms.ResetPasswordKeyForm",
    "request_login_code": "accounts.forms.RequestLoginCodeForm",
    "add_email": "accounts.forms.AddEmailForm",
}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True
# accounts.views.reauthenticate_by_mail adds a third method, an e-mail code.
ACCOUNT_REAUTHENTICATION_METHODS = ["password", "mfa"]
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_USER_DISPLAY = "accounts.services.display_name"
ACCOUNT_LOGIN_BY_CODE_ENABLED = True
ACCOUNT_LOGIN_BY_CODE_SUPPORTS_RESEND = True
ACCOUNT_RATE_LIMITS = {
    # The limits per e-mail address are those of accounts.mail, so that the page can show them.
    "reset_password": "20/m/ip,5/h/key",
    "request_login_code": "20/m/ip,3/m/key,5/h/key",
    # E-mail codes for a user who is logged in.
    "mail_code": "6/h/user",
    "mail_code_try": "3/15m/key",
    # Codes and passkeys as second factors. allauth counts them with failed logins, where a correct
    # one would reset the count of wrong passwords of that e-mail address.
    "factor": "5/5m/key",
    # Passwords from a browser that has logged in to the account before.
    "known_device": "5/5m/key",
    # Off: allauth's limit includes known devices, which others on the same network could then lock
    # out. accounts.login_views.login limits the other ones.
    "login": "",
    "log_in": "30/m/ip",
    # Failures of a login provider that are logged and recorded.
    "provider_failure": "10/m/ip",
    # With allauth's "1/10s", a login right after sign-up is refused as too many wrong passwords.
    "confirm_email": "5/10m/key",
    # OAuth device grants that are started, and user codes that are entered for one.
    "device_code": "30/h/ip",
    "device_try": "10/10m/user,30/10m/ip",
    # Reports of exposed keys.
    "leak_report": "20/h/ip",
    # Logins with Google or GitHub that are started: each creates a session.
    "social_login": "30/m/ip",
}
# How recent a login must be for sensitive actions, and for creating a key.
REAUTHENTICATION_GRACE = timedelta(minutes=10)
LONG_SESSION = timedelta(hours=12)
# A session expires this long after the last request, and this long after login. The staff pages
# require a new login sooner (docs/asvs.md).
SESSION_IDLE = timedelta(days=14)
SESSION_LIFETIME = timedelta(days=30)
# Sessions without a user, during login and sign-up: longer than any code or link is valid.
ANONYMOUS_SESSION_LIFETIME = timedelta(hours=1)
STAFF_IDLE = timedelta(minutes=30)
STAFF_LIFETIME = timedelta(hours=12)
# Stores digests of session IDs.
SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_AGE = int(SESSION_LIFETIME.total_seconds())
SESSION_SERIALIZER = "core.session_serializer.SessionSerializer"
# Anyone who reads the mail can use what is in it: codes expire in minutes, links in an hour.
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_TIMEOUT = int(timedelta(minutes=10).total_seconds())
PASSWORD_RESET_TIMEOUT = int(timedelta(hours=1).total_seconds())

MFA_ADAPTER = "accounts.mfa.MFAAdapter"
MFA_FORMS = {
    "authenticate": "accounts.mfa_forms.AuthenticateForm",
    "reauthenticate": "accounts.mfa_forms.ReauthenticateForm",
    "activate_totp": "accounts.mfa_forms.ActivateTOTPForm",
    "authenticate_webauthn": "accounts.mfa_forms.AuthenticateWebAuthnForm",
    "login_webauthn": "accounts.mfa_forms.LoginWebAuthnForm",
    "reauthenticate_webauthn": "accounts.mfa_forms.ReauthenticateWebAuthnForm",
    "add_webauthn": "accounts.mfa_forms.AddWebAuthnForm",
    "signup_webauthn": "accounts.mfa_forms.SignupWebAuthnForm",
    "edit_webauthn": "accounts.mfa_forms.EditWebAuthnForm",
}
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
# A code stays valid one step (30 s) longer: clocks differ, and people type slowly.
MFA_TOTP_TOLERANCE = 1
KEYS_NEED_SECOND_FACTOR: bool = env.boolean(
    "KEYS_NEED_SECOND_FACTOR",
    default=False,
    help="Everyone needs a second factor or a passkey before a key is shown.",
)
STAFF_SECOND_FACTOR: bool = env.boolean(
    "STAFF_SECOND_FACTOR",
    default=PRODUCTION,
    default_help="on with `PRODUCTION`",
    help="Staff need a second factor or a passkey before the staff pages open.",
)
