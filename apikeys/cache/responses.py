"""Cached responses in memory, by the digest of the token, and what endpoints say about them.

Endpoints allow that a response is cached (`CacheDirective.allow`); apikeys.cache.middleware decides
when it may be used.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

from apikeys.cache.ages import Lifetime
from apikeys.tokens import ParseError, Token
from core.request_log import Facts

type Headers = list[tuple[str, str]]
# What a response depends on besides the key: method, path, query, Host, scheme, whether an Origin
# (for a session: which one), language.
type Variant = tuple[Any, ...]

# The key of the CacheDirective in the WSGI environ.
CACHE_DIRECTIVE: Final = "apikeys.cache_directive"
# Maximum of variants per key.
MAX_VARIANTS: Final = 4
# Maximum of responses to malformed tokens, and of those to forged ones: one for each variant and
# number of seconds in Retry-After.
MAX_REFUSALS: Final = 256
# Maximum of malformed or forged texts that are recognized without parsing.
MAX_REFUSED: Final = 16_384
# Maximum of interned values: headers differ by the length of a body and by variant.
MAX_INTERNED: Final = 4096
# Maximum of client IPs per key that count as reported to Django.
_MAX_CLIENT_IPS: Final = 16
_NEVER: Final = float("inf")
# Clients do not learn whether the tag is right.
_VERDICTS: Final = {ParseError.MALFORMED: "MALFORMED", ParseError.FORGED: "NOT_FOUND"}


@dataclass(slots=True)
class CacheDirective:
    """Filled by an endpoint to allow that its response is cached.

    token: the parsed key of the request, or None: then the endpoint parses it.
    """

    token: Token | None = None
    is_allowed: bool = False
    key_id: object = None
    refusal: tuple[Any, str] | None = None
    begins_at: float = 0.0
    expires_at: float = _NEVER
    lifetime: Lifetime | None = None
    is_guess: bool = False
    wait: int = 0

    @property
    def verdict(self) -> str:
        """The code of the verdict that the response is about."""
        if self.refusal is not None:
            return self.refusal[1]
        return "NOT_FOUND" if self.is_guess else "VALID"

    def allow(
        self,
        *,
        key_id: object = None,
        refusal: tuple[Any, str] | None = None,
        begins_at: float | None = None,
        expires_at: float | None = None,
        lifetime: Lifetime | None = None,
        is_guess: bool = False,
        wait: int = 0,
    ) -> None:
        """Allow the response to be used until `expires_at` (Unix time) or until the key changes.

        begins_at: Unix time before which it is not valid, in case the clock is set back.
        lifetime: of the row that it depends on; None: the row was read for this response.
        key_id: the key that each cached response counts as a use of; None for a refusal.
        refusal: the key and the code that each cached response counts as a refusal of.
        is_guess: whether each cached response counts as a failed validation of the client IP.
        wait: seconds of the response's Retry-After; 0 if the client is not rate limited.
        """
        self.is_allowed = True
        self.key_id = key_id
        self.refusal = refusal
        self.begins_at = 0.0 if begins_at is None else begins_at
        self.expires_at = _NEVER if expires_at is None else expires_at
        self.lifetime = lifetime
        self.is_guess = is_guess
        self.wait = wait

    def forbid(self) -> None:
        """Take back what `allow` said: the response depends on more than the key."""
        self.is_allowed = False


@dataclass(frozen=True, slots=True)
class Response:
    status: str
    headers: Headers
    body: list[bytes]


@dataclass(slots=True)
class CachedResponse:
    """The responses for one key or session, valid under one version of its bucket."""

    bucket: int
    version: int
    begins_at: float
    expires_at: float
    # In seconds of `ages.clock`: a cache miss for one request from `refresh_at`, for all from
    # `stale_at`.
    refresh_at: float
    stale_at: float
    key_id: object
    refusal: tuple[Any, str] | None
    is_guess: bool
    # For the log line of each cached response; None without LOG_REQUESTS.
    facts: Facts | None = None
    # Client IPs already reported to Django for this key. A new IP is a cache miss, so that usage by
    # network is recorded.
    client_ips: tuple[str, ...] = ()
    variants: dict[Variant, Response] = field(default_factory=dict)
    # Index of the verdict in the middleware's `counts`.
    position: int = 0


class Refusals:
    """The responses that all malformed tokens share, or all forged ones."""

    def __init__(self, verdict: str) -> None:
        self.verdict = verdict
        # As of CachedResponse.
        self.facts: Facts | None = None
        # By variant, then by seconds of Retry-After.
        self._responses: dict[Variant, dict[int, Response]] = {}

    def get(self, variant: Variant) -> dict[int, Response] | None:
        """Return the responses by seconds of Retry-After; 0: the client is not rate limited."""
        return self._responses.get(variant)

    def add(self, variant: Variant, wait: int, response: Response) -> None:
        if sum(map(len, self._responses.values())) >= MAX_REFUSALS:
            self._responses.clear()
        self._responses.setdefault(variant, {})[wait] = response


class ResponseStore:
    """The cached responses of a process, by the digest of the token.

    capacity: maximum of tokens.
    """

    def __init__(self, capacity: int) -> None:
        # An approximate LRU without a lock: a hit in the old generation moves to the young one, and
        # when that is full, the old one is dropped. The middleware reads `young` without a call.
        self._half = max(capacity // 2, 1)
        self.young: dict[bytes, CachedResponse] = {}
        self._old: dict[bytes, CachedResponse] = {}
        # Forged tokens share their responses, and so do malformed ones.
        self._refusals = {error: Refusals(_VERDICTS[error]) for error in ParseError}
        # By digest: misconfigured clients repeat the same wrong key.
        self._refused: dict[bytes, Refusals] = {}
        # Values that thousands of responses have in common.
        self._interned: dict[Hashable, Any] = {}

    def promote(self, digest: bytes) -> CachedResponse | None:
        """Move an entry of the old generation to the young one and return it."""
        cached = self._old.get(digest)
        if cached is not None:
            self.store(digest, cached)
        return cached

    def store(self, digest: bytes, cached: CachedResponse) -> None:
        if len(self.young) >= self._half and digest not in self.young:
            self._old, self.young = self.young, {}
        self.young[digest] = cached

    def add_variant(
        self, cached: CachedResponse, variant: Variant, response: Response, client_ip: str
    ) -> None:
        """Add a response to an entry, which it expires with, and a client IP as reported."""
        if len(cached.variants) >= MAX_VARIANTS:
            cached.variants.clear()
        cached.variants[self.intern(variant)] = response
        if client_ip not in cached.client_ips:
            before = cached.client_ips if len(cached.client_ips) < _MAX_CLIENT_IPS else ()
            cached.client_ips = self.intern((*before, client_ip))

    def refusals(self, digest: bytes) -> Refusals | None:
        """Return the responses to a text that was refused before."""
        return self._refused.get(digest)

    def add_refused(self, digest: bytes, error: ParseError) -> Refusals:
        """Recognize a malformed or forged text from now on; return the responses to it."""
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        refusals = self._refused[digest] = self._refusals[error]
        return refusals

    def intern[Value](self, key: Hashable, value: Value | None = None) -> Value:
        """Return one object for all equal values, to save memory."""
        if len(self._interned) >= MAX_INTERNED:
            self._interned.clear()
        interned: Value = self._interned.setdefault(key, key if value is None else value)
        return interned
