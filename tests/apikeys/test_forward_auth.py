"""The key as a proxy hands it on: under which names, in which order, and nowhere else."""

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
    answer = getattr(client, method)(AUTH, headers=hand_on(one))
    assert answer.status_code == 204
    assert answer.headers["X-Auth-User"] == str(alice.pk)


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
    answer = client.get(AUTH, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "AMBIGUOUS_KEY")
    assert " " in answer.json()["message"]
    assert not [name for name in answer.headers if name.startswith("X-Auth-")]


@pytest.mark.parametrize("original", ["X-Original-X-API-Key", "X-Original-Authorization"])
def test_a_header_with_two_keys_is_ambiguous(client, one, other, original):
    scheme = "Bearer " if original.endswith("Authorization") else ""
    answer = client.get(AUTH, headers={original: f"{scheme}{one},{scheme}{other}"})
    assert (answer.status_code, answer.json()["error"]) == (400, "AMBIGUOUS_KEY")
    assert original in answer.json()["message"]


def test_a_key_that_is_handed_on_and_not_good_is_refused(client, issue):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    answer = client.get(AUTH, headers={"X-Original-X-API-Key": token.reveal()})
    assert (answer.status_code, answer.json()["error"]) == (401, "REVOKED")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


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
    answer = getattr(client, method)(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "UNAUTHORIZED")
