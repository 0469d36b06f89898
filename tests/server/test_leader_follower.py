"""One thread leads, parked threads replace it while it waits, and every request is answered."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Barrier, Condition, Event, Lock, Semaphore, Thread, get_ident
from typing import Any

import pytest

from server.leader_follower import LeaderFollowerPool, step_down_before

MAX_THREADS = 6
# Seconds: longer than a test takes.
NEVER = 60.0
READY = Event()
READY.set()


class Request:
    """A request whose body arrives with the event, and its response."""

    def __init__(self, path: str, body: bytes, arrives: Event, **scope: str) -> None:
        self._body, self._arrives = io.BytesIO(body), arrives
        self.scope: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "PATH_INFO": path,
            "wsgi.input": self,
            **scope,
        }
        self.responses: list[bytes] = []
        self._is_answered = Event()

    def read(self, size: int = -1, /) -> bytes:
        assert self._arrives.wait(20)
        return self._body.read(size)

    def response_bytes(self, _status: int, _headers: list[tuple[str, str]], body: bytes) -> None:
        self.responses.append(body)
        self._is_answered.set()

    def wait(self) -> bytes:
        assert self._is_answered.wait(20), "no response"
        (body,) = self.responses
        return body


class Server:
    """Threads that take requests from a queue, as granian's: one more when none is idle."""

    def __init__(self, answer: Callable[[Any, Any], object]) -> None:
        self._answer = answer
        self._queue: deque[Request | None] = deque()
        self._condition = Condition()
        self._number = self.idle = 0
        # By thread: what it keeps of the request that the thread answers, or is parked with.
        self.kept: dict[int, dict[str, Any]] = {}

    def send(
        self, path: str = "/", body: bytes = b"", arrives: Event = READY, **scope: str
    ) -> Request:
        request = Request(path, body, arrives, **scope)
        with self._condition:
            self._queue.append(request)
            if len(self._queue) > self.idle and self._number < MAX_THREADS:
                self._number += 1
                Thread(target=self._work, daemon=True).start()
            self._condition.notify()
        return request

    def is_settled(self) -> bool:
        """Return whether one thread is idle and the others are parked."""
        return self.idle == 1 and not any(list(self.kept.values()))

    def stop(self) -> None:
        with self._condition:
            self._queue.extend([None] * MAX_THREADS)
            self._condition.notify_all()

    def _work(self) -> None:
        while True:
            with self._condition:
                self.idle += 1
                self._condition.wait_for(lambda: self._queue)
                self.idle -= 1
                request = self._queue.popleft()
            if request is None:
                return
            self.kept[get_ident()] = request.scope
            try:
                self._answer(request, request.scope)
            except ValueError:
                request.response_bytes(500, [], b"failed")
            del self.kept[get_ident()]


class Site:
    """An application with a cache: /cached… is answered by the leader, all else steps down."""

    def __init__(self) -> None:
        self.in_cache = self.most_in_cache = self.passes = 0
        self.waiting, self.released = Semaphore(0), Semaphore(0)
        self.three = Barrier(3)
        # The threads that answered what is not cached, in turn.
        self.uncached_by: list[int] = []
        self._lock = Lock()
        self._uncached = step_down_before(self._answer_uncached)

    def run(self, request: Request, scope: dict[str, Any]) -> None:
        """Answer a request, as granian's wrapper of a WSGI application does."""
        self.passes += 1
        environ = dict(scope)
        if environ["PATH_INFO"].startswith("/cached"):
            body = self._answer_cached(environ)
        else:
            body = b"".join(self._uncached(environ, None))
        request.response_bytes(200, [], body)

    def _answer_cached(self, environ: dict[str, Any]) -> bytes:
        if environ["PATH_INFO"] == "/cached/by-three-at-once":
            self.three.wait(20)
        with self._lock:
            self.in_cache += 1
            self.most_in_cache = max(self.most_in_cache, self.in_cache)
        time.sleep(0)
        with self._lock:
            self.in_cache -= 1
        return b"cached"

    def _answer_uncached(self, environ: dict[str, Any], _start_response: Any) -> list[bytes]:
        self.uncached_by.append(get_ident())
        match environ["PATH_INFO"]:
            case "/fails":
                raise ValueError("A fault in the application.")
            case "/by-three-at-once":
                self.three.wait(20)
            case "/waits":
                self.waiting.release()
                assert self.released.acquire(timeout=20)
        return [b"uncached", environ["wsgi.input"].read()]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Server]]:
    """Start a server with a pool that has the given options."""
    servers: list[Server] = []

    def make(**options: Any) -> Server:
        servers.append(Server(LeaderFollowerPool(site.run, **options).answer))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def occupy(server: Server, site: Site, number: int, **options: Any) -> list[Request]:
    """Have as many more threads wait in requests until they are released."""
    waiting = [server.send("/waits", **options) for _ in range(number)]
    for _ in waiting:
        assert site.waiting.acquire(timeout=20)
    return waiting


def release(site: Site, waiting: list[Request]) -> set[bytes]:
    site.released.release(len(waiting))
    return {request.wait() for request in waiting}


def settle(server: Server, path: str = "/") -> None:
    """Send requests until one thread of an idle server leads and the others are parked."""
    until(lambda: server.is_settled() or not server.send(path).wait())


