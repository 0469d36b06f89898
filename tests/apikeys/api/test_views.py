"""The REST API as ComfyUI and gateways use it."""

import json
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from apikeys import services, tokens
from apikeys.models import APIKey, Reason
from audit.models import Event
from core.exceptions import HashingBusy
from tests.conftest import show_who

VALIDATE = "/api/v1/keys/validate"


@pytest.fixture
def key(issue):
    return issue("studio")[0]


@pytest.fixture
def plaintext(issue):
    return issue("laptop")[1].reveal()


def refused(response, status, error=None):
    assert response.status_code == status, tokens.redact(response.text)
    body = response.json()
    assert set(body) == {"error", "message"} | ({"cause"} if status == 503 else set())
    assert body["error"].replace("_", "").isupper()
    assert body["message"]
    if error:
        assert body["error"] == error
    assert "no-store" in response["Cache-Control"]
    return body


# --- ComfyUI's sign-in ------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-API-Key", "x-api-key", "X-API-KEY"])
def test_comfyui_signs_in_with_a_key(client, alice, plaintext, header):
    response = client.post(
        "/customers",
        {"signup_source": "comfyui"},
        content_type="application/json",
        headers={header: plaintext, "Comfy-Env": "local"},
    )
    assert response.status_code == 200
    body = response.json()
    assert body["id"] == str(alice.pk)
    assert (body["email"], body["name"]) == ("alice@example.org", "Alice")
    assert {"createdAt", "updatedAt", "is_admin", "has_fund"} <= set(body)
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("", "application/json"),
        ("", "text/plain"),
        ("{not json", "application/json"),
        ("x" * 100_000, "application/octet-stream"),
        ('{"signup_source": "x", "turnstile_token": "y"}', "application/json"),
    ],
)
def test_no_body_costs_a_comfyui_user_their_key(client, plaintext, body, content_type):
    response = client.generic(
        "POST", "/customers", body, content_type=content_type, headers={"X-API-Key": plaintext}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/xml", "*/*", "junk"])
def test_no_accept_header_costs_a_comfyui_user_their_key(client, plaintext, accept):
    response = client.post("/customers", headers={"X-API-Key": plaintext, "Accept": accept})
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_may_come_as_bearer(client, plaintext, scheme):
    response = client.get("/customers/me", headers={"Authorization": f"{scheme} {plaintext}"})
    assert response.json()["name"] == "Alice"


def test_x_api_key_wins_over_bearer(client, plaintext):
    good, bad = {"X-API-Key": plaintext}, {"X-API-Key": "comfyui-bad"}
    assert (
        client.get("/customers/me", headers={**good, "Authorization": "Bearer x"}).status_code
        == 200
    )
    other = {**bad, "Authorization": f"Bearer {plaintext}"}
    refused(client.get("/customers/me", headers=other), 401, "MALFORMED")


def test_without_a_name_the_address_greets(client, alice, plaintext):
    alice.name = ""
    alice.save()
    assert client.get("/customers/me", headers={"X-API-Key": plaintext}).json()["name"] == "alice"


@pytest.mark.parametrize("path", ["/customers", "/customers/me"])
def test_without_a_key_the_answer_is_401_with_words_and_a_challenge(client, path, db):
    response = client.post(path) if path == "/customers" else client.get(path)
    assert "X-API-Key" in refused(response, 401, "UNAUTHORIZED")["message"]
    assert response["WWW-Authenticate"].startswith("Bearer ")


def test_a_session_alone_is_no_key(alice, signed_in):
    refused(signed_in(alice).post("/customers"), 401)


def test_a_good_key_is_never_limited_at_sign_in(client, plaintext):
    for _ in range(120):
        assert client.post("/customers", headers={"X-API-Key": plaintext}).status_code == 200


def test_sign_in_waits_where_others_give_up(client, plaintext, monkeypatch, settings):
    passed = {}
    real = services.validate

    def note(presented, **waits):
        passed.update(waits)
        return real(presented, **waits)

    monkeypatch.setattr(services, "validate", note)
    client.post("/customers", headers={"X-API-Key": plaintext})
    assert passed == {
        "client_ip": "127.0.0.1",
        "hash_wait": settings.ARGON2_PATIENT_WAIT,
        "db_wait": settings.DB_RETRY_SECONDS,
    }
    passed.clear()
    client.get("/customers/me", headers={"X-API-Key": plaintext})
    assert passed == {"client_ip": "127.0.0.1"}


# --- CORS -------------------------------------------------------------------------------------

ORIGIN = "http://192.168.1.20:8188"


@pytest.mark.parametrize("path", ["/customers", "/customers/me", VALIDATE, "/customers/api-keys"])
def test_a_preflight_is_answered_for_any_origin_without_credentials(client, path):
    response = client.options(
        path,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key,comfy-env",
        },
    )
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response
    allowed = response["Access-Control-Allow-Headers"]
    for header in [
        "authorization",
        "content-type",
        "x-api-key",
        "comfy-env",
        "comfy-usage-source",
        "comfy-core-version",
        "comfy-job-id",
        "x-comfy-client",
        "x-comfy-workspace-id",
        "x-csrf-token",
    ]:
        assert header in allowed.split(", ")
    assert int(response["Access-Control-Max-Age"]) > 0
    assert "origin" in response["Vary"].lower()


def test_errors_can_be_read_across_origins_too(client, db):
    for response in [
        client.post("/customers", headers={"Origin": ORIGIN}),
        client.post("/customers", headers={"Origin": ORIGIN, "X-API-Key": "nonsense"}),
        client.get("/customers/nothing-here", headers={"Origin": ORIGIN}),
        client.delete("/customers", headers={"Origin": ORIGIN}),
    ]:
        assert response.status_code >= 400
        assert response["Access-Control-Allow-Origin"] == "*"


def test_pages_with_sessions_are_for_our_own_origin(alice, signed_in):
    response = signed_in(alice).get("/keys/", headers={"Origin": ORIGIN})
    assert "Access-Control-Allow-Origin" not in response


def test_plain_options_needs_no_key(client, db):
    response = client.options("/customers")
    assert (response.status_code, response["Allow"]) == (204, "POST, OPTIONS")


# --- One's keys -------------------------------------------------------------------------------


def test_a_key_lists_its_owners_keys_without_secrets(client, mallory, issue, key, plaintext):
    issue("hers", owner=mallory)
    listed = client.get("/customers/api-keys", headers={"X-API-Key": plaintext}).json()["api_keys"]
    assert [item["name"] for item in listed] == ["laptop", "studio"]
    assert listed[1]["id"] == str(key.pk)
    assert listed[1]["key_prefix"] == f"comfyui-{key.public_id}"
    assert set(listed[1]) == {
        "id",
        "name",
        "description",
        "key_prefix",
        "created_at",
        "last_used_at",
        "expires_at",
        "scopes",
        "allowed_networks",
        "replaced_by",
        "suspended_at",
    }
    assert plaintext[20:] not in json.dumps(listed)


def test_a_person_signed_in_creates_a_key(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    show_who(client, alice)
    client.get("/keys/?new=1")
    token = client.cookies[next(name for name in client.cookies if "csrf" in name)].value
    response = client.post(
        "/customers/api-keys",
        {"name": "scripted", "description": "by a script"},
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )
    assert response.status_code == 201
    made = response.json()["api_key"]
    assert services.validate(made["plaintext_key"]).key.name == "scripted"
    assert response["Cache-Control"] == "no-store"
    event = Event.objects.get()
    assert (event.via, event.actor, event.address) == ("api", alice, "127.0.0.1")


def test_a_session_without_a_csrf_token_creates_nothing(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    response = client.post("/customers/api-keys", {"name": "x"}, content_type="application/json")
    refused(response, 403, "FORBIDDEN")
    assert not APIKey.objects.exists()


def test_a_key_may_not_create_keys_unless_the_operator_says_so(client, plaintext, settings):
    def create():
        return client.post(
            "/customers/api-keys",
            {"name": "spawn"},
            content_type="application/json",
            headers={"X-API-Key": plaintext},
        )

    refused(create(), 403, "KEYS_MAY_NOT_CREATE_KEYS")
    settings.KEYS_MAY_CREATE_KEYS = True
    assert create().status_code == 201


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": None}, {"name": 5}, {"name": ["a"]}, {"name": "a\x00b"},
     {"name": "x" * 81}, {"name": "ok", "description": "x" * 501}, {"name": "ok", "description": 1},
     {"name": "\ud800"}],
    ids=repr,
)  # fmt: skip
def test_a_key_that_cannot_be_is_refused_with_words(alice, signed_in, body):
    response = signed_in(alice).generic(
        "POST", "/customers/api-keys", json.dumps(body), content_type="application/json"
    )
    refused(response, 400, "INVALID_REQUEST")
    assert not APIKey.objects.exists()


def test_a_taken_name_and_the_limit_have_different_errors(alice, signed_in, issue, settings):
    issue("taken")
    client = signed_in(alice)
    post = {"path": "/customers/api-keys", "content_type": "application/json"}
    assert client.post(data={"name": "TAKEN"}, **post).json()["error"] == "NAME_TAKEN"
    settings.KEYS_PER_ACCOUNT = 1
    refused(client.post(data={"name": "other"}, **post), 400, "KEY_LIMIT_REACHED")


def test_a_key_deletes_a_key_of_its_owner_and_even_itself(client, key, plaintext):
    headers = {"X-API-Key": plaintext}
    assert client.delete(f"/customers/api-keys/{key.pk}", headers=headers).status_code == 204
    refused(client.delete(f"/customers/api-keys/{key.pk}", headers=headers), 404, "NOT_FOUND")
    own = APIKey.objects.get(name="laptop")
    assert client.delete(f"/customers/api-keys/{own.pk}", headers=headers).status_code == 204
    refused(client.get("/customers/me", headers=headers), 401, "REVOKED")


def test_mallorys_key_cannot_delete_alices(client, mallory, issue, key):
    _hers, token = issue("hers", owner=mallory)
    response = client.delete(f"/customers/api-keys/{key.pk}", headers={"X-API-Key": token.reveal()})
    refused(response, 404)
    key.refresh_from_db()
    assert key.revoked_at is None


def test_an_id_that_is_no_uuid_is_400(client, plaintext):
    response = client.delete("/customers/api-keys/7", headers={"X-API-Key": plaintext})
    refused(response, 400, "INVALID_ID")


# --- Validation -------------------------------------------------------------------------------


def ask(client, key):
    return client.post(VALIDATE, {"key": key}, content_type="application/json")


def test_a_good_key_says_whose_it_is_in_both_forms(client, alice, plaintext):
    in_header = client.post(VALIDATE, headers={"X-API-Key": plaintext})
    in_body = ask(client, plaintext)
    assert in_header.status_code == in_body.status_code == 200
    assert in_header.json() == in_body.json()
    key = APIKey.objects.get()
    body = in_body.json()
    assert set(body) == {"valid", "code", "key", "customer"}
    assert (body["valid"], body["code"]) == (True, "VALID")
    assert set(body["key"]) == {
        "id",
        "name",
        "key_prefix",
        "created_at",
        "expires_at",
        "scopes",
        "allowed_networks",
    }
    assert body["key"]["id"] == str(key.pk)
    assert body["customer"] == {
        "id": str(alice.pk),
        "email": "alice@example.org",
        "name": "Alice",
    }
    assert plaintext[20:] not in in_body.text


def spoil_revoked(key):
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)


def spoil_expired(key):
    APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))


def spoil_disabled(key):
    key.owner.is_active = False
    key.owner.save()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(spoil_revoked, "REVOKED"), (spoil_expired, "EXPIRED"), (spoil_disabled, "ACCOUNT_DISABLED")],
)
def test_a_bad_key_is_401_in_header_form_and_a_plain_no_in_json_form(
    client, plaintext, spoil, code
):
    spoil(APIKey.objects.get())
    response = client.post(VALIDATE, headers={"X-API-Key": plaintext})
    refused(response, 401, code)
    assert "invalid_token" in response["WWW-Authenticate"]
    result = ask(client, plaintext)
    assert result.status_code == 200
    assert result.json()["valid"] is False
    assert result.json()["code"] == code
    assert "customer" not in result.json()
    refused(client.post("/customers", headers={"X-API-Key": plaintext}), 401, code)


@pytest.mark.parametrize(
    "text", ["", " ", "x", "comfyui-", "comfyui-" + "g" * 64, "a\x00b", "\ud800"]
)
def test_what_is_no_key_is_malformed_in_json_form(client, db, text):
    response = client.generic(
        "POST", VALIDATE, json.dumps({"key": text}), content_type="application/json"
    )
    if response.status_code == 200:
        assert response.json()["code"] == "MALFORMED"
    else:
        refused(response, 400)


@pytest.mark.parametrize(
    "body",
    ["{", "[]", '"x"', "null", "5", '{"key": 5}', '{"key": null}', '{"key": ["a"]}', '{"key": {}}',
     '{"other": "x"}', "[" * 60_000, '{"key": NaN}', '{"key": "' + "x" * 70_000 + '"}', b"\xff\xfe",
     '{"a":' * 5_000 + "1" + "}" * 5_000],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_a_body_that_means_nothing_is_400_with_words(client, db, body):
    refused(client.generic("POST", VALIDATE, body, content_type="application/json"), 400)


def test_no_key_at_all_is_401_with_words(client, db):
    refused(client.generic("POST", VALIDATE), 401, "UNAUTHORIZED")
    refused(client.post(VALIDATE, {}, content_type="application/json"), 401, "UNAUTHORIZED")


def test_another_kind_of_body_is_415(client, db):
    refused(client.post(VALIDATE, {"key": "x"}), 415)


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_two_keys_in_one_header_are_400(client, plaintext, header):
    value = f"{plaintext},{plaintext}"
    headers = {header: value if header == "X-API-Key" else f"Bearer {value}"}
    for response in [
        client.post(VALIDATE, headers=headers),
        client.get("/customers/me", headers=headers),
        client.post("/customers", headers=headers),
    ]:
        refused(response, 400, "AMBIGUOUS_KEY")


def test_a_key_in_header_and_body_is_400(client, plaintext):
    response = client.post(
        VALIDATE,
        {"key": plaintext},
        content_type="application/json",
        headers={"X-API-Key": plaintext},
    )
    refused(response, 400, "AMBIGUOUS_KEY")


@pytest.mark.parametrize(
    "query", ["api_key={0}", "key={0}", "x={0}", "apikey=abc", "X-API-Key=abc", "a=comfyui%2D{1}"]
)
@pytest.mark.parametrize("path", ["/customers/me", "/customers/api-keys"])
def test_a_key_in_the_address_is_400_even_beside_a_good_one(client, plaintext, query, path):
    address = f"{path}?{query.format(plaintext, plaintext[8:])}"
    refused(client.get(address), 400, "KEY_IN_ADDRESS")
    response = client.get(address, headers={"X-API-Key": plaintext})
    assert plaintext[20:] not in str(refused(response, 400, "KEY_IN_ADDRESS"))


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE", "FOO"])
def test_other_methods_are_405_in_the_contracts_shape(client, db, method):
    response = client.generic(method, VALIDATE)
    refused(response, 405)
    assert response["Allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("method", ["TRACE", "FOO", "PROPFIND", "DISPATCH"])
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "none"}])
@pytest.mark.parametrize(
    "path", ["/api/v1/auth?scope=nonsense", "/api/v1/auth?scope=", "/customers/api-keys/1?a=b"]
)
def test_unknown_ones_are_so_whatever_else_is_wrong(client, db, method, headers, path):
    refused(client.generic(method, path, headers=headers), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/api/v1/keys/validate?scope=nonsense", "/customers/api-keys?a=b"]
)
def test_a_parameter_means_nothing_to_a_method_that_is_not_there(client, plaintext, method, path):
    response = client.generic(method, path, headers={"X-API-Key": plaintext})
    refused(response, 405, "METHOD_NOT_ALLOWED")


def test_only_options_and_405_have_an_allow_header(client, plaintext):
    for key in [plaintext, "none"]:
        assert "Allow" not in client.post(VALIDATE, headers={"X-API-Key": key})


# --- A store that can't answer ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/customers"),
        ("GET", "/customers/me"),
        ("GET", "/customers/api-keys"),
        ("DELETE", "/customers/api-keys/7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ("POST", VALIDATE),
    ],
)
@pytest.mark.parametrize(
    "trouble", [OperationalError("gone"), HashingBusy()], ids=["store", "line"]
)
def test_what_we_cannot_know_is_503_never_yes_or_no(
    client, plaintext, monkeypatch, method, path, trouble
):
    def fail(*args, **kwargs):
        raise trouble

    monkeypatch.setattr(services, "validate", fail)
    response = client.generic(method, path, headers={"X-API-Key": plaintext})
    refused(response, 503, "SERVICE_UNAVAILABLE")
    assert int(response["Retry-After"]) > 0


def test_creating_without_a_store_is_503_and_makes_nothing(alice, signed_in, monkeypatch):
    client = signed_in(alice)

    def fail(**kwargs):
        raise OperationalError("gone")

    monkeypatch.setattr(services, "issue", fail)
    response = client.post("/customers/api-keys", {"name": "x"}, content_type="application/json")
    refused(response, 503)
    client.raise_request_exception = False
    page = client.post(
        "/keys/generate", {"name": "x", "nonce": "7c9e6679-7425-40de-944b-e07fc1f90ae7"}
    )
    assert page.status_code == 503
    assert int(page["Retry-After"]) > 0
    assert "Nothing was changed" in page.text


# --- The document -----------------------------------------------------------------------------


def test_the_openapi_document_has_every_endpoint_and_no_warning(client, capsys):
    response = client.get("/api/schema/", headers={"Accept": "application/vnd.oai.openapi+json"})
    document = json.loads(response.content)
    assert {"/customers", "/customers/me", "/customers/api-keys", VALIDATE} <= set(
        document["paths"]
    )
    assert "JSON form" in document["paths"][VALIDATE]["post"]["description"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/", "/api/docs", "/api/docs/"])
def test_the_document_is_served_with_and_without_the_slash(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("method", ["get", "head", "post"])
@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_a_proxy_gets_the_owner_of_a_key(client, alice, issue, method, header):
    key, token = issue()
    value = token.reveal() if header == "X-API-Key" else f"Bearer {token.reveal()}"
    response = getattr(client, method)("/api/v1/auth", headers={header: value})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["X-Auth-User"] == str(alice.pk)
    assert response.headers["X-Auth-Email"] == alice.email
    assert response.headers["X-Auth-Key-Id"] == str(key.pk)
    assert response.headers["Cache-Control"] == "no-store"
    assert token.reveal() not in str(response.headers)


def test_a_proxy_gets_no_owner_with_an_invalid_key(client, issue):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    response = client.get("/api/v1/auth", headers={"X-API-Key": token.reveal()})
    assert (response.status_code, response.json()["error"]) == (401, "REVOKED")
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    assert not [name for name in response.headers if name.startswith("X-Auth-")]


def test_a_body_that_a_proxy_sends_along_is_not_looked_at(client, issue):
    _key, token = issue()
    response = client.post(
        "/api/v1/auth", b"\xff" * 10_000, "image/png", headers={"X-API-Key": token.reveal()}
    )
    assert response.status_code == 204
