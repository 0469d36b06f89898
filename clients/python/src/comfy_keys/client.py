"""Asks the platform whether a key is good, and whose it is.

Both clients go by the rules in `_Rules`; what differs is how they wait. Safe for threads, and for
the tasks of one event loop.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import httpx

from comfy_keys import address, protocol
from comfy_keys.errors import NotAllowed, NoVerdict, Unavailable
from comfy_keys.keys import looks_right
from comfy_keys.memory import Clock, Memory
from comfy_keys.protocol import Answer, Intake, Question
from comfy_keys.verdicts import MISTYPED, Verdict

Outcome = Verdict | NoVerdict

# What httpx raises for what goes wrong on the way.
_FAILURES: Final = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)
# A connection that was kept open and was just being closed: asking once more does no harm.
_BROKEN: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_NO_SECRET: Final = "Judging many keys at once takes a service_secret."  # noqa: S105


@dataclass(slots=True)
class _Many:
    keys: Sequence[str] = field(repr=False)
    verdicts: dict[str, Verdict] = field(default_factory=dict, repr=False)
    questions: list[Question] = field(default_factory=list)

    def in_order(self) -> list[Verdict]:
        return [self.verdicts[key] for key in self.keys]


@dataclass(frozen=True, slots=True)
class _Flight:
    """A question about a key that is on its way. Who asks meanwhile may wait for its answer."""

    asked_at: float
    outcome: "Future[Outcome]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _AsyncFlight:
    asked_at: float
    task: "asyncio.Task[Outcome]"


Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Flight = TypeVar("Flight", _Flight, _AsyncFlight)


class _Rules(Generic[Http, Flight]):
    """What both clients go by."""

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
        url: the platform's address, as its operator calls it: PUBLIC_URL.
        service_secret: one of the platform's SERVICE_SECRETS, for `validate_many`.
        cache_for: seconds for which a good verdict is given again without asking. A deleted key
            may be taken for that long, beyond what the platform itself promises; 0 asks each time.
        cache_size: verdicts that are remembered.
        timeout: seconds for which an answer is waited for.
        allow_http: lets keys travel in the clear to another machine. Without it that is refused,
            because a service sends everybody's keys, and one letter less in an address would show
            them all to the network. In a LAN or between containers, say so.
        http: an httpx client of one's own, for proxies or certificates. The default goes past
            proxies that the environment names: those are for the internet, and would see keys.
        clock: counts seconds, and is never set.

        Raises ValueError for an address or a secret that can't be one.
        """
        self._url = address.read(url)
        if not allow_http and not address.is_private(self._url):
            raise ValueError(
                "Over plain http everybody on the way can read the keys: use https, or say "
                "allow_http=True if you know the network."
            )
        if service_secret is not None and not _fits_a_header(service_secret):
            raise ValueError("The service secret is printable ASCII without spaces.")
        self._service_secret = service_secret
        self._timeout = timeout
        self._memory = Memory(cache_for=cache_for, size=cache_size, clock=clock)
        self._flights: dict[bytes, Flight] = {}
        self._lock = threading.Lock()
        self._is_ours = http is None
        self._http: Http = self._connect(address.trusted()) if http is None else http

    def _connect(self, trusted: ssl.SSLContext) -> Http:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def _judge(self, question: Question, answer: Answer, *, asked_at: float) -> Verdict:
        verdict = protocol.verdict_on_one(question, answer)
        self._memory.keep(self._memory.digest(question.keys[0]), verdict, asked_at=asked_at)
        return verdict

    def _judge_many(
        self, question: Question, answer: Answer, *, asked_at: float
    ) -> dict[str, Verdict]:
        judged = protocol.verdicts_on_many(question, answer)
        for key, verdict in zip(question.keys, judged, strict=True):
            self._memory.keep(self._memory.digest(key), verdict, asked_at=asked_at)
        return dict(zip(question.keys, judged, strict=True))

    def _sort_out(self, keys: Iterable[str]) -> "_Many":
        """What is known of `keys` already, and the questions about the others."""
        if isinstance(keys, str):
            raise TypeError("validate_many takes many keys, not one")
        if self._service_secret is None:
            raise NotAllowed(_NO_SECRET)
        many = _Many([key.strip() for key in keys])
        unknown = []
        for key in dict.fromkeys(many.keys):
            known = self._memory.recall(self._memory.digest(key)) if looks_right(key) else MISTYPED
            if known is None:
                unknown.append(key)
            else:
                many.verdicts[key] = known
        for start in range(0, len(unknown), protocol.BATCH):
            chunk = unknown[start : start + protocol.BATCH]
            many.questions.append(protocol.about_many(chunk, service_secret=self._service_secret))
        return many

    def _timing(self, question: Question) -> float:
        return self._timeout + question.patience


