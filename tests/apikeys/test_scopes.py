"""What a key may be used for, how long it lives, and how another takes its place."""

import json
import threading
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from apikeys import expiry, scopes, services
from apikeys.models import APIKey, Reason
from apikeys.services import AlreadyIssued, Code
from audit.models import Action, Event
from tests.server.conftest import TOKEN

HOUR = timedelta(hours=1)


def send(client, path, body, token=None):
    headers = {} if token is None else {"X-API-Key": token.reveal()}
    return client.post(path, json.dumps(body), content_type="application/json", headers=headers)


# --- Scopes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "covered"),
    [
        ("", "customers:read", True),
        ("", "keys:manage", True),
        ("", "proxy:openai", True),
        ("customers:read", "keys:manage", False),
        ("customers:read", "proxy:openai", False),
        ("proxy:*", "proxy:openai", True),
        ("proxy:openai", "proxy:openai", True),
        ("proxy:openai", "proxy:openai2", False),
        ("proxy:openai", "proxy:*", False),
        ("proxy:*", "customers:read", False),
    ],
)
def test_a_scope_covers_what_it_says_and_no_more(text, wanted, covered):
    assert scopes.covers(scopes.granted(text), wanted) is covered


@pytest.mark.parametrize(
    "text",
    ["root", "customers:write", "proxy:", "proxy:A", "proxy:a/b", "proxy:**", "proxy:" + "a" * 33],
)
def test_what_is_no_scope_is_refused_by_name(alice, issue, text):
    with pytest.raises(ValidationError, match="There is no scope"):
        issue(scopes=["customers:read", text])
    assert not APIKey.objects.exists()


def test_a_key_with_every_scope_is_one_without_any_so_that_it_may_do_what_comes_later(issue):
    assert issue("all", scopes=["keys:manage", "proxy:*", "customers:read"])[0].scopes == ""
    assert issue("none")[0].granted == scopes.ALL


SIGN_IN = [
    ("POST", "/customers"),
    ("GET", "/customers/me"),
    ("GET", "/api/workspaces/current"),
    ("GET", "/api/billing/status"),
    ("GET", "/customers/events"),
]
MANAGE = [("GET", "/customers/api-keys"), ("DELETE", f"/customers/api-keys/{uuid4()}")]
PROXY = [("POST", "/proxy/openai/v1/images"), ("GET", "/api/v1/auth?scope=proxy:openai")]


@pytest.mark.parametrize(
    ("scope", "lets_in"),
    [
        ("customers:read", SIGN_IN),
        ("keys:manage", MANAGE),
        ("proxy:*", PROXY),
        ("proxy:openai", PROXY),
        ("proxy:bfl", []),
    ],
)
def test_a_key_gets_where_its_scope_leads_and_hears_elsewhere_what_it_lacks(
    client, issue, scope, lets_in
):
    token = issue(scopes=[scope])[1].reveal()
    for method, address in [*SIGN_IN, *MANAGE, *PROXY]:
        answer = client.generic(method, address, headers={"X-API-Key": token})
        if (method, address) in lets_in:
            assert answer.status_code in {200, 204, 404}, (method, address)
        else:
            assert answer.status_code == 403, (method, address)
            assert answer.json()["error"] == "INSUFFICIENT_SCOPE"
            assert 'error="insufficient_scope", scope="' in answer["WWW-Authenticate"]


def test_whoever_asks_about_a_key_hears_what_it_may_do(client, issue):
    token = issue(scopes=["proxy:openai", "customers:read"])[1].reveal()
    answer = client.post("/api/v1/keys/validate", headers={"X-API-Key": token})
    assert answer.json()["key"]["scopes"] == ["proxy:openai", "customers:read"]
    passed = client.get("/api/v1/auth", headers={"X-API-Key": token})
    assert passed["X-Auth-Scopes"] == "proxy:openai customers:read"
    whole = issue("whole")[1].reveal()
    assert client.get("/api/v1/auth", headers={"X-API-Key": whole})["X-Auth-Scopes"] == (
        "customers:read proxy:* keys:manage"
    )


