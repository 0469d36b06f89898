"""Misspelt, repeated and malformed input is refused with a message."""

import gzip
import json

import pytest

from apikeys import services, tokens
from apikeys.api.naming import nearest
from apikeys.models import APIKey
from apikeys.services import VerdictCode
from tests.oauth.conftest import Login, post, redirect_params

SECRET = "what-a-service-says-for-itself-in-these-tests"
VALIDATE = "/api/v1/keys/validate"
BATCH = "/api/v1/keys/validate/batch"
LEAKS = "/api/v1/leaks"
VERIFY = "/admin/verify-api-key"
KEYS = "/customers/api-keys"
AUTH = "/api/v1/auth"


@pytest.fixture
def token(issue):
    return issue("studio")[1].reveal()


@pytest.fixture
def ask(client, alice, signed_in, settings, issue):
    """Sends a body to an endpoint, as somebody who may."""
    settings.SERVICE_SECRETS = [SECRET]

    def send(path, body, **headers):
        http = signed_in(alice) if path.startswith(KEYS) else client
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        service = {"Authorization": f"Bearer {SECRET}", "X-Comfy-Admin-Secret": SECRET}
        sent = {**(service if path in {BATCH, LEAKS, VERIFY} else {}), **headers}
        return http.generic("POST", path, data, content_type="application/json", headers=sent)

    return send


def refused(response, status, *words):
    assert response.status_code == status, tokens.redact(response.text)
    body = response.json()
    assert set(body) == {"error", "message"}
    for word in words:
        assert word in body["message"]


# --- Unknown fields ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (KEYS, {"name": "x", "scope": ["proxy:bfl"]}, ["scope", "Did you mean scopes?"]),
        (KEYS, {"name": "x", "expires_in": 30}, ["expires_in", "Did you mean expires_in_days?"]),
        (KEYS, {"name": "x", "expiresAt": "2099-01-01"}, ["Did you mean expires_at?"]),
        (KEYS, {"name": "x", "ttl": 30}, ["ttl", "There are: allowed_networks, description"]),
        (KEYS, {"name": "x", "": 30}, ["There is no such field"]),
        (KEYS, {"name": "x", "\ud800": 30}, ["There is no such field"]),
        ("roll", {"overlap_seconds": 60, "overlap": 0}, ["Did you mean overlap_seconds?"]),
        (VALIDATE, {"key": "x", "scope": "proxy:bfl"}, ["scope"]),
        (VALIDATE, {"keys": ["x"]}, ["Did you mean key?"]),
        (BATCH, {"keys": ["x"], "scope": "proxy:bfl"}, ["scope"]),
        (LEAKS, {"leaks": [{"key": "x"}], "dry_run": True}, ["dry_run"]),
        (LEAKS, {"leaks": [{"key": "x", "where": "y"}]}, ["where"]),
        (VERIFY, {"api_key": "x", "include_keys": True}, ["include_keys"]),
    ],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(ask, issue, path, body, words):
    key, _token = issue("old")
    refused(ask(f"{KEYS}/{key.pk}/roll" if path == "roll" else path, body), 400, *words)
    assert APIKey.objects.count() == 1


def test_a_key_as_the_name_of_a_field_is_not_repeated(ask, token):
    response = ask(KEYS, {"name": "x", token: 1})
    refused(response, 400, "There is no such field")
    assert token[20:] not in response.text


def test_the_document_allows_no_other_fields(client):
    document = client.get("/api/schema", headers={"Accept": "application/json"}).json()
    for name in ("NewAPIKey", "Roll", "PresentedKey", "PresentedKeys", "Leaks", "Leak", "Asked"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False, name


@pytest.mark.parametrize("body", [b'{"scope": 1, "scope": 2}', b"\xef\xbb\xbf{", b"x" * 100])
@pytest.mark.parametrize("path", ["/customers", "/customers?scope=x&scope=y"])
def test_comfyuis_sign_in_goes_on_taking_anything(client, token, path, body):
    response = client.generic(
        "POST",
        path,
        body,
        content_type="application/json",
        headers={"X-API-Key": token, "Content-Encoding": "gzip"},
    )
    assert response.status_code == 200


def test_what_was_meant_is_found_by_case_hyphens_beginning_and_likeness():
    known = ["name", "description", "expires_at", "expires_in_days", "scopes"]
    for said, meant in {
        "Expires-At": "expires_at",
        "expiresInDays": "expires_in_days",
        "expires": "expires_at",
        "desc": "description",
        "scope": "scopes",
        "nmae": "name",
        "x": None,
        "": None,
    }.items():
        assert nearest(said, known) == meant, said


# --- Parameters in the address ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("scopes=proxy:bfl", ["scopes", "Did you mean scope?"]),
        ("Scope=proxy:bfl", ["Did you mean scope?"]),
        ("scope=proxy:bfl&x=1", ["“x”"]),
        ("scope=customers:read&scope=proxy:bfl", ["more than once"]),
        ("scope=proxy:bfl&scope=proxy:bfl", ["more than once"]),
        ("scope=", ["no scope"]),
        ("scope", ["no scope"]),
        ("scope=%20", ["no scope"]),
        ("=proxy:bfl", ["There is no parameter"]),
        ("scope%00=proxy:bfl", ["There is no parameter"]),
        ("a;scope=proxy:bfl", ["There is no parameter"]),
    ],
)
@pytest.mark.parametrize("method", ["get", "head", "post"])
def test_a_proxys_misspelt_question_lets_nobody_pass(client, token, query, words, method):
    response = getattr(client, method)(f"{AUTH}?{query}", headers={"X-API-Key": token})
    assert response.status_code == 400
    assert not [name for name in response.headers if name.startswith("X-Auth-")]
    if method != "head":
        refused(response, 400, *words)
    assert getattr(client, method)(f"{AUTH}?{query}").status_code == 401, "that comes first"