class Client(_Rules[httpx.Client, _Flight]):
    """For threads. Closed by `close()` or at the end of `with`."""

    def _connect(self, trusted: ssl.SSLContext) -> httpx.Client:
        return httpx.Client(verify=trusted, trust_env=False)

    def validate(self, key: str) -> Verdict:
        """Whether `key` is good, and whose it is. Raises Unavailable when that can't be known."""
        key = key.strip()
        if not looks_right(key):
            return MISTYPED
        digest = self._memory.digest(key)
        with self._lock:
            known = self._memory.recall(digest)
            if known is not None:
                return known
            flight = self._flights.get(digest)
            leads = flight is None or not self._memory.is_fresh(flight.asked_at)
            if flight is None or leads:
                flight = self._flights[digest] = _Flight(self._memory.now())
        outcome = self._ask(key, digest, flight) if leads else self._wait(flight)
        if isinstance(outcome, NoVerdict):
            raise outcome.again()
        return outcome

    def validate_many(self, keys: Iterable[str]) -> list[Verdict]:
        """A verdict for each of `keys`, in their order. Raises Unavailable, NotAllowed."""
        many = self._sort_out(keys)
        for question in many.questions:
            asked_at = self._memory.now()
            answer = self._send(question)
            many.verdicts |= self._judge_many(question, answer, asked_at=asked_at)
        return many.in_order()

    def close(self) -> None:
        """Closes connections, unless they are those of a client that was given."""
        if self._is_ours:
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

    def _ask(self, key: str, digest: bytes, flight: _Flight) -> Outcome:
        # Whoever waits is told something, whatever happens here, Ctrl-C as well.
        outcome: Outcome = Unavailable("The question was given up.")
        try:
            question = protocol.about_one(key)
            outcome = self._judge(question, self._send(question), asked_at=flight.asked_at)
        except NoVerdict as error:
            outcome = error.again()
        finally:
            with self._lock:
                if self._flights.get(digest) is flight:
                    del self._flights[digest]
            flight.outcome.set_result(outcome)
        return outcome

    def _wait(self, flight: _Flight) -> Outcome:
        try:
            return flight.outcome.result(self._timeout)
        except TimeoutError as error:
            return protocol.no_answer(error, url=self._url)

    def _send(self, question: Question) -> Answer:
        patience = self._timing(question)
        until = time.monotonic() + patience
        for is_last in (False, True):
            try:
                with self._http.stream(
                    "POST",
                    self._url + question.path,
                    headers=question.headers,
                    content=question.content,
                    follow_redirects=False,
                    timeout=patience,
                ) as response:
                    intake = Intake(response, until=until)
                    for chunk in response.iter_raw():
                        intake.take(chunk)
                    return intake.answer()
            except _FAILURES as error:
                if isinstance(error, _BROKEN) and not is_last:
                    continue
                problem = protocol.no_answer(error, url=self._url)
        # Not in the `except`: httpx's errors hold the request, and the request holds the key.
        raise problem


class AsyncClient(_Rules[httpx.AsyncClient, _AsyncFlight]):
    """For asyncio, in one event loop. Closed by `aclose()` or at the end of `async with`."""

    def _connect(self, trusted: ssl.SSLContext) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=trusted, trust_env=False)

    async def validate(self, key: str) -> Verdict:
        """Whether `key` is good, and whose it is. Raises Unavailable when that can't be known."""
        key = key.strip()
        if not looks_right(key):
            return MISTYPED
        digest = self._memory.digest(key)
        known = self._memory.recall(digest)
        if known is not None:
            return known
        flight = self._flights.get(digest)
        if flight is None or not self._memory.is_fresh(flight.asked_at):
            asked_at = self._memory.now()
            # A task of its own: whoever began it may go away while others wait for it.
            task = asyncio.create_task(self._ask(key, asked_at))
            flight = self._flights[digest] = _AsyncFlight(asked_at, task)
            task.add_done_callback(lambda _task, landed=flight: self._land(digest, landed))  # type: ignore[misc]
        outcome = await asyncio.shield(flight.task)
        if isinstance(outcome, NoVerdict):
            raise outcome.again()
        return outcome

    async def validate_many(self, keys: Iterable[str]) -> list[Verdict]:
        """A verdict for each of `keys`, in their order. Raises Unavailable, NotAllowed."""
        many = self._sort_out(keys)
        for question in many.questions:
            asked_at = self._memory.now()
            answer = await self._send(question)
            many.verdicts |= self._judge_many(question, answer, asked_at=asked_at)
        return many.in_order()

    async def aclose(self) -> None:
        """Closes connections, unless they are those of a client that was given."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._is_ours:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _ask(self, key: str, asked_at: float) -> Outcome:
        question = protocol.about_one(key)
        try:
            return self._judge(question, await self._send(question), asked_at=asked_at)
        except NoVerdict as error:
            return error.again()

    def _land(self, digest: bytes, landed: _AsyncFlight) -> None:
        if self._flights.get(digest) is landed:
            del self._flights[digest]

    async def _send(self, question: Question) -> Answer:
        patience = self._timing(question)
        until = time.monotonic() + patience
        for is_last in (False, True):
            try:
                async with (
                    asyncio.timeout(patience),
                    self._http.stream(
                        "POST",
                        self._url + question.path,
                        headers=question.headers,
                        content=question.content,
                        follow_redirects=False,
                        timeout=patience,
                    ) as response,
                ):
                    intake = Intake(response, until=until)
                    async for chunk in response.aiter_raw():
                        intake.take(chunk)
                    return intake.answer()
            except (*_FAILURES, TimeoutError) as error:
                if isinstance(error, _BROKEN) and not is_last:
                    continue
                problem = protocol.no_answer(error, url=self._url)
        # Not in the `except`: httpx's errors hold the request, and the request holds the key.
        raise problem


def _fits_a_header(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
