"""One thread is in front, others take its place when it has to wait, and nobody is forgotten."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Barrier, Condition, Event, Lock, Semaphore, Thread, get_ident
from typing import Any

import pytest
from granian.server import mp

from config import threads
from config.bodies import ALL_READ
from config.threads import behind, in_turn

MOST = 6


class Server:
    """Threads that take requests from a queue, as granian's: one more when none is idle."""

    def __init__(self, run: Callable[[Any, Any], object]) -> None:
        self._run = run
        self._tasks: deque[tuple[Any, Any] | None] = deque()
        self._come = Condition()
        self._idle = self._number = 0
        with self._come:
            self._start()

    def ask(self, **scope: str) -> "Answer":
        answer = Answer()
        with self._come:
            self._tasks.append((answer, request(**scope)))
            if len(self._tasks) > self._idle and self._number < MOST:
                self._start()
            self._come.notify()
        return answer

    @property
    def idle(self) -> int:
        """How many wait for a request."""
        with self._come:
            return self._idle

    def end(self) -> None:
        with self._come:
            self._tasks.extend([None] * MOST)
            self._come.notify_all()

    def _start(self) -> None:
        self._number += 1
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._come:
                self._idle += 1
                self._come.wait_for(lambda: self._tasks)
                self._idle -= 1
                task = self._tasks.popleft()
            if task is None:
                return
            self._run(*task)


class Answer:
    def __init__(self) -> None:
        self.given: list[tuple[int, bytes]] = []
        self._is_there = Event()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.given.append((status, body))
        self._is_there.set()

    def wait(self) -> bytes:
        assert self._is_there.wait(20), "nobody answered"
        ((status, body),) = self.given
        assert status == 200
        return body


