"""Google's ID tokens: signature, audience, and fetching of keys."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
import requests
from allauth.socialaccount.models import SocialApp
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from accounts import providers as answers
from accounts.google import idtokens
from accounts.google.provider import GoogleAdapter
from accounts.models import User
from accounts.providers import ProviderError
from tests.factories import who_is_in
from tests.provider_session import continue_with

CLIENT = "client"
_OURS = rsa.generate_private_key(65537, 2048)
_OTHERS = rsa.generate_private_key(65537, 2048)


@dataclass
class Issuer:
    """The JWKS and metadata of an OpenID provider."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=lambda: {"k1": _OURS})
    metadata: dict[str, Any] = field(default_factory=dict)
    # Replaces the response with the keys.
    send_keys: Callable[[BaseHTTPRequestHandler], None] | None = None

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        if handler.path == "/.well-known/openid-configuration":
            content = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.metadata}
        elif self.send_keys is not None:
            self.send_keys(handler)
            return
        else:
            content = {
                "keys": [
                    {
                        **RSAAlgorithm.to_jwk(key.public_key(), as_dict=True),
                        "kid": name,
                        "use": "sig",
                        "alg": "RS256",
                    }
                    for name, key in self.keys.items()
                ]
            }
        body = json.dumps(content).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def token(self, key: Any = _OURS, *, kid: str | None = "k1", **claims: Any) -> str:
        base = {
            "iss": self.url,
            "sub": "g-1",
            "aud": CLIENT,
            "exp": time.time() + 60,
            "iat": time.time(),
        }
        content = {name: value for name, value in {**base, **claims}.items() if value is not None}
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(content, key, algorithm="RS256", headers=headers)

    def verify(self, token: str) -> dict[str, Any]:
        return idtokens.verify(token, client_id=CLIENT, issuer=self.url)


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    running = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.respond(self)

        def log_message(self, *_given: object) -> None:
            pass

    idtokens.clear_key_cache()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        running.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        server.shutdown()
        thread.join()
    idtokens.clear_key_cache()


def test_a_token_signed_by_the_issuer_for_this_client_is_accepted(issuer):
    assert issuer.verify(issuer.token())["sub"] == "g-1"
    assert issuer.verify(issuer.token(aud=[CLIENT]))["aud"] == [CLIENT]
    assert issuer.verify(issuer.token(aud=[CLIENT, "other"], azp=CLIENT))
    assert issuer.verify(issuer.token(kid=None)), "one key needs no id"


def unsigned(issuer: Issuer) -> str:
    good = jwt.decode(issuer.token(), options={"verify_signature": False})
    return jwt.encode(good, None, algorithm="none", headers={"kid": "k1"})


def by_shared_secret(issuer: Issuer) -> str:
    good = jwt.decode(issuer.token(), options={"verify_signature": False})
    return jwt.encode(good, "s" * 40, algorithm="HS256", headers={"kid": "k1"})


def cut(issuer: Issuer) -> str:
    return issuer.token().rpartition(".")[0] + "."


def altered(issuer: Issuer) -> str:
    header, _claims, signature = issuer.token().split(".")
    return f"{header}.{issuer.token(_OTHERS, sub='g-2').split('.')[1]}.{signature}"


@pytest.mark.parametrize(
    "make",
    [
        lambda issuer: issuer.token(_OTHERS),
        lambda issuer: issuer.token(kid="k2"),
        lambda issuer: issuer.token(iss="https://accounts.google.com"),
        lambda issuer: issuer.token(aud="other"),
        lambda issuer: issuer.token(aud=["other"]),
        lambda issuer: issuer.token(aud=[CLIENT, "other"]),
        lambda issuer: issuer.token(aud=[CLIENT, "other"], azp="other"),
        lambda issuer: issuer.token(azp="other"),
        lambda issuer: issuer.token(aud=None),
        lambda issuer: issuer.token(sub=None),
        lambda issuer: issuer.token(exp=None),
        lambda issuer: issuer.token(exp=time.time() - 60),
        lambda issuer: issuer.token(iat=time.time() + 600),
        lambda issuer: "nonsense",
        lambda issuer: "",
        unsigned,
        by_shared_secret,
        cut,
        altered,
    ],
)
def test_other_tokens_are_refused(issuer, make):
    with pytest.raises(ProviderError):
        issuer.verify(make(issuer))


