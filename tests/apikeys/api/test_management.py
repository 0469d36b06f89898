"""Change, delete and list keys over REST, and repeat requests."""

import json
import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from apikeys import services
from apikeys.models import APIKey, Reason
from audit.models import Action, Event
from tests.conftest import show_who

KEYS = "/customers/api-keys"


@pytest.fixture
def session(alice, signed_in):
    return signed_in(alice)


@pytest.fixture
def with_key(client, issue):
    """Return a function that sends a request with a key of Alice's with these fields."""

    def send(method, path, data=None, **fields):
        _key, token = issue(f"for-{uuid4()}", **fields)
        return call(Client(), method, path, data, **{"X-API-Key": token.reveal()})

    return send


def call(client, method, path, data=None, **headers):
    body = "" if data is None else json.dumps(data)
    return client.generic(method, path, body, content_type="application/json", headers=headers)


def url(key) -> str:
    return f"{KEYS}/{key.pk}"


def refused(response, status, error):
    body = response.json()
    assert (response.status_code, body["error"]) == (status, error), body
    assert body["message"]
    return body


# --- One key ----------------------------------------------------------------------------------


def test_a_key_can_be_read_and_changed(session, issue):
    key, _token = issue("studio")
    found = session.get(url(key)).json()["api_key"]
    assert (found["id"], found["name"], found["allowed_networks"]) == (str(key.pk), "studio", [])
    changes = {
        "name": "atelier",
        "description": "upstairs",
        "expires_at": "2030-01-31",
        "scopes": ["customers:read", "proxy:openai"],
        "allowed_networks": ["203.0.113.7", "2001:db8::/48"],
    }
    changed = call(session, "PATCH", url(key), changes)
    assert changed.status_code == 200
    assert changed.json() == session.get(url(key)).json()
    assert changed.json()["api_key"] == {
        **found,
        **changes,
        "expires_at": "2030-01-31T23:59:59Z",
        "allowed_networks": ["203.0.113.7/32", "2001:db8::/48"],
    }
    assert Event.objects.get(action=Action.KEY_CHANGED).via == "api"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nam": "atelier"},
        {"name": "atelier", "suspended_at": None},
        {"name": None},
        {"name": 7},
        {"name": ""},
        {"expires_at": "2001-01-01"},
        {"expires_at": "soon"},
        {"scopes": []},
        {"scopes": ["customers:write"]},
        {"allowed_networks": "203.0.113.7"},
        {"allowed_networks": ["203.0.113.7/24"]},
        {"allowed_networks": ["203.0.113.0/255.255.255.0"]},
        {"allowed_networks": ["fe80::1%eth0"]},
        {"allowed_networks": ["everywhere"]},
        {"allowed_networks": [f"203.0.113.{host}" for host in range(21)]},
    ],
    ids=str,
)
def test_a_wrong_change_is_refused(session, issue, changes):
    key, _token = issue("studio")
    refused(call(session, "PATCH", url(key), changes), 400, "INVALID_REQUEST")
    assert not Event.objects.filter(action=Action.KEY_CHANGED).exists()


def test_an_address_with_a_prefix_is_refused_with_both_meanings(session, issue):
    key, _token = issue("studio")
    response = call(session, "PATCH", url(key), {"allowed_networks": ["203.0.113.7/24"]})
    message = response.json()["message"]
    assert "203.0.113.7;" in message
    assert "203.0.113.0/24." in message


def test_more_scopes_are_refused(session, issue):
    key, _token = issue("studio", scopes=["customers:read"])
    response = call(session, "PATCH", url(key), {"scopes": ["customers:read", "proxy:*"]})
    assert "can only be narrowed" in refused(response, 400, "INVALID_REQUEST")["message"]


def test_mallory_finds_no_key_of_alices(mallory, signed_in, issue):
    key, _token = issue("studio")
    client = signed_in(mallory)
    refused(client.get(url(key)), 404, "NOT_FOUND")
    refused(call(client, "PATCH", url(key), {"name": "mine"}), 404, "NOT_FOUND")
    refused(client.get(f"{KEYS}/7"), 400, "INVALID_ID")


