"""The client for threads."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from comfy_keys import protocol
from comfy_keys.client.base import (
    BROKEN,
    FAILURES,
    BaseClient,
    Outcome,
    checked_key,
    normalized_ip,
)
from comfy_keys.errors import NoVerdict, Unavailable
from comfy_keys.key_format import looks_right
from comfy_keys.protocol import BodyReader, Request, Response
from comfy_keys.transport import DeadlineTransport, deadline
from comfy_keys.verdicts import MISTYPED, Verdict


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A validation in flight. Other threads with the same key wait for its outcome."""

    sent_at: float
    outcome: "Future[Outcome]" = field(default_factory=Future)


class Client(BaseClient[httpx.Client]):
    """A client for threads. Close it by `close()` or use it in a `with`.

    A forked process may use the client that it inherited, and opens its own connections.
    """

    def _reset(self) -> None:
        super()._reset()
        self._flights: dict[bytes, _InFlight] = {}
        if self._ssl_context is not None:
            self._http = httpx.Client(
                transport=DeadlineTransport(self._ssl_context), trust_env=False
            )
        elif self._given is not None:
            self._http = self._given

    def _reset_after_fork(self) -> None:
        was_closed = self._http.is_closed
        self._inherited += [self._http, self._flights]
        super()._reset_after_fork()
        if was_closed:
            self._http.close()

    def validate(self, key: str, *, client_ip: str | None = None) -> Verdict:
        """Return the verdict on `key`. Raise Unavailable if there is none.

        client_ip: from where the key is used; "" if that is unknown. It counts for a key that may
            be used from some networks only; without a service_secret such a key has to allow
            this machine's network, too. None: this machine's network counts.
        Raise NotAllowed if the platform does not accept the service_secret.
        """
        key = checked_key(key)
        if not looks_right(key):
            return MISTYPED
        return self._validate(key, None if client_ip is None else normalized_ip(client_ip))

    def _validate(self, key: str, client_ip: str | None) -> Verdict:
        digest = self._cache.digest(key, client_ip)
        with self._lock:
            cached = self._cached(key, client_ip)
            if cached is not None:
                return cached
            flight = self._flights.get(digest)
            is_first = flight is None or not self._cache.is_fresh(flight.sent_at)
            if flight is None or is_first:
                flight = self._flights[digest] = _InFlight(self._cache.now())
        outcome = (
            self._request_verdict(key, client_ip, digest, flight)
            if is_first
            else self._wait_for_verdict(flight)
        )
        if isinstance(outcome, NoVerdict):
            raise outcome.copy()
        return outcome

    def validate_many(self, keys: Iterable[str]) -> list[Verdict]:
        """Return a verdict for each of `keys`, in their order. Raise Unavailable, NotAllowed."""
        batch = self._plan_batch(keys)
        for request in batch.requests:
            sent_at = self._cache.now()
            response = self._send(request)
            batch.verdicts |= self._parse_and_cache_batch(request, response, sent_at=sent_at)
        return batch.in_order()

    def close(self) -> None:
        """Close the connections, unless they are those of `http`."""
        if self._given is None:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _request_verdict(
        self, key: str, client_ip: str | None, digest: bytes, flight: _InFlight
    ) -> Outcome:
        # Waiting threads get an outcome whatever happens here, also after Ctrl-C.
        outcome: Outcome = Unavailable("The request was cancelled.")
        try:
            request = self._request_for(key, client_ip)
            response = self._send(request)
            outcome = self._parse_and_cache(
                request, response, client_ip=client_ip, sent_at=flight.sent_at
            )
        except NoVerdict as error:
            outcome = error.copy()
        finally:
            with self._lock:
                if self._flights.get(digest) is flight:
                    del self._flights[digest]
            flight.outcome.set_result(outcome)
        return outcome

    def _wait_for_verdict(self, flight: _InFlight) -> Outcome:
        try:
            return flight.outcome.result(self._timeout)
        except TimeoutError as error:
            return protocol.unavailable(error, url=self._url)

    def _send(self, request: Request) -> Response:
        http = self._http if self._given is None else self._use_given(self._given)
        until = time.monotonic() + self._timeout_of(request)
        problem = protocol.unavailable(TimeoutError(), url=self._url)
        for is_last in (False, True):
            try:
                with (
                    deadline(until),
                    http.stream(
                        "POST",
                        self._url + request.path,
                        headers=request.headers,
                        content=request.content,
                        follow_redirects=False,
                        extensions=_timeout_extensions(until),
                    ) as response,
                ):
                    reader = BodyReader(response, until=until)
                    for chunk in response.iter_raw():
                        reader.add(chunk)
                    return reader.response()
            except FAILURES as error:
                problem = protocol.unavailable(error, url=self._url)
                if is_last or not isinstance(error, BROKEN) or time.monotonic() >= until:
                    break
        # Not in the `except`: httpx's errors refer to the request, which contains the key.
        raise problem


def _timeout_extensions(until: float) -> dict[str, Any]:
    """Return httpx extensions that end each step of a request at `until`.

    By default each step, such as connecting, has the whole timeout. Needed for a client that was
    passed as `http`; DeadlineTransport also bounds the reads of one step.
    """
    left: dict[str, float] = {}

    def shorten(_event: str, _info: object) -> None:
        rest = max(until - time.monotonic(), 0.001)
        left.update(connect=rest, read=rest, write=rest, pool=rest)

    shorten("", None)
    return {"timeout": left, "trace": shorten}
