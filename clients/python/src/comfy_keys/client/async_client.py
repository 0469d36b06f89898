"""The client for asyncio."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

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
from comfy_keys.verdicts import MISTYPED, Verdict


@dataclass(frozen=True, slots=True)
class _AsyncInFlight:
    sent_at: float
    task: "asyncio.Task[Outcome]"


@dataclass(frozen=True, slots=True)
class _LoopState:
    """The state of one event loop: connections and requests in flight.

    closer: closes the connections when the loop shuts its asynchronous generators down.
    """

    http: httpx.AsyncClient
    flights: dict[bytes, _AsyncInFlight] = field(default_factory=dict)
    closer: AsyncGenerator[None] | None = None


class AsyncClient(BaseClient[httpx.AsyncClient]):
    """A client for asyncio. Close it by `aclose()` or use it in an `async with`.

    Connections belong to the event loop that opened them. Each loop has its own, and they are
    closed when it ends: `asyncio.run` and asgiref's `async_to_sync` create a loop per call.
    """

    def _reset(self) -> None:
        super()._reset()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopState] = {}
        self._is_closed = False

    def _reset_after_fork(self) -> None:
        was_closed = self._is_closed
        self._inherited.append(self._loops)
        super()._reset_after_fork()
        self._is_closed = was_closed

    async def _loop_state(self) -> _LoopState:
        """Return the state of the running loop; created at its first request."""
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise RuntimeError("This AsyncClient has been closed.")
        with self._lock:
            state = self._loops.get(loop)
            if state is not None:
                return state
            for ended in [known for known in self._loops if known.is_closed()]:
                del self._loops[ended]
            if self._given is not None:
                state = self._loops[loop] = _LoopState(self._given)
                return state
            http = httpx.AsyncClient(verify=self._ssl_context or True, trust_env=False)
            closer = self._close_with_loop(loop, http)
            state = self._loops[loop] = _LoopState(http, closer=closer)
        # asyncio closes started generators before it closes their loop.
        await anext(closer)
        return state

    async def _close_with_loop(
        self, loop: asyncio.AbstractEventLoop, http: httpx.AsyncClient
    ) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            await http.aclose()

    async def validate(self, key: str, *, client_ip: str | None = None) -> Verdict:
        """Return the verdict on `key`. Raise Unavailable if there is none.

        client_ip: from where the key is used; "" if that is unknown. It counts for a key that may
            be used from some networks only; without a service_secret such a key has to allow
            this machine's network, too. None: this machine's network counts.
        Raise NotAllowed if the platform does not accept the service_secret.
        """
        key = checked_key(key)
        if not looks_right(key):
            return MISTYPED
        return await self._validate(key, None if client_ip is None else normalized_ip(client_ip))

    async def _validate(self, key: str, client_ip: str | None) -> Verdict:
        digest = self._cache.digest(key, client_ip)
        cached = self._cached(key, client_ip)
        if cached is not None:
            return cached
        state = await self._loop_state()
        flight = state.flights.get(digest)
        if flight is None or not self._cache.is_fresh(flight.sent_at):
            sent_at = self._cache.now()
            # A separate task: the first caller may be cancelled while others wait for it.
            request = self._request_for(key, client_ip)
            task = asyncio.create_task(self._request_verdict(state, request, client_ip, sent_at))
            flight = state.flights[digest] = _AsyncInFlight(sent_at, task)
            task.add_done_callback(partial(_remove_in_flight, state, digest, flight))
        outcome = await asyncio.shield(flight.task)
        if isinstance(outcome, NoVerdict):
            raise outcome.copy()
        return outcome

    async def validate_many(self, keys: Iterable[str]) -> list[Verdict]:
        """Return a verdict for each of `keys`, in their order. Raise Unavailable, NotAllowed."""
        batch = self._plan_batch(keys)
        for request in batch.requests:
            sent_at = self._cache.now()
            response = await self._send(await self._loop_state(), request)
            batch.verdicts |= self._parse_and_cache_batch(request, response, sent_at=sent_at)
        return batch.in_order()

    async def aclose(self) -> None:
        """Close the connections, unless they are those of `http`.

        Connections of other event loops are closed when these loops end.
        """
        self._is_closed = True
        state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is None:
            return
        tasks = [flight.task for flight in state.flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if state.closer is not None:
            await state.closer.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _request_verdict(
        self, state: _LoopState, request: Request, client_ip: str | None, sent_at: float
    ) -> Outcome:
        try:
            response = await self._send(state, request)
            return self._parse_and_cache(request, response, client_ip=client_ip, sent_at=sent_at)
        except NoVerdict as error:
            return error.copy()

    async def _send(self, state: _LoopState, request: Request) -> Response:
        http = state.http if self._given is None else self._use_given(self._given)
        until = time.monotonic() + self._timeout_of(request)
        problem = protocol.unavailable(TimeoutError(), url=self._url)
        for is_last in (False, True):
            try:
                async with (
                    asyncio.timeout(until - time.monotonic()),
                    http.stream(
                        "POST",
                        self._url + request.path,
                        headers=request.headers,
                        content=request.content,
                        follow_redirects=False,
                        timeout=self._timeout_of(request),
                    ) as response,
                ):
                    reader = BodyReader(response, until=until)
                    async for chunk in response.aiter_raw():
                        reader.add(chunk)
                    return reader.response()
            except (*FAILURES, TimeoutError) as error:
                problem = protocol.unavailable(error, url=self._url)
                if is_last or not isinstance(error, BROKEN) or time.monotonic() >= until:
                    break
            except RuntimeError as error:
                if self._given is None or self._given.is_closed:
                    raise
                problem = Unavailable(
                    "The given httpx client has connections of another event loop "
                    f"({error}). Pass none, or use it in one loop."
                )
                break
        # Not in the `except`: httpx's errors refer to the request, which contains the key.
        raise problem


def _remove_in_flight(
    state: _LoopState, digest: bytes, flight: _AsyncInFlight, _task: object
) -> None:
    if state.flights.get(digest) is flight:
        del state.flights[digest]
