"""How a machine without a browser comes to a key of its own: device authorization (RFC 8628).

It shows a short code; a person who is signed in to the platform types that code and agrees; the
machine, which has been asking meanwhile, receives a key that is only its own.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Final

import httpx

from comfy_keys import address, protocol
from comfy_keys.errors import NoVerdict, Unavailable
from comfy_keys.keys import looks_right
from comfy_keys.protocol import Intake

CLIENT_ID: Final = "comfy-key"

_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_WELL_KNOWN: Final = "/.well-known/oauth-authorization-server"
_TIMEOUT: Final = 15.0
# What RFC 8628 §3.2 and §3.5 say, and bounds on what a server says instead.
_INTERVAL: Final = 5.0
_SLOWER: Final = 5.0
_LONGEST_INTERVAL: Final = 60.0
_LONGEST_LIFE: Final = 3600.0

_REFUSALS: Final = {
    "access_denied": "The request was refused on the platform's page.",
    "expired_token": "Nobody agreed in time. Start again.",
    "invalid_grant": (
        "The platform no longer knows this request. Should a key of this machine be in the list "
        "there, delete it. Then start again."
    ),
    "invalid_client": "This platform does not know comfy-key: it may be older than this program.",
    "unauthorized_client": "This platform gives comfy-key no keys.",
    "invalid_scope": "This platform does not know a scope that was asked for.",
}


class Refused(Exception):  # noqa: N818 (it says what happened)
    """There will be no key: somebody said no, nobody said yes, or the platform can't."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    code: str
    token: str
    revocation: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a person is shown, and how long it counts.

    link: the page with the code filled in, if the platform has such a link.
    until: when it ends, by the clock it was made with.
    """

    user_code: str
    page: str
    link: str | None
    until: float
    interval: float
    device_code: str = field(repr=False)


class Machine:
    """A machine that asks the platform at `url` for a key.

    clock, sleep: what time does, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = address.read(url)
        self._http = http
        self._clock = clock
        self._sleep = sleep

    def ask(self, *, name: str, scope: str | None = None) -> tuple[Endpoints, Request]:
        """Tells the platform that the machine `name` wants a key. Raises Refused, Unavailable."""
        endpoints = self._endpoints()
        fields = {"client_id": CLIENT_ID, "device_name": name}
        if scope:
            fields["scope"] = scope
        asked_at = self._clock()
        status, headers, said = self._call("POST", endpoints.code, fields)
        if status != 200:
            raise self._refusal(status, headers, said)
        try:
            link = said.get("verification_uri_complete")
            return endpoints, Request(
                user_code=_text(said["user_code"]),
                page=_web_page(said["verification_uri"]),
                link=None if link is None else _web_page(link),
                until=asked_at + min(_seconds(said["expires_in"]), _LONGEST_LIFE),
                interval=min(_seconds(said.get("interval", _INTERVAL)), _LONGEST_INTERVAL),
                device_code=_text(said["device_code"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _no_platform(self._url) from None

    def wait(self, endpoints: Endpoints, request: Request) -> str:
        """The key, once somebody has agreed. Raises Refused.

        What goes wrong on the way is no answer: it goes on asking, less often, while the code
        counts.
        """
        fields = {
            "client_id": CLIENT_ID,
            "grant_type": _GRANT,
            "device_code": request.device_code,
        }
        interval = pause = request.interval
        trouble: NoVerdict | None = None
        # Once more after its end: whoever agrees in the last second is still given the key.
        while self._clock() < request.until:
            self._sleep(pause)
            try:
                status, headers, said = self._call("POST", endpoints.token, fields)
            except Unavailable as problem:
                trouble, pause = problem, min(pause * 2, _LONGEST_INTERVAL)
                continue
            if status == 200:
                return self._key(said)
            match said.get("error") if isinstance(said, dict) else None:
                case "authorization_pending":
                    trouble, pause = None, interval
                case "slow_down":
                    interval = min(interval + _SLOWER, _LONGEST_INTERVAL)
                    trouble, pause = None, interval
                case str(error) if error in _REFUSALS and status < 500:
                    raise Refused(_REFUSALS[error])
                case _:
                    refusal = self._refusal(status, headers, said)
                    if not isinstance(refusal, Unavailable):
                        raise refusal
                    trouble = refusal
                    pause = min(max(pause * 2, refusal.retry_after), _LONGEST_INTERVAL)
        if trouble is not None:
            raise Refused(f"Nobody's consent was heard of in time: {trouble}")
        raise Refused(_REFUSALS["expired_token"])

    def give_back(self, endpoints: Endpoints, key: str) -> bool:
        """Ends a key that nobody could keep (RFC 7009). Whether the platform has said so."""
        if endpoints.revocation is None:
            return False
        try:
            status, _headers, _said = self._call("POST", endpoints.revocation, {"token": key})
        except Unavailable:
            return False
        return status == 200

    def _endpoints(self) -> Endpoints:
        """Where to ask, as the platform itself says (RFC 8414)."""
        status, headers, said = self._call("GET", self._url + _WELL_KNOWN)
        if status == 404:
            return Endpoints(f"{self._url}/oauth/device/code", f"{self._url}/oauth/token")
        if status != 200:
            raise self._refusal(status, headers, said)
        try:
            issuer = _text(said["issuer"]).rstrip("/")
            found = Endpoints(
                _web_page(said["device_authorization_endpoint"]), _web_page(said["token_endpoint"])
            )
            # RFC 8414 §3.3: what calls itself otherwise is not to be believed. And a code for a
            # key goes to nobody but the platform that was named.
            if issuer != self._url:
                raise Refused(
                    f"The platform at {self._url} calls itself {issuer}. Use --url {issuer}"
                )
            revocation = said.get("revocation_endpoint")
            if revocation is not None:
                found = replace(found, revocation=_web_page(revocation))
            here = address.origin(self._url)
            if {address.origin(end) for end in astuple(found) if end} != {here}:
                raise _no_platform(self._url)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _no_platform(self._url) from None
        return found

    def _key(self, said: Any) -> str:
        key = said.get("access_token") if isinstance(said, dict) else None
        if not isinstance(key, str) or not looks_right(key):
            raise Refused(
                "The platform's answer holds no whole key. Delete it in the list there, should it "
                "be in it, and start again."
            )
        return key

    def _refusal(self, status: int, headers: Mapping[str, str], said: Any) -> Refused | Unavailable:
        if 300 <= status < 400:
            return Refused(f"{self._url} redirects. Give the address that it leads to.")
        if isinstance(said, dict):
            error = said.get("error")
            if isinstance(error, str) and status < 500 and status != 429:
                words = said.get("error_description") or said.get("message")
                return Refused(_REFUSALS.get(error) or (words if isinstance(words, str) else error))
        if status < 500 and status != 429:
            return Refused(f"{self._url} answered {status}: there may be no platform.")
        return Unavailable(
            f"{self._url} answered {status}.", retry_after=protocol.retry_after(headers)
        )

    def _call(
        self, method: str, url: str, fields: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        until = time.monotonic() + _TIMEOUT
        try:
            with self._http.stream(
                method,
                url,
                data=fields,
                headers=protocol.common_headers(),
                follow_redirects=False,
                timeout=_TIMEOUT,
            ) as response:
                intake = Intake(response, until=until)
                for chunk in response.iter_raw():
                    intake.take(chunk)
                answer = intake.answer()
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            problem = protocol.no_answer(error, url=self._url)
        else:
            return answer.status, answer.headers, protocol.said_in(answer)
        # Not in the `except`: httpx's errors hold the request, and the request holds the code.
        raise problem


def _no_platform(url: str) -> Refused:
    return Refused(f"What answers at {url} does not speak as a platform does.")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise ValueError("not a time")
    return float(value)


def _web_page(value: object) -> str:
    # It is shown to be opened, and may be handed to a browser: nothing but the web.
    page = _text(value)
    if not page.startswith(("https://", "http://")):
        raise ValueError("not a page")
    return page