def test_a_change_in_the_session_needs_the_csrf_token(alice, issue):
    key, _token = issue("studio")
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    show_who(client, alice)
    refused(call(client, "PATCH", url(key), {"name": "atelier"}), 403, "FORBIDDEN")
    refused(call(client, "POST", f"{KEYS}/bulk-delete", {"ids": [str(key.pk)]}), 403, "FORBIDDEN")


def test_a_key_without_the_scope_changes_nothing(with_key, issue):
    key, _token = issue("studio")
    narrow = {"scopes": ["customers:read"]}
    refused(with_key("GET", url(key), **narrow), 403, "INSUFFICIENT_SCOPE")
    refused(with_key("PATCH", url(key), {"name": "x"}, **narrow), 403, "INSUFFICIENT_SCOPE")
    refused(
        with_key("POST", f"{KEYS}/bulk-delete", {"ids": [str(key.pk)]}, **narrow),
        403,
        "INSUFFICIENT_SCOPE",
    )


def test_a_key_restricts_keys_and_extends_none(with_key, issue):
    until = timezone.now() + timedelta(days=30)
    key, _token = issue("studio", expires_at=until, allowed_networks=["203.0.113.0/24"])
    for extension in (
        {"expires_at": None},
        {"expires_at": "2100-01-01"},
        {"allowed_networks": []},
        {"allowed_networks": ["203.0.113.0/24", "2001:db8::/32"]},
    ):
        response = with_key("PATCH", url(key), extension)
        refused(response, 403, "KEYS_MAY_NOT_EXTEND_KEYS")
    restriction = {"name": "atelier", "allowed_networks": ["203.0.113.7"]}
    assert with_key("PATCH", url(key), restriction).status_code == 200


def test_an_extension_in_an_old_session_needs_a_new_authentication(session, alice, issue):
    key, _token = issue("studio", allowed_networks=["203.0.113.0/24"])
    show_who(session, alice, ago=timedelta(days=2))
    response = call(session, "PATCH", url(key), {"allowed_networks": []})
    refused(response, 403, "REAUTHENTICATION_REQUIRED")
    # Not about a key that would be created.
    assert "Change the key on its page" in response.json()["message"]
    assert call(session, "PATCH", url(key), {"name": "atelier"}).status_code == 200


def test_a_taken_name_is_409_with_the_key_that_has_it(session, issue):
    other, _token = issue("atelier")
    key, _token = issue("studio")
    body = refused(call(session, "PATCH", url(key), {"name": "ATELIER"}), 409, "NAME_TAKEN")
    assert body["key_id"] == str(other.pk)
    body = refused(call(session, "POST", KEYS, {"name": "atelier"}), 409, "NAME_TAKEN")
    assert body["key_id"] == str(other.pk)


# --- Several keys -----------------------------------------------------------------------------


def test_several_keys_are_deleted_and_the_request_can_be_repeated(session, issue):
    keys = [issue(name)[0] for name in ("one", "two", "three")]
    ids = [str(key.pk) for key in keys]
    deleted = call(session, "POST", f"{KEYS}/bulk-delete", {"ids": ids[:2]})
    assert deleted.status_code == 200
    assert set(deleted.json()["deleted"]) == set(ids[:2])
    assert [item["name"] for item in session.get(KEYS).json()["api_keys"]] == ["three"]
    repeated = call(session, "POST", f"{KEYS}/bulk-delete", {"ids": ids[:2]})
    assert (repeated.status_code, repeated.json()) == (200, {"deleted": []})


def test_keys_of_others_are_named_and_nothing_is_deleted(session, mallory, issue):
    own, _token = issue("studio")
    hers, _token = issue("hers", owner=mallory)
    ids = [str(own.pk), str(hers.pk)]
    body = refused(call(session, "POST", f"{KEYS}/bulk-delete", {"ids": ids}), 404, "NOT_FOUND")
    assert body["ids"] == [str(hers.pk)]
    assert str(hers.pk) in body["message"]
    assert not APIKey.objects.exclude(revoked_at=None).exists()


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": []}, {"ids": "all"}, {"ids": ["x"]}, {"ids": [7]}, {"all": True}, {"ids": None}],
    ids=str,
)
def test_a_deletion_of_no_certain_keys_is_refused(session, body):
    refused(call(session, "POST", f"{KEYS}/bulk-delete", body), 400, "INVALID_REQUEST")


