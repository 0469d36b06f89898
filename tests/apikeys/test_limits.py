"""Rate limits of new keys per account, and of guesses per client network."""

import json
import time
import uuid

import pytest
from django.conf import settings as platform
from django.core.handlers.wsgi import WSGIHandler

from apikeys import limits, services, tokens, usage
from apikeys.cache.middleware import ValidationCache
from apikeys.cache.setup import BODILESS, QUERIES, ROUTES
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey, Reason
from audit.models import Via
from audit.services import Actor
from core.exceptions import RateLimited
from tests.apikeys.cache.test_middleware import get_response, request, twin
from tests.factories import generate_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("database_cache")]


@pytest.fixture(autouse=True)
def _nothing_counted():
    limits.guesses.cache_clear()
    yield
    limits.guesses.cache_clear()


# --- New keys ---------------------------------------------------------------------------------


@pytest.fixture
def few(settings):
    settings.NEW_KEYS_PER_HOUR = 2


def over_rest(client, name):
    token = client.get("/keys/") and client.cookies[platform.CSRF_COOKIE_NAME].value
    return client.post(
        "/customers/api-keys",
        {"name": name},
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )


def test_too_many_new_keys_are_refused_on_every_path(few, alice, signed_in, issue):
    client = signed_in(alice)
    key = issue()[0]
    assert generate_key(client, "one").status_code == 200
    assert over_rest(client, "two").status_code == 201
    page = generate_key(client, "three")
    rest = over_rest(client, "four")
    roll = client.post(f"/keys/{key.pk}/roll", {"overlap": "0", "nonce": uuid.uuid4()})
    for response in (page, rest, roll):
        assert response.status_code == 429
        assert 0 < int(response["Retry-After"]) <= 3600
    assert "tried too often" in page.text
    assert rest.json()["error"] == "TOO_MANY_REQUESTS"
    assert rest.json()["message"]
    assert set(APIKey.objects.values_list("name", flat=True)) == {"studio", "one", "two"}


@pytest.mark.parametrize("via", [Via.PAGE, Via.API, Via.OAUTH])
def test_all_paths_share_one_limit(few, alice, issue, via):
    for number, other in enumerate([Via.PAGE, Via.OAUTH]):
        issue(f"key {number}", by=Actor(user=alice, via=other))
    with pytest.raises(RateLimited):
        issue("one more", by=Actor(user=alice, via=via))


def test_one_account_is_not_limited_for_another(few, alice, mallory, issue):
    for number in range(2):
        issue(f"key {number}", owner=mallory, by=Actor(user=mallory, via=Via.PAGE))
    issue(by=Actor(user=alice, via=Via.PAGE))


def test_the_operator_at_a_command_is_not_limited(few, issue):
    for number in range(4):
        issue(f"key {number}")


def test_a_form_that_is_submitted_again_is_reported_as_such(few, alice, issue):
    nonce = uuid.uuid4()
    by = Actor(user=alice, via=Via.PAGE)
    issue(nonce=nonce, by=by)
    for _ in range(4):
        with pytest.raises(services.AlreadyIssued):
            issue(nonce=nonce, by=by)


# --- Guesses ----------------------------------------------------------------------------------

ENDPOINTS = [("POST", "/customers"), ("POST", "/api/v1/keys/validate"), ("GET", "/api/v1/auth")]


@pytest.fixture
def cautious(settings):
    settings.GUESSES_PER_MINUTE = 30


def malformed():
    token = tokens.make(tag_key=b"x" * 32).reveal()
    return token[:-1] + ("0" if token[-1] != "0" else "1")


def ask(client, method, path, key, client_ip="192.0.2.7"):
    return client.generic(method, path, headers={"X-API-Key": key}, REMOTE_ADDR=client_ip)


def flood(client, number=60):
    return [ask(client, "POST", "/customers", malformed()) for _ in range(number)]


def test_too_many_guesses_are_limited_and_valid_keys_are_not(cautious, client, issue):
    good = issue()[1].reveal()
    result = [response.status_code for response in flood(client)]
    assert result == [401] * 30 + [429] * 30
    for method, path in ENDPOINTS:
        refused = ask(client, method, path, malformed())
        assert refused.status_code == 429
        assert 0 < int(refused["Retry-After"]) <= 60
        assert set(refused.json()) == {"error", "message"}
        assert refused.json()["error"] == "TOO_MANY_REQUESTS"
        assert ask(client, method, path, good).status_code in {200, 204}