@pytest.mark.parametrize("wanted", ["", "root", "proxy:openai proxy:bfl", "proxy:%00", "a" * 5000])
def test_a_gateway_that_asks_for_no_scope_that_there_is_hears_so(client, issue, wanted):
    token = issue()[1].reveal()
    answer = client.get(f"/api/v1/auth?scope={wanted}", headers={"X-API-Key": token})
    assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_SCOPE")
    # Whose key is bad hears that first.
    assert client.get(f"/api/v1/auth?scope={wanted}").status_code == 401


def test_a_key_that_may_make_keys_makes_none_that_may_do_more_than_itself(client, issue, settings):
    settings.KEYS_MAY_CREATE_KEYS = True
    whole, _ = issue("whole")
    token = issue("narrow", scopes=["keys:manage", "proxy:bfl"])[1]
    for wanted in (["customers:read"], ["proxy:*"], ["keys:manage", "proxy:openai"]):
        answer = send(client, "/customers/api-keys", {"name": "bred", "scopes": wanted}, token)
        assert (answer.status_code, answer.json()["error"]) == (403, "INSUFFICIENT_SCOPE")
    address = f"/customers/api-keys/{whole.pk}/roll"
    assert send(client, address, {"overlap_seconds": 0}, token).status_code == 403
    bred = send(client, "/customers/api-keys", {"name": "bred"}, token)
    assert bred.status_code == 201
    assert bred.json()["api_key"]["scopes"] == ["keys:manage", "proxy:bfl"]


# --- Expiry -----------------------------------------------------------------------------------


def test_an_expiry_is_some_days_the_end_of_a_day_or_never():
    now = timezone.now()
    assert expiry.chosen("never", date(2000, 1, 1)) is None
    assert timedelta() <= expiry.chosen("30", None) - now - timedelta(days=30) < HOUR
    assert expiry.chosen("date", date(2999, 12, 31)) == datetime(
        2999, 12, 31, 23, 59, 59, tzinfo=UTC
    )
    assert expiry.chosen("date", now.date()) > now
    for day in (None, now.date() - timedelta(days=1)):
        with pytest.raises(ValidationError):
            expiry.chosen("date", day)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expires_at": "2001-01-01T00:00:00Z"}, "past"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": 40_000}, "expires_in_days"),
        ({"expires_in_days": 7, "expires_at": "2999-01-01T00:00:00Z"}, "not both"),
        ({"scopes": []}, "scopes"),
        ({"scopes": "customers:read"}, "scopes"),
        ({"scopes": [7]}, "scopes"),
        ({"scopes": ["root"]}, "no scope “root”"),
        ({"scopes": ["a b", "customers:read"]}, "no scope"),
        ({"scopes": ["proxy:" + "a" * 32 + str(n) for n in range(9)]}, "no scope"),
    ],
)
def test_a_bad_option_makes_no_key_and_says_which(alice, signed_in, options, words):
    answer = send(signed_in(alice), "/customers/api-keys", {"name": "studio", **options})
    assert answer.status_code == 400
    assert answer.json()["error"] == "INVALID_REQUEST"
    assert words in answer.json()["message"]
    assert not APIKey.objects.exists()


def test_a_key_is_made_over_rest_with_an_expiry_and_scopes(alice, signed_in):
    body = {"name": "studio", "expires_in_days": 7, "scopes": ["customers:read"]}
    made = send(signed_in(alice), "/customers/api-keys", body).json()["api_key"]
    left = datetime.fromisoformat(made["expires_at"]) - timezone.now()
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    assert made["scopes"] == ["customers:read"]
    assert services.validate(made["plaintext_key"]).code is Code.VALID


def new(client, **fields):
    return client.post("/keys/generate", {"name": "studio", "nonce": uuid4(), **fields})