def test_at_most_a_hundred_keys_are_deleted_at_once(session):
    ids = [str(uuid4()) for _ in range(101)]
    refused(call(session, "POST", f"{KEYS}/bulk-delete", {"ids": ids}), 400, "INVALID_REQUEST")


# --- Lists ------------------------------------------------------------------------------------


def names(response):
    assert response.status_code == 200, response.json()
    return [item["name"] for item in response.json()["api_keys"]]


def test_without_parameters_the_list_is_as_comfyui_knows_it(session, issue):
    issue("studio")
    body = session.get(KEYS).json()
    assert set(body) == {"api_keys"}
    assert [item["name"] for item in body["api_keys"]] == ["studio"]


def test_pages_neither_repeat_nor_miss_keys_that_others_surround(session, issue):
    keys = [issue(f"key-{number}")[0] for number in range(6)]
    # Keys that were created at the same moment are ordered by id.
    APIKey.objects.filter(pk__in=[key.pk for key in keys[1:4]]).update(
        created_at=keys[1].created_at
    )
    everything = names(session.get(KEYS))
    first = session.get(KEYS, {"limit": 2})
    assert names(first) == everything[:2]
    issue("newer")
    services.revoke(keys[5], reason=Reason.DELETED_BY_OWNER)
    second = session.get(KEYS, {"limit": 2, "cursor": first.json()["next_cursor"]})
    assert names(second) == everything[2:4]
    third = session.get(KEYS, {"limit": 2, "cursor": second.json()["next_cursor"]})
    assert names(third) == everything[4:]
    assert third.json()["next_cursor"] is None


def test_keys_are_listed_by_state(session, alice, issue):
    now = timezone.now()
    ago, soon = now - timedelta(days=91), now + timedelta(days=6)

    def make(name, **fields):
        key, _token = issue(name)
        APIKey.objects.filter(pk=key.pk).update(**fields)

    make("new")
    make("old", created_at=ago)
    make("used", created_at=ago, last_used_at=now)
    make("unused", created_at=ago, last_used_at=ago)
    make("ending", last_used_at=now, expires_at=soon)
    make("ended", expires_at=now - timedelta(days=1))
    make("suspended", suspended_at=now, expires_at=soon)
    make("suspended-and-ended", suspended_at=now, expires_at=now - timedelta(days=1))
    replaced, _token = issue("replaced")
    services.rotate(replaced, overlap=timedelta(hours=1))
    APIKey.objects.filter(name="replaced").update(last_used_at=now)

    by_state = {
        "never_used": {"new", "old"},
        "unused": {"old", "unused"},
        "expiring": {"ending"},
        "expired": {"ended"},
        "suspended": {"suspended", "suspended-and-ended"},
    }
    for state, expected in by_state.items():
        assert set(names(session.get(KEYS, {"state": state}))) == expected, state
    assert len(names(session.get(KEYS, {"state": "all"}))) == 10
    counts = APIKey.objects.listed().filter(owner=alice).count_by_state()
    assert counts == {"all": 10, **{state: len(found) for state, found in by_state.items()}}


def test_keys_are_listed_by_words(session, issue):
    key, _token = issue("Studio", description="upstairs")
    issue("laptop")
    for words in ("studio", "UPSTAIRS", key.public_id[:6], f"{key.public_id}…"):
        assert names(session.get(KEYS, {"q": words, "limit": 10})) == ["Studio"]
    assert names(session.get(KEYS, {"q": "studio", "state": "expired"})) == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "ten"},
        {"limit": ""},
        {"cursor": "x"},
        {"limit": "2", "cursor": ""},
        {"limit": "2", "cursor": "x"},
        {"limit": "2", "cursor": "_" * 32},
        {"limit": "2", "cursor": "é"},
        {"state": "dead"},
        {"state": ""},
        {"q": "x" * 201},
        {"q": "a\0b"},
        {"limt": "2"},
        {"limit": ["2", "3"]},
    ],
    ids=str,
)
def test_a_wrong_parameter_of_a_list_is_refused(session, query):
    response = session.get(KEYS, query)
    assert response.status_code == 400
    assert response.json()["message"]