def request(**scope: str) -> dict[str, str]:
    return {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", **scope}


class Site:
    """/known and /meet are answered in front; /waits behind it, once it is let go."""

    def __init__(self) -> None:
        self.in_front = self.most_in_front = 0
        self.waiting = Semaphore(0)
        self.let_go = Semaphore(0)
        self.three = Barrier(3)
        # Which threads answered what is not known, in turn.
        self.behind: list[int] = []
        self._lock = Lock()
        self.application = self._known_or(behind(self._unknown))

    def _known_or(self, application: Any) -> Any:
        def choose(environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/meet":
                self.three.wait(20)
            elif environ["PATH_INFO"] != "/known":
                return application(environ, start_response)
            with self._lock:
                self.in_front += 1
                self.most_in_front = max(self.most_in_front, self.in_front)
            time.sleep(0)
            with self._lock:
                self.in_front -= 1
            start_response("200 OK", [])
            return [b"known"]

        return choose

    def _unknown(self, environ: Any, start_response: Any) -> Any:
        self.behind.append(get_ident())
        if environ["PATH_INFO"] == "/breaks":
            raise ValueError("It is broken.")
        if environ["PATH_INFO"] == "/naps":
            time.sleep(0.003)
        if environ["PATH_INFO"] == "/meet-behind":
            self.three.wait(20)
        if environ["PATH_INFO"] == "/waits":
            self.waiting.release()
            assert self.let_go.acquire(timeout=20)
        start_response("200 OK", [])
        return [b"unknown"]

    def whole(self, answering: Any, scope: Any) -> None:
        said: list[Any] = []
        body = self.application(dict(scope), lambda *given: said.append(given))
        answering.response_bytes(int(said[0][0][:3]), said[0][1], b"".join(body))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
    server = Server(in_turn(site.application, site.whole))
    yield server
    server.end()


def have_wait(server: Server, site: Site, number: int) -> list[Answer]:
    """So many more threads at work on what waits until it is let go."""
    waiting = [server.ask(PATH_INFO="/waits") for _ in range(number)]
    for _ in waiting:
        assert site.waiting.acquire(timeout=20)
    return waiting


def let_go(site: Site, waiting: list[Answer]) -> None:
    site.let_go.release(len(waiting))
    for answer in waiting:
        assert answer.wait() == b"unknown"


def test_what_is_known_and_what_is_not_are_both_answered(server):
    assert server.ask(PATH_INFO="/known").wait() == b"known"
    assert server.ask(PATH_INFO="/else").wait() == b"unknown"


def test_what_is_known_is_answered_while_others_wait(server, site):
    waiting = have_wait(server, site, MOST - 1)
    for _ in range(50):
        assert server.ask(PATH_INFO="/known").wait() == b"known"
    let_go(site, waiting)


def test_when_all_threads_wait_the_first_that_is_done_answers(server, site):
    waiting = have_wait(server, site, MOST)
    known = server.ask(PATH_INFO="/known")
    site.let_go.release()
    assert known.wait() == b"known"
    site.let_go.release(MOST - 1)
    for answer in waiting:
        answer.wait()


def begin(server: Server, site: Site) -> None:
    """Has all threads of the server at work once, so that each is known."""
    let_go(site, have_wait(server, site, MOST))
    settle(server)


def settle(server: Server) -> None:
    """Asks until all but one thread of an idle server stand behind."""
    deadline = time.monotonic() + 20
    while server.idle != 1:
        assert time.monotonic() < deadline, f"{server.idle} threads are in front"
        # Not the lane: it would count as asked from then on.
        server.ask(PATH_INFO="/else").wait()
        # It is given before the thread that gave it has gone to its place.
        time.sleep(0.01)


def test_after_a_rush_one_thread_is_in_front(server, site):
    begin(server, site)
    site.most_in_front = 0
    for answer in [server.ask(PATH_INFO="/known") for _ in range(300)]:
        answer.wait()
    assert site.most_in_front == 1


@pytest.mark.parametrize("asked_later", [False, True])
def test_for_each_that_waits_one_more_is_in_front_while_the_lane_is_asked(
    server, site, asked_later
):
    begin(server, site)
    if not asked_later:
        server.ask(PATH_INFO="/known").wait()
    waiting = have_wait(server, site, 2)
    if asked_later:
        # Until nobody needs to look who comes back.
        time.sleep(0.3)
        server.ask(PATH_INFO="/known").wait()
    for answer in [server.ask(PATH_INFO="/meet") for _ in range(3)]:
        answer.wait()
    let_go(site, waiting)


def test_then_nobody_waits_for_a_moment(server, site, monkeypatch):
    monkeypatch.setattr(threads, "_MOMENT", 60)
    begin(server, site)
    server.ask(PATH_INFO="/known").wait()
    waiting = have_wait(server, site, 1)
    assert server.ask(PATH_INFO="/known").wait() == b"known"
    let_go(site, waiting)


def test_where_nobody_asks_the_lane_one_thread_does_it_all(server, site, monkeypatch):
    monkeypatch.setattr(threads, "_MOMENT", 20)
    begin(server, site)
    site.behind.clear()
    for answer in [server.ask(PATH_INFO="/else") for _ in range(300)]:
        answer.wait()
    assert len(site.behind) == 300
    # Which one it is, is settled before.
    assert len(set(site.behind[-200:])) == 1


def test_others_take_its_place_after_a_moment(server, site, monkeypatch):
    # Nor do they because somebody waited a while ago.
    monkeypatch.setattr(threads, "_MOMENTS", 0)
    begin(server, site)
    waiting = have_wait(server, site, 1)
    assert server.ask(PATH_INFO="/else").wait() == b"unknown"
    waiting += have_wait(server, site, 1)
    assert server.ask(PATH_INFO="/else").wait() == b"unknown"
    let_go(site, waiting)


def test_where_requests_wait_others_come_forward_at_once(server, site, monkeypatch):
    begin(server, site)
    monkeypatch.setattr(threads, "_MOMENTS", 10**9)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        for answer in [server.ask(PATH_INFO="/naps") for _ in range(3)]:
            answer.wait()
    # From here on nobody's place is taken because a moment has passed.
    monkeypatch.setattr(threads, "_MOMENT", 60)
    time.sleep(0.05)
    for answer in [server.ask(PATH_INFO="/meet-behind") for _ in range(3)]:
        answer.wait()


def test_nobody_looks_at_ranks_that_are_complete(server, site, monkeypatch):
    begin(server, site)
    monkeypatch.setattr(threads, "_MOMENTS", 0)
    looks: list[float] = []
    sleep = time.sleep

    def counted(seconds: float) -> None:
        if seconds == threads._MOMENT:
            looks.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(threads.time, "sleep", counted)
    server.ask(PATH_INFO="/else").wait()
    deadline = time.monotonic() + 20
    number = -1
    while not looks or number != len(looks):
        assert time.monotonic() < deadline, "somebody looks at them for ever"
        number = len(looks)
        sleep(0.1)


def test_it_does_so_again_once_nobody_asks_the_lane_any_more(server, site):
    begin(server, site)
    server.ask(PATH_INFO="/known").wait()
    deadline = time.monotonic() + 20
    while len(site.behind) < 50 or len(set(site.behind[-50:])) > 1:
        assert time.monotonic() < deadline, "others are still called forward"
        server.ask(PATH_INFO="/else").wait()
        # It is given before the thread that gave it has gone to its place.
        time.sleep(0.002)


def crowd(*, reads: bool = False, **scope: str) -> tuple[list[Thread], list[dict[str, str]]]:
    """Five threads that were in front at the same time, and what they were called with.

    reads: whether each of them reads its body to the end, behind.
    """
    met = Barrier(5)

    def application(environ: Any, start_response: Any) -> Any:
        met.wait(20)
        start_response("200 OK", [])
        return [b"known"]

    def read(answering: Any, scope: Any) -> None:
        met.wait(20)
        scope[ALL_READ].append(True)
        answering.response_bytes(200, [], b"unknown")

    run = in_turn(behind(application) if reads else application, read)
    scopes = [request(HTTP_X_API_KEY="secret", **scope) for _ in range(5)]
    answers = [Answer() for _ in scopes]
    crowded = [
        Thread(target=run, args=given, daemon=True) for given in zip(answers, scopes, strict=True)
    ]
    for thread in crowded:
        thread.start()
    for answer in answers:
        answer.wait()
    return crowded, scopes


@pytest.mark.parametrize("reads", [False, True])
def test_of_a_crowd_one_stays_in_front_and_no_other_holds_a_key(reads):
    crowded, scopes = crowd(reads=reads, CONTENT_LENGTH="2" if reads else "0")
    deadline = time.monotonic() + 20
    while sum(scope == {} for scope in scopes) < 4 or sum(map(Thread.is_alive, crowded)) > 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    standing = [scope for scope, thread in zip(scopes, crowded, strict=True) if thread.is_alive()]
    assert standing == [{}] * 4


@pytest.mark.parametrize(
    "scope",
    [
        {"CONTENT_LENGTH": "2"},
        {"HTTP_TRANSFER_ENCODING": "chunked"},
        {"SERVER_PROTOCOL": "HTTP/2"},
    ],
)
def test_a_thread_with_a_body_comes_back_at_once(scope):
    """The server lets go of a body then, and the connection's next request waits for that."""
    for thread in crowd(**scope)[0]:
        thread.join(20)
        assert not thread.is_alive()


def test_a_fault_is_the_servers_to_tell_and_the_thread_goes_on(site):
    told: list[BaseException] = []
    run = in_turn(site.application, site.whole)

    def as_granian_does(answering: Any, scope: Any) -> None:
        try:
            run(answering, scope)
        except ValueError as error:
            told.append(error)
            answering.response_bytes(200, [], b"broken")

    server = Server(as_granian_does)
    begin(server, site)
    for _ in range(MOST * 3):
        assert server.ask(PATH_INFO="/breaks").wait() == b"broken"
        assert server.ask(PATH_INFO="/known").wait() == b"known"
    assert len(told) == MOST * 3
    # Nor does it tell of what was tried in front, with a key in its frames.
    assert {error.__context__ for error in told} == {None}
    settle(server)
    server.end()


def test_granian_looks_where_this_is_put():
    """None of it is public: one that has it elsewhere would go on as if nothing were put there."""
    worker = mp.MPServer._spawn_wsgi_worker.__wrapped__
    assert "_wsgi_call_wrap" in worker.__code__.co_names
    assert "blocking_threads_idle_timeout" in mp.MPServer._spawn_worker.__code__.co_names
