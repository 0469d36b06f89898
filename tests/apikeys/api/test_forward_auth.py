"""The headers in which a proxy forwards a key."""

import pytest

from apikeys import services
from apikeys.models import Reason

AUTH = "/api/v1/auth"
NONSENSE = "comfyui-nonsense"


@pytest.fixture
def one(issue) -> str:
    return issue("one")[1].reveal()


@pytest.fixture
def other(issue, mallory) -> str:
    return issue("other", owner=mallory)[1].reveal()


@pytest.mark.parametrize("method", ["get", "head", "post"])
@pytest.mark.parametrize(
    "hand_on",
    [
        lambda key: {"X-Original-X-API-Key": key},
        lambda key: {"X-Original-Authorization": f"Bearer {key}"},
        # The proxy's own way in to us is no key.
        lambda key: {"X-Original-X-API-Key": key, "Authorization": "Bearer eyJhbGciOi.e30.x"},
        lambda key: {"X-Original-Authorization": f"Bearer {key}", "Authorization": "Basic YTpi"},
        lambda key: {"X-Original-Authorization": f"Bearer {key}", "X-API-Key": "a-meshs-own"},
        # Proxies that know no better send an empty header where their client sent none.
        lambda key: {"X-Original-X-API-Key": "", "X-Original-Authorization": f"Bearer {key}"},
        lambda key: {"X-Original-X-API-Key": "", "X-Original-Authorization": "", "X-API-Key": key},
        lambda key: {"X-Original-X-API-Key": key, "X-API-Key": key},
        lambda key: {"X-Original-X-API-Key": key, "Authorization": f"Bearer {key}"},
        # As with the plain names, X-API-Key wins over Authorization.
        lambda key: {"X-Original-X-API-Key": key, "X-Original-Authorization": f"Bearer {NONSENSE}"},
    ],
)
def test_a_key_is_read_as_a_proxy_hands_it_on(client, alice, one, method, hand_on):
    response = getattr(client, method)(AUTH, headers=hand_on(one))
    assert response.status_code == 204
    assert response.headers["X-Auth-User"] == str(alice.pk)


@pytest.mark.parametrize("original", ["X-Original-X-API-Key", "X-Original-Authorization"])
@pytest.mark.parametrize("plain", ["X-API-Key", "Authorization"])
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_key_handed_on_and_another_beside_it_are_ambiguous(
    client, one, other, original, plain, is_ours
):
    """A proxy that hands on all headers must not be led to have one key judged, and act on two."""
    second = other if is_ours else NONSENSE
    headers = {
        name: f"Bearer {key}" if name.endswith("Authorization") else key
        for name, key in ((original, one), (plain, second))
    }
    response = client.get(AUTH, headers=headers)
    assert (response.status_code, response.json()["error"]) == (400, "AMBIGUOUS_KEY")
    assert " " in response.json()["message"]
    assert not [name for name in response.headers if name.startswith("X-Auth-")]


@pytest.mark.parametrize("original", ["X-Original-X-API-Key", "X-Original-Authorization"])
def test_a_header_with_two_keys_is_ambiguous(client, one, other, original):
    scheme = "Bearer " if original.endswith("Authorization") else ""
    response = client.get(AUTH, headers={original: f"{scheme}{one},{scheme}{other}"})
    assert (response.status_code, response.json()["error"]) == (400, "AMBIGUOUS_KEY")
    assert original in response.json()["message"]


def test_a_key_that_is_handed_on_and_not_good_is_refused(client, issue):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    response = client.get(AUTH, headers={"X-Original-X-API-Key": token.reveal()})
    assert (response.status_code, response.json()["error"]) == (401, "REVOKED")
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/customers"),
        ("get", "/customers/me"),
        ("get", "/customers/api-keys"),
        ("get", "/proxy/openai/v1/models"),
        ("get", "/api/features"),
    ],
)
def test_nowhere_else_is_a_key_read_under_these_names(client, one, method, path):
    headers = {"X-Original-X-API-Key": one, "X-Original-Authorization": f"Bearer {one}"}
    response = getattr(client, method)(path, headers=headers)
    assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")


# --- Envoy, which appends its own request's path, keeps the method, and takes 200 alone --------


@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete", "options"])
@pytest.mark.parametrize(
    "path",
    ["/", "/prompt", "/v1/images%2Fx/", "/a%0Ab", "/api/v1/auth", "/jobs?status=running&a=b"],
)
def test_a_path_below_is_answered_with_200_whatever_the_method(client, alice, one, method, path):
    response = getattr(client, method)(f"{AUTH}{path}", headers={"X-API-Key": one})
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["X-Auth-User"] == str(alice.pk)
    assert response.headers["X-Auth-Key-Id"]
    refused = getattr(client, method)(f"{AUTH}{path}", headers={"X-API-Key": NONSENSE})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "*"


def test_a_preflight_does_not_pass_a_proxy_that_keeps_the_method(client):
    """At the plain address it is the platform that answers it, and no request passes."""
    asks = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    assert client.options(f"{AUTH}/prompt", headers=asks).status_code == 401
    assert client.options(f"{AUTH}/", headers=asks).status_code == 401
    assert client.options(AUTH, headers=asks).status_code == 200


@pytest.mark.parametrize("path", ["", "/", "/prompt"])
def test_a_scope_is_asked_for_wherever_it_stands(client, issue, path):
    narrow = issue("narrow", scopes=["proxy:openai"])[1].reveal()
    for scope, status in [
        ("scope=proxy:openai", 200 if path else 204),
        ("scope=proxy:other", 403),
        ("scope=nonsense", 400),
        ("scope=", 400),
    ]:
        response = client.get(f"{AUTH}{path}?{scope}", headers={"X-API-Key": narrow})
        assert response.status_code == status, scope


@pytest.mark.parametrize("path", ["/", "/prompt"])
def test_two_scopes_below_are_refused(client, one, path):
    response = client.get(
        f"{AUTH}{path}?scope=proxy:other&scope=proxy:openai", headers={"X-API-Key": one}
    )
    assert (response.status_code, response.json()["error"]) == (400, "REPEATED_PARAMETER")


@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete"])
@pytest.mark.parametrize(
    ("wanted", "status"), [("?status=200", 200), ("?status=204", 204), ("", 204)]
)
def test_a_proxy_chooses_the_status_that_means_yes(client, alice, one, method, wanted, status):
    response = getattr(client, method)(f"{AUTH}{wanted}", headers={"X-API-Key": one})
    assert (response.status_code, response.content) == (status, b"")
    assert response.headers["X-Auth-User"] == str(alice.pk)
    refused = getattr(client, method)(f"{AUTH}{wanted}", headers={"X-API-Key": NONSENSE})
    assert refused.status_code == 401


@pytest.mark.parametrize("wanted", ["", "2xx", "201", "401", "200 ", "0", "²00"])
def test_no_other_status_can_mean_yes(client, one, wanted):
    response = client.get(AUTH, {"status": wanted}, headers={"X-API-Key": one})
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_STATUS")
    assert not [name for name in response.headers if name.startswith("X-Auth-")]
