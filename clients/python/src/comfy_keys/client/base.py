"""What both clients share: options, the cache, batches, and what happens after a fork."""

import ipaddress
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import httpx

from comfy_keys import platform_url, protocol
from comfy_keys.errors import NotAllowed, NoVerdict
from comfy_keys.key_format import looks_right
from comfy_keys.protocol import Request, Response
from comfy_keys.verdict_cache import Clock, VerdictCache
from comfy_keys.verdicts import MISTYPED, Verdict, depends_on_client_ip

Outcome = Verdict | NoVerdict

# What httpx raises for network errors.
FAILURES: Final = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)
# The server may have closed an idle connection. A second attempt is harmless.
BROKEN: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_SECRET_NEEDED: Final = "Validating several keys at once needs a service_secret."  # noqa: S105


@dataclass(slots=True)
class _Batch:
    keys: Sequence[str] = field(repr=False)
    verdicts: dict[str, Verdict] = field(default_factory=dict, repr=False)
    requests: list[Request] = field(default_factory=list)

    def in_order(self) -> list[Verdict]:
        return [self.verdicts[key] for key in self.keys]


Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)

# Every client of this process, so that a forked child can separate its own from the parent's.
_clients: "weakref.WeakSet[BaseClient[Any]]" = weakref.WeakSet()


class BaseClient(Generic[Http]):
    """A client without its connections."""

    def __init__(
        self,
        url: str,
        *,
        service_secret: str | None = None,
        cache_for: float = 2.0,
        cache_size: int = 10_000,
        timeout: float = 5.0,
        allow_http: bool = False,
        http: Http | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """
        url: the platform's PUBLIC_URL.
        service_secret: one of the platform's SERVICE_SECRETS with the scope `batch`, for
            `validate_many` and to name the clients of keys that are limited to networks.
        cache_for: seconds for which a good verdict is cached. A deleted key may be accepted for
            that long, in addition to the platform's own bound; 0 turns the cache off.
        cache_size: how many verdicts are cached.
        timeout: seconds for a request, from the first byte sent to the last one received.
        allow_http: allow plain http to another machine. Refused by default, because a service
            sends the keys of all its users, and a missing letter in the URL would show them to
            the network. Set it in a LAN or between containers.
        http: an httpx client to use instead, for proxies or certificates. The default ignores
            proxies in the environment, which would see keys. It is used by one process and, if
            it is asynchronous, by one event loop. A synchronous one bounds each read of a
            response's headers, not all of them together.
        clock: monotonic seconds.

        Raise ValueError for an invalid URL, secret, number or SSL_CERT_FILE, and TypeError for
        another type.
        """
        if not _is_number(timeout) or timeout <= 0:
            raise ValueError("timeout must be a number of seconds above 0.")
        if not _is_number(cache_for) or cache_for < 0:
            raise ValueError("cache_for must be a number of seconds, 0 or more.")
        if not _is_number(cache_size) or cache_size < 1 or cache_size != int(cache_size):
            raise ValueError("cache_size must be a whole number above 0.")
        self._url = platform_url.normalize(url)
        if not allow_http and not platform_url.is_private(self._url):
            raise ValueError(
                "Over plain http, others on the network can read the keys. Use https, or pass "
                "allow_http=True if you trust the network."
            )
        if service_secret is not None and not _is_header_value(service_secret):
            raise ValueError("The service secret must be printable ASCII without spaces.")
        self._service_secret = service_secret
        self._timeout = timeout
        self._cache_for, self._cache_size, self._clock = cache_for, cache_size, clock
        self._ssl_context = platform_url.ssl_context() if http is None else None
        self._given: Http | None = http
        self._given_was_used = self._given_is_inherited = False
        # A forked child never closes what it inherited: that might end the parent's connections.
        self._inherited: list[object] = []
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        """Set up the state of this process, also after a fork."""
        self._cache = VerdictCache(
            cache_for=self._cache_for, size=self._cache_size, clock=self._clock
        )
        self._lock = threading.Lock()

    def _reset_after_fork(self) -> None:
        """Leave connections, locks and requests in flight to the parent process."""
        self._given_is_inherited = self._given_was_used
        self._reset()

    def _use_given(self, given: Http) -> Http:
        if self._given_is_inherited:
            raise RuntimeError(
                "The given httpx client has connections of the parent process. "
                f"After a fork, create a new httpx client and a new {type(self).__name__}."
            )
        self._given_was_used = True
        return given

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def _request_for(self, key: str, client_ip: str | None) -> Request:
        """Return the request that validates a key, for a client if its IP is given."""
        if client_ip is None:
            return protocol.validate_request(key)
        return protocol.client_ip_request(key, client_ip, service_secret=self._service_secret)

    def _cached(self, key: str, client_ip: str | None) -> Verdict | None:
        if client_ip is not None:
            # Most keys are limited to no networks: one verdict serves all clients.
            verdict = self._cache.get(self._cache.digest(key))
            if verdict is not None and not depends_on_client_ip(verdict):
                return verdict
        return self._cache.get(self._cache.digest(key, client_ip))

    def _parse_and_cache(
        self, request: Request, response: Response, *, client_ip: str | None, sent_at: float
    ) -> Verdict:
        verdict = protocol.parse_verdict(request, response)
        (key,) = request.keys
        digest = self._cache.digest(key, client_ip if depends_on_client_ip(verdict) else None)
        self._cache.store(digest, verdict, sent_at=sent_at)
        return verdict

    def _parse_and_cache_batch(
        self, request: Request, response: Response, *, sent_at: float
    ) -> dict[str, Verdict]:
        verdicts = protocol.parse_verdicts(request, response)
        for key, verdict in zip(request.keys, verdicts, strict=True):
            self._cache.store(self._cache.digest(key), verdict, sent_at=sent_at)
        return dict(zip(request.keys, verdicts, strict=True))

    def _plan_batch(self, keys: Iterable[str]) -> "_Batch":
        """Return the cached verdicts on `keys`, and requests for the others."""
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise TypeError("validate_many takes several keys: a list of str, or any iterable.")
        if self._service_secret is None:
            raise NotAllowed(_SECRET_NEEDED)
        batch = _Batch([checked_key(key) for key in keys])
        not_cached = []
        for key in dict.fromkeys(batch.keys):
            cached = self._cache.get(self._cache.digest(key)) if looks_right(key) else MISTYPED
            if cached is None:
                not_cached.append(key)
            else:
                batch.verdicts[key] = cached
        for start in range(0, len(not_cached), protocol.BATCH):
            chunk = not_cached[start : start + protocol.BATCH]
            batch.requests.append(
                protocol.batch_request(chunk, service_secret=self._service_secret)
            )
        return batch

    def _timeout_of(self, request: Request) -> float:
        return self._timeout + request.extra_timeout


def _separate_from_parent() -> None:
    for client in list(_clients):
        client._reset_after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_separate_from_parent)


def checked_key(key: object) -> str:
    if not isinstance(key, str):
        # Only its type: its value may contain a key.
        raise TypeError(
            f"The key must be a str, not {type(key).__name__}. Respond 401 to a request without "
            "a key."
        )
    return key.strip()


def normalized_ip(client_ip: object) -> str:
    """Return an IP address in its shortest form, or "" for an unknown one."""
    try:
        address = ipaddress.ip_address(str(client_ip).partition("%")[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_header_value(text: object) -> bool:
    return (
        isinstance(text, str)
        and bool(text)
        and text.isascii()
        and text.isprintable()
        and " " not in text
    )