def test_the_dialog_makes_a_key_with_options_and_without(alice, signed_in):
    client = signed_in(alice)
    new(client, name="plain", expires="never", scopes=list(scopes.ALL))
    new(client, name="short", expires="7", scopes=["customers:read", "proxy:*"])
    new(client, name="dated", expires="date", expires_on="2999-12-31", scopes=["keys:manage"])
    plain, short, dated = (APIKey.objects.get(name=name) for name in ("plain", "short", "dated"))
    assert (plain.expires_at, plain.scopes) == (None, "")
    assert short.granted == ("customers:read", "proxy:*")
    assert (dated.expires_at.year, dated.scopes) == (2999, "keys:manage")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expires": "date", "expires_on": ""}, "Choose the day"),
        ({"expires": "date", "expires_on": "2001-01-01"}, "in the past"),
        ({"expires": "date", "expires_on": "31.12."}, "valid date"),
        ({"expires": "soon"}, "soon is not one of"),
        ({"expires": "7", "scopes": []}, "at least one thing"),
        ({"expires": "7", "scopes": ["root"]}, "root is not one of"),
    ],
)
def test_a_wrong_option_is_said_beside_it_and_the_rest_is_kept(alice, signed_in, fields, words):
    body = {"scopes": ["customers:read"], "description": "kept", **fields}
    answer = new(signed_in(alice), **body)
    assert answer.status_code == 400
    assert words in answer.text
    assert '<details class="options" open>' in answer.text
    assert 'value="kept"' in answer.text
    assert not APIKey.objects.exists()


def test_the_options_are_folded_away_until_one_is_chosen(alice, signed_in):
    assert '<details class="options" >' in signed_in(alice).get("/keys/?new=1").text


# --- Roll -------------------------------------------------------------------------------------


def test_a_successor_is_like_its_predecessor_which_works_on_for_the_overlap(alice, issue):
    key, token = issue(description="box", scopes=["customers:read"])
    successor, new_token = services.roll(key, overlap=HOUR)
    assert (successor.name, successor.description) == (key.name, "box")
    assert (successor.scopes, successor.expires_at) == ("customers:read", None)
    for text in (token.reveal(), new_token.reveal()):
        assert services.validate(text).code is Code.VALID
    assert timedelta(minutes=59) < key.expires_at - timezone.now() <= HOUR
    assert key.successor_id == successor.pk


def test_without_an_overlap_the_old_key_has_ended(issue):
    key, token = issue()
    services.roll(key, overlap=timedelta())
    assert services.validate(token.reveal()).code is Code.REVOKED
    assert (key.revoked_reason, key.revoked_at is not None) == (Reason.ROLLED, True)


def test_an_overlap_never_lengthens_a_life_and_the_successor_gets_the_same_one(issue):
    ends_at = timezone.now() + timedelta(minutes=10)
    key, _ = issue(expires_at=ends_at)
    successor, _ = services.roll(key, overlap=HOUR)
    assert key.expires_at == ends_at
    assert timedelta(minutes=9) < successor.expires_at - timezone.now() <= timedelta(minutes=11)


def test_a_key_has_one_successor(issue):
    key, _ = issue()
    successor, _ = services.roll(key, overlap=HOUR)
    with pytest.raises(ValidationError, match="can't be replaced"):
        services.roll(key, overlap=HOUR)
    # Nothing of the second try is left, and the chain goes on.
    assert set(APIKey.objects.all()) == {key, successor}
    services.roll(successor, overlap=HOUR)
    assert APIKey.objects.live().count() == 3


@pytest.mark.parametrize("ended", ["deleted", "expired"])
def test_a_key_that_has_ended_has_no_successor(issue, ended):
    key, _ = issue()
    if ended == "deleted":
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    else:
        APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    with pytest.raises(ValidationError, match="can't be replaced"):
        services.roll(key, overlap=HOUR)
    assert APIKey.objects.count() == 1


def test_an_account_that_is_full_can_roll(issue, settings):
    settings.KEYS_PER_ACCOUNT = 2
    first, _ = issue("first")
    issue("second")
    services.roll(first, overlap=HOUR)
    with pytest.raises(ValidationError, match="the most an account may have"):
        issue("third")


def test_the_trail_tells_what_replaced_what(alice, issue):
    key, _ = issue()
    successor, token = services.roll(key, overlap=HOUR)
    rolled = Event.objects.get(action=Action.KEY_ROLLED)
    assert (rolled.public_id, rolled.account) == (key.public_id, alice)
    assert rolled.detail == {"successor": successor.public_id, "overlap": "3600 s"}
    made = Event.objects.get(action=Action.KEY_ISSUED, public_id=successor.public_id)
    assert made.detail == {"replaces": key.public_id}
    assert token.reveal()[20:] not in str(list(Event.objects.values()))


def test_one_form_rolls_once(issue):
    key, _ = issue()
    nonce = uuid4()
    successor, _ = services.roll(key, overlap=timedelta(), nonce=nonce)
    with pytest.raises(AlreadyIssued) as already:
        services.roll(key, overlap=timedelta(), nonce=nonce)
    assert already.value.key == successor


