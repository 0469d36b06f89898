"""The lane in front of the real endpoints: the same answers, and never one that is over."""

import io
import os
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accounts.models import User
from apikeys import coherence, limits, services, tokens, usage
from apikeys.models import APIKey, Reason
from audit.trail import Actor
from config.lane import BODILESS, QUERIES, ROUTES, in_front_of
from fastlane import wsgi
from fastlane.epochs import Epochs, is_settled, slot_of
from fastlane.wsgi import FastLane

Said = tuple[str, list[tuple[str, str]], bytes]


@pytest.fixture
def django(transactional_db) -> WSGIHandler:
    return WSGIHandler()


@pytest.fixture
def asked() -> list[str]:
    """The paths that went past the lane to Django."""
    return []


@pytest.fixture
def lane(django, asked, own_epochs) -> FastLane:
    def listening(environ: dict[str, Any], start_response: Any) -> Any:
        asked.append(environ["PATH_INFO"])
        return django(environ, start_response)

    return FastLane(
        listening,
        epochs=own_epochs,
        tag_keys=services.tag_keys(),
        routes=ROUTES,
        bodiless=BODILESS,
        queries=QUERIES,
        count=usage.count,
        count_guess=limits.count_in_lane,
        capacity=100,
    )


def request(method: str, path: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
        **headers,
    }


def say(application: Any, environ: dict[str, Any]) -> Said:
    said: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        said.append((status, list(headers)))

    chunks = application(environ, start_response)
    body = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return (*said[-1], body)


def twin(environ: dict[str, Any]) -> dict[str, Any]:
    body = environ["wsgi.input"].getvalue()
    return {**environ, "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO()}


def forged() -> str:
    return tokens.make(tag_key=os.urandom(32)).reveal()


@pytest.fixture
def presented(alice, mallory, issue) -> dict[str, str]:
    """A token for every verdict that there is."""
    revoked, revoked_token = issue("revoked")
    expired = issue("expired", expires_at=timezone.now() - timedelta(minutes=1))[1]
    disabled = issue("disabled", owner=mallory)[1]
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER)
    suspended, suspended_token = issue("suspended")
    services.suspend(suspended, by=Actor())
    mallory.is_active = False
    mallory.save()
    good = issue("good")[1].reveal()
    return {
        "valid": good,
        "narrow": issue("narrow", scopes=["proxy:bfl"])[1].reveal(),
        "revoked": revoked_token.reveal(),
        "suspended": suspended_token.reveal(),
        "expired": expired.reveal(),
        "disabled": disabled.reveal(),
        "unknown": tokens.make(tag_key=services.tag_keys()[0]).reveal(),
        "forged": forged(),
        "malformed": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "short": good[:-1],
        "no key": "",
    }


KNOWN = [
    "valid", "narrow", "revoked", "suspended", "expired", "disabled", "unknown", "forged",
    "malformed"
]  # fmt: skip

WAYS = {
    "x-api-key": lambda token: {"HTTP_X_API_KEY": token},
    "bearer": lambda token: {"HTTP_AUTHORIZATION": f"Bearer {token}"},
    "both": lambda token: {"HTTP_X_API_KEY": token, "HTTP_AUTHORIZATION": "Bearer nonsense"},
    "from a page": lambda token: {"HTTP_X_API_KEY": token, "HTTP_ORIGIN": "http://a.example"},
    "over https": lambda token: {"HTTP_X_API_KEY": token, "wsgi.url_scheme": "https"},
    "localhost": lambda token: {"HTTP_X_API_KEY": token, "HTTP_HOST": "localhost:8000"},
    "handed on": lambda token: {"HTTP_X_ORIGINAL_X_API_KEY": token},
    "handed on as bearer": lambda token: {"HTTP_X_ORIGINAL_AUTHORIZATION": f"Bearer {token}"},
    "beside the proxy's own": lambda token: {
        "HTTP_X_ORIGINAL_X_API_KEY": token,
        "HTTP_AUTHORIZATION": "Bearer nonsense",
    },
    "beside another": lambda token: {
        "HTTP_X_API_KEY": token,
        "HTTP_X_ORIGINAL_X_API_KEY": "comfyui-another",
    },
    "wrong host": lambda token: {"HTTP_X_API_KEY": token, "HTTP_HOST": "evil.example"},
}