@pytest.mark.parametrize("path", [VALIDATE, BATCH, LEAKS, VERIFY, KEYS])
def test_nowhere_is_a_parameter_ignored_that_may_restrict_something(ask, path):
    body = {"name": "x", "key": "x"} if path == KEYS else {"key": "x"}
    refused(ask(f"{path}?scope=proxy:bfl", body), 400, "There is no parameter “scope”")
    assert not APIKey.objects.filter(name="x").exists()


def test_the_list_of_keys_has_no_such_filter_and_a_deletion_no_condition(client, issue):
    key, token = issue()
    headers = {"X-API-Key": token.reveal()}
    response = client.get(f"{KEYS}?name=other", headers=headers)
    refused(response, 400, "“name”", "There are: cursor, limit")
    response = client.delete(f"{KEYS}/{key.pk}?if_unused=1", headers=headers)
    refused(response, 400, "“if_unused”")
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_a_page_of_events_is_one_page(client, token):
    response = client.get("/customers/events?limit=1&limit=2", headers={"X-API-Key": token})
    refused(response, 400, "limit is one whole number")


@pytest.mark.parametrize("method", ["TRACE", "FOO"])
def test_a_method_that_there_is_not_is_405_whatever_else_is_wrong(client, token, method):
    for path in (f"{KEYS}?scope=x", f"{AUTH}?scope="):
        response = client.generic(method, path, headers={"X-API-Key": token})
        assert response.status_code == 405
        assert "GET" in response["Allow"]
    assert client.generic(method, VALIDATE).status_code == 405


# --- OAuth ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"scopes": "customers:read"}, "invalid_request"),
        ({"Scope": "customers:read"}, "invalid_request"),
        ({"expires_in": "60"}, "invalid_request"),
        ({"scope": ["customers:read", "proxy:bfl"]}, "invalid_request"),
        ({"scope": "customer:read"}, "invalid_scope"),
        ({"scope": "customers.read"}, "invalid_scope"),
        ({"scope": "openid proxies:bfl"}, "invalid_scope"),
        ({"scope": " "}, "invalid_scope"),
    ],
)
def test_a_machine_that_asks_for_less_and_misspells_it_is_not_given_more(client, db, fields, error):
    response = post(client, "/oauth/device/code", {"client_id": "comfy-key", **fields})
    assert (response.status_code, response.json()["error"]) == (400, error)
    login = Login()
    params = redirect_params(client.get(login.url(**fields)))
    assert params["error"] == error


def test_other_parameters_are_ignored_as_oauth_has_it(client, db):
    fields = {"client_id": "comfy-key", "audience": "x", "source": ["y", "z"], "login_hint": "a"}
    assert post(client, "/oauth/device/code", fields).status_code == 200


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"scope": "proxy:bfl"}, "scope"),
        ({"token_type_hint": ["a", "b"]}, "token_type_hint"),
        ({"tokn": "x"}, "Did you mean token?"),
    ],
)
def test_introspection_does_not_answer_half_a_question(client, token, settings, fields, word):
    settings.SERVICE_SECRETS = [SECRET]
    secret = {"authorization": f"Bearer {SECRET}"}
    response = post(client, "/oauth/introspect", {"token": token, **fields}, **secret)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert word in response.json()["message"]
    whole = {"token": token, "token_type_hint": "access_token", "client_id": "gateway"}
    assert post(client, "/oauth/introspect", whole, **secret).json()["active"] is True


# --- Bodies -----------------------------------------------------------------------------------

READING = [KEYS, VALIDATE, BATCH, LEAKS, VERIFY]


