"""Google and GitHub as servers on this machine, with the protocols of the real ones.

They are stricter, so that a login that works proves more: PKCE with S256 and Google's nonce are
required. What the platform does with their answers is in the tests.
"""

import html
import json
import secrets
import socket
import struct
import time
from abc import ABC, abstractmethod
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import oidc_provider_mock
from werkzeug.test import Client

# Seconds. The platform waits 5 for a provider.
SLOW = 30

Parameters = dict[str, str]


@dataclass(frozen=True, slots=True)
class Address:
    """An e-mail of an account at the provider."""

    email: str
    verified: bool = True
    primary: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """An account at the provider. `uid` never changes."""

    uid: str
    name: str
    addresses: tuple[Address, ...]
    # The public e-mail on GitHub; most people show none.
    public_email: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Parameters
    form: Parameters
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Provider(ABC):
    """A running provider: its accounts, the requests to it, and its current fault."""

    url: str
    people: dict[str, Person] = field(default_factory=dict, init=False)
    # The parameters of the requests to "authorize" and "token", the latest last.
    asked: dict[str, list[Parameters]] = field(init=False, repr=False)
    # One of `troubles`, until it is set to None. It affects the token endpoint.
    trouble: str | None = field(default=None, init=False)
    client_id: str = field(init=False)
    client_secret: str = field(init=False, repr=False)
    ended: Event = field(default_factory=Event, init=False, repr=False)

    troubles: ClassVar[frozenset[str]] = frozenset({"error", "slow", "down", "garbage"})
    # The URLs of both, by the names in `asked`.
    endpoints: ClassVar[dict[str, str]]

    def __post_init__(self) -> None:
        self.asked = {name: [] for name in self.endpoints}
        self.client_id = f"client-{secrets.token_hex(8)}"
        self.client_secret = f"secret-{secrets.token_hex(16)}"

    def __setattr__(self, name: str, value: Any) -> None:
        # With a misspelt fault a test would pass without testing anything.
        if name == "trouble" and value is not None and value not in self.troubles:
            raise ValueError(f"{type(self).__name__} has no trouble called {value!r}.")
        super().__setattr__(name, value)

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the variables that configure the platform for this provider."""

    @abstractmethod
    def answer(self, request: Request) -> Answer: ...

    def person(
        self,
        *,
        uid: str,
        email: str,
        verified: bool = True,
        name: str = "",
        others: tuple[Address, ...] = (),
        public_email: str | None = None,
    ) -> Person:
        """Add or change an account."""
        known = Person(uid, name, (Address(email, verified, primary=True), *others), public_email)
        self.people[uid] = known
        return known


class Google(Provider):
    """The OpenID provider of `oidc-provider-mock`, with the checks that it lacks: PKCE, clients.

    The page has a field "Subject", for the uid, and the buttons "Authorize" and "Deny access".
    """

    # Set before "Authorize" is pressed: the wrong claims are then signed.
    troubles = Provider.troubles | {"wrong-nonce", "wrong-audience", "wrong-issuer"}
    endpoints = {"authorize": "/oauth2/authorize", "token": "/oauth2/token"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mock = Client(oidc_provider_mock.app(require_nonce=True), use_cookies=False)
        # By authorization code: the challenge, and the client it was issued to.
        self._codes: dict[str, tuple[str, str]] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GOOGLE_CLIENT_ID": self.client_id,
            "GOOGLE_CLIENT_SECRET": self.client_secret,
            "GOOGLE_AUTHORIZE_URL": f"{self.url}/oauth2/authorize",
            "GOOGLE_TOKEN_URL": f"{self.url}/oauth2/token",
            "GOOGLE_USERINFO_URL": f"{self.url}/userinfo",
            "GOOGLE_ISSUER": self.url,
        }

    def person(self, *, given_name: str = "", family_name: str = "", **given: Any) -> Person:
        """Add or change an account. By default, the name is split in English order."""
        known = super().person(**given)
        (address,) = known.addresses
        first, _, rest = known.name.partition(" ")
        claims = {
            "email": address.email,
            "email_verified": address.verified,
            "name": known.name,
            "given_name": given_name or first,
            "family_name": family_name or rest,
        }
        self._mock.put(f"/users/{known.uid}", json=claims).close()
        return known

    def answer(self, request: Request) -> Answer:
        if request.path == self.endpoints["authorize"]:
            return self._authorize(request)
        if request.path == self.endpoints["token"]:
            return self._token(request)
        return self._ask(request)

    def _authorize(self, request: Request) -> Answer:
        query = dict(request.query)
        if query.get("client_id") != self.client_id:
            return _refused("invalid_client", HTTPStatus.UNAUTHORIZED)
        if not _has_challenge(query):
            return _refused("invalid_request", description="PKCE with S256 is required.")
        if request.method == "POST" and request.form.get("sub") not in (*self.people, None):
            return _refused("invalid_request", description="Nobody has this subject.")
        if self.trouble == "wrong-nonce":
            query["nonce"] = secrets.token_urlsafe()
        if self.trouble == "wrong-audience":
            query["client_id"] = "somebody-else"
        answer = self._ask(request, query=query)
        back = dict(parse_qsl(urlsplit(answer.headers.get("Location", "")).query))
        if "code" in back:
            self._codes[back["code"]] = (query["code_challenge"], query["client_id"])
        return answer

    def _token(self, request: Request) -> Answer:
        form = dict(request.form)
        if not _is_client(self, form):
            return _refused("invalid_client", HTTPStatus.UNAUTHORIZED)
        challenge, client = self._codes.get(form.get("code", ""), ("", self.client_id))
        if challenge and not _meets(challenge, form):
            return _refused("invalid_grant", description="Invalid code verifier.")
        form["client_id"] = client
        elsewhere = "http://localhost:1" if self.trouble == "wrong-issuer" else None
        return self._ask(request, form=form, base_url=elsewhere)

    def _ask(
        self,
        request: Request,
        *,
        query: Parameters | None = None,
        form: Parameters | None = None,
        base_url: str | None = None,
    ) -> Answer:
        """Return the mock's answer. It takes its issuer from the URL of the request."""
        with self._mock.open(
            request.path,
            method=request.method,
            base_url=base_url or self.url,
            query_string=query or request.query,
            data=(form or request.form) if request.method == "POST" else None,
            headers={
                name: value for name, value in request.headers.items() if name == "Authorization"
            },
        ) as response:
            headers = dict(response.headers)
            # Its pages load a style sheet from the internet.
            headers["Content-Security-Policy"] = "style-src 'unsafe-inline'"
            return Answer(response.status_code, response.get_data(), headers)


