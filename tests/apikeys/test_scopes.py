"""Scopes, expiry and rotation of keys."""

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
from apikeys.services import AlreadyIssued, VerdictCode
from audit.models import Action, Event
from tests.factories import generate_key
from tests.live.conftest import TOKEN

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
    with pytest.raises(ValidationError, match="Unknown scope"):
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
def test_a_key_is_limited_to_its_scopes(client, issue, scope, lets_in):
    token = issue(scopes=[scope])[1].reveal()
    for method, url in [*SIGN_IN, *MANAGE, *PROXY]:
        response = client.generic(method, url, headers={"X-API-Key": token})
        if (method, url) in lets_in:
            assert response.status_code in {200, 204, 404}, (method, url)
        else:
            assert response.status_code == 403, (method, url)
            assert response.json()["error"] == "INSUFFICIENT_SCOPE"
            assert 'error="insufficient_scope", scope="' in response["WWW-Authenticate"]


def test_validation_returns_the_scopes_of_a_key(client, issue):
    token = issue(scopes=["proxy:openai", "customers:read"])[1].reveal()
    response = client.post("/api/v1/keys/validate", headers={"X-API-Key": token})
    assert response.json()["key"]["scopes"] == ["proxy:openai", "customers:read"]
    passed = client.get("/api/v1/auth", headers={"X-API-Key": token})
    assert passed["X-Auth-Scopes"] == "proxy:openai customers:read"
    whole = issue("whole")[1].reveal()
    assert client.get("/api/v1/auth", headers={"X-API-Key": whole})["X-Auth-Scopes"] == (
        "customers:read proxy:* keys:manage"
    )


@pytest.mark.parametrize("wanted", ["", "root", "proxy:openai proxy:bfl", "proxy:%00", "a" * 5000])
def test_forward_auth_refuses_an_unknown_scope(client, issue, wanted):
    token = issue()[1].reveal()
    response = client.get(f"/api/v1/auth?scope={wanted}", headers={"X-API-Key": token})
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_SCOPE")
    # An invalid key is reported first.
    assert client.get(f"/api/v1/auth?scope={wanted}").status_code == 401


def test_a_key_that_may_make_keys_makes_none_that_may_do_more_than_itself(client, issue, settings):
    settings.KEYS_MAY_CREATE_KEYS = True
    whole, _ = issue("whole")
    token = issue("narrow", scopes=["keys:manage", "proxy:bfl"])[1]
    for wanted in (["customers:read"], ["proxy:*"], ["keys:manage", "proxy:openai"]):
        response = send(client, "/customers/api-keys", {"name": "bred", "scopes": wanted}, token)
        assert (response.status_code, response.json()["error"]) == (403, "INSUFFICIENT_SCOPE")
    url = f"/customers/api-keys/{whole.pk}/roll"
    assert send(client, url, {"overlap_seconds": 0}, token).status_code == 403
    bred = send(client, "/customers/api-keys", {"name": "bred"}, token)
    assert bred.status_code == 201
    assert bred.json()["api_key"]["scopes"] == ["keys:manage", "proxy:bfl"]


# --- Expiry -----------------------------------------------------------------------------------


def test_an_expiry_is_some_days_the_end_of_a_day_or_never():
    now = timezone.now()
    assert expiry.from_choice("never", date(2000, 1, 1)) is None
    assert timedelta() <= expiry.from_choice("30", None) - now - timedelta(days=30) < HOUR
    assert expiry.from_choice("date", date(2099, 12, 31)) == datetime(
        2099, 12, 31, 23, 59, 59, tzinfo=UTC
    )
    assert expiry.from_choice("date", now.date()) > now
    for day in (None, now.date() - timedelta(days=1)):
        with pytest.raises(ValidationError):
            expiry.from_choice("date", day)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expires_at": "2001-01-01T00:00:00Z"}, "past"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": 40_000}, "expires_in_days"),
        ({"expires_in_days": 7, "expires_at": "2099-01-01T00:00:00Z"}, "not both"),
        ({"scopes": []}, "scopes"),
        ({"scopes": "customers:read"}, "scopes"),
        ({"scopes": [7]}, "scopes"),
        ({"scopes": ["root"]}, "Unknown scope “root”"),
        ({"scopes": ["a b", "customers:read"]}, "Unknown scope"),
        ({"scopes": ["proxy:" + "a" * 32 + str(n) for n in range(9)]}, "Unknown scope"),
    ],
)
def test_a_bad_option_makes_no_key_and_says_which(alice, signed_in, options, words):
    response = send(signed_in(alice), "/customers/api-keys", {"name": "studio", **options})
    assert response.status_code == 400
    assert response.json()["error"] == "INVALID_REQUEST"
    assert words in response.json()["message"]
    assert not APIKey.objects.exists()


