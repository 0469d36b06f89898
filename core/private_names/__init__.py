"""Private names of third-party libraries that this project uses, all of them.

A release of a library may remove or change them. `NAMES` lists each name with its use, and
tests/core/test_private_names.py fails for a missing one. The modules of this package re-export the
names, one module per library, so that a process imports only the libraries that it needs. Methods
that a subclass overrides are only listed. Django documents `_meta`, `_state`, `_db`,
`_default_manager` and `_base_manager`, so they are not private.
"""

from typing import Final

# Dotted name: where and why it is used.
NAMES: Final = {
    "allauth.account.adapter.DefaultAccountAdapter._get_login_attempts_cache_key": (
        "accounts.adapters overrides it, to count failed logins without the host name"
    ),
    "allauth.account.internal.flows.login.record_authentication": (
        "accounts record reauthentication by e-mail code and login by a provider"
    ),
    "allauth.account.internal.flows.manage_email.add_email": "accounts.views add an email",
    "allauth.account.internal.flows.reauthentication.resume_request": (
        "accounts.views continue a request after reauthentication by e-mail code"
    ),
    "allauth.account.internal.stagekit.clear_login": "accounts.adapters end a login half-way",
    "allauth.account.views.EmailView._action_primary": (
        "accounts.views override it, so that only a confirmed email becomes the account's"
    ),
    "allauth.core.internal.cryptokit.normalize_user_code": "accounts.mfa_forms read typed codes",
    "allauth.core.internal.ratelimit.consume": (
        "accounts.social and oauth.views need the usage, which the public function hides"
    ),
    "allauth.mfa.internal.flows.add.validate_can_add_authenticator": (
        "accounts.mfa_forms check it before they ask for a code"
    ),
    "allauth.mfa.stages.AuthenticateStage._should_handle": (
        "accounts.mfa overrides it, for accounts with a passkey alone"
    ),
    "allauth.mfa.totp.internal.auth.validate_totp_code": "accounts.mfa_forms check a first code",
    "allauth.mfa.webauthn.internal.auth.STATE_SESSION_KEY": (
        "accounts.login_views keep the challenges of two open pages apart"
    ),
    "allauth.mfa.webauthn.internal.auth.complete_authentication": "accounts.mfa_forms",
    "allauth.mfa.webauthn.internal.auth.get_state": "accounts.mfa_forms",
    "allauth.mfa.webauthn.internal.auth.parse_authentication_response": "accounts.mfa_forms",
    "django.core.cache.backends.db.DatabaseCache._base_set": (
        "core.cache overrides it, to see database errors that Django ignores"
    ),
    "drf_spectacular.openapi.AutoSchema._map_serializer": (
        "apikeys.api.schema adds to the schema of strict serializers"
    ),
    "environs.FileAwareEnv._get_value": (
        "config.env overrides it, to strip values and to read former names"
    ),
    "granian.server.mp.MPServer._spawn_worker": (
        "it reads blocking_threads_idle_timeout, which server.granian_server sets"
    ),
    "granian.server.mp.MPServer._spawn_wsgi_worker": "it calls _wsgi_call_wrap",
    "granian.server.mp._wsgi_call_wrap": "server.granian_server replaces it",
}
