"""Login with Google and GitHub."""

from typing import Any

from config.parsers import provider_url_problem
from config.settings.base import LOOPBACK, env

env.section("Login with Google and GitHub")

SOCIALACCOUNT_ADAPTER = "accounts.social.SocialAccountAdapter"
SOCIALACCOUNT_FORMS = {"disconnect": "accounts.social.DisconnectForm"}
SOCIALACCOUNT_LOGIN_ON_GET = False
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_QUERY_EMAIL = True
# Seconds that a provider has to answer.
SOCIALACCOUNT_REQUESTS_TIMEOUT = 5


def _client(name: str, title: str) -> list[dict[str, str]]:
    """Return the client that is registered with a provider, or an empty list."""
    client_id = env.text(
        f"{name}_CLIENT_ID",
        help=f"The OAuth client of [Continue with {title}](deployment.md#google-and-github). "
        f"Without it there is no such button.",
    )
    secret = env.text(f"{name}_CLIENT_SECRET", help=f"The secret of `{name}_CLIENT_ID`.")
    if bool(client_id) != bool(secret):
        env.add_error(
            f"{name}_CLIENT_ID", f"and {name}_CLIENT_SECRET go together: set both or none."
        )
    return [{"client_id": client_id, "secret": secret}] if client_id and secret else []


def _url(name: str, *, default_help: str, help: str) -> str | None:
    """Return the URL of a provider, which receives secrets and issues ID tokens."""
    url = env.text(name, kind="URL", default_help=default_help, help=help)
    if url is not None and (problem := provider_url_problem(url, loopback=LOOPBACK)):
        env.add_error(name, problem)
        return "https://missing.invalid"
    return url


_GOOGLE_VARIABLES = {
    "AUTHORIZE_URL": ("GOOGLE_AUTHORIZE_URL", "authorization endpoint"),
    "ACCESS_TOKEN_URL": ("GOOGLE_TOKEN_URL", "token endpoint"),
    "IDENTITY_URL": ("GOOGLE_USERINFO_URL", "userinfo endpoint"),
    "ID_TOKEN_ISSUER": ("GOOGLE_ISSUER", "issuer"),
}
google_urls = {
    name: _url(
        variable,
        default_help="Google's",
        help=f"The {what} of an OpenID Connect server that replaces Google. Set all four of these "
        "URLs or none.",
    )
    for name, (variable, what) in _GOOGLE_VARIABLES.items()
}
if any(google_urls.values()):
    _names = [variable for variable, _what in _GOOGLE_VARIABLES.values()]
    for _name, (_variable, _what) in _GOOGLE_VARIABLES.items():
        if not google_urls[_name]:
            # Google would receive the other server's codes and secrets.
            env.add_error(_variable, f"is missing: {', '.join(_names)} go together, all or none.")

GITHUB_URL: str = (
    _url(
        "GITHUB_URL",
        default_help="`https://github.com`",
        help="The URL of a GitHub Enterprise Server.",
    )
    or "https://github.com"
).rstrip("/")

SOCIALACCOUNT_PROVIDERS: dict[str, dict[str, Any]] = {
    "google": {
        "APPS": _client("GOOGLE", "Google"),
        "OAUTH_PKCE_ENABLED": True,
        "SCOPE": ["openid", "profile", "email"],
        # allauth's default is not OpenID Connect's endpoint, and returns no `sub`.
        "IDENTITY_URL": "https://openidconnect.googleapis.com/v1/userinfo",
        **{name: url for name, url in google_urls.items() if url},
    },
    "github": {
        "APPS": _client("GITHUB", "GitHub"),
        "OAUTH_PKCE_ENABLED": True,
        "SCOPE": ["user:email"],
        # allauth derives other API paths from a URL that is set, even from GitHub's own.
        **({"GITHUB_URL": GITHUB_URL} if GITHUB_URL != "https://github.com" else {}),
    },
}