def test_a_key_is_made_over_rest_with_an_expiry_and_scopes(alice, signed_in):
    body = {"name": "studio", "expires_in_days": 7, "scopes": ["customers:read"]}
    made = send(signed_in(alice), "/customers/api-keys", body).json()["api_key"]
    left = datetime.fromisoformat(made["expires_at"]) - timezone.now()
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    assert made["scopes"] == ["customers:read"]
    assert services.validate(made["plaintext_key"]).code is VerdictCode.VALID


def test_the_dialog_makes_a_key_with_options_and_without(alice, signed_in):
    client = signed_in(alice)
    generate_key(client, "plain", expires="never", scopes=list(scopes.ALL))
    generate_key(client, "short", expires="30", scopes=["customers:read", "proxy:*"])
    generate_key(
        client, name="dated", expires="date", expires_on="2099-12-31", scopes=["keys:manage"]
    )
    plain, short, dated = (APIKey.objects.get(name=name) for name in ("plain", "short", "dated"))
    assert (plain.expires_at, plain.scopes) == (None, "")
    assert short.granted == ("customers:read", "proxy:*")
    assert (dated.expires_at.year, dated.scopes) == (2099, "keys:manage")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expires": "date", "expires_on": ""}, "Choose the last day"),
        ({"expires": "date", "expires_on": "2001-01-01"}, "in the past"),
        ({"expires": "date", "expires_on": "31.12."}, "valid date"),
        ({"expires": "soon"}, "soon is not one of"),
        ({"expires": "30", "scopes": []}, "at least one permission"),
        ({"expires": "30", "scopes": ["root"]}, "root is not one of"),
    ],
)
def test_a_wrong_option_is_said_beside_it_and_the_rest_is_kept(alice, signed_in, fields, words):
    body = {"scopes": ["customers:read"], "description": "kept", **fields}
    response = generate_key(signed_in(alice), **body)
    assert response.status_code == 400
    assert words in response.text
    # "More options" opens for an error in one of its fields, and for scopes that were chosen.
    assert '<details class="options" open>' in response.text
    assert 'value="kept"' in response.text
    assert not APIKey.objects.exists()


def test_the_options_are_folded_away_until_one_is_chosen(alice, signed_in):
    assert '<details class="options" >' in signed_in(alice).get("/keys/?new=1").text


# --- Rotation ---------------------------------------------------------------------------------


def test_a_successor_is_like_its_predecessor_which_works_on_for_the_overlap(alice, issue):
    key, token = issue(description="box", scopes=["customers:read"])
    successor, new_token = services.rotate(key, overlap=HOUR)
    assert (successor.name, successor.description) == (key.name, "box")
    assert (successor.scopes, successor.expires_at) == ("customers:read", None)
    for text in (token.reveal(), new_token.reveal()):
        assert services.validate(text).code is VerdictCode.VALID
    assert timedelta(minutes=59) < key.expires_at - timezone.now() <= HOUR
    assert key.successor_id == successor.pk


def test_without_an_overlap_the_old_key_has_ended(issue):
    key, token = issue()
    services.rotate(key, overlap=timedelta())
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    assert (key.revoked_reason, key.revoked_at is not None) == (Reason.ROTATED, True)


def test_an_overlap_never_lengthens_a_life_and_the_successor_gets_the_same_one(issue):
    ends_at = timezone.now() + timedelta(minutes=10)
    key, _ = issue(expires_at=ends_at)
    successor, _ = services.rotate(key, overlap=HOUR)
    assert key.expires_at == ends_at
    assert timedelta(minutes=9) < successor.expires_at - timezone.now() <= timedelta(minutes=11)


