"""Device authorization (RFC 8628): a key for a machine without a browser.

The machine shows a code; a user who is logged in to the platform enters it and agrees; the machine
polls meanwhile and receives a key of its own.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Final

import httpx

from comfy_keys import platform_url, protocol
from comfy_keys.errors import NoVerdict, Unavailable
from comfy_keys.key_format import looks_right
from comfy_keys.protocol import BodyReader
from comfy_keys.transport import deadline

CLIENT_ID: Final = "comfy-key"

_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_WELL_KNOWN: Final = "/.well-known/oauth-authorization-server"
_TIMEOUT: Final = 15.0
# Defaults of RFC 8628 §3.2 and §3.5, and bounds for the values that a server sends.
_INTERVAL: Final = 5.0
_SLOW_DOWN_STEP: Final = 5.0
_LONGEST_INTERVAL: Final = 60.0
_LONGEST_LIFE: Final = 3600.0

_REFUSALS: Final = {
    "access_denied": "The request was denied on the site.",
    "expired_token": "The request was not confirmed in time. Start again.",
    "invalid_grant": (
        "The site no longer knows this request. If your list of API keys there contains "
        "a key of this device, delete it. Then start again."
    ),
    "invalid_client": "This site does not know comfy-key. It may be older than this program.",
    "unauthorized_client": "This site creates no keys for comfy-key.",
    "invalid_scope": "This site does not know one of the requested scopes.",
}


class LoginRefused(Exception):  # noqa: N818 (a result, not an error of the caller)
    """There is no key: the user refused or did not agree in time, or the platform issues none."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    code: str
    token: str
    revocation: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceAuthorization:
    """A pending device authorization.

    link: the page with the code filled in, if the platform has such a link.
    until: when it expires, by the clock of its DeviceLogin.
    """

    user_code: str
    page: str
    link: str | None
    until: float
    interval: float
    device_code: str = field(repr=False)