def use_all_threads(server: Server, site: Site, **options: Any) -> set[bytes]:
    """Start all threads; return the responses when one leads and the others are parked."""
    bodies = release(site, occupy(server, site, MAX_THREADS, **options))
    settle(server)
    return bodies


def test_a_request_passes_through_the_application_once(start, site):
    server = start()
    assert server.send("/cached").wait() == b"cached"
    assert server.send().wait() == b"uncached"
    assert site.passes == 2


def test_requests_are_answered_while_others_wait(start, site):
    server = start(eager_ticks=0)
    waiting = occupy(server, site, MAX_THREADS - 1)
    for _ in range(50):
        assert server.send().wait() == b"uncached"
        assert server.send("/cached").wait() == b"cached"
    release(site, waiting)


def test_when_all_threads_wait_the_first_that_returns_leads(start, site):
    server = start()
    waiting = occupy(server, site, MAX_THREADS)
    cached = server.send("/cached")
    site.released.release()
    assert cached.wait() == b"cached"
    site.released.release(MAX_THREADS - 1)
    for request in waiting:
        request.wait()


def test_after_a_burst_one_thread_leads(start, site):
    server = start()
    use_all_threads(server, site)
    for request in [server.send("/cached") for _ in range(300)]:
        request.wait()
    assert site.most_in_cache == 1


@pytest.mark.parametrize("tick", [NEVER, 0.005], ids=["at once", "later"])
def test_while_the_cache_is_used_one_more_thread_leads_for_each_busy_one(start, site, tick):
    server = start(tick=tick)
    if tick == NEVER:
        server.send("/cached").wait()
    release(site, occupy(server, site, MAX_THREADS))
    settle(server, "/cached" if tick == NEVER else "/")
    waiting = occupy(server, site, 2)
    if tick != NEVER:
        time.sleep(0.3)
        server.send("/cached").wait()
    for request in [server.send("/cached/by-three-at-once") for _ in range(3)]:
        request.wait()
    release(site, waiting)


def test_once_the_cache_is_unused_one_thread_answers_all(start, site):
    server = start(tick=0.05, eager_ticks=2)
    use_all_threads(server, site)
    server.send("/cached").wait()

    def is_answered_by_one() -> bool:
        site.uncached_by.clear()
        for request in [server.send() for _ in range(50)]:
            request.wait()
        return len(set(site.uncached_by)) == 1

    until(is_answered_by_one)


def test_while_requests_wait_for_io_threads_are_replaced_at_once(start, site):
    tick = 0.2
    server = start(tick=tick, eager_ticks=10**9)
    release(site, occupy(server, site, MAX_THREADS))

    def are_replaced_at_once() -> bool:
        """Otherwise each of two threads would be replaced after a tick or more."""
        started = time.monotonic()
        for request in [server.send("/by-three-at-once") for _ in range(3)]:
            request.wait()
        return time.monotonic() - started < tick

    until(are_replaced_at_once)


def test_an_idle_pool_uses_no_processor_time(start, site, monkeypatch):
    tick, sleep, slept = 0.0123, time.sleep, []
    monkeypatch.setattr(time, "sleep", lambda seconds: (slept.append(seconds), sleep(seconds)))
    server = start(tick=tick, eager_ticks=0)
    release(site, occupy(server, site, 1))

    def is_idle() -> bool:
        ticks = slept.count(tick)
        sleep(0.5)
        return slept.count(tick) == ticks > 0

    until(is_idle)


@pytest.mark.parametrize(
    ("body", "scope"),
    [
        (b"", {}),
        (b"{}", {"CONTENT_LENGTH": "2"}),
        (b"{}", {"HTTP_TRANSFER_ENCODING": "chunked"}),
        (b"{}", {"SERVER_PROTOCOL": "HTTP/2"}),
        (b"", {"SERVER_PROTOCOL": "HTTP/2"}),
    ],
)
def test_a_parked_thread_keeps_neither_a_key_nor_a_body(start, site, body, scope):
    server = start()
    bodies = use_all_threads(server, site, body=body, HTTP_X_API_KEY="secret", **scope)
    assert bodies == {b"uncached" + body}
    assert list(server.kept.values()) == [{}] * (MAX_THREADS - 1)


def test_threads_that_wait_for_a_body_are_replaced_and_not_busy(start, site):
    """One thread leads meanwhile, and not one more for each."""
    server = start()
    use_all_threads(server, site)
    arrives = Event()
    waiting = [server.send("/cached", b"{}", arrives, CONTENT_LENGTH="2") for _ in range(3)]
    for request in [server.send("/cached") for _ in range(300)]:
        assert request.wait() == b"cached"
    assert site.most_in_cache == 1
    assert server.send().wait() == b"uncached"
    assert not any(request.responses for request in waiting)
    arrives.set()
    for request in waiting:
        assert request.wait() == b"cached"


def test_no_more_than_max_busy_requests_are_answered_at_once(start, site):
    server = start(max_busy=2)
    waiting = [server.send("/waits") for _ in range(4)]
    for _ in range(2):
        assert site.waiting.acquire(timeout=20)
    assert not site.waiting.acquire(timeout=0.2)
    assert server.send("/cached").wait() == b"cached"
    release(site, waiting)


def test_an_exception_reaches_the_server_and_the_thread_goes_on(start, site):
    server = start(max_busy=2)
    for _ in range(MAX_THREADS * 3):
        assert server.send("/fails").wait() == b"failed"
        assert server.send("/cached").wait() == b"cached"
    settle(server)