def test_a_key_has_one_successor(issue):
    key, _ = issue()
    successor, _ = services.rotate(key, overlap=HOUR)
    with pytest.raises(ValidationError, match="can't be rotated"):
        services.rotate(key, overlap=HOUR)
    # Nothing of the second try is left, and the chain goes on.
    assert set(APIKey.objects.all()) == {key, successor}
    services.rotate(successor, overlap=HOUR)
    assert APIKey.objects.live().count() == 3


@pytest.mark.parametrize("ended", ["deleted", "expired"])
def test_a_key_that_has_ended_has_no_successor(issue, ended):
    key, _ = issue()
    if ended == "deleted":
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    else:
        APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    with pytest.raises(ValidationError, match="can't be rotated"):
        services.rotate(key, overlap=HOUR)
    assert APIKey.objects.count() == 1


def test_an_account_that_is_full_can_roll(issue, settings):
    settings.KEYS_PER_ACCOUNT = 2
    first, _ = issue("first")
    issue("second")
    services.rotate(first, overlap=HOUR)
    with pytest.raises(ValidationError, match="the limit for an account"):
        issue("third")


def test_the_audit_log_links_a_key_and_its_successor(alice, issue):
    key, _ = issue()
    successor, token = services.rotate(key, overlap=HOUR)
    rolled = Event.objects.get(action=Action.KEY_ROTATED)
    assert (rolled.public_id, rolled.account) == (key.public_id, alice)
    key.refresh_from_db()
    assert rolled.detail == {
        "successor": successor.public_id,
        "overlap": "3600 s",
        "until": key.expires_at.isoformat(),
    }
    made = Event.objects.get(action=Action.KEY_ISSUED, public_id=successor.public_id)
    assert made.detail == {"replaces": key.public_id}
    assert token.reveal()[20:] not in str(list(Event.objects.values()))


def test_one_form_rolls_once(issue):
    key, _ = issue()
    nonce = uuid4()
    successor, _ = services.rotate(key, overlap=timedelta(), nonce=nonce)
    with pytest.raises(AlreadyIssued) as already:
        services.rotate(key, overlap=timedelta(), nonce=nonce)
    assert already.value.key == successor


@pytest.mark.django_db(transaction=True)
def test_of_concurrent_rotations_one_creates_a_successor(issue):
    key, _ = issue()
    made, refused = [], []

    def roll() -> None:
        try:
            made.append(services.rotate(APIKey.objects.get(pk=key.pk), overlap=HOUR))
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
    services.rotate(key, overlap=HOUR)
    client = signed_in(alice)
    assert "The old key works until" in client.get("/keys/").text
    assert len(client.get("/customers/api-keys").json()["api_keys"]) == 2
    APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    assert "The old key works until" not in client.get("/keys/").text
    (left,) = client.get("/customers/api-keys").json()["api_keys"]
    assert left["replaced_by"] is None


def test_alice_rolls_a_key_on_a_page_and_sees_the_new_one_once(alice, issue, signed_in):
    key, token = issue("studio")
    client = signed_in(alice)
    url = f"/keys/{key.pk}/roll"
    assert "Rotate “studio”?" in client.get(url).text
    nonce = uuid4()
    response = client.post(url, {"overlap": "3600", "nonce": nonce})
    (plaintext,) = set(TOKEN.findall(response.text))
    assert plaintext != token.reveal()
    assert services.validate(plaintext).code is VerdictCode.VALID
    again = client.post(url, {"overlap": "3600", "nonce": nonce})
    assert again.status_code == 409
    assert not TOKEN.findall(again.text)
    assert "was rotated already" in client.get(url).text
    for wrong in ({}, {"overlap": "60"}, {"overlap": "-1"}, {"overlap": "x"}):
        assert client.post(url, {**wrong, "nonce": uuid4()}).status_code == 400
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
    assert "already created its key" in again.text


def test_a_key_is_rolled_over_rest(alice, issue, signed_in):
    key, token = issue()
    client = signed_in(alice)
    url = f"/customers/api-keys/{key.pk}/roll"
    for wrong in (
        {},
        {"overlap_seconds": -1},
        {"overlap_seconds": 604_801},
        {"overlap_seconds": "x"},
    ):
        assert send(client, url, wrong).status_code == 400
    made = send(client, url, {"overlap_seconds": 0})
    assert made.status_code == 201
    assert services.validate(made.json()["api_key"]["plaintext_key"]).code is VerdictCode.VALID
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    assert send(client, url, {"overlap_seconds": 0}).status_code == 404


