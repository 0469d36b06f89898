"""Addresses of signing in and of the User section.

allauth's views under our own addresses, one by one: what is not listed does not exist. Left out
are Google's one-tap login (google/login/token/), which takes a POST from any site without CSRF,
and the download of recovery codes, which are shown once.
"""

from allauth.account import app_settings
from allauth.account import views as account
from allauth.mfa import app_settings as mfa_settings
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from allauth.socialaccount import views as social
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from django.urls import path, re_path

from accounts import entrance, views
from accounts.github.provider import GitHubAdapter
from accounts.google.provider import GoogleAdapter

_signing_in = [
    path("login", entrance.login, name="account_login"),
    path(
        "login/code",
        entrance.on_public_devices_too(account.request_login_code),
        name="account_request_login_code",
    ),
    path("login/code/confirm", account.confirm_login_code, name="account_confirm_login_code"),
    path(
        "login/passkey",
        entrance.login_by_passkey,
        name="mfa_login_webauthn",
    ),
    path("login/factor", entrance.login_by_factor, name="mfa_authenticate"),
    path("signup", account.signup, name="account_signup"),
    path("logout", account.logout, name="account_logout"),
    path("language", views.language, name="set_language"),
    path("account/inactive", account.account_inactive, name="account_inactive"),
    path(
        "account/confirm-email",
        account.email_verification_sent,
        name="account_email_verification_sent",
    ),
    path("account/password/reset", account.password_reset, name="account_reset_password"),
    path(
        "account/password/reset/sent",
        account.password_reset_done,
        name="account_reset_password_done",
    ),
    path(
        "account/password/reset/done",
        account.password_reset_from_key_done,
        name="account_reset_password_from_key_done",
    ),
    re_path(
        r"^account/password/reset/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[-\w]+)$",
        account.password_reset_from_key,
        name="account_reset_password_from_key",
    ),
    path("account/logins/signup", entrance.social_signup, name="socialaccount_signup"),
    path("account/logins/cancelled", social.login_cancelled, name="socialaccount_login_cancelled"),
    path("account/logins/error", social.login_error, name="socialaccount_login_error"),
    # Where providers send people back to: staff register these two, slash included.
    path(
        "account/logins/google/login/callback/",
        OAuth2CallbackView.adapter_view(GoogleAdapter),
        name="google_callback",
    ),
    path(
        "account/logins/github/login/callback/",
        OAuth2CallbackView.adapter_view(GitHubAdapter),
        name="github_callback",
    ),
    path(
        "account/logins/google/login/",
        entrance.leads_to_provider(OAuth2LoginView.adapter_view(GoogleAdapter)),
        name="google_login",
    ),
    path(
        "account/logins/github/login/",
        entrance.leads_to_provider(OAuth2LoginView.adapter_view(GitHubAdapter)),
        name="github_login",
    ),
]

if not app_settings.EMAIL_VERIFICATION_BY_CODE_ENABLED:
    # Without a mail server nobody waits for a code: the link is printed where the platform runs.
    _signing_in.append(
        re_path(
            r"^account/confirm-email/(?P<key>[-:\w]+)$",
            account.confirm_email,
            name="account_confirm_email",
        )
    )
if mfa_settings.PASSKEY_SIGNUP_ENABLED:
    _signing_in += [
        path("signup/passkey", account.signup_by_passkey, name="account_signup_by_passkey"),
        path("signup/passkey/create", webauthn.signup_webauthn, name="mfa_signup_webauthn"),
    ]

_reauthenticating = [
    path("account/reauthenticate", entrance.reauthenticate, name="account_reauthenticate"),
    path(
        "account/reauthenticate/factor",
        entrance.reauthenticate_by_factor,
        name="mfa_reauthenticate",
    ),
    path(
        "account/reauthenticate/passkey",
        entrance.reauthenticate_by_passkey,
        name="mfa_reauthenticate_webauthn",
    ),
    path(
        "account/reauthenticate/mail", views.reauthenticate_by_mail, name="reauthenticate_by_mail"
    ),
]

_user_section = [
    path("account/", views.profile, name="account"),
    path("account/email", views.email, name="account_email"),
    path("account/email/approve", views.approve_email, name="approve_email"),
    path("account/password/change", account.password_change, name="account_change_password"),
    path("account/password/set", entrance.set_password, name="account_set_password"),
    path("account/logins", social.connections, name="socialaccount_connections"),
    path("account/factors", mfa.index, name="mfa_index"),
    path("account/factors/app/activate", totp.activate_totp, name="mfa_activate_totp"),
    path("account/factors/app/deactivate", totp.deactivate_totp, name="mfa_deactivate_totp"),
    path(
        "account/factors/recovery-codes",
        recovery_codes.view_recovery_codes,
        name="mfa_view_recovery_codes",
    ),
    path(
        "account/factors/recovery-codes/generate",
        recovery_codes.generate_recovery_codes,
        name="mfa_generate_recovery_codes",
    ),
    path("account/factors/passkeys", webauthn.list_webauthn, name="mfa_list_webauthn"),
    path("account/factors/passkeys/add", webauthn.add_webauthn, name="mfa_add_webauthn"),
    path(
        "account/factors/passkeys/<int:pk>/remove",
        entrance.remove_passkey,
        name="mfa_remove_webauthn",
    ),
    path(
        "account/factors/passkeys/<int:pk>/rename",
        webauthn.edit_webauthn,
        name="mfa_edit_webauthn",
    ),
    path("account/sessions", views.sessions, name="sessions"),
    path("account/sessions/<int:session_id>/end", views.end_session, name="end_session"),
    path("account/data", views.data, name="account_data"),
    path("account/delete", views.delete, name="delete_account"),
]

urlpatterns = [*_signing_in, *_reauthenticating, *_user_section]
