"""Google and GitHub as a replacement of the platform's HTTP session with them.

For tests without servers; tests/providers.py has both as servers.
"""

import json
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
import pytest
from allauth.socialaccount.models import SocialApp
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings as django_settings
from jwt.algorithms import RSAAlgorithm

from accounts.social import SocialAccountAdapter

# The key that signs Google's ID tokens.
_GOOGLES_KEY = rsa.generate_private_key(65537, 2048)


@dataclass
class Providers:
    """Google's and GitHub's endpoints that the platform requests: tokens and user data."""

    # The claims of Google's ID token; GitHub's user and e-mails.
    claims: dict[str, Any] = field(default_factory=dict)
    profile: Any = field(default_factory=dict)
    emails: Any = field(default_factory=list)
    token: str = "gho_an-access-token-of-the-provider"

    def google(
        self, sub: Any = "g-1", email: str = "alice@example.org", **more: Any
    ) -> "Providers":
        self.claims = {"sub": sub, "email": email, "email_verified": True, **more}
        return self

    def github(self, *emails: dict[str, Any], id: Any = 1, **more: Any) -> "Providers":  # noqa: A002
        self.profile, self.emails = {"id": id, "login": "someone", **more}, list(emails)
        return self

    def __enter__(self) -> "Providers":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request(self, _method: str, url: str, **_: Any) -> Any:
        answer: dict[str, Any] = {"access_token": self.token, "expires_in": 3600}
        if "google" in url:
            base = {"iss": "https://accounts.google.com", "aud": "client", "exp": time.time() + 60}
            answer["id_token"] = jwt.encode(
                {**base, **self.claims}, _GOOGLES_KEY, algorithm="RS256", headers={"kid": "k1"}
            )
        return self.json_response(answer)

    def get(self, url: str, **_: Any) -> Any:
        if url.endswith("/certs"):
            public = RSAAlgorithm.to_jwk(_GOOGLES_KEY.public_key(), as_dict=True)
            return self.json_response(
                {"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]}
            )
        return self.json_response(self.emails if url.endswith("/emails") else self.profile)

    @staticmethod
    def json_response(data: Any) -> Any:
        return SimpleNamespace(
            status_code=200,
            ok=True,
            headers={"content-type": "application/json"},
            text=json.dumps(data),
            json=lambda: data,
            raise_for_status=lambda: None,
        )


def mailbox(email: str, *, verified: bool = True, primary: bool = True) -> dict[str, Any]:
    """Return an e-mail as GitHub's API has it."""
    return {"email": email, "verified": verified, "primary": primary}


@pytest.fixture
def providers(db, monkeypatch) -> Providers:
    for name in ("google", "github"):
        SocialApp.objects.create(provider=name, name=name, client_id="client", secret="s" * 40)
    both = Providers()
    monkeypatch.setattr(SocialAccountAdapter, "get_requests_session", lambda self: both)
    return both


def press(client, provider: str, *, form: dict[str, str] | None = None, **query: str):
    """Press the provider's button."""
    return client.post(f"/account/logins/{provider}/login/?{urlencode(query)}", form or {})


def set_out(client, provider: str, **given: Any) -> dict[str, str]:
    """Press the button; return the parameters that were sent to the provider."""
    answer = press(client, provider, **given)
    assert answer.status_code == 302, answer.text
    home = urlsplit(django_settings.PUBLIC_URL).netloc
    if urlsplit(answer["Location"]).netloc == home:
        # At another host name of this machine the button first redirects to PUBLIC_URL.
        before = dict(client.defaults)
        client.defaults["HTTP_HOST"] = home
        answer = press(client, provider, **given)
        client.defaults = before
    assert urlsplit(answer["Location"]).netloc, answer["Location"]
    return dict(parse_qsl(urlsplit(answer["Location"]).query))


def come_back(client, providers: Providers, provider: str, asked: dict[str, str]):
    """Follow the provider's redirect back, after consent, for the request `asked`."""
    if "nonce" in asked:
        providers.claims["nonce"] = asked["nonce"]
    return client.get(
        f"/account/logins/{provider}/login/callback/", {"code": "c", "state": asked["state"]}
    )


def continue_with(client, providers: Providers, provider: str, **query: str):
    return come_back(client, providers, provider, set_out(client, provider, **query))
