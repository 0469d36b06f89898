"""The validation cache: WSGI middleware that answers validations with cached responses.

A response is used while the version table shows no change to the key. The middleware decides
nothing about keys. What it stores is in apikeys.cache.responses.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from hashlib import blake2b, sha256
from typing import Any, Final

from apikeys.cache.ages import clock, lifetime
from apikeys.cache.responses import (
    CACHE_DIRECTIVE,
    CacheDirective,
    CachedResponse,
    Headers,
    Refusals,
    Response,
    ResponseStore,
    Variant,
)
from apikeys.cache.versions import VersionTable, bucket_of, is_stable
from apikeys.tokens import LENGTH, Token, parse
from core import request_log
from core.site_names import cookie_value

type Environ = dict[str, Any]
type StartResponse = Callable[..., Any]
type Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_BEARER: Final = "Bearer "
# Longer query strings are not cached.
_MAX_QUERY: Final = 128
# Query strings whose cookie name is remembered.
_MAX_COOKIE_NAMES: Final = 1024
# Longer Accept-Language headers, and more of them, are parsed each time.
_MAX_ACCEPT_LANGUAGE: Final = 100
_MAX_LANGUAGE_HEADERS: Final = 1024
# Seconds between two checks that the version table was not replaced: a system call per request
# would cost as much as everything else here.
_CHECK_INTERVAL: Final = 0.05
_EMPTY_LENGTHS: Final = ("0", "")
# Values of Sec-Fetch-Site for which the session of a site needs no further look at the request.
_OWN_PAGES: Final = ("same-origin", None, "none")


def has_no_body(environ: Environ) -> bool:
    """Return whether the request certainly has no body: HTTP/2 needs no Content-Length."""
    return (
        environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        and environ.get("CONTENT_LENGTH", "0") in _EMPTY_LENGTHS
        and "HTTP_TRANSFER_ENCODING" not in environ
    )


class ValidationCache:
    """WSGI middleware that answers `routes` from memory while `versions` shows no change.

    routes: (method, path) to cache; none of them reads the request body.
    bodiless: paths that are only cached for requests without a body.
    queries: by path, the prefixes of query strings that are cached.
    count: called with a key's id at each use.
    count_refusal: called with a key's id and the verdict's code at each refusal.
    count_guess: called with the client IP at each failed validation. Returns 0, the seconds that
        the client has to wait, or None if only the application can decide.
    language_of: returns the language code of an Accept-Language header: messages are translated.
    capacity: maximum of cached tokens.
    max_age: seconds after which a response is a cache miss in any case: not every change sends a
        notification. One request refreshes it earlier, in the last quarter of that time.
    multi_host: whether cached responses need a running lease, as other hosts may change keys.
    counts: integers, of which one is increased for each cached response; None: none is.
    positions: by code of a verdict, and for RATE_LIMITED, the index in `counts`.
    session_paths: paths that accept the session of a site as a cookie.
    session_cookie: returns the name of that cookie for a query string, or None.
    session_length: length of the cookie's value.
    """

    def __init__(
        self,
        application: Application,
        *,
        versions: VersionTable,
        tag_keys: Sequence[bytes],
        routes: Iterable[tuple[str, str]],
        bodiless: Iterable[str],
        queries: Mapping[str, str | tuple[str, ...]],
        count: Callable[[Any], None],
        count_refusal: Callable[[Any, str], None],
        count_guess: Callable[[str], int | None],
        language_of: Callable[[str], str],
        capacity: int,
        max_age: float = 60.0,
        multi_host: bool = False,
        counts: MutableSequence[int] | memoryview | None = None,
        positions: Mapping[str, int] | None = None,
        session_paths: Iterable[str] = (),
        session_cookie: Callable[[str], str | None] = lambda _query: None,
        session_length: int = 0,
    ) -> None:
        self._application = application
        self._versions = versions
        self._tag_keys = tag_keys
        bodiless_paths = frozenset(bodiless)
        self._routes = {(method, path): path in bodiless_paths for method, path in routes}
        self._queries = queries
        self._session_paths = frozenset(session_paths)
        self._session_cookie = session_cookie
        self._session_length = session_length
        self._cookie_names: dict[str, str] = {}
        self._count = count
        self._count_refusal = count_refusal
        self._count_guess = count_guess
        self._language_of = language_of
        self._languages: dict[str, str] = {}
        self._max_age = max_age
        self._multi_host = multi_host
        self._counts = counts
        self._positions = positions or {}
        # Keyed with a random secret of this process: its memory holds no plaintext of a key.
        self._keyed = blake2b(key=os.urandom(32), digest_size=16)
        self._responses = ResponseStore(capacity)
        self._checked_at = self._check_due = 0.0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # A cache hit is one long function on purpose: every request pays for it, and the threads
        # of a process run it one at a time.
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        needs_no_body = self._routes.get((method, path))
        query = environ.get("QUERY_STRING")
        # Unusual requests bypass the cache.
        if (
            needs_no_body is None
            or (query and not self._is_cacheable_query(path, query))
            or "HTTP_TRANSFER_ENCODING" in environ
            or "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK" in environ
            or "HTTP_X_ORIGINAL_X_API_KEY" in environ
            or "HTTP_X_ORIGINAL_AUTHORIZATION" in environ
            or (needs_no_body and not has_no_body(environ))
        ):
            return self._application(environ, start_response)
        origin: object
        if "HTTP_COOKIE" in environ:
            token = self._session_token(environ, path, query)
            if token is None:
                return self._application(environ, start_response)
            origin, miss = environ.get("HTTP_ORIGIN"), self._miss_session
        else:
            token = environ.get("HTTP_X_API_KEY")
            # As in the endpoints, an empty or blank header counts as absent.
            if not token or token.isspace():
                token = environ.get("HTTP_AUTHORIZATION", "")
                if not token.startswith(_BEARER):
                    return self._application(environ, start_response)
                token = token[len(_BEARER) :]
            if len(token) != LENGTH:
                return self._application(environ, start_response)
            origin, miss = not environ.get("HTTP_ORIGIN"), self._miss
        keyed = self._keyed.copy()
        keyed.update(token.encode("latin-1"))
        digest = keyed.digest()
        host, scheme = environ.get("HTTP_HOST"), environ["wsgi.url_scheme"]
        accepted = environ.get("HTTP_ACCEPT_LANGUAGE")
        language = accepted and (self._languages.get(accepted) or self._negotiate(accepted))
        variant = (method, path, query, host, scheme, origin, language)
        cached = self._responses.young.get(digest) or self._responses.promote(digest)
        now = time.time()
        if (
            cached is None
            or self._versions.version(cached.bucket) != cached.version
            or not cached.begins_at <= now < cached.expires_at
            or clock() >= cached.refresh_at
            or not (self._checked_at <= now < self._check_due or self._check_table(now))
            or (self._multi_host and not self._versions.has_lease())
        ):
            if cached is not None:
                # Other requests use the entry until it is stale, while this one refreshes it.
                cached.refresh_at = cached.stale_at
            return miss(environ, start_response, token, digest, variant)
        response = cached.variants.get(variant)
        if response is None:
            return self._miss_variant(environ, start_response, cached, variant)
        if cached.key_id is not None:
            if environ.get("REMOTE_ADDR", "") not in cached.client_ips:
                return self._miss_variant(environ, start_response, cached, variant)
            self._count(cached.key_id)
        elif cached.refusal is not None:
            self._count_refusal(*cached.refusal)
        elif cached.is_guess and self._count_guess(environ.get("REMOTE_ADDR", "")) != 0:
            return self._application(environ, start_response)
        if self._counts is not None:
            self._counts[cached.position] += 1
        if cached.facts is not None:
            request_log.note(route=path, cache="hit", **cached.facts)
        start_response(response.status, response.headers)
        return response.body

    def _is_cacheable_query(self, path: str, query: str) -> bool:
        prefixes = self._queries.get(path)
        return prefixes is not None and len(query) <= _MAX_QUERY and query.startswith(prefixes)

    def _session_token(self, environ: Environ, path: str, query: str | None) -> str | None:
        """Return the token in the cookie of the site that the query names; None: not cached."""
        if (
            path not in self._session_paths
            or not query
            # Django decides which of the two counts.
            or "HTTP_X_API_KEY" in environ
            or "HTTP_AUTHORIZATION" in environ
            # Another origin's page: the path decides, which is not part of a variant.
            or environ.get("HTTP_SEC_FETCH_SITE") not in _OWN_PAGES
        ):
            return None
        name = self._cookie_names.get(query) or self._remember_cookie_name(query)
        token = cookie_value(environ["HTTP_COOKIE"], name)
        return token if len(token) == self._session_length else None

    def _remember_cookie_name(self, query: str) -> str:
        """Return the cookie's name; ";", which no cookie has, if the query names no site."""
        name = self._session_cookie(query)
        if len(self._cookie_names) >= _MAX_COOKIE_NAMES:
            self._cookie_names.clear()
        found = self._cookie_names[query] = ";" if name is None else name
        return found

    def _negotiate(self, accepted: str) -> str:
        """Return the language code of an Accept-Language header, and remember it."""
        language = self._language_of(accepted)
        if len(accepted) <= _MAX_ACCEPT_LANGUAGE:
            if len(self._languages) >= _MAX_LANGUAGE_HEADERS:
                self._languages.clear()
            self._languages[accepted] = language
        return language

    def _check_table(self, now: float) -> bool:
        """Return whether the version table is current; skip the check for a while if so."""
        is_current = self._versions.is_current()
        self._checked_at, self._check_due = (
            (now, now + _CHECK_INTERVAL) if is_current else (0.0, 0.0)
        )
        return is_current

    def _miss(
        self,
        environ: Environ,
        start_response: StartResponse,
        token: str,
        digest: bytes,
        variant: Variant,
    ) -> Iterable[bytes]:
        """Call the application for a token without a valid entry, and store its response."""
        refusals = self._responses.refusals(digest)
        if refusals is None:
            parsed = parse(token, tag_keys=self._tag_keys)
            if isinstance(parsed, Token):
                bucket = bucket_of(parsed.public_id)
                directive = CacheDirective(parsed)
                return self._miss_bucket(
                    environ, start_response, bucket, directive, digest, variant
                )
            if "," in token or token.isspace():
                # Repeated headers: the endpoints refuse or ignore them without a verdict on a key.
                return self._application(environ, start_response)
            refusals = self._responses.add_refused(digest, parsed)
        return self._refuse(environ, start_response, refusals, variant)

    def _miss_session(
        self,
        environ: Environ,
        start_response: StartResponse,
        token: str,
        digest: bytes,
        variant: Variant,
    ) -> Iterable[bytes]:
        """Call the application for a session without a valid entry, and store its response."""
        bucket = bucket_of(sha256(token.encode("latin-1")).hexdigest())
        directive = CacheDirective()
        return self._miss_bucket(environ, start_response, bucket, directive, digest, variant)

    def _miss_bucket(
        self,
        environ: Environ,
        start_response: StartResponse,
        bucket: int,
        directive: CacheDirective,
        digest: bytes,
        variant: Variant,
    ) -> Iterable[bytes]:
        # Read before the endpoint reads the row, so that a change in between changes the version.
        version = self._versions.version(bucket)
        started_at = clock()
        response = self._capture(environ, start_response, directive)
        if is_stable(version) and directive.is_allowed and not directive.wait:
            refresh_at, stale_at = directive.lifetime or lifetime(started_at, self._max_age)
            cached = CachedResponse(
                bucket,
                version,
                directive.begins_at,
                directive.expires_at,
                refresh_at,
                stale_at,
                directive.key_id,
                directive.refusal,
                directive.is_guess,
                request_log.verdict_facts(),
                position=self._positions.get(directive.verdict, 0),
            )
            self._responses.add_variant(cached, variant, response, environ.get("REMOTE_ADDR", ""))
            self._responses.store(digest, cached)
        return response.body

    def _miss_variant(
        self,
        environ: Environ,
        start_response: StartResponse,
        cached: CachedResponse,
        variant: Variant,
    ) -> Iterable[bytes]:
        """Call the application for a valid entry without this variant or this client IP."""
        # Without the parsed token: an entry that held it would hold the plaintext of a key.
        directive = CacheDirective()
        response = self._capture(environ, start_response, directive)
        if directive.is_allowed and not directive.wait and directive.key_id == cached.key_id:
            # The response is at least as new as the entry.
            self._responses.add_variant(cached, variant, response, environ.get("REMOTE_ADDR", ""))
        return response.body

    def _refuse(
        self,
        environ: Environ,
        start_response: StartResponse,
        refusals: Refusals,
        variant: Variant,
    ) -> Iterable[bytes]:
        """Answer a malformed or forged token with the response that all of its kind get.

        Rate-limited clients get one per second of Retry-After.
        """
        by_wait = refusals.get(variant)
        if by_wait is not None:
            # Not counted where the application has to be called: it counts as well.
            wait = self._count_guess(environ.get("REMOTE_ADDR", ""))
            known = None if wait is None else by_wait.get(wait)
            if known is not None:
                if self._counts is not None:
                    self._counts[self._positions["RATE_LIMITED" if wait else refusals.verdict]] += 1
                if refusals.facts is not None:
                    request_log.note(route=variant[1], cache="hit", **refusals.facts)
                start_response(known.status, known.headers)
                return known.body
        directive = CacheDirective()
        response = self._capture(environ, start_response, directive)
        if directive.is_allowed and directive.key_id is None:
            refusals.facts = request_log.verdict_facts()
            refusals.add(variant, directive.wait, response)
        return response.body

    def _capture(
        self, environ: Environ, start_response: StartResponse, directive: CacheDirective
    ) -> Response:
        """Call the application, pass its response on and return a copy."""
        started: list[tuple[str, Headers]] = []

        def capture(status: str, headers: Headers, exc_info: Any = None) -> Any:
            started.append((status, request_log.without_id(headers)))
            return start_response(status, headers, *([exc_info] if exc_info else []))

        request_log.note(cache="miss")
        environ[CACHE_DIRECTIVE] = directive
        chunks = self._application(environ, capture)
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        status, headers = started[-1]
        intern = self._responses.intern
        return Response(intern(status), intern(tuple(headers), list(headers)), [body])
