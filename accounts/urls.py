"""URLs of login and of the account pages.

allauth's views are listed one by one. Two are left out on purpose: Google's one-tap login
(google/login/token/), which accepts a POST from any site without CSRF protection, and the download
of recovery codes, which are shown once.
"""

from allauth.account import app_settings
from allauth.account import views as account
from allauth.mfa import app_settings as mfa_settings
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from allauth.socialaccount import views as social
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from django.contrib.auth.decorators import login_required
from django.urls import path, re_path

from accounts import login_views, views
from accounts.github.provider import GitHubAdapter
from accounts.google.provider import GoogleAdapter

_login = [
    path("login", login_views.login, name="account_login"),
    path(
        "login/code",
        login_views.honor_public_device(account.request_login_code),
        name="account_request_login_code",
    ),
    path("login/code/confirm", account.confirm_login_code, name="account_confirm_login_code"),
    path(
        "login/passkey",
        login_views.login_by_passkey,
        name="mfa_login_webauthn",
    ),
    path("login/factor", login_views.login_by_factor, name="mfa_authenticate"),
    path("signup", account.signup, name="account_signup"),
    path("logout", account.logout, name="account_logout"),
    path("language", views.language, name="set_language"),
    path(".well-known/change-password", views.change_password_url, name="change_password_url"),
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
    path("account/logins/signup", login_views.social_signup, name="socialaccount_signup"),
    path("account/logins/cancelled", social.login_cancelled, name="socialaccount_login_cancelled"),
    path("account/logins/error", social.login_error, name="socialaccount_login_error"),
    # Callback URLs. They are registered at the providers with the slash at the end.
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
        login_views.redirect_to_provider(OAuth2LoginView.adapter_view(GoogleAdapter)),
        name="google_login",
    ),
    path(
        "account/logins/github/login/",
        login_views.redirect_to_provider(OAuth2LoginView.adapter_view(GitHubAdapter)),
        name="github_login",
    ),
]

if not app_settings.EMAIL_VERIFICATION_BY_CODE_ENABLED:
    # Without a mail server, mails with a link are printed by the server process.
    _login.append(
        re_path(
            r"^account/confirm-email/(?P<key>[-:\w]+)$",
            account.confirm_email,
            name="account_confirm_email",
        )
    )
if mfa_settings.PASSKEY_SIGNUP_ENABLED:
    _login += [
        path("signup/passkey", account.signup_by_passkey, name="account_signup_by_passkey"),
        path("signup/passkey/create", webauthn.signup_webauthn, name="mfa_signup_webauthn"),
    ]

_reauthentication = [
    path("account/reauthenticate", login_views.reauthenticate, name="account_reauthenticate"),
    path(
        "account/reauthenticate/factor",
        login_views.reauthenticate_by_factor,
        name="mfa_reauthenticate",
    ),
    path(
        "account/reauthenticate/passkey",
        login_views.reauthenticate_by_passkey,
        name="mfa_reauthenticate_webauthn",
    ),
    path(
        "account/reauthenticate/mail", views.reauthenticate_by_mail, name="reauthenticate_by_mail"
    ),
]

_account = [
    path("account/", views.profile, name="account"),
    path("account/email", views.email, name="account_email"),
    path("account/email/approve", views.approve_email, name="approve_email"),
    path("account/password/change", account.password_change, name="account_change_password"),
    path("account/password/set", login_views.set_password, name="account_set_password"),
    path("account/logins", login_views.connections, name="socialaccount_connections"),
    path("account/factors", login_views.mfa_index, name="mfa_index"),
    # allauth's decorator would store an anonymous client's POST in a session, to resume it later.
    path(
        "account/factors/app/activate",
        login_required(totp.activate_totp),
        name="mfa_activate_totp",
    ),
    path(
        "account/factors/app/deactivate",
        login_required(totp.deactivate_totp),
        name="mfa_deactivate_totp",
    ),
    path(
        "account/factors/recovery-codes",
        login_required(login_views.view_recovery_codes),
        name="mfa_view_recovery_codes",
    ),
    path(
        "account/factors/recovery-codes/generate",
        login_required(login_views.generate_recovery_codes),
        name="mfa_generate_recovery_codes",
    ),
    path("account/factors/passkeys", webauthn.list_webauthn, name="mfa_list_webauthn"),
    path(
        "account/factors/passkeys/add",
        login_required(webauthn.add_webauthn),
        name="mfa_add_webauthn",
    ),
    path(
        "account/factors/passkeys/<int:pk>/remove",
        login_views.remove_passkey,
        name="mfa_remove_webauthn",
    ),
    path(
        "account/factors/passkeys/<int:pk>/rename",
        login_required(webauthn.edit_webauthn),
        name="mfa_edit_webauthn",
    ),
    path("account/sessions", views.sessions, name="sessions"),
    path("account/sessions/<int:session_id>/end", views.end_session, name="end_session"),
    path("account/data", views.data, name="account_data"),
    path("account/delete", views.delete, name="delete_account"),
]

urlpatterns = [*_login, *_reauthentication, *_account]
