"""Addresses of signing in and of the User section.

allauth's views under our own addresses, one by one: what is not listed does not exist. Left out
is Google's one-tap login (google/login/token/), which takes a POST from any site without CSRF.
"""

from allauth.account import app_settings
from allauth.account import views as account
from allauth.socialaccount import views as social
from allauth.socialaccount.providers.github.provider import GitHubProvider
from allauth.socialaccount.providers.google.provider import GoogleProvider
from allauth.socialaccount.providers.oauth2.urls import default_urlpatterns
from django.urls import include, path, re_path

from accounts import views

urlpatterns = [
    path("login", account.login, name="account_login"),
    path("signup", account.signup, name="account_signup"),
    path("logout", account.logout, name="account_logout"),
    path("account/", views.profile, name="account"),
    path("account/inactive", account.account_inactive, name="account_inactive"),
    path("account/email", account.email, name="account_email"),
    path(
        "account/confirm-email",
        account.email_verification_sent,
        name="account_email_verification_sent",
    ),
    path("account/reauthenticate", account.reauthenticate, name="account_reauthenticate"),
    path("account/password/change", account.password_change, name="account_change_password"),
    path("account/password/set", account.password_set, name="account_set_password"),
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
    path("account/logins", social.connections, name="socialaccount_connections"),
    path("account/logins/signup", social.signup, name="socialaccount_signup"),
    path("account/logins/cancelled", social.login_cancelled, name="socialaccount_login_cancelled"),
    path("account/logins/error", social.login_error, name="socialaccount_login_error"),
    path("account/logins/", include(default_urlpatterns(GoogleProvider))),
    path("account/logins/", include(default_urlpatterns(GitHubProvider))),
]

if not app_settings.EMAIL_VERIFICATION_BY_CODE_ENABLED:
    # Without a mail server nobody waits for a code: the link is printed where the platform runs.
    urlpatterns.append(
        re_path(
            r"^account/confirm-email/(?P<key>[-:\w]+)$",
            account.confirm_email,
            name="account_confirm_email",
        )
    )
