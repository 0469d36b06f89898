"""Limits at the doors: of new keys for an account, and of guesses from an address."""

import json
import time
import uuid

import pytest
from django.conf import settings as platform
from django.core.handlers.wsgi import WSGIHandler

from apikeys import limits, services, tokens, usage
from apikeys.models import APIKey, Reason
from audit.models import Via
from audit.trail import Actor
from config.lane import BODILESS, QUERIES, ROUTES
from config.limits import TooOften
from fastlane.wsgi import FastLane
from tests.fastlane.test_lane import request, say, twin

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_counted():
    limits.guesses.cache_clear()
    yield
    limits.guesses.cache_clear()


# --- New keys ---------------------------------------------------------------------------------


@pytest.fixture
def few(settings):
    settings.NEW_KEYS_PER_HOUR = 2


def generate(client, name):
    return client.post("/keys/generate", {"name": name, "description": "", "nonce": uuid.uuid4()})


def over_rest(client, name):
    token = client.get("/keys/") and client.cookies[platform.CSRF_COOKIE_NAME].value
    return client.post(
        "/customers/api-keys",
        {"name": name},
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )


def test_too_many_new_keys_are_refused_in_words_at_every_door(few, alice, signed_in, issue):
    client = signed_in(alice)
    key = issue()[0]
    assert generate(client, "one").status_code == 200
    assert over_rest(client, "two").status_code == 201
    page = generate(client, "three")
    rest = over_rest(client, "four")
    roll = client.post(f"/keys/{key.pk}/roll", {"overlap": "0", "nonce": uuid.uuid4()})
    for answer in (page, rest, roll):
        assert answer.status_code == 429
        assert 0 < int(answer["Retry-After"]) <= 3600
    assert "tried too often" in page.text
    assert rest.json()["error"] == "TOO_MANY_REQUESTS"
    assert rest.json()["message"]
    assert set(APIKey.objects.values_list("name", flat=True)) == {"studio", "one", "two"}


@pytest.mark.parametrize("via", [Via.PAGE, Via.API, Via.OAUTH])
def test_all_doors_count_together(few, alice, issue, via):
    for number, door in enumerate([Via.PAGE, Via.OAUTH]):
        issue(f"key {number}", by=Actor(user=alice, via=door))
    with pytest.raises(TooOften):
        issue("one more", by=Actor(user=alice, via=via))


def test_one_account_is_not_limited_for_another(few, alice, mallory, issue):
    for number in range(2):
        issue(f"key {number}", owner=mallory, by=Actor(user=mallory, via=Via.PAGE))
    issue(by=Actor(user=alice, via=Via.PAGE))


def test_the_operator_at_a_command_is_not_limited(few, issue):
    for number in range(4):
        issue(f"key {number}")


def test_a_form_that_comes_again_is_told_what_became_of_it(few, alice, issue):
    nonce = uuid.uuid4()
    by = Actor(user=alice, via=Via.PAGE)
    issue(nonce=nonce, by=by)
    for _ in range(4):
        with pytest.raises(services.AlreadyIssued):
            issue(nonce=nonce, by=by)


# --- Guesses ----------------------------------------------------------------------------------

DOORS = [("POST", "/customers"), ("POST", "/api/v1/keys/validate"), ("GET", "/api/v1/auth")]


@pytest.fixture
def cautious(settings):
    settings.GUESSES_PER_MINUTE = 30


def malformed():
    token = tokens.make(tag_key=b"x" * 32).reveal()
    return token[:-1] + ("0" if token[-1] != "0" else "1")


def ask(client, method, path, key, address="192.0.2.7"):
    return client.generic(method, path, headers={"X-API-Key": key}, REMOTE_ADDR=address)


def flood(client, number=60):
    return [ask(client, "POST", "/customers", malformed()) for _ in range(number)]


def test_too_many_guesses_are_told_to_wait_and_good_keys_pass(cautious, client, issue):
    good = issue()[1].reveal()
    told = [answer.status_code for answer in flood(client)]
    assert told == [401] * 30 + [429] * 30
    for method, path in DOORS:
        refused = ask(client, method, path, malformed())
        assert refused.status_code == 429
        assert 0 < int(refused["Retry-After"]) <= 60
        assert set(refused.json()) == {"error", "message"}
        assert refused.json()["error"] == "TOO_MANY_REQUESTS"
        assert ask(client, method, path, good).status_code in {200, 204}