@pytest.mark.django_db(transaction=True)
def test_of_many_rolls_at_once_one_makes_a_successor(issue):
    key, _ = issue()
    made, refused = [], []

    def roll() -> None:
        try:
            made.append(services.roll(APIKey.objects.get(pk=key.pk), overlap=HOUR))
        except ValidationError as error:
            refused.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=roll) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 5)
    assert APIKey.objects.count() == 2


def test_the_list_shows_a_replaced_key_for_as_long_as_it_works(alice, issue, signed_in):
    key, _ = issue()
    services.roll(key, overlap=HOUR)
    client = signed_in(alice)
    assert "Replaced" in client.get("/keys/").text
    assert len(client.get("/customers/api-keys").json()["api_keys"]) == 2
    APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    assert "Replaced" not in client.get("/keys/").text
    (left,) = client.get("/customers/api-keys").json()["api_keys"]
    assert left["replaced_by"] is None


def test_alice_rolls_a_key_on_a_page_and_sees_the_new_one_once(alice, issue, signed_in):
    key, token = issue("studio")
    client = signed_in(alice)
    address = f"/keys/{key.pk}/roll"
    assert "Replace “studio”?" in client.get(address).text
    nonce = uuid4()
    answer = client.post(address, {"overlap": "3600", "nonce": nonce})
    (plaintext,) = set(TOKEN.findall(answer.text))
    assert plaintext != token.reveal()
    assert services.validate(plaintext).code is Code.VALID
    again = client.post(address, {"overlap": "3600", "nonce": nonce})
    assert again.status_code == 409
    assert not TOKEN.findall(again.text)
    assert "was replaced already" in client.get(address).text
    for wrong in ({}, {"overlap": "60"}, {"overlap": "-1"}, {"overlap": "x"}):
        assert client.post(address, {**wrong, "nonce": uuid4()}).status_code == 400
    assert APIKey.objects.count() == 2


def test_a_form_that_ends_a_key_at_once_and_is_sent_twice_says_what_became_of_it(
    alice, issue, signed_in
):
    key, _ = issue("studio")
    body = {"overlap": "0", "nonce": uuid4()}
    client = signed_in(alice)
    assert TOKEN.findall(client.post(f"/keys/{key.pk}/roll", body).text)
    again = client.post(f"/keys/{key.pk}/roll", body)
    assert again.status_code == 409
    assert "made its key already" in again.text


def test_a_key_is_rolled_over_rest(alice, issue, signed_in):
    key, token = issue()
    client = signed_in(alice)
    address = f"/customers/api-keys/{key.pk}/roll"
    for wrong in (
        {},
        {"overlap_seconds": -1},
        {"overlap_seconds": 604_801},
        {"overlap_seconds": "x"},
    ):
        assert send(client, address, wrong).status_code == 400
    made = send(client, address, {"overlap_seconds": 0})
    assert made.status_code == 201
    assert services.validate(made.json()["api_key"]["plaintext_key"]).code is Code.VALID
    assert services.validate(token.reveal()).code is Code.REVOKED
    assert send(client, address, {"overlap_seconds": 0}).status_code == 404


def test_a_key_rolls_none_unless_the_operator_lets_it(client, issue, settings):
    key, token = issue()
    address = f"/customers/api-keys/{key.pk}/roll"
    refused = send(client, address, {"overlap_seconds": 0}, token)
    assert (refused.status_code, refused.json()["error"]) == (403, "KEYS_MAY_NOT_CREATE_KEYS")
    settings.KEYS_MAY_CREATE_KEYS = True
    assert send(client, address, {"overlap_seconds": 60}, token).status_code == 201


def test_mallory_rolls_none_of_alices_keys(mallory, issue, signed_in):
    key, _ = issue()
    client = signed_in(mallory)
    assert (
        client.post(f"/keys/{key.pk}/roll", {"overlap": "0", "nonce": uuid4()}).status_code == 404
    )
    address = f"/customers/api-keys/{key.pk}/roll"
    assert send(client, address, {"overlap_seconds": 0}).status_code == 404
    key.refresh_from_db()
    assert (key.revoked_at, key.successor) == (None, None)