# --- Keys ------------------------------------------------------------------------------------


def test_keys_are_fetched_once_for_many_tokens(issuer):
    for _ in range(3):
        issuer.verify(issuer.token())
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_a_new_key_is_fetched_at_a_limited_rate(issuer, monkeypatch):
    issuer.verify(issuer.token())
    issuer.keys = {"k1": _OURS, "k2": _OTHERS}
    for _ in range(3):
        with pytest.raises(ProviderError):
            issuer.verify(issuer.token(_OTHERS, kid="k2"))
    assert len(issuer.asked) == 2
    now = time.monotonic
    monkeypatch.setattr(idtokens.time, "monotonic", lambda: now() + 61)
    assert issuer.verify(issuer.token(_OTHERS, kid="k2"))


def test_a_withdrawn_key_is_accepted_for_at_most_an_hour(issuer, monkeypatch):
    issuer.verify(issuer.token())
    issuer.keys = {"k2": _OTHERS}
    now = time.monotonic
    monkeypatch.setattr(idtokens.time, "monotonic", lambda: now() + 3601)
    with pytest.raises(ProviderError):
        issuer.verify(issuer.token())


def too_long(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(b" " * 65_536)


def byte_by_byte(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def nothing(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


@pytest.mark.parametrize("send", [too_long, byte_by_byte, nothing])
def test_a_response_is_bounded_in_size_and_time(issuer, monkeypatch, settings, send):
    monkeypatch.setattr(answers, "MAX_RESPONSE_SECONDS", 0.5)
    settings.SOCIALACCOUNT_REQUESTS_TIMEOUT = 1
    issuer.send_keys = send
    began = time.monotonic()
    with pytest.raises(requests.RequestException):
        issuer.verify(issuer.token())
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "metadata", [{"issuer": "https://evil.example"}, {"jwks_uri": "http://keys.example/keys"}]
)
def test_metadata_with_foreign_urls_are_refused(issuer, metadata):
    issuer.metadata = metadata
    with pytest.raises(ProviderError):
        issuer.verify(issuer.token())
    assert issuer.asked == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"keys": []}', b'{"keys": [5]}', b"<html>"])
def test_malformed_keys_are_refused_with_a_message(issuer, content, rf):
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    issuer.send_keys = send
    adapter = GoogleAdapter(rf.get("/"))
    adapter.id_token_issuer = issuer.url
    token = {"access_token": "t", "id_token": issuer.token()}
    with pytest.raises((ProviderError, requests.RequestException)):
        adapter.complete_login(rf.get("/"), SocialApp(client_id=CLIENT), None, response=token)


# --- Login ----------------------------------------------------------------------------------


@pytest.fixture
def both(providers):
    idtokens.clear_key_cache()
    yield providers
    idtokens.clear_key_cache()


def test_a_token_signed_by_another_issuer_does_not_log_in(both, client, monkeypatch):
    both.google()
    others = RSAAlgorithm.to_jwk(_OTHERS.public_key(), as_dict=True)
    keys = {"keys": [{**others, "kid": "k1", "use": "sig", "alg": "RS256"}]}
    with monkeypatch.context() as patched:
        patched.setattr(both, "get", lambda url, **more: both.json_response(keys))
        response = continue_with(client, both, "google")
    assert response.status_code == 401
    assert who_is_in(client) is None
    idtokens.clear_key_cache()
    assert continue_with(client, both, "google").status_code == 302
    assert who_is_in(client)


def test_claims_missing_in_the_id_token_are_fetched(both, client, monkeypatch):
    both.claims = {"sub": "g-1"}
    get = both.get
    info = {"sub": "g-1", "email": "alice@example.org", "email_verified": True, "name": "Alice"}
    monkeypatch.setattr(
        both,
        "get",
        lambda url, **more: both.json_response(info) if "userinfo" in url else get(url, **more),
    )
    info["sub"] = "g-2"
    assert continue_with(client, both, "google").status_code == 401, "about somebody else"
    info["sub"] = "g-1"
    continue_with(client, both, "google")
    assert who_is_in(client)
    assert User.objects.get().email == "alice@example.org"