def test_a_key_rolls_no_other_unless_the_operator_lets_it(client, issue, settings):
    key, _token = issue()
    maker = issue("maker")[1]
    url = f"/customers/api-keys/{key.pk}/roll"
    refused = send(client, url, {"overlap_seconds": 0}, maker)
    assert (refused.status_code, refused.json()["error"]) == (403, "KEYS_MAY_NOT_CREATE_KEYS")
    settings.KEYS_MAY_CREATE_KEYS = True
    assert send(client, url, {"overlap_seconds": 60}, maker).status_code == 201


def test_a_key_rolls_itself_on_a_default_install_and_works_on_for_the_overlap(client, issue):
    key, token = issue(scopes=["keys:manage", "proxy:bfl"])
    made = send(client, f"/customers/api-keys/{key.pk}/roll", {"overlap_seconds": 3600}, token)
    assert made.status_code == 201
    successor = services.validate(made.json()["api_key"]["plaintext_key"])
    assert (successor.code, successor.key.granted) == (
        VerdictCode.VALID,
        ("keys:manage", "proxy:bfl"),
    )
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    # Nor does it make another key in this way, or roll without the scope.
    again = send(client, f"/customers/api-keys/{key.pk}/roll", {"overlap_seconds": 3600}, token)
    assert again.status_code == 400
    narrow, token = issue("narrow", scopes=["proxy:bfl"])
    refused = send(client, f"/customers/api-keys/{narrow.pk}/roll", {"overlap_seconds": 0}, token)
    assert (refused.status_code, refused.json()["error"]) == (403, "INSUFFICIENT_SCOPE")


def test_a_key_that_rolls_itself_does_not_lengthen_its_life(client, issue):
    ends = timezone.now() + HOUR
    key, token = issue(expires_at=ends)
    APIKey.objects.filter(pk=key.pk).update(created_at=ends - timedelta(days=365))
    made = send(client, f"/customers/api-keys/{key.pk}/roll", {"overlap_seconds": 604_800}, token)
    assert made.status_code == 201
    assert APIKey.objects.exclude(pk=key.pk).get().expires_at == ends
    assert APIKey.objects.get(pk=key.pk).expires_at == ends


def test_a_key_rolls_none_that_ends_later_than_itself(client, issue, settings):
    settings.KEYS_MAY_CREATE_KEYS = True
    now = timezone.now()
    maker = issue("maker", expires_at=now + timedelta(days=2))[1]
    for name, ends in (("never", None), ("later", now + timedelta(days=3))):
        key, _token = issue(name, expires_at=ends)
        refused = send(client, f"/customers/api-keys/{key.pk}/roll", {"overlap_seconds": 60}, maker)
        assert (refused.status_code, refused.json()["error"]) == (403, "ENDS_LATER_THAN_ITS_MAKER")
    sooner, _token = issue("sooner", expires_at=now + timedelta(days=1))
    APIKey.objects.filter(pk=sooner.pk).update(created_at=now - timedelta(days=30))
    made = send(client, f"/customers/api-keys/{sooner.pk}/roll", {"overlap_seconds": 60}, maker)
    assert made.status_code == 201
    successor = APIKey.objects.get(pk=made.json()["api_key"]["id"])
    assert successor.expires_at == now + timedelta(days=2)