@dataclass(frozen=True, slots=True)
class _Grant:
    """The data of an authorization code."""

    person: Person
    scope: str
    redirect_uri: str
    challenge: str
    until: float


class GitHub(Provider):
    """The parts of GitHub that a login needs (https://docs.github.com/en/apps/oauth-apps).

    The page has a field "Account", for the uid, and the buttons "Authorize" and "Cancel".
    """

    endpoints = {"authorize": "/login/oauth/authorize", "token": "/login/oauth/access_token"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._codes: dict[str, _Grant] = {}
        self._tokens: dict[str, _Grant] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GITHUB_CLIENT_ID": self.client_id,
            "GITHUB_CLIENT_SECRET": self.client_secret,
            "GITHUB_URL": self.url,
        }

    def answer(self, request: Request) -> Answer:
        match request.method, request.path:
            case "GET" | "POST", "/login/oauth/authorize":
                return self._authorize(request)
            case "POST", "/login/oauth/access_token":
                return self._token(request)
            case "GET", "/api/v3/user" | "/api/v3/user/emails":
                return self._api(request)
        return Answer(HTTPStatus.NOT_FOUND)

    def _authorize(self, request: Request) -> Answer:
        query = request.query
        if query.get("client_id") != self.client_id or not query.get("redirect_uri"):
            return Answer(HTTPStatus.NOT_FOUND)
        back: Parameters = {}
        if not _has_challenge(query):
            back = _error("invalid_request", "PKCE with S256 is required.")
        elif request.method == "GET":
            return self._page()
        elif request.form.get("answer") != "authorize":
            back = _error("access_denied", "The user has denied your application access.")
        else:
            back = {"code": secrets.token_hex(10)}
            self._codes[back["code"]] = _Grant(
                self.people[request.form["account"]],
                query.get("scope", ""),
                query["redirect_uri"],
                query["code_challenge"],
                time.monotonic() + 600,
            )
        if "state" in query:
            back["state"] = query["state"]
        location = f"{query['redirect_uri']}?{urlencode(back)}"
        return Answer(HTTPStatus.FOUND, headers={"Location": location})

    def _page(self) -> Answer:
        options = "".join(
            f'<option value="{html.escape(uid)}">{html.escape(person.name or uid)}</option>'
            for uid, person in self.people.items()
        )
        # Without an action the form is posted to the page's URL with its parameters.
        page = f"""<!doctype html><html lang="en"><title>Authorize application</title>
            <link rel="icon" href="data:,"><h1>Authorize application</h1><form method="post">
            <label>Account <select name="account">{options}</select></label>
            <button name="answer" value="cancel">Cancel</button>
            <button name="answer" value="authorize">Authorize</button></form></html>"""
        headers = {"Content-Type": "text/html; charset=utf-8"}
        return Answer(HTTPStatus.OK, page.encode(), headers)

    def _token(self, request: Request) -> Answer:
        # GitHub's errors have status 200 too.
        result = self._exchange(request.form)
        if "application/json" in request.headers.get("Accept", ""):
            return _json(result)
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return Answer(HTTPStatus.OK, urlencode(result).encode(), headers)

    def _exchange(self, form: Parameters) -> Parameters:
        if not _is_client(self, form):
            return _error(
                "incorrect_client_credentials",
                "The client_id and/or client_secret passed are incorrect.",
            )
        grant = self._codes.pop(form.get("code", ""), None)
        if grant is None or grant.until < time.monotonic() or not _meets(grant.challenge, form):
            return _error("bad_verification_code", "The code passed is incorrect or expired.")
        if form.get("redirect_uri", grant.redirect_uri) != grant.redirect_uri:
            return _error(
                "redirect_uri_mismatch",
                "The redirect_uri MUST match the registered callback URL for this application.",
            )
        token = f"gho_{secrets.token_hex(18)}"
        self._tokens[token] = grant
        return {
            "access_token": token,
            "scope": grant.scope.replace(" ", ","),
            "token_type": "bearer",
        }

    def _api(self, request: Request) -> Answer:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        grant = self._tokens.get(token) if scheme.lower() in {"bearer", "token"} else None
        if grant is None:
            return _json({"message": "Bad credentials", "status": "401"}, HTTPStatus.UNAUTHORIZED)
        person = self.people[grant.person.uid]
        if request.path.endswith("/user"):
            return _json(
                {
                    "login": f"user-{person.uid}",
                    "id": int(person.uid),
                    "avatar_url": f"{self.url}/u/{person.uid}",
                    "html_url": f"{self.url}/user-{person.uid}",
                    "type": "User",
                    "name": person.name or None,
                    "email": person.public_email,
                }
            )
        if not {"user", "user:email"} & set(grant.scope.split()):
            return _json({"message": "Not Found", "status": "404"}, HTTPStatus.NOT_FOUND)
        return _json(
            [
                {
                    "email": address.email,
                    "primary": address.primary,
                    "verified": address.verified,
                    "visibility": "private" if address.primary else None,
                }
                for address in person.addresses
            ]
        )


