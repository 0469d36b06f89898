"""What is sent to the platform, and what its answers mean. Nothing here waits or connects.

A verdict comes from an answer that is the platform's beyond doubt. Anything else, a redirect, a
proxy's own page, an answer about another key, is Unavailable: it says nothing of the key.
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
from comfy_keys.keys import public_part
from comfy_keys.verdicts import Verdict
from comfy_keys.version import VERSION

BATCH: Final = 100
"""How many keys the platform judges in one call."""

MAX_ANSWER: Final = 1_000_000
_LONGEST_WAIT: Final = 3600.0
NAME: Final = f"comfy-keys/{VERSION}"
"""How this calls itself to the platform."""


@dataclass(frozen=True, slots=True)
class Question:
    """One POST. What it carries is in no repr: it holds a key, or a secret and many keys."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    keys: Sequence[str] = field(repr=False)
    patience: float = 0.0
    """Seconds that it may take beyond what one key takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Intake:
    """An answer's body as it comes in, in bounds of size and of time. Raises Unavailable.

    As it comes, and as it was asked for: unpacking what a stranger packed has no bounds.
    """

    def __init__(self, response: httpx.Response, *, until: float) -> None:
        self._response = response
        self._until = until
        self._body = bytearray()

    def take(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > MAX_ANSWER:
            raise Unavailable("The platform's answer does not end.")
        if time.monotonic() > self._until:
            raise Unavailable("The platform's answer takes too long.")

    def answer(self) -> Answer:
        return Answer(self._response.status_code, self._response.headers, bytes(self._body))


def about_one(key: str) -> Question:
    """The question about one key that looks right, in the form that is answered fastest."""
    return Question(
        "/api/v1/keys/validate", {**common_headers(), "X-API-Key": key}, content=b"", keys=[key]
    )


def about_many(keys: Sequence[str], *, service_secret: str) -> Question:
    """The question about up to BATCH keys that look right."""
    return Question(
        "/api/v1/keys/validate/batch",
        {
            **common_headers(),
            "Authorization": f"Bearer {service_secret}",
            "Content-Type": "application/json",
        },
        content=json.dumps({"keys": list(keys)}).encode(),
        keys=keys,
        # A key that is asked about for the first time takes some 25 ms.
        patience=0.1 * len(keys),
    )


def verdict_on_one(question: Question, answer: Answer) -> Verdict:
    """Raises Unavailable."""
    said = said_in(answer)
    try:
        match answer.status:
            case 200:
                return _about(question.keys[0], said)
            case 401 if said["error"] != "UNAUTHORIZED":
                return verdicts.bad(said["error"], said["message"])
            case 401:
                raise Unavailable(
                    "The key did not reach the platform: something on the way takes X-API-Key out."
                )
    except (KeyError, TypeError, ValueError):
        raise _rubbish(answer) from None
    raise _no_verdict(answer, said)


def verdicts_on_many(question: Question, answer: Answer) -> list[Verdict]:
    """A verdict for each key, in their order. Raises Unavailable, NotAllowed."""
    said = said_in(answer)
    if answer.status in (401, 403, 404):
        raise NotAllowed(
            "The platform does not know this service's secret."
            if answer.status == 401
            else "The platform does not judge many keys at once: it has no SERVICE_SECRETS."
        )
    if answer.status != 200:
        raise _no_verdict(answer, said)
    try:
        given = said["verdicts"]
        if not isinstance(given, list) or len(given) != len(question.keys):
            raise ValueError("verdicts")
        return [_about(key, one) for key, one in zip(question.keys, given, strict=True)]
    except (KeyError, TypeError, ValueError):
        raise _rubbish(answer) from None


def no_answer(error: Exception, *, url: str) -> Unavailable:
    """What is raised where a request failed. What the request carried is not in it."""
    match error:
        case TimeoutError() | httpx.TimeoutException():
            return Unavailable(f"{url} did not answer in time.")
        case httpx.ConnectError():
            return Unavailable(f"{url} can't be reached: {error}")
        case _:
            return Unavailable(f"{url} broke off ({type(error).__name__}).")


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the answer asks to wait (RFC 9110 §10.2.3), within reason."""
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
    return {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": NAME}


def _about(key: str, said: Mapping[str, Any]) -> Verdict:
    if said["valid"] is False:
        return verdicts.bad(said["code"], said["message"])
    if said["valid"] is not True or said["code"] != verdicts.VALID:
        raise ValueError("valid")
    verdict = verdicts.good(said)
    # Whatever stands between us and the platform must not give one key's answer to another.
    if verdict.key is None or verdict.key.prefix != public_part(key):
        raise ValueError("key_prefix")
    return verdict


def said_in(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _no_verdict(answer: Answer, said: Any) -> Unavailable:
    status, wait = answer.status, retry_after(answer.headers)
    if 300 <= status < 400:
        # Not followed: it would take the key to wherever it leads.
        return Unavailable("The platform's address redirects. Give the address it leads to.")
    if isinstance(said, dict) and isinstance(said.get("message"), str):
        return Unavailable(f"The platform answered {status}: {said['message']}", retry_after=wait)
    return Unavailable(f"The platform answered {status}.", retry_after=wait)


def _rubbish(answer: Answer) -> Unavailable:
    return Unavailable(f"What answered ({answer.status}) does not speak as the platform does.")
