"""The lane itself: a WSGI application in front of another one."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from apikeys.tokens import LENGTH, Refusal, parse
from fastlane.epochs import Epochs, is_settled, slot_of

type Environ = dict[str, Any]
type Headers = list[tuple[str, str]]
type StartResponse = Callable[..., Any]
type Application = Callable[[Environ, StartResponse], Iterable[bytes]]

# Under this name an endpoint finds the ticket, and notes on it what its answer rests on.
TICKET: Final = "fastlane.ticket"
_BEARER: Final = "Bearer "
# Answers differ by the address they were asked at. So many are kept of one key.
_VARIANTS: Final = 4
# So many addresses of a key's users are told apart; with more, some are asked about again.
_ADDRESSES: Final = 16
# So many different headers and the like: they differ by the length of a body, and by variant.
_SHARED: Final = 4096
# So many texts that are no tokens of ours are known again.
_REFUSED: Final = 16_384
# A longer query is none that is asked again and again.
_QUERY: Final = 64
# How often it is looked whether the table is still the one that others find, in seconds: a system
# call for each request would cost as much as all the rest.
_LOOK_EVERY: Final = 0.05
# Lengths of no body.
_NONE: Final = ("0", "")
_NEVER: Final = float("inf")


@dataclass(slots=True)
class Ticket:
    """What an endpoint notes of a verdict, so that the lane may repeat its answer."""

    noted: bool = False
    key_id: object = None
    begins_at: float = 0.0
    expires_at: float = _NEVER
    is_guess: bool = False
    wait: int = 0

    def note(
        self,
        *,
        key_id: object = None,
        begins_at: float | None = None,
        expires_at: float | None = None,
        is_guess: bool = False,
        wait: int = 0,
    ) -> None:
        """This answer may be given again, until `expires_at` (seconds since 1970) or a change.

        begins_at: it is not true before then, should the clock be put back.
        key_id: whose use each such answer counts as; None for a refusal.
        is_guess: whether each of them counts against the address that it came from.
        wait: it is for an address that has to wait for so many seconds.
        """
        self.noted = True
        self.key_id = key_id
        self.begins_at = 0.0 if begins_at is None else begins_at
        self.expires_at = _NEVER if expires_at is None else expires_at
        self.is_guess = is_guess
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    headers: Headers
    body: list[bytes]


# By variant, and by the seconds that one has to wait.
type Refusals = dict[tuple[Any, ...], dict[int, Answer]]


@dataclass(slots=True)
class Verdict:
    """What was last said of a token, and the word of its slot under which it was true."""

    slot: int
    word: int
    begins_at: float
    expires_at: float
    key_id: object
    is_guess: bool
    # From where it was used: whoever is behind the lane hears of each address once.
    addresses: tuple[str, ...]
    answers: dict[tuple[Any, ...], Answer] = field(default_factory=dict)


def has_no_body(environ: Environ) -> bool:
    """Whether it is certain that there is none: HTTP/2 does not say how long one is."""
    return (
        environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        and environ.get("CONTENT_LENGTH", "0") in _NONE
        and "HTTP_TRANSFER_ENCODING" not in environ
    )


class FastLane:
    """Answers the validations of `routes` from memory while `epochs` vouches for what it knows.

    routes: (method, path) that may be answered here; a body is looked at by none of them.
    bodiless: those that mean something else when there is a body.
    queries: how the one query begins that a path may come with.
    count: called with a key's id at each use.
    count_guess: called with an address at each key from there that is none. Returns 0, or the
    seconds that the address has to wait, or None if whoever is behind the lane has to be asked.
    capacity: how many verdicts are remembered at most.
    in_fleet: whether there may be other machines: then their silence ends the trust.
    """

    def __init__(
        self,
        application: Application,
        *,
        epochs: Epochs,
        tag_keys: Sequence[bytes],
        routes: Iterable[tuple[str, str]],
        bodiless: Iterable[str],
        queries: Mapping[str, str],
        count: Callable[[Any], None],
        count_guess: Callable[[str], int | None],
        capacity: int,
        in_fleet: bool = False,
    ) -> None:
        self._application = application
        self._epochs = epochs
        self._tag_keys = tag_keys
        takes_no_body = frozenset(bodiless)
        self._routes = {(method, path): path in takes_no_body for method, path in routes}
        self._queries = queries
        self._count = count
        self._count_guess = count_guess
        self._in_fleet = in_fleet
        # A verdict is found by a digest under a key of this process's own, made anew each time.
        self._keyed = blake2b(key=os.urandom(32), digest_size=16)
        # Two generations: what is asked for in the older one moves to the younger, and when that
        # is full the older one is forgotten. Least recently used, near enough, in two dictionary
        # reads and without a lock.
        self._half = max(capacity // 2, 1)
        self._young: dict[bytes, Verdict] = {}
        self._old: dict[bytes, Verdict] = {}
        # What is said of all that are forged, and of all that are malformed.
        self._refusals: dict[Refusal, Refusals] = {refusal: {} for refusal in Refusal}
        # Whoever has a wrong one asks with it again and again. By digest, what is said of its kind.
        self._refused: dict[bytes, Refusals] = {}
        self._found_at = self._look_at = 0.0
        # What thousands of answers have in common is kept once.
        self._shared: dict[Any, Any] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # One method as far as a known verdict: what this takes, each request takes, and all threads
        # of a process take it one after the other.
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        takes_no_body = self._routes.get((method, path))
        query = environ.get("QUERY_STRING")
        # Whatever is odd goes past the lane.
        if (
            takes_no_body is None
            or (query and not self._knows(path, query))
            or "HTTP_COOKIE" in environ
            or "HTTP_TRANSFER_ENCODING" in environ
            or "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK" in environ
            or "HTTP_X_ORIGINAL_X_API_KEY" in environ
            or "HTTP_X_ORIGINAL_AUTHORIZATION" in environ
            or (takes_no_body and not has_no_body(environ))
        ):
            return self._application(environ, start_response)
        token = environ.get("HTTP_X_API_KEY")
        if token is None:
            token = environ.get("HTTP_AUTHORIZATION", "")
            if not token.startswith(_BEARER):
                return self._application(environ, start_response)
            token = token[len(_BEARER) :]
        if len(token) != LENGTH:
            return self._application(environ, start_response)
        keyed = self._keyed.copy()
        keyed.update(token.encode("latin-1"))
        digest = keyed.digest()
        host, scheme = environ.get("HTTP_HOST"), environ["wsgi.url_scheme"]
        variant = (method, path, query, host, scheme, not environ.get("HTTP_ORIGIN"))
        verdict = self._young.get(digest) or self._from_old(digest)
        now = time.time()
        if (
            verdict is None
            or self._epochs.word(verdict.slot) != verdict.word
            or not verdict.begins_at <= now < verdict.expires_at
            or not (self._found_at <= now < self._look_at or self._finds_table(now))
            or (self._in_fleet and not self._epochs.is_heard())
        ):
            return self._ask(environ, start_response, token, digest, variant)
        answer = verdict.answers.get(variant)
        if answer is None:
            return self._ask_again(environ, start_response, verdict, variant)
        if verdict.key_id is not None:
            if environ.get("REMOTE_ADDR", "") not in verdict.addresses:
                return self._ask_again(environ, start_response, verdict, variant)
            self._count(verdict.key_id)
        elif verdict.is_guess and self._count_guess(environ.get("REMOTE_ADDR", "")) != 0:
            return self._application(environ, start_response)
        start_response(answer.status, answer.headers)
        return answer.body

    def _knows(self, path: str, query: str) -> bool:
        beginning = self._queries.get(path)
        return beginning is not None and len(query) <= _QUERY and query.startswith(beginning)

    def _from_old(self, digest: bytes) -> Verdict | None:
        verdict = self._old.get(digest)
        if verdict is not None:
            self._keep(digest, verdict)
        return verdict

    def _keep(self, digest: bytes, verdict: Verdict) -> None:
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[digest] = verdict

    def _finds_table(self, now: float) -> bool:
        """Whether the table is the one that others find. If so, it is believed for a while."""
        is_there = self._epochs.is_there()
        self._found_at, self._look_at = (now, now + _LOOK_EVERY) if is_there else (0.0, 0.0)
        return is_there

    def _ask(
        self,
        environ: Environ,
        start_response: StartResponse,
        token: str,
        digest: bytes,
        variant: tuple[Any, ...],
    ) -> Iterable[bytes]:
        refused = self._refused.get(digest)
        if refused is not None:
            return self._refuse(environ, start_response, refused, variant)
        parsed = parse(token, tag_keys=self._tag_keys)
        if isinstance(parsed, Refusal):
            if len(self._refused) >= _REFUSED:
                self._refused.clear()
            refused = self._refused[digest] = self._refusals[parsed]
            return self._refuse(environ, start_response, refused, variant)
        slot = slot_of(parsed.public_id)
        # Before the endpoint reads anything: what changes from here on is seen by the word.
        word = self._epochs.word(slot)
        if not is_settled(word):
            return self._application(environ, start_response)
        ticket = Ticket()
        answer = self._listen(environ, start_response, ticket)
        if ticket.noted and not ticket.wait:
            answers: dict[tuple[Any, ...], Answer] = {self._share(variant): answer}
            addresses: tuple[str, ...] = self._share((environ.get("REMOTE_ADDR", ""),))
            verdict = Verdict(
                slot,
                word,
                ticket.begins_at,
                ticket.expires_at,
                ticket.key_id,
                ticket.is_guess,
                addresses,
                answers,
            )
            self._keep(digest, verdict)
        return answer.body

    def _ask_again(
        self,
        environ: Environ,
        start_response: StartResponse,
        verdict: Verdict,
        variant: tuple[Any, ...],
    ) -> Iterable[bytes]:
        """The verdict is known, but not how it is said at this address, or who asks is new."""
        ticket = Ticket()
        answer = self._listen(environ, start_response, ticket)
        if ticket.noted and not ticket.wait and ticket.key_id == verdict.key_id:
            if len(verdict.answers) >= _VARIANTS:
                verdict.answers.clear()
            # It rests on what was read after the verdict's own word: never on less.
            verdict.answers[self._share(variant)] = answer
            came_from = environ.get("REMOTE_ADDR", "")
            if came_from not in verdict.addresses:
                before = verdict.addresses if len(verdict.addresses) < _ADDRESSES else ()
                verdict.addresses = self._share((*before, came_from))
        return answer.body

    def _refuse(
        self,
        environ: Environ,
        start_response: StartResponse,
        answers: Refusals,
        variant: tuple[Any, ...],
    ) -> Iterable[bytes]:
        """One answer for all tokens that are none of ours, as the endpoint once said it.

        Another, for each second, to those who have to wait.
        """
        by_wait = answers.get(variant)
        if by_wait is not None:
            # Not where the endpoint has to be asked first: it counts as well.
            wait = self._count_guess(environ.get("REMOTE_ADDR", ""))
            known = None if wait is None else by_wait.get(wait)
            if known is not None:
                start_response(known.status, known.headers)
                return known.body
        ticket = Ticket()
        answer = self._listen(environ, start_response, ticket)
        if ticket.noted and ticket.key_id is None:
            if sum(map(len, answers.values())) >= 64 * _VARIANTS:
                answers.clear()
            answers.setdefault(variant, {})[ticket.wait] = answer
        return answer.body

    def _listen(self, environ: Environ, start_response: StartResponse, ticket: Ticket) -> Answer:
        """Asks the application, passes its answer on, and keeps a copy."""
        said: list[tuple[str, Headers]] = []

        def listen(status: str, headers: Headers, exc_info: Any = None) -> Any:
            said.append((status, headers))
            return start_response(status, headers, *([exc_info] if exc_info else []))

        environ[TICKET] = ticket
        chunks = self._application(environ, listen)
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        status, headers = said[-1]
        return Answer(self._share(status), self._share(tuple(headers), list(headers)), [body])

    def _share[Value](self, key: Any, value: Value | None = None) -> Value:
        """One object for all that are equal to it."""
        if len(self._shared) > _SHARED:
            self._shared.clear()
        shared: Value = self._shared.setdefault(key, key if value is None else value)
        return shared