PAST_THE_LANE = {
    "wrong host", "handed on", "handed on as bearer", "beside the proxy's own", "beside another"
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
def test_every_verdict_is_said_byte_for_byte_as_django_says_it(
    way, route, presented, django, lane, asked
):
    for verdict, token in presented.items():
        environ = request(*route, **WAYS[way](token))
        expected = say(django, twin(environ))
        for time_asked in ("cold", "warm", "warm again"):
            assert say(lane, twin(environ)) == expected, (verdict, time_asked)
    if way not in PAST_THE_LANE:
        assert len(asked) < len(presented) * 3


def test_each_address_that_a_key_comes_from_goes_past_the_lane_once(presented, lane, asked):
    environ = request("POST", "/customers", HTTP_X_API_KEY=presented["valid"])
    for number in range(40):
        for _ in range(3):
            say(lane, {**twin(environ), "REMOTE_ADDR": f"192.0.2.{number}"})
    assert len(asked) == 40
    say(lane, {**twin(environ), "REMOTE_ADDR": "192.0.2.39"})
    assert len(asked) == 40, "the last ones are remembered"


def test_whose_key_is_refused_is_refused_from_everywhere_by_the_lane(presented, lane, asked):
    environ = request("POST", "/customers", HTTP_X_API_KEY=presented["revoked"])
    for number in range(5):
        say(lane, {**twin(environ), "REMOTE_ADDR": f"192.0.2.{number}"})
    assert len(asked) == 1


@pytest.mark.parametrize("verdict", KNOWN)
def test_what_is_known_is_said_without_asking_django(verdict, presented, lane, asked):
    environ = request("POST", "/customers", HTTP_X_API_KEY=presented[verdict])
    for _ in range(5):
        say(lane, twin(environ))
    assert asked == ["/customers"]


def test_an_unlike_forgery_is_said_without_asking_django_too(alice, lane, asked):
    for _ in range(5):
        say(lane, request("POST", "/customers", HTTP_X_API_KEY=forged()))
    assert asked == ["/customers"]


@pytest.mark.parametrize("query", ["scope=proxy:bfl", "scope=proxy:openai"])
def test_what_a_key_is_good_for_is_said_without_asking_django(
    query, presented, django, lane, asked
):
    for verdict in ("valid", "narrow", "revoked"):
        token = presented[verdict]
        environ = request("GET", "/api/v1/auth", QUERY_STRING=query, HTTP_X_API_KEY=token)
        expected = say(django, twin(environ))
        for _ in range(4):
            assert say(lane, twin(environ)) == expected
    assert asked == ["/api/v1/auth"] * 3


@pytest.mark.parametrize(
    "query", ["scope=" + "a" * 60, "a=b", "Scope=proxy:bfl", "api_key=x&scope=proxy:bfl"]
)
def test_other_queries_go_past_the_lane(query, presented, lane, asked):
    token = presented["valid"]
    environ = request("GET", "/api/v1/auth", QUERY_STRING=query, HTTP_X_API_KEY=token)
    for _ in range(3):
        say(lane, twin(environ))
    assert asked == ["/api/v1/auth"] * 3


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "HTTP_ACCEPT",
            "HTTP_ACCEPT_LANGUAGE",
            "HTTP_ACCESS_CONTROL_REQUEST_METHOD",
            "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK",
            "HTTP_AUTHORIZATION",
            "HTTP_COOKIE",
            "HTTP_IF_NONE_MATCH",
            "HTTP_ORIGIN",
            "HTTP_X_FORWARDED_PROTO",
            "HTTP_X_CSRFTOKEN",
            "HTTP_X_ORIGINAL_AUTHORIZATION",
            "HTTP_X_ORIGINAL_X_API_KEY",
            "CONTENT_TYPE",
            "QUERY_STRING",
        ]
    ),
    st.sampled_from(
        [
            "",
            "*/*",
            "ja",
            "application/json",
            "null",
            "https://comfy.example",
            "true",
            "GET",
            "https",
            "Bearer x",
            "api_key=1",
            "a=b",
            "scope=proxy:bfl",
            "scope=proxy:openai",
            "scope=root",
            "scope=proxy:bfl&api_key=x",
            "session_8000=nonsense",
        ]
    ),
    max_size=5,
)


def test_a_page_that_says_no_origin_is_none(presented, django, lane):
    key = {"HTTP_X_API_KEY": presented["valid"]}
    for origin in ["http://a.example", "", "http://a.example"]:
        environ = request("POST", "/customers", b"", **key, HTTP_ORIGIN=origin)
        assert say(lane, twin(environ)) == say(django, twin(environ))


@hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    verdict=st.sampled_from(KNOWN),
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE"]),
    path=st.sampled_from([path for _method, path in ROUTES] + ["/customers/", "/keys/"]),
    body=st.sampled_from([b"", b"{}", b'{"key": "comfyui-"}', b"x" * 100]),
    headers=HEADERS,
    in_bearer=st.booleans(),
)
def test_whatever_is_asked_is_answered_as_django_answers(
    verdict, method, path, body, headers, in_bearer, presented, django, lane
):
    token = presented[verdict]
    key = {"HTTP_AUTHORIZATION": f"Bearer {token}"} if in_bearer else {"HTTP_X_API_KEY": token}
    environ = request(method, path, body, **{**headers, **key})
    expected = say(django, twin(environ))
    assert say(lane, twin(environ)) == expected
    assert say(lane, twin(environ)) == expected


# --- Never what is over ----------------------------------------------------------------------


def code_of(lane: FastLane, token: str) -> str:
    return say(lane, request("POST", "/customers", HTTP_X_API_KEY=token))[0]


def revoke(key: APIKey, alice: User) -> None:
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)


def revoke_in_bulk(key: APIKey, alice: User) -> None:
    APIKey.objects.filter(owner=alice).update(
        revoked_at=timezone.now(), revoked_reason=Reason.REVOKED_BY_STAFF
    )


def let_expire(key: APIKey, alice: User) -> None:
    key.expires_at = timezone.now() - timedelta(seconds=1)
    key.save()


def remove(key: APIKey, alice: User) -> None:
    key.delete()


def disable(key: APIKey, alice: User) -> None:
    alice.is_active = False
    alice.save()


def disable_in_bulk(key: APIKey, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)


def delete_account(key: APIKey, alice: User) -> None:
    from accounts.services import delete_account

    delete_account(alice)


@pytest.mark.parametrize(
    "end", [revoke, revoke_in_bulk, let_expire, remove, disable, disable_in_bulk, delete_account]
)
def test_a_key_is_dead_once_whatever_ends_it_has_returned(end, alice, issue, lane):
    key, token = issue("studio")
    assert [code_of(lane, token.reveal()) for _ in range(3)] == ["200 OK"] * 3
    end(key, alice)
    assert code_of(lane, token.reveal()).startswith("401")


@pytest.mark.parametrize("field", ["name", "email"])
def test_what_is_told_of_the_owner_is_what_it_is_now(field, alice, issue, lane):
    token = issue("studio")[1].reveal()
    environ = request("GET", "/customers/me", HTTP_X_API_KEY=token)
    say(lane, twin(environ))
    setattr(alice, field, "changed@example.org")
    alice.save()
    assert b"changed@example.org" in say(lane, twin(environ))[2]


def test_a_deadline_needs_no_word_of_it(issue, lane, asked):
    deadline = timezone.now() + timedelta(seconds=2)
    token = issue("short", expires_at=deadline)[1].reveal()
    assert [code_of(lane, token) for _ in range(2)] == ["200 OK"] * 2
    assert len(asked) == 1
    time.sleep((deadline - timezone.now()).total_seconds())
    assert code_of(lane, token).startswith("401")


def test_a_change_in_flight_sends_everybody_to_the_database(issue, lane, asked):
    key, token = issue("studio")
    code_of(lane, token.reveal())
    table = coherence.epochs()
    slot = int(key.public_id[:4], 16)
    table.begin([slot])
    for _ in range(3):
        assert code_of(lane, token.reveal()) == "200 OK"
    assert len(asked) == 4
    table.finish([slot])


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_table_that_is_gone_is_trusted_no_more(how, issue, lane, asked, own_epochs):
    token = issue("studio")[1].reveal()
    for _ in range(2):
        code_of(lane, token)
    assert len(asked) == 1
    own_epochs.path.rename(own_epochs.path.with_name("older"))
    if how == "deleted":
        own_epochs.path.with_name("older").unlink()
    # It is looked every so often, not at each request.
    time.sleep(0.1)
    code_of(lane, token)
    assert len(asked) == 2


@pytest.mark.parametrize("who", ["one whose table was replaced", "one without a lane"])
def test_a_change_is_told_to_the_table_that_all_others_find(who, issue, own_epochs, settings):
    key, _token = issue("studio")
    if who == "one without a lane":
        settings.FAST_LANE = False
        coherence.epochs.cache_clear()
    else:
        own_epochs.path.rename(own_epochs.path.with_name("older"))
    for _time in ("first", "second"):
        others = Epochs(own_epochs.path)
        before = others.word(slot_of(key.public_id))
        key.save()
        assert others.word(slot_of(key.public_id)) != before
        if who != "one without a lane":
            others.path.rename(others.path.with_name("older"))
        others.close()


