"""Requests to the platform and the parsing of its responses, without input or output.

Only a response that is certainly the platform's gives a verdict. Others (a redirect, the page of a
proxy, a verdict on another key) raise Unavailable.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from comfy_keys import verdicts
from comfy_keys.errors import DEFAULT_RETRY_AFTER, NotAllowed, Unavailable
from comfy_keys.key_format import public_part
from comfy_keys.verdicts import Verdict
from comfy_keys.version import VERSION

BATCH: Final = 100
"""How many keys the platform validates in one request."""

MAX_BODY: Final = 1_000_000
_LONGEST_WAIT: Final = 3600.0
USER_AGENT: Final = f"comfy-keys/{VERSION}"
"""The User-Agent."""


@dataclass(frozen=True, slots=True)
class Request:
    """One POST. Its repr shows no contents: they are a key, or a secret and many keys."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    keys: Sequence[str] = field(repr=False)
    extra_timeout: float = 0.0
    """Seconds added to the timeout for one key."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class BodyReader:
    """Read the body of a response, bounded in size and time. Raise Unavailable.

    The raw body, without decompression, which has no bound in size.
    """

    def __init__(self, response: httpx.Response, *, until: float) -> None:
        self._response = response
        self._until = until
        self._body = bytearray()

    def add(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > MAX_BODY:
            raise Unavailable("The response of the site is too large.")
        if time.monotonic() > self._until:
            raise Unavailable("The response of the site takes too long.")

    def response(self) -> Response:
        return Response(self._response.status_code, self._response.headers, bytes(self._body))


def validate_request(key: str) -> Request:
    """Return the request that validates one well-formed key: the form that the platform caches."""
    return Request(
        "/api/v1/keys/validate", {**common_headers(), "X-API-Key": key}, content=b"", keys=[key]
    )


def client_ip_request(key: str, client_ip: str, *, service_secret: str | None) -> Request:
    """Return the request that validates a well-formed key for a client. client_ip: "": unknown.

    service_secret: None: the platform checks this machine's network, too.
    """
    asked = {"key": key, "client_ip": client_ip} if client_ip else {"key": key}
    headers = {**common_headers(), "Content-Type": "application/json"}
    if service_secret is not None:
        headers |= _authorization(service_secret)
    return Request("/api/v1/keys/validate", headers, content=json.dumps(asked).encode(), keys=[key])


def batch_request(keys: Sequence[str], *, service_secret: str) -> Request:
    """Return the request that validates up to BATCH well-formed keys."""
    return Request(
        "/api/v1/keys/validate/batch",
        {
            **common_headers(),
            **_authorization(service_secret),
            "Content-Type": "application/json",
        },
        content=json.dumps({"keys": list(keys)}).encode(),
        keys=keys,
        # The first validation of a key takes some 25 ms.
        extra_timeout=0.1 * len(keys),
    )


def _authorization(service_secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {service_secret}"}


# By status and code.
_SECRET_REFUSALS = {
    (401, "UNAUTHORIZED"): "The service secret is not valid on this site.",
    (403, "INSUFFICIENT_SCOPE"): "The service secret lacks the scope batch, which is needed to "
    "name the client of a key.",
    (400, "AMBIGUOUS_KEY"): "The site takes no service secret here: it has no SERVICE_SECRETS, or "
    "is older than this client.",
}


def parse_verdict(request: Request, response: Response) -> Verdict:
    """Return the verdict in `response`. Raise Unavailable, NotAllowed."""
    data = parse_json(response)
    if "Authorization" in request.headers and isinstance(data, dict):
        refusal = _SECRET_REFUSALS.get((response.status, str(data.get("error"))))
        if refusal:
            raise NotAllowed(refusal)
    try:
        match response.status:
            case 200:
                return _parse_one(request.keys[0], data)
            case 403 if data["error"] == verdicts.NETWORK_NOT_ALLOWED:
                return verdicts.bad(data["error"], data["message"])
            case 401 if data["error"] != "UNAUTHORIZED":
                return verdicts.bad(data["error"], data["message"])
            case 401:
                raise Unavailable(
                    "The key did not reach the site. Check whether a proxy removes the "
                    "X-API-Key header."
                )
    except (KeyError, TypeError, ValueError):
        raise _unexpected_response(response) from None
    raise _error_response(response, data)


_BATCH_REFUSALS = {
    401: "The service secret is not valid on this site.",
    403: "The service secret lacks the scope batch, which is needed to validate several "
    "keys at once.",
    404: "The site can't validate several keys at once: it has no SERVICE_SECRETS.",
}


def parse_verdicts(request: Request, response: Response) -> list[Verdict]:
    """Return a verdict for each key, in their order. Raise Unavailable, NotAllowed."""
    data = parse_json(response)
    if refusal := _BATCH_REFUSALS.get(response.status):
        raise NotAllowed(refusal)
    if response.status != 200:
        raise _error_response(response, data)
    try:
        given = data["verdicts"]
        if not isinstance(given, list) or len(given) != len(request.keys):
            raise ValueError("verdicts")
        return [_parse_one(key, one) for key, one in zip(request.keys, given, strict=True)]
    except (KeyError, TypeError, ValueError):
        raise _unexpected_response(response) from None


def unavailable(error: Exception, *, url: str) -> Unavailable:
    """Return the exception for a failed request, without the contents of the request."""
    match error:
        case TimeoutError() | httpx.TimeoutException():
            return Unavailable(f"{url} did not respond in time.")
        case httpx.ConnectError():
            return Unavailable(f"{url} can't be reached: {error}")
        case _:
            return Unavailable(f"The connection to {url} failed ({type(error).__name__}).")


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of Retry-After (RFC 9110 §10.2.3), at most an hour."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
            seconds = (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return DEFAULT_RETRY_AFTER
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def common_headers() -> dict[str, str]:
    return {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}


def _parse_one(key: str, data: Mapping[str, Any]) -> Verdict:
    if data["valid"] is False:
        return verdicts.bad(data["code"], data["message"])
    if data["valid"] is not True or data["code"] != verdicts.VALID:
        raise ValueError("valid")
    verdict = verdicts.good(data)
    # A cache or proxy on the way may have returned the response for another key.
    if verdict.key.prefix != public_part(key):
        raise ValueError("key_prefix")
    return verdict


def parse_json(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def _error_response(response: Response, data: Any) -> Unavailable:
    status, wait = response.status, retry_after(response.headers)
    if 300 <= status < 400:
        # Not followed: the key would be sent to the target.
        return Unavailable("The URL of the site redirects. Use the URL that it redirects to.")
    if isinstance(data, dict) and isinstance(data.get("message"), str):
        return Unavailable(f"The site responded {status}: {data['message']}", retry_after=wait)
    return Unavailable(f"The site responded {status}.", retry_after=wait)


def _unexpected_response(response: Response) -> Unavailable:
    return Unavailable(
        f"Unexpected response ({response.status}): it is not from a site with API keys."
    )