def test_what_was_a_key_of_ours_is_no_guess(cautious, client, issue):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    for _ in range(60):
        assert ask(client, "POST", "/customers", token.reveal()).status_code == 401
    flood(client)
    answer = ask(client, "POST", "/customers", token.reveal())
    assert (answer.status_code, answer.json()["error"]) == (401, "REVOKED")


def test_another_address_is_not_limited(cautious, client):
    flood(client)
    assert ask(client, "POST", "/customers", malformed(), "192.0.2.8").status_code == 401


def test_what_a_service_asks_about_is_not_limited(cautious, client):
    flood(client)
    for _ in range(60):
        answer = client.post(
            "/api/v1/keys/validate", json.dumps({"key": malformed()}), "application/json",
            REMOTE_ADDR="192.0.2.7",
        )  # fmt: skip
        assert answer.json()["code"] == "MALFORMED"


def test_good_keys_are_counted_nowhere(cautious, client, issue):
    good = issue()[1].reveal()
    for _ in range(60):
        assert ask(client, "POST", "/customers", good).status_code == 200
    assert ask(client, "POST", "/customers", malformed()).status_code == 401


# --- In the lane ------------------------------------------------------------------------------


@pytest.fixture
def lane(own_epochs, transactional_db):
    return FastLane(
        WSGIHandler(),
        epochs=own_epochs,
        tag_keys=services.tag_keys(),
        routes=ROUTES,
        bodiless=BODILESS,
        queries=QUERIES,
        count=usage.count,
        count_guess=limits.count_in_lane,
        capacity=100,
    )


@pytest.fixture
def stopped_clock(monkeypatch):
    from config import limits as counted

    class Clock:
        now = time.time() // 60 * 60

    monkeypatch.setattr(counted, "time", lambda: Clock.now)
    return Clock


def unknown():
    """With the right tag, of a key that is no more: only the database knows."""
    return tokens.make(tag_key=services.tag_keys()[0]).reveal()


@pytest.mark.parametrize("make", [malformed, unknown], ids=["malformed", "unknown"])
@pytest.mark.parametrize(("method", "path"), DOORS)
def test_the_lane_limits_and_says_so_as_django_does(
    cautious, lane, stopped_clock, issue, make, method, path
):
    guess = make()
    asked = request(method, path, HTTP_X_API_KEY=guess)
    told = [say(lane, twin(asked))[0][:3] for _ in range(60)]
    # None is counted twice, by the lane and by Django, whom it asks how that is said.
    assert told.count("401") == 30
    assert told == sorted(told)
    for _ in range(3):
        assert say(lane, twin(asked)) == say(WSGIHandler(), twin(asked))
    assert say(lane, twin(asked))[0].startswith("429")
    good = request(method, path, HTTP_X_API_KEY=issue()[1].reveal())
    for _ in range(3):
        assert say(lane, twin(good))[0][:1] == "2"
        assert say(lane, twin(good)) == say(WSGIHandler(), twin(good))
    # A minute later the same is said as before.
    stopped_clock.now += 60
    assert say(lane, twin(asked))[0].startswith("401")
    assert say(lane, twin(asked)) == say(WSGIHandler(), twin(asked))


def test_a_limited_address_takes_nothing_from_others_in_the_lane(cautious, lane, stopped_clock):
    asked = request("POST", "/customers", HTTP_X_API_KEY=malformed())
    for _ in range(60):
        say(lane, twin(asked))
    other = twin(asked) | {"REMOTE_ADDR": "192.0.2.8"}
    assert say(lane, twin(other))[0].startswith("401")
    assert say(lane, twin(asked))[0].startswith("429")


def test_a_flood_in_the_lane_costs_django_little(cautious, lane, stopped_clock):
    asked = []
    inner = lane._application
    lane._application = lambda *given: asked.append(1) or inner(*given)
    guess = request("POST", "/customers", HTTP_X_API_KEY=malformed())
    for _ in range(500):
        say(lane, twin(guess))
    # How it is said, once for each answer; and when it is time to tell the others.
    assert len(asked) <= 5