def test_parameters_of_the_list_are_none_of_the_creation(session):
    refused(call(session, "POST", f"{KEYS}?limit=2", {"name": "x"}), 400, "UNKNOWN_PARAMETER")


def test_a_list_takes_a_constant_number_of_queries(session, issue, django_assert_num_queries):
    for number in range(5):
        issue(f"key-{number}")
    parameters = {"limit": 4, "state": "never_used", "q": "key"}
    # A process asks PostgreSQL once which collations it has.
    session.get(KEYS, parameters)
    with django_assert_num_queries(4):
        session.get(KEYS, parameters)


# --- Repeated requests ------------------------------------------------------------------------


def repeatable(client, data, *, key="8e03978e-40d5-43e8-bc93-6894a57f9324", path=KEYS):
    return call(client, "POST", path, data, **{"Idempotency-Key": key})


def test_a_created_key_has_a_location(session):
    created = call(session, "POST", KEYS, {"name": "studio"})
    key = created.json()["api_key"]
    assert (created.status_code, created["Location"]) == (201, f"{KEYS}/{key['id']}")
    assert session.get(created["Location"]).json()["api_key"]["name"] == "studio"


def test_a_repeated_creation_returns_the_key_without_its_plaintext(session):
    first = repeatable(session, {"name": "studio", "expires_in_days": 30})
    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first
    second = repeatable(session, {"expires_in_days": 30, "name": "studio"})
    assert (second.status_code, second["Idempotency-Replayed"]) == (200, "true")
    assert second["Location"] == first["Location"]
    key = first.json()["api_key"]
    assert key.pop("plaintext_key")[20:] not in second.text
    assert second.json() == {"api_key": key}
    assert APIKey.objects.count() == 1
    assert repeatable(session, {"name": "other"}, key="another").status_code == 201


def test_a_repeated_creation_is_known_after_the_key_was_changed_and_deleted(session):
    body = {"name": "studio"}
    first = repeatable(session, body)
    call(session, "PATCH", first["Location"], {"name": "atelier"})
    assert repeatable(session, body).json()["api_key"]["name"] == "atelier"
    session.delete(first["Location"])
    assert repeatable(session, body).status_code == 200
    assert APIKey.objects.count() == 1


def test_an_idempotency_key_with_another_request_is_422(session):
    first = repeatable(session, {"name": "studio"})
    refused(repeatable(session, {"name": "other"}), 422, "IDEMPOTENCY_KEY_REUSED")
    path = f"{first['Location']}/roll"
    refused(repeatable(session, {"overlap_seconds": 0}, path=path), 422, "IDEMPOTENCY_KEY_REUSED")


def test_a_refused_request_uses_up_no_idempotency_key(session):
    assert repeatable(session, {"name": ""}).status_code == 400
    assert repeatable(session, {"name": "studio"}).status_code == 201


def test_idempotency_keys_of_accounts_are_apart(session, mallory):
    assert repeatable(session, {"name": "studio"}).status_code == 201
    other = Client()
    other.force_login(mallory)
    show_who(other, mallory)
    assert repeatable(other, {"name": "studio"}).status_code == 201


def test_a_repeated_rotation_returns_the_successor_without_its_plaintext(session, issue):
    key, _token = issue("studio")
    body = {"overlap_seconds": 0}
    first = repeatable(session, body, path=f"{url(key)}/roll")
    second = repeatable(session, body, path=f"{url(key)}/roll")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["api_key"]["id"] == first.json()["api_key"]["id"]
    assert "plaintext_key" not in second.json()["api_key"]
    assert APIKey.objects.kept().count() == 1


@pytest.mark.parametrize("key", ["", "a b", "a,b", "ключ", "x" * 256, "a\tb"], ids=repr)
def test_an_unusual_idempotency_key_is_refused(session, key):
    response = repeatable(session, {"name": "studio"}, key=key)
    refused(response, 400, "INVALID_IDEMPOTENCY_KEY")
    assert not APIKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_concurrent_repetitions_create_one_key(alice):
    results = []

    def create():
        client = Client()
        client.force_login(alice)
        show_who(client, alice)
        barrier.wait()
        results.append(repeatable(client, {"name": "studio"}))
        connection.close()

    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(response.status_code for response in results) == [200, 200, 201]
    assert APIKey.objects.count() == 1