@pytest.mark.parametrize(
    "wanted",
    [
        {"expires_at": None},
        {"expires_in_days": 3},
        {"expires_at": "%Y-%m-%dT%H:%M:%S+00:00"},
        {"expires_at": "%Y-%m-%d"},
    ],
    ids=repr,
)
def test_a_key_makes_none_that_ends_later_than_itself(client, issue, settings, wanted):
    settings.KEYS_MAY_CREATE_KEYS = True
    ends = timezone.now() + timedelta(days=2)
    token = issue(expires_at=ends)[1]
    later = f"{timezone.now() + timedelta(days=3):{wanted.get('expires_at')}}"
    wanted = {**wanted, "expires_at": later} if wanted.get("expires_at") else wanted
    refused = send(client, "/customers/api-keys", {"name": "bred", **wanted}, token)
    assert (refused.status_code, refused.json()["error"]) == (403, "ENDS_LATER_THAN_ITS_MAKER")
    assert APIKey.objects.count() == 1
    # Left out, it is as with the maker.
    assert send(client, "/customers/api-keys", {"name": "bred"}, token).status_code == 201
    assert APIKey.objects.get(name="bred").expires_at == ends
    sooner = {"name": "sooner", "expires_in_days": 1}
    assert send(client, "/customers/api-keys", sooner, token).status_code == 201


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize(
    "wanted", [["root"], ["proxy:"], ["customers:read", "keys:mange"], ["proxy:bfl root"]]
)
def test_an_unknown_scope_is_400_on_every_path(
    client, alice, issue, settings, signed_in, wanted, by_key
):
    settings.KEYS_MAY_CREATE_KEYS = True
    token = issue("narrow", scopes=["keys:manage", "proxy:bfl"])[1] if by_key else None
    http = client if by_key else signed_in(alice)
    response = send(http, "/customers/api-keys", {"name": "x", "scopes": wanted}, token)
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    assert "Unknown scope" in response.json()["message"]
    assert not APIKey.objects.filter(name="x").exists()


@pytest.mark.parametrize(
    "moment",
    ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", 20991231,
     True, "2099-12-31T25:00", ""],
)  # fmt: skip
def test_a_time_that_no_key_lives_to_is_refused(alice, signed_in, moment):
    response = send(signed_in(alice), "/customers/api-keys", {"name": "x", "expires_at": moment})
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    assert "expires_at: " in response.json()["message"]
    assert not APIKey.objects.exists()


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "2000-01-01", "2099-02-30", "far"])
def test_a_day_that_no_key_lives_to_is_refused_over_rest_and_on_the_page(alice, signed_in, day):
    if day == "far":
        day = f"{timezone.now() + timedelta(days=expiry.MAX_DAYS + 1):%Y-%m-%d}"
    client = signed_in(alice)
    response = send(client, "/customers/api-keys", {"name": "x", "expires_at": day})
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    page = generate_key(client, expires="date", expires_on=day, scopes=list(scopes.ALL))
    assert (page.status_code, set(page.context["form"].errors)) == (400, {"expires_on"})
    assert not APIKey.objects.exists()


def test_a_date_without_a_time_is_the_end_of_that_day_over_rest_as_on_the_page(alice, signed_in):
    client = signed_in(alice)
    over_rest = send(client, "/customers/api-keys", {"name": "rest", "expires_at": "2099-12-31"})
    assert over_rest.json()["api_key"]["expires_at"] == "2099-12-31T23:59:59Z"
    generate_key(
        client, name="page", expires="date", expires_on="2099-12-31", scopes=list(scopes.ALL)
    )
    assert APIKey.objects.get(name="page").expires_at == APIKey.objects.get(name="rest").expires_at
    document = client.get("/api/schema", headers={"Accept": "application/json"}).json()
    said = document["components"]["schemas"]["NewAPIKey"]["properties"]["expires_at"]
    assert "end of that day in UTC" in said["description"]


def test_a_key_that_was_given_an_age_rolls_without_an_error(alice, issue, signed_in):
    """It was made before there was a bound."""
    key, _token = issue(expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    made = send(signed_in(alice), f"/customers/api-keys/{key.pk}/roll", {"overlap_seconds": 60})
    assert made.status_code == 201
    successor = APIKey.objects.exclude(pk=key.pk).get()
    assert successor.expires_at - timezone.now() < timedelta(days=36_501)


def test_mallory_rolls_none_of_alices_keys(mallory, issue, signed_in):
    key, _ = issue()
    client = signed_in(mallory)
    assert (
        client.post(f"/keys/{key.pk}/roll", {"overlap": "0", "nonce": uuid4()}).status_code == 404
    )
    url = f"/customers/api-keys/{key.pk}/roll"
    assert send(client, url, {"overlap_seconds": 0}).status_code == 404
    key.refresh_from_db()
    assert (key.revoked_at, key.successor) == (None, None)
