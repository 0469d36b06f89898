"""The endpoint for services that returns the owner of a key."""

import pytest

from accounts.services import display_name
from apikeys import services
from apikeys.key_hasher import key_hasher
from apikeys.models import Reason
from core.exceptions import HashingBusy

ADDRESS = "/admin/verify-api-key"
SECRET = "s" * 40
FORMER = "f" * 40


@pytest.fixture(autouse=True)
def _secrets(settings):
    settings.SERVICE_SECRETS = [SECRET, FORMER]


@pytest.fixture
def ask(client):
    def ask(body, secret=SECRET):
        return client.post(
            ADDRESS, body, "application/json", headers={"X-Comfy-Admin-Secret": secret}
        )

    return ask


def test_a_service_learns_whose_key_it_is(ask, alice, issue):
    key, token = issue("studio", description="the big one")
    for secret in (SECRET, FORMER):
        response = ask({"api_key": token.reveal()}, secret)
        assert response.status_code == 200
        assert response.json() == {
            "valid": True,
            "firebase_uid": str(alice.pk),
            "email": alice.email,
            "name": display_name(alice),
            "is_admin": False,
            "key_name": "studio",
            "key_description": "the big one",
        }
        assert response.headers["Cache-Control"] == "no-store"
    assert key.encoded not in response.text


def test_it_learns_of_the_other_keys_when_it_asks(ask, issue, mallory):
    _key, token = issue("one")
    other, _token = issue("two", description="second")
    gone, _token = issue("gone")
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER)
    issue("hers", owner=mallory)
    response = ask({"api_key": token.reveal(), "include_customer_keys": True})
    result = {one["name"]: one for one in response.json()["customer_api_keys"]}
    assert set(result) == {"one", "two"}
    assert result["two"] == {
        "key_hash": str(other.pk),
        "key_prefix": f"comfyui-{other.public_id}",
        "name": "two",
        "description": "second",
    }
    assert other.encoded not in response.text
    assert token.reveal() not in response.text


@pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], SECRET + "s", SECRET.upper(), "é"])
def test_requests_without_a_service_secret_are_refused(ask, issue, secret):
    _key, token = issue()
    response = ask({"api_key": token.reveal()}, secret)
    assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")
    # Not even whether a body makes sense.
    assert ask({"nonsense": 1}, secret).status_code == 401


def test_without_secrets_there_is_nothing_at_this_address(ask, issue, settings):
    settings.SERVICE_SECRETS = []
    _key, token = issue()
    for secret in ("", SECRET):
        assert ask({"api_key": token.reveal()}, secret).status_code == 404


def test_each_invalid_key_has_its_own_error(ask, issue, mallory):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    response = ask({"api_key": token.reveal()})
    assert (response.status_code, response.json()["error"]) == (404, "REVOKED")
    response = ask({"api_key": "comfyui-nonsense"})
    assert (response.status_code, response.json()["error"]) == (404, "MALFORMED")
    _key, token = issue("hers", owner=mallory)
    mallory.is_active = False
    mallory.save()
    response = ask({"api_key": token.reveal()})
    assert (response.status_code, response.json()["error"]) == (403, "ACCOUNT_DISABLED")


@pytest.mark.parametrize(
    "body", [{}, {"api_key": 5}, {"api_key": None}, {"api_key": "x", "include_customer_keys": "?"}]
)
def test_a_question_that_makes_no_sense_is_refused_in_words(ask, body):
    response = ask(body)
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    assert response.json()["message"]


@pytest.mark.parametrize("body", ["[", "[]", '"x"', ""])
def test_a_body_that_is_no_object_is_refused_in_words(client, body):
    response = client.post(
        ADDRESS, body, "application/json", headers={"X-Comfy-Admin-Secret": SECRET}
    )
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")


BATCH = "/api/v1/keys/validate/batch"


@pytest.fixture
def ask_many(client):
    def ask(keys, secret=SECRET):
        return client.post(
            BATCH, {"keys": keys}, "application/json", headers={"Authorization": f"Bearer {secret}"}
        )

    return ask


def test_many_keys_have_a_verdict_each_in_their_order(ask_many, alice, issue, client):
    _key, token = issue("studio")
    gone, gone_token = issue("gone")
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER)
    presented = [gone_token.reveal(), token.reveal(), "comfyui-nonsense", "", token.reveal()]
    response = ask_many(presented)
    assert response.status_code == 200
    verdicts = response.json()["verdicts"]
    assert [one["code"] for one in verdicts] == [
        "REVOKED", "VALID", "MALFORMED", "MALFORMED", "VALID",
    ]  # fmt: skip
    alone = client.post("/api/v1/keys/validate", {"key": token.reveal()}, "application/json")
    assert verdicts[1] == verdicts[4] == alone.json()
    assert token.reveal() not in response.text


@pytest.mark.parametrize("keys", [[], ["x"] * 101, "x", None, [5], [None], {"a": 1}])
def test_too_many_keys_or_none_are_refused_in_words(ask_many, keys):
    response = ask_many(keys)
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    assert response.json()["message"].startswith("keys: ")


def test_a_key_is_no_secret_of_a_service(ask_many, issue):
    _key, token = issue()
    for secret in (token.reveal(), "", "wrong"):
        response = ask_many([token.reveal()], secret)
        assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")


def test_many_keys_are_no_ones_business_without_secrets(ask_many, settings):
    settings.SERVICE_SECRETS = []
    assert ask_many(["x"]).status_code == 404


def test_when_one_cannot_be_judged_none_is(ask_many, issue, monkeypatch):
    def busy(*args, **kwargs):
        raise HashingBusy

    _key, token = issue()
    monkeypatch.setattr(key_hasher(), "verify", busy)
    response = ask_many(["comfyui-nonsense", token.reveal()])
    assert (response.status_code, response.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert int(response.headers["Retry-After"]) > 0