@contextmanager
def google() -> Iterator[Google]:
    with _serving(Google) as provider:
        yield provider


@contextmanager
def github() -> Iterator[GitHub]:
    with _serving(GitHub) as provider:
        yield provider


def _has_challenge(query: Parameters) -> bool:
    # RFC 7636 §4.2: 32 bytes in base64url without padding.
    return (
        query.get("code_challenge_method") == "S256" and len(query.get("code_challenge", "")) == 43
    )


def _meets(challenge: str, form: Parameters) -> bool:
    digest = sha256(form.get("code_verifier", "").encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge


def _is_client(provider: Provider, form: Parameters) -> bool:
    return (form.get("client_id"), form.get("client_secret")) == (
        provider.client_id,
        provider.client_secret,
    )


def _error(code: str, description: str) -> Parameters:
    return {"error": code, "error_description": description}


def _refused(code: str, status: int = HTTPStatus.BAD_REQUEST, *, description: str = "") -> Answer:
    return _json(_error(code, description), status)


def _json(data: Any, status: int = HTTPStatus.OK) -> Answer:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, json.dumps(data).encode(), headers)


class _Server(ThreadingHTTPServer):
    # Waited for at the end, so that no thread or socket outlives the test.
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.provider: Provider
        self._connections: set[Any] = set()
        self._lock = Lock()

    def get_request(self) -> Any:
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        # No shutdown before the close: a connection that is to be reset would be closed properly.
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().close_request(request)

    def hang_up(self) -> None:
        """Close idle connections. Browsers open some in advance."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        provider = self.server.provider
        target = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        form = dict(parse_qsl(body, keep_blank_values=True))
        request = Request(self.command, target.path, query, form, dict(self.headers))
        if target.path == provider.endpoints["authorize"] and self.command == "GET":
            provider.asked["authorize"].append(query)
        if target.path == provider.endpoints["token"]:
            provider.asked["token"].append(form)
            self._exchange(provider, request)
        else:
            self._send(provider.answer(request))

    def _exchange(self, provider: Provider, request: Request) -> None:
        match provider.trouble:
            case "error":
                self._send(_json({"message": "Server Error"}, HTTPStatus.INTERNAL_SERVER_ERROR))
            case "garbage":
                page = b"<!doctype html><title>Welcome</title><p>Accept our terms to go online."
                self._send(Answer(HTTPStatus.OK, page, {"Content-Type": "text/html"}))
            case "down":
                now = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            case "slow" if provider.ended.wait(SLOW):
                pass
            case _:
                self._send(provider.answer(request))

    def _send(self, answer: Answer) -> None:
        # The client may have disconnected.
        with suppress(ConnectionError):
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name != "Content-Length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _serving[P: Provider](kind: type[P]) -> Iterator[P]:
    with _Server() as server:
        # By a host name, so that the browser returns to 127.0.0.1 from another site, as from the
        # real providers: cookies with SameSite=Strict are not sent then.
        provider = kind(f"http://localhost:{server.server_port}")
        server.provider = provider
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield provider
        finally:
            provider.ended.set()
            server.shutdown()
            thread.join()
            server.hang_up()