def test_a_table_that_takes_the_place_of_another_during_a_change_is_told(
    issue, own_epochs, transactional_db
):
    key, _token = issue("studio")
    slot = slot_of(key.public_id)
    with coherence.changing([key.public_id]):
        own_epochs.path.rename(own_epochs.path.with_name("older"))
        others = Epochs(own_epochs.path)
        before = others.word(slot)
    assert others.word(slot) != before
    assert is_settled(others.word(slot))
    assert is_settled(own_epochs.word(slot)), "who has the former one still is told as well"
    others.close()


def test_where_no_table_can_be_made_keys_are_ended_all_the_same(issue, own_epochs, caplog):
    key, _token = issue("studio")
    own_epochs.path.unlink()
    own_epochs.path.parent.rename(own_epochs.path.parent.with_name("elsewhere"))
    own_epochs.path.parent.write_text("where its folder was")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    key.refresh_from_db()
    assert key.revoked_at
    assert "none can be made" in caplog.text


def test_who_has_no_lane_makes_no_table(issue, own_epochs, settings):
    key, _token = issue("studio")
    settings.FAST_LANE = False
    coherence.epochs.cache_clear()
    own_epochs.path.unlink()
    key.save()
    assert not own_epochs.path.exists()


def test_a_silent_fleet_is_trusted_no_more(issue, lane, asked, monkeypatch):
    token = issue("studio")[1].reveal()
    lane._in_fleet = True
    monkeypatch.setattr(coherence.epochs(), "is_heard", lambda: True)
    assert [code_of(lane, token) for _ in range(3)] == ["200 OK"] * 3
    assert len(asked) == 1
    monkeypatch.setattr(coherence.epochs(), "is_heard", lambda: False)
    code_of(lane, token)
    assert len(asked) == 2


@pytest.mark.parametrize("way", [{}, {"HTTP_COOKIE": "a=b"}], ids=["in the lane", "past it"])
def test_whoever_is_asked_listens_to_the_fleet(
    way, issue, django, own_epochs, settings, monkeypatch
):
    started: list[str] = []

    class Listening:
        def start(self) -> None:
            started.append("again, for all it knows")

    settings.IS_FLEET = True
    monkeypatch.setattr("config.lane._listener", lambda table: Listening())
    application = in_front_of(django)
    assert not started, "a fork would take no thread along"
    token = issue("studio")[1].reveal()
    said = say(application, request("POST", "/customers", HTTP_X_API_KEY=token, **way))
    assert said[0] == "200 OK"
    assert started


def test_a_note_of_a_use_or_of_a_hash_leaves_the_verdict_alone(issue, lane, asked):
    key, token = issue("studio")
    code_of(lane, token.reveal())
    APIKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now())
    usage.flush()
    code_of(lane, token.reveal())
    assert len(asked) == 1


def test_each_answer_from_the_lane_is_a_use(issue, lane):
    key, token = issue("studio")
    for _ in range(4):
        code_of(lane, token.reveal())
    usage.flush()
    assert key.daily_uses.get().calls == 4
    assert key.hourly_uses.get().calls == 4


def test_the_lane_keeps_a_bounded_number_of_verdicts(lane):
    for number in range(1000):
        lane._keep(number.to_bytes(16), None)
    assert len(lane._young) + len(lane._old) <= 100


def test_how_refusals_are_said_is_kept_within_bounds(lane):
    for number in range(300):
        query = f"scope=proxy:{number}"
        environ = request("GET", "/api/v1/auth", QUERY_STRING=query, HTTP_X_API_KEY=forged())
        assert say(lane, environ)[0][:3] in {"401", "429"}
    kept = [len(by_wait) for kind in lane._refusals.values() for by_wait in kind.values()]
    assert 0 < sum(kept) <= 256


def test_what_is_remembered_beside_verdicts_is_bounded_as_well(issue, lane, monkeypatch):
    monkeypatch.setattr(wsgi, "_REFUSED", 5)
    monkeypatch.setattr(wsgi, "_SHARED", 20)
    token = issue()[1].reveal()
    for number in range(40):
        code_of(lane, forged())
        # Each at an address of its own is a way to say it that nothing else shares.
        environ = request(
            "POST", "/customers", HTTP_X_API_KEY=token, HTTP_HOST=f"127.0.0.1:{8000 + number}"
        )
        say(lane, environ)
        assert 0 < len(lane._refused) <= 5
        assert 0 < len(lane._shared) <= 21
