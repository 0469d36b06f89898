"""GitHub's public keys, with which it signs what it tells us of leaked keys.

Asked for when a report names one that is not known here, and kept by this process and in the
shared cache. Whoever invents names of keys makes us ask no more often than PAUSE says.
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

# Seconds. GitHub lets an address that shows no token of its own ask 60 times an hour.
PAUSE: Final = 300
RETRY: Final = 60
# For how long the list counts without asking, and when GitHub can't be asked.
FRESH: Final = 3600
LAST: Final = 24 * 3600

_TIMEOUT: Final = 5
_MAX_BODY: Final = 256 * 1024
_NAME: Final = re.compile(r"[0-9a-f]{16,128}")
_LIST: Final = "github-keys"
_ASKED: Final = "github-keys-asked"
_ASKING: Final = "asking"


class Unreachable(Exception):  # noqa: N818 (it says what GitHub is)
    """GitHub can't be asked now, and what is known of its keys does not say."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """The list as GitHub gave it: by identifier, as PEM."""

    pems: dict[str, str] = field(default_factory=dict)
    at: float = 0.0

    @property
    def age(self) -> float:
        """In seconds. A list from the future, as when the clock was set back, is as good as old."""
        age = time.time() - self.at
        return age if age >= 0 else LAST + 1.0


_known = _Keys()
# Whoever waits may hold a connection to the database: half of those that a process has.
_waiting = BoundedSemaphore(8)


def has_signed(body: bytes, *, identifier: str, signature: str) -> bool:
    """Whether GitHub's key `identifier` made `signature` over exactly these bytes.

    signature: ECDSA on P-256 with SHA-256, in DER, in base64. Raises Unreachable.
    """
    # Nobody is asked for what can't be the name of a key.
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
    """GitHub's key of that name, as PEM; None if GitHub has none such. Raises Unreachable.

    GitHub's `is_current` does not count: what was signed just before a change of keys is good.
    """
    keys = _newest()
    is_known = identifier in keys.pems
    if keys.age < (FRESH if is_known else PAUSE):
        return keys.pems.get(identifier)
    asked = _ask() if cache.add(_ASKED, _ASKING, timeout=RETRY) else _hear_from_others()
    if asked is not None:
        return asked.pems.get(identifier)
    if is_known and keys.age < LAST:
        return keys.pems[identifier]
    raise Unreachable


def forget() -> None:
    """Lets go of all that this process itself remembers."""
    global _known
    _known = _Keys()


def _newest() -> _Keys:
    """What this process knows, or the shared cache if somebody asked later."""
    global _known
    if _known.age >= PAUSE:
        shared = _understood(cache.get(_LIST))
        if shared is not None and shared.age < _known.age:
            _known = shared
    return _known


def _understood(kept: Any) -> _Keys | None:
    match kept:
        case {"pems": dict(pems), "at": float(at)}:
            return _Keys(pems, at)
    return None


def _hear_from_others() -> _Keys | None:
    """What comes of it that somebody else asks just now, or has; None if nothing did."""
    # Others get an answer at once: invented names shall not make all threads stand here.
    if not _waiting.acquire(blocking=False):
        return None
    try:
        deadline = time.monotonic() + _TIMEOUT + 1
        while cache.get(_ASKED) == _ASKING and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        _waiting.release()
    keys = _newest()
    return keys if keys.age < PAUSE else None


class _NoRedirect(HTTPRedirectHandler):
    """Keys come from the address that the operator named, and from nowhere that it leads to."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _ask() -> _Keys | None:
    try:
        return _fetch()
    finally:
        cache.set(_ASKED, "done", timeout=RETRY)


def _fetch() -> _Keys | None:
    global _known
    # The address is a setting, and those are checked at the start.
    request = Request(  # noqa: S310
        settings.GITHUB_SECRET_SCANNING_KEYS_URL,
        headers={"Accept": "application/json", "User-Agent": "comfyui-keys"},
    )
    try:
        with build_opener(_NoRedirect).open(request, timeout=_TIMEOUT) as answer:
            told = json.loads(answer.read(_MAX_BODY))["public_keys"]
        pems = {str(entry["key_identifier"]): str(entry["key"]) for entry in told}
    except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        logger.warning("GitHub's public keys could not be fetched: %s", error)
        return None
    _known = _Keys(pems, time.time())
    cache.set(_LIST, {"pems": pems, "at": _known.at}, timeout=LAST)
    return _known
