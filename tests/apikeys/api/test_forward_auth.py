"""The headers in which a proxy forwards a key."""

import re
from typing import Any

import pytest
import yaml

from apikeys import services
from apikeys.models import Reason
from core.client_ip import apply_forwarded_headers
from tests.platforms import ROOT

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


def envoys_filters() -> list[dict[str, Any]]:
    """Return the configurations of the filters in docs/gateways.md, in order."""
    text = (ROOT / "docs" / "gateways.md").read_text()
    [example] = re.findall(r"```yaml\n(http_filters:.*?)```", text, re.DOTALL)
    return [one["typed_config"] for one in yaml.safe_load(example)["http_filters"]]


def test_the_documented_envoy_passes_the_clients_ip_and_no_other(client, issue):
    sets, asks, removes = envoys_filters()
    [mutation] = sets["mutations"]["request_mutations"]
    header = mutation["append"]["header"]
    assert mutation["append"]["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
    assert {"exact": header["key"]} in asks["allowed_headers"]["patterns"]
    assert removes["mutations"]["request_mutations"] == [{"remove": header["key"]}]

    _key, token = issue("studio", allowed_networks=["203.0.113.0/24", "2001:db8::/32"])
    envoy = "192.0.2.1"
    for client_ip, status in (
        ("203.0.113.7", 200),
        ("2001:db8::7", 200),
        ("198.51.100.7", 403),
        (envoy, 403),
    ):
        value = header["value"].replace("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", client_ip)
        variable = f"HTTP_{header['key'].upper().replace('-', '_')}"
        # Envoy adds its own address to X-Forwarded-For, which does not count then.
        environ = {"REMOTE_ADDR": envoy, variable: value, "HTTP_X_FORWARDED_FOR": envoy}
        seen: dict[str, Any] = {}

        def application(environ: dict[str, Any], _start: Any, seen: Any = seen) -> list[bytes]:
            seen |= environ
            return []

        apply_forwarded_headers(application, proxies=[envoy], header=header["key"])(environ, None)
        assert variable not in seen
        response = client.get(
            f"{AUTH}/prompt", headers={"X-API-Key": token.reveal()}, REMOTE_ADDR=seen["REMOTE_ADDR"]
        )
        assert response.status_code == status, client_ip
        assert seen["wsgi.url_scheme"] == "https"


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


@pytest.mark.parametrize("path", ["", "/"])
def test_without_an_appended_path_a_misspelt_scope_is_refused(client, one, path):
    response = client.get(f"{AUTH}{path}?scop=proxy:openai", headers={"X-API-Key": one})
    assert (response.status_code, response.json()["error"]) == (400, "UNKNOWN_PARAMETER")


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