class DeviceLogin:
    """Get a key from the platform at `url`.

    clock, sleep: replaceable for tests, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = platform_url.normalize(url)
        self._http = http
        self._clock = clock
        self._sleep = sleep

    def start(
        self, *, name: str, scope: str | None = None
    ) -> tuple[Endpoints, DeviceAuthorization]:
        """Begin an authorization for the machine `name`. Raise LoginRefused, Unavailable."""
        endpoints = self._endpoints()
        fields = {"client_id": CLIENT_ID, "device_name": name}
        if scope:
            fields["scope"] = scope
        sent_at = self._clock()
        status, headers, data = self._call("POST", endpoints.code, fields)
        if status != 200:
            raise self._refusal(status, headers, data)
        try:
            link = data.get("verification_uri_complete")
            return endpoints, DeviceAuthorization(
                user_code=_text(data["user_code"]),
                page=_web_url(data["verification_uri"]),
                link=None if link is None else _web_url(link),
                until=sent_at + min(_seconds(data["expires_in"]), _LONGEST_LIFE),
                interval=min(_seconds(data.get("interval", _INTERVAL)), _LONGEST_INTERVAL),
                device_code=_text(data["device_code"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _not_a_platform(self._url) from None

    def wait(self, endpoints: Endpoints, request: DeviceAuthorization) -> str:
        """Poll until the user has agreed, and return the key. Raise LoginRefused.

        After a network error it polls on, less often, until the code expires.
        """
        fields = {
            "client_id": CLIENT_ID,
            "grant_type": _GRANT,
            "device_code": request.device_code,
        }
        interval = pause = request.interval
        last_error: NoVerdict | None = None
        # Polls again after the end, for a user who agreed in the last second.
        while self._clock() < request.until:
            self._sleep(pause)
            try:
                status, headers, data = self._call("POST", endpoints.token, fields)
            except Unavailable as problem:
                last_error, pause = problem, min(pause * 2, _LONGEST_INTERVAL)
                continue
            if status == 200:
                return self._key(data)
            match data.get("error") if isinstance(data, dict) else None:
                case "authorization_pending":
                    last_error, pause = None, interval
                case "slow_down":
                    interval = min(interval + _SLOW_DOWN_STEP, _LONGEST_INTERVAL)
                    last_error, pause = None, interval
                case str(error) if error in _REFUSALS and status < 500:
                    raise LoginRefused(_REFUSALS[error])
                case _:
                    refusal = self._refusal(status, headers, data)
                    if not isinstance(refusal, Unavailable):
                        raise refusal
                    last_error = refusal
                    pause = min(max(pause * 2, refusal.retry_after), _LONGEST_INTERVAL)
        if last_error is not None:
            raise LoginRefused(f"The request was not confirmed in time. {last_error}")
        raise LoginRefused(_REFUSALS["expired_token"])

    def revoke(self, endpoints: Endpoints, key: str) -> bool:
        """Revoke a key that could not be stored (RFC 7009). Return whether that succeeded."""
        if endpoints.revocation is None:
            return False
        try:
            status, _headers, _data = self._call("POST", endpoints.revocation, {"token": key})
        except Unavailable:
            return False
        return status == 200

    def _endpoints(self) -> Endpoints:
        """Return the endpoints in the platform's metadata (RFC 8414)."""
        status, headers, data = self._call("GET", self._url + _WELL_KNOWN)
        if status == 404:
            return Endpoints(f"{self._url}/oauth/device/code", f"{self._url}/oauth/token")
        if status != 200:
            raise self._refusal(status, headers, data)
        try:
            issuer = _text(data["issuer"]).rstrip("/")
            found = Endpoints(
                _web_url(data["device_authorization_endpoint"]), _web_url(data["token_endpoint"])
            )
            # RFC 8414 §3.3: another issuer must be refused. A device code is sent only to the
            # platform that the user named.
            if issuer != self._url:
                raise LoginRefused(
                    f"The site at {self._url} has the URL {issuer}. Use --url {issuer}"
                )
            revocation = data.get("revocation_endpoint")
            if revocation is not None:
                found = replace(found, revocation=_web_url(revocation))
            here = platform_url.origin(self._url)
            if {platform_url.origin(end) for end in astuple(found) if end} != {here}:
                raise _not_a_platform(self._url)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _not_a_platform(self._url) from None
        return found

    def _key(self, data: Any) -> str:
        key = data.get("access_token") if isinstance(data, dict) else None
        if not isinstance(key, str) or not looks_right(key):
            raise LoginRefused(
                "The response of the site contains no complete key. If your list of API "
                "keys there contains a new key, delete it. Then start again."
            )
        return key

    def _refusal(
        self, status: int, headers: Mapping[str, str], data: Any
    ) -> LoginRefused | Unavailable:
        if 300 <= status < 400:
            return LoginRefused(f"{self._url} redirects. Use the URL that it redirects to.")
        if isinstance(data, dict):
            error = data.get("error")
            if isinstance(error, str) and status < 500 and status != 429:
                words = data.get("error_description") or data.get("message")
                return LoginRefused(
                    _REFUSALS.get(error) or (words if isinstance(words, str) else error)
                )
        if status < 500 and status != 429:
            return LoginRefused(
                f"{self._url} responded {status}. It may not be a site with API keys."
            )
        return Unavailable(
            f"{self._url} responded {status}.", retry_after=protocol.retry_after(headers)
        )

    def _call(
        self, method: str, url: str, fields: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        until = time.monotonic() + _TIMEOUT
        try:
            with (
                deadline(until),
                self._http.stream(
                    method,
                    url,
                    data=fields,
                    headers=protocol.common_headers(),
                    follow_redirects=False,
                    timeout=_TIMEOUT,
                ) as response,
            ):
                reader = BodyReader(response, until=until)
                for chunk in response.iter_raw():
                    reader.add(chunk)
                result = reader.response()
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            problem = protocol.unavailable(error, url=self._url)
        else:
            return result.status, result.headers, protocol.parse_json(result)
        # Not in the `except`: httpx's errors refer to the request, which contains the code.
        raise problem


def _not_a_platform(url: str) -> LoginRefused:
    return LoginRefused(f"{url} does not respond like a site with API keys.")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise ValueError("not a time")
    return float(value)


def _web_url(value: object) -> str:
    # It is shown to the user and may be opened in a browser: only http and https.
    page = _text(value)
    if not page.startswith(("https://", "http://")):
        raise ValueError("not a page")
    return page
