"""GitHub's public keys, which verify the signatures of its reports of leaked keys.

They are fetched when a report names an unknown one, and cached in this process and in the shared
cache. Invented identifiers cause at most one request per PAUSE.
"""

import base64
import json
import logging
import re
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from threading import BoundedSemaphore
from typing import Any, Final
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from django.core.cache import cache

logger = logging.getLogger(__name__)

# In seconds. GitHub allows 60 anonymous requests per hour and IP.
PAUSE: Final = 300
RETRY: Final = 60
# Maximum age of the list, and its maximum age while GitHub is unreachable.
FRESH: Final = 3600
LAST: Final = 24 * 3600

_TIMEOUT: Final = 5
_MAX_BODY: Final = 256 * 1024
_NAME: Final = re.compile(r"[0-9a-f]{16,128}")
_LIST: Final = "github-keys"
# In the shared cache: whether a process fetches the list now, or did within RETRY.
FETCH_STATE: Final = "github-keys-asked"
FETCHING: Final = "asking"


class Unreachable(Exception):  # noqa: N818
    """GitHub is unreachable, and the cached list does not have the key."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """GitHub's list of keys: identifier to PEM."""

    pems: dict[str, str] = field(default_factory=dict)
    at: float = 0.0

    @property
    def age(self) -> float:
        """Return the age in seconds; old for a list from the future (the clock was set back)."""
        age = time.time() - self.at
        return age if age >= 0 else LAST + 1.0


_known = _Keys()
# A waiting request may hold a database connection: half of those of a process.
_waiting = BoundedSemaphore(8)


def has_signed(body: bytes, *, identifier: str, signature: str) -> bool:
    """Return whether `signature` over `body` was made with GitHub's key `identifier`.

    signature: ECDSA on P-256 with SHA-256, in DER, in base64. Raise Unreachable.
    """
    # No request for an invalid identifier.
    pem = find(identifier) if _NAME.fullmatch(identifier) else None
    if pem is None:
        return False
    try:
        key = load_pem_public_key(pem.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            return False
        key.verify(base64.b64decode(signature, validate=True), body, ec.ECDSA(SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def find(identifier: str) -> str | None:
    """Return the key `identifier` as PEM, or None if GitHub has none. Raise Unreachable.

    `is_current` is ignored: reports signed just before a rotation of keys are valid.
    """
    keys = _newest()
    is_known = identifier in keys.pems
    if keys.age < (FRESH if is_known else PAUSE):
        return keys.pems.get(identifier)
    fetched = (
        _fetch_and_release()
        if cache.add(FETCH_STATE, FETCHING, timeout=RETRY)
        else _wait_for_other_process()
    )
    if fetched is not None:
        return fetched.pems.get(identifier)
    if is_known and keys.age < LAST:
        return keys.pems[identifier]
    raise Unreachable


def clear() -> None:
    """Clear the cache of this process."""
    global _known
    _known = _Keys()


def _newest() -> _Keys:
    """Return the list of this process or of the shared cache, whichever is newer."""
    global _known
    if _known.age >= PAUSE:
        shared = _parsed(cache.get(_LIST))
        if shared is not None and shared.age < _known.age:
            _known = shared
    return _known


def _parsed(cached: Any) -> _Keys | None:
    match cached:
        case {"pems": dict(pems), "at": float(at)}:
            return _Keys(pems, at)
    return None


def _wait_for_other_process() -> _Keys | None:
    """Return the list that another process fetches now or has fetched, or None."""
    # A bound, so that invented identifiers do not block all threads.
    if not _waiting.acquire(blocking=False):
        return None
    try:
        deadline = time.monotonic() + _TIMEOUT + 1
        while cache.get(FETCH_STATE) == FETCHING and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        _waiting.release()
    keys = _newest()
    return keys if keys.age < PAUSE else None


class _NoRedirect(HTTPRedirectHandler):
    """Follow no redirects: keys come from the configured URL only."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _fetch_and_release() -> _Keys | None:
    try:
        return _fetch()
    finally:
        cache.set(FETCH_STATE, "done", timeout=RETRY)


def _fetch() -> _Keys | None:
    global _known
    # The URL is a setting, which was checked at startup.
    request = Request(  # noqa: S310
        settings.GITHUB_SECRET_SCANNING_KEYS_URL,
        headers={"Accept": "application/json", "User-Agent": "comfyui-keys"},
    )
    try:
        with build_opener(_NoRedirect).open(request, timeout=_TIMEOUT) as response:
            entries = json.loads(response.read(_MAX_BODY))["public_keys"]
        pems = {str(entry["key_identifier"]): str(entry["key"]) for entry in entries}
    except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        logger.warning("GitHub's public keys could not be fetched: %s", error)
        return None
    _known = _Keys(pems, time.time())
    cache.set(_LIST, {"pems": pems, "at": _known.at}, timeout=LAST)
    return _known
