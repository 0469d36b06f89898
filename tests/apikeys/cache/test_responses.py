"""What is cached of responses is bounded."""

from apikeys.cache.responses import (
    MAX_INTERNED,
    MAX_REFUSALS,
    MAX_REFUSED,
    CachedResponse,
    Refusals,
    Response,
    ResponseStore,
)
from apikeys.tokens import ParseError


def entry() -> CachedResponse:
    return CachedResponse(
        bucket=0,
        version=0,
        begins_at=0.0,
        expires_at=0.0,
        refresh_at=0.0,
        stale_at=0.0,
        key_id=None,
        refusal=None,
        is_guess=False,
    )


def store_numbers(store: ResponseStore, numbers: range) -> None:
    for number in numbers:
        store.store(number.to_bytes(16), entry())


def test_the_number_of_cached_responses_is_bounded() -> None:
    store = ResponseStore(capacity=100)
    store_numbers(store, range(1000))
    digests = [number.to_bytes(16) for number in reversed(range(1000))]
    known = [digest for digest in digests if digest in store.young or store.promote(digest)]
    assert known == digests[: len(known)], "the latest are kept"
    assert 50 <= len(known) <= 100


def test_a_response_that_is_used_is_kept() -> None:
    store = ResponseStore(capacity=100)
    store_numbers(store, range(1000))
    for number in range(1000, 2000):
        assert store.promote((999).to_bytes(16)) or (999).to_bytes(16) in store.young
        store_numbers(store, range(number, number + 1))


def test_storing_a_known_token_evicts_nothing() -> None:
    store = ResponseStore(capacity=100)
    store_numbers(store, range(50))
    store_numbers(store, range(1))
    store_numbers(store, range(50, 100))
    assert store.promote((1).to_bytes(16))


def test_the_number_of_cached_refusals_is_bounded() -> None:
    refusals = Refusals("MALFORMED")
    for number in range(300):
        refusals.add(("GET", f"/{number}"), 0, Response("401 Unauthorized", [], [b""]))
    known = [number for number in range(300) if refusals.get(("GET", f"/{number}"))]
    assert 0 < len(known) <= MAX_REFUSALS


def test_the_seconds_of_retry_after_count_for_the_bound() -> None:
    refusals = Refusals("MALFORMED")
    for wait in range(300):
        refusals.add(("GET", "/"), wait, Response("429 Too Many Requests", [], [b""]))
    assert 0 < len(refusals.get(("GET", "/")) or {}) <= MAX_REFUSALS


def test_the_number_of_recognized_refused_texts_is_bounded() -> None:
    store = ResponseStore(capacity=100)
    digests = [number.to_bytes(16) for number in range(MAX_REFUSED + 1)]
    for digest in digests:
        store.add_refused(digest, ParseError.MALFORMED)
    known = [digest for digest in digests if store.refusals(digest)]
    assert 0 < len(known) <= MAX_REFUSED


def test_the_number_of_interned_values_is_bounded() -> None:
    store = ResponseStore(capacity=100)
    values = [(f"value {number}",) for number in range(MAX_INTERNED + 1)]
    for value in values:
        assert store.intern(value) is value
    assert store.intern((f"value {MAX_INTERNED}",)) is values[-1]
    known = [v for v in reversed(values) if store.intern((v[0],)) is v]
    assert 0 < len(known) <= MAX_INTERNED