def test_a_revoked_key_is_not_counted_as_a_guess(cautious, client, issue):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    for _ in range(60):
        assert ask(client, "POST", "/customers", token.reveal()).status_code == 401
    flood(client)
    response = ask(client, "POST", "/customers", token.reveal())
    assert (response.status_code, response.json()["error"]) == (401, "REVOKED")


def test_another_client_ip_is_not_limited(cautious, client):
    flood(client)
    assert ask(client, "POST", "/customers", malformed(), "192.0.2.8").status_code == 401


def test_validations_by_a_service_are_not_limited(cautious, client):
    flood(client)
    for _ in range(60):
        response = client.post(
            "/api/v1/keys/validate", json.dumps({"key": malformed()}), "application/json",
            REMOTE_ADDR="192.0.2.7",
        )  # fmt: skip
        assert response.json()["code"] == "MALFORMED"


def test_valid_keys_are_not_counted(cautious, client, issue):
    good = issue()[1].reveal()
    for _ in range(60):
        assert ask(client, "POST", "/customers", good).status_code == 200
    assert ask(client, "POST", "/customers", malformed()).status_code == 401


# --- In the validation cache ------------------------------------------------------------------


@pytest.fixture
def cached_app(own_version_table, transactional_db):
    return ValidationCache(
        WSGIHandler(),
        versions=own_version_table,
        tag_keys=key_hasher().tag_keys,
        routes=ROUTES,
        bodiless=BODILESS,
        queries=QUERIES,
        count=usage.count,
        count_refusal=usage.count_refusal,
        count_guess=limits.count_guess_locally,
        capacity=100,
    )


@pytest.fixture
def stopped_clock(monkeypatch):
    from core import ratelimit

    class Clock:
        now = time.time() // 60 * 60

    monkeypatch.setattr(ratelimit, "time", lambda: Clock.now)
    return Clock


def unknown():
    """With the right tag, of a key that is no more: only the database knows."""
    return tokens.make(tag_key=key_hasher().tag_keys[0]).reveal()


@pytest.mark.parametrize("make", [malformed, unknown], ids=["malformed", "unknown"])
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_the_cache_limits_guesses_as_django_does(
    cautious, cached_app, stopped_clock, issue, make, method, path
):
    guess = make()
    guess_request = request(method, path, HTTP_X_API_KEY=guess)
    result = [get_response(cached_app, twin(guess_request))[0][:3] for _ in range(60)]
    # No guess is counted twice, by the cache and by Django, which it calls for a response.
    assert result.count("401") == 30
    assert result == sorted(result)
    for _ in range(3):
        assert get_response(cached_app, twin(guess_request)) == get_response(
            WSGIHandler(), twin(guess_request)
        )
    assert get_response(cached_app, twin(guess_request))[0].startswith("429")
    good = request(method, path, HTTP_X_API_KEY=issue()[1].reveal())
    for _ in range(3):
        assert get_response(cached_app, twin(good))[0][:1] == "2"
        assert get_response(cached_app, twin(good)) == get_response(WSGIHandler(), twin(good))
    # A minute later the same is said as before.
    stopped_clock.now += 60
    assert get_response(cached_app, twin(guess_request))[0].startswith("401")
    assert get_response(cached_app, twin(guess_request)) == get_response(
        WSGIHandler(), twin(guess_request)
    )


def test_the_cache_does_not_limit_other_client_ips(cautious, cached_app, stopped_clock):
    guess_request = request("POST", "/customers", HTTP_X_API_KEY=malformed())
    for _ in range(60):
        get_response(cached_app, twin(guess_request))
    other = twin(guess_request) | {"REMOTE_ADDR": "192.0.2.8"}
    assert get_response(cached_app, twin(other))[0].startswith("401")
    assert get_response(cached_app, twin(guess_request))[0].startswith("429")


def test_a_flood_of_guesses_is_mostly_cache_hits(cautious, cached_app, stopped_clock, monkeypatch):
    calls = []
    real = WSGIHandler.__call__
    monkeypatch.setattr(
        WSGIHandler, "__call__", lambda *arguments: calls.append(1) or real(*arguments)
    )
    guess = request("POST", "/customers", HTTP_X_API_KEY=malformed())
    for _ in range(500):
        get_response(cached_app, twin(guess))
    # A response of each kind, and each batch that is added to the shared counter.
    assert len(calls) <= 5