@pytest.mark.parametrize("path", READING)
def test_a_member_that_is_there_twice_is_refused_by_name(ask, path):
    for body in (b'{"key": "a", "key": "a"}', b'{"x": [{"key": 1, "b": 2, "key": 3}]}'):
        refused(ask(path, body), 400, "“key” more than once")
    assert not APIKey.objects.exists()


def test_a_key_as_a_member_that_is_there_twice_is_not_repeated(ask, token):
    response = ask(VALIDATE, f'{{"{token}": 1, "{token}": 2}}'.encode())
    refused(response, 400, "more than once")
    assert token[20:] not in response.text


def test_a_byte_order_mark_is_read(ask, token):
    bom = b"\xef\xbb\xbf"
    assert ask(VALIDATE, bom + json.dumps({"key": token}).encode()).json()["valid"] is True
    assert ask(BATCH, bom + json.dumps({"keys": [token]}).encode()).status_code == 200
    assert ask(KEYS, bom + b'{"name": "from PowerShell"}').status_code == 201
    found = ask(LEAKS, bom + json.dumps({"leaks": [{"key": "x"}]}).encode())
    assert found.status_code == 200
    for body in (bom, bom + bom + b"{}", '{"key": "x"}'.encode("utf-16")):
        refused(ask(VALIDATE, body), 400, "not JSON")


@pytest.mark.parametrize("path", READING)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip", "x-unknown"])
def test_a_compressed_body_is_refused_in_words(ask, path, coding):
    response = ask(path, gzip.compress(b'{"name": "x"}'), **{"Content-Encoding": coding})
    refused(response, 415, "compressed", "Content-Encoding")
    assert response.json()["error"] == "UNSUPPORTED_MEDIA_TYPE"
    assert response["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "Identity", "", " , identity"])
def test_a_body_as_it_is_may_say_so(ask, token, coding):
    response = ask(VALIDATE, {"key": token}, **{"Content-Encoding": coding})
    assert response.json()["valid"] is True


def test_a_clients_headers_without_its_body_are_judged_by_the_key(client, token):
    """As a gateway hands them on."""
    headers = {"X-API-Key": token, "Content-Encoding": "gzip"}
    assert client.post(VALIDATE, headers=headers).status_code == 200
    assert client.get(AUTH, headers=headers).status_code == 204


@pytest.mark.parametrize(
    "path", ["/oauth/device/code", "/oauth/token", "/oauth/revoke", "/oauth/introspect"]
)
def test_a_compressed_form_is_refused_in_oauths_shape(client, db, settings, path):
    settings.SERVICE_SECRETS = [SECRET]
    headers = {"authorization": f"Bearer {SECRET}", "content_encoding": "gzip"}
    response = post(client, path, {"token": "x"}, **headers)
    assert (response.status_code, response.json()["error"]) == (415, "invalid_request")
    assert "compressed" in response.json()["error_description"]


@pytest.mark.parametrize(
    "path", ["/login", "/signup", "/keys/generate", "/device", "/admin/login/"]
)
def test_a_compressed_form_of_a_page_is_refused_on_a_page(client, db, path):
    headers = {"Content-Encoding": "gzip"}
    response = client.post(path, {"name": "x"}, headers=headers)
    assert response.status_code == 415
    assert response["Content-Type"].startswith("text/html")
    assert "compressed" in response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (KEYS, {"name": "x", "expires_in_days": "30"}),
        (KEYS, {"name": "x", "expires_in_days": True}),
        (KEYS, {"name": "x", "expires_in_days": 1.5}),
        (VERIFY, {"api_key": "x", "include_customer_keys": "no"}),
    ],
)
def test_a_value_of_another_type_than_the_documents_is_refused(ask, path, body):
    refused(ask(path, body), 400)


# --- An empty header --------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", " ", "\t", " , "])
def test_an_empty_or_blank_header_counts_as_absent(client, token, blank):
    beside = {"X-API-Key": blank, "Authorization": f"Bearer {token}"}
    assert client.post("/customers", headers=beside).status_code == 200
    assert client.get(AUTH, headers=beside).status_code == 204
    assert client.post(VALIDATE, headers=beside).status_code == 200
    validated = client.post(
        VALIDATE, {"key": token}, content_type="application/json", headers={"X-API-Key": blank}
    )
    assert validated.json()["valid"] is True
    for path in ("/customers", VALIDATE):
        for alone in ({"X-API-Key": blank}, {"Authorization": f"Bearer {blank}"}):
            response = client.post(path, headers=alone)
            assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")
    original = {"X-Original-X-API-Key": blank, "X-Original-Authorization": f"Bearer {token}"}
    assert client.get(AUTH, headers=original).status_code == 204


def test_an_empty_header_speaks_for_nobody_and_a_page_goes_on(alice, signed_in):
    response = signed_in(alice).get(KEYS, headers={"X-API-Key": ""})
    assert response.status_code == 200
