"""Browser security: the content security policy, cookies and HSTS."""

from datetime import timedelta

from django.utils.csp import CSP

from config.settings.base import PRODUCTION, env
from config.settings.network import HTTPS, PUBLIC_URL, is_loopback, public_port
from config.settings.providers import GITHUB_URL, google_urls
from core.origins import origin_of

env.section("Browsers")

SECURE_CSP: dict[str, list[str]] = {
    "default-src": [CSP.NONE],
    # Only the tags that the templates of this response contain, and their imports. 'self' would
    # allow every static file, also vulnerable old libraries.
    "script-src": [CSP.NONCE],
    "style-src": [CSP.SELF],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    # A form that leads to a provider is sent here first and redirected there. PUBLIC_URL: the only
    # origin that a provider redirects back to.
    "form-action": [
        CSP.SELF,
        PUBLIC_URL,
        origin_of(google_urls["AUTHORIZE_URL"] or "https://accounts.google.com"),
        origin_of(GITHUB_URL),
    ],
    "frame-ancestors": [CSP.NONE],
    "base-uri": [CSP.NONE],
    # Strings can't become markup or code, not even in the platform's scripts.
    "require-trusted-types-for": ["'script'"],
    "trusted-types": [CSP.NONE],
}
X_FRAME_OPTIONS = "DENY"
# core.middleware sets it on HTML pages only.
SECURE_CROSS_ORIGIN_OPENER_POLICY = None
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# Cookies are shared by all ports of a host: without the port in their names, two platforms on one
# machine would log each other's users out. `__Host-` keeps sibling subdomains from setting them.
cookie_suffix = f"_{public_port}" if public_port else ""
cookie_prefix = "__Host-" if HTTPS else ""
SESSION_COOKIE_NAME = f"{cookie_prefix}session{cookie_suffix}"
CSRF_COOKIE_NAME = f"{cookie_prefix}csrf{cookie_suffix}"
CSRF_FAILURE_VIEW = "core.error_views.csrf_failure"
# HSTS holds for all ports of a name, on some of which a ComfyUI may serve http.
_hsts = timedelta(days=365) if PRODUCTION or not public_port else timedelta()
SECURE_HSTS_SECONDS: int = env.integer(
    "HSTS_SECONDS",
    default=int(_hsts.total_seconds()),
    default_help="a year with `PRODUCTION` or without a port in `PUBLIC_URL`; else `0`",
    least=0,
    most=10**9,
    help="How long browsers keep to https, in seconds, for all ports of the host "
    "([when](deployment.md#tls-and-plain-http)). Never sent for a loopback host.",
)
if not HTTPS or is_loopback:
    SECURE_HSTS_SECONDS = 0
SECURE_HSTS_INCLUDE_SUBDOMAINS: bool = env.boolean(
    "HSTS_SUBDOMAINS",
    default=PRODUCTION,
    default_help="on with `PRODUCTION`",
    help="HSTS includes subdomains of the host. Off for a domain with sites on http below it.",
)
SILENCED_SYSTEM_CHECKS = [
    # HSTS for subdomains and preloading: the owner of the domain decides.
    "security.W005",
    "security.W021",
    # SECURE_SSL_REDIRECT: API paths never redirect, because a key that was sent in plain text is
    # already exposed. core.https_only redirects pages.
    "security.W008",
]
MESSAGE_STORAGE = "core.message_storage.Storage"
