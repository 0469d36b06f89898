"""GET /customers/usage."""

from uuid import uuid4

import pytest

from apikeys import services, usage
from apikeys.models import APIKey, Reason

USAGE = "/customers/usage"


@pytest.fixture
def used(issue) -> dict[str, APIKey]:
    """A key with three calls and a refused key with two."""
    key, token = issue("studio")
    gone, gone_token = issue("gone")
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER)
    for presented in [token] * 3 + [gone_token] * 2:
        services.validate(presented.reveal())
    usage.flush()
    return {"studio": key, "gone": gone}


def refused(response, status: int, error: str) -> None:
    body = response.json()
    assert (response.status_code, body["error"]) == (status, error)
    assert set(body) == {"error", "message"}
    assert body["message"]


def test_calls_and_refusals_are_reported_by_day_and_by_key(alice, signed_in, used):
    response = signed_in(alice).get(USAGE)
    assert response.status_code == 200
    body = response.json()
    buckets = body.pop("buckets")
    keys = body.pop("keys")
    assert body == {
        "period": "7d", "time_zone": "UTC", "bucket": "day", "calls": 3, "refusals": 2,
    }  # fmt: skip
    assert len(buckets) == 7
    assert buckets[-1]["start"].endswith("T00:00:00Z")
    assert (buckets[-1]["calls"], buckets[-1]["refusals"]) == (3, 2)
    assert keys == [
        {
            "id": str(used["studio"].pk),
            "name": "studio",
            "key_prefix": f"comfyui-{used['studio'].public_id}",
            "calls": 3,
            "refusals": 0,
            "refusals_by_code": {},
        },
        {
            "id": str(used["gone"].pk),
            "name": "gone",
            "key_prefix": f"comfyui-{used['gone'].public_id}",
            "calls": 0,
            "refusals": 2,
            "refusals_by_code": {"REVOKED": 2},
        },
    ]


def test_the_last_24_hours_are_reported_by_hour_in_a_time_zone(alice, signed_in, used):
    body = signed_in(alice).get(USAGE, {"period": "24h", "time_zone": "Asia/Kolkata"}).json()
    assert (body["bucket"], body["time_zone"], len(body["buckets"])) == ("hour", "Asia/Kolkata", 24)
    assert {bucket["start"][13:] for bucket in body["buckets"]} == {":30:00+05:30"}


def test_one_key_is_reported_alone_also_if_it_is_deleted(alice, signed_in, used):
    for name, counts in [("studio", (3, 0)), ("gone", (0, 2))]:
        body = signed_in(alice).get(USAGE, {"key_id": used[name].pk}).json()
        assert (body["calls"], body["refusals"]) == counts
        assert [key["name"] for key in body["keys"]] == [name]


def test_a_key_may_read_the_usage_with_the_scope_to_manage_keys(client, issue):
    _key, token = issue("manager", scopes=["keys:manage"])
    assert client.get(USAGE, headers={"X-API-Key": token.reveal()}).status_code == 200
    _key, token = issue("reader", scopes=["customers:read"])
    response = client.get(USAGE, headers={"X-API-Key": token.reveal()})
    refused(response, 403, "INSUFFICIENT_SCOPE")
    refused(client.get(USAGE), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"period": "1y"}, "INVALID_PERIOD"),
        ({"period": ""}, "INVALID_PERIOD"),
        ({"time_zone": "Middle-earth/Shire"}, "INVALID_TIME_ZONE"),
        ({"time_zone": "../../etc/passwd"}, "INVALID_TIME_ZONE"),
        ({"key_id": "studio"}, "INVALID_ID"),
        ({"key": "studio"}, "UNKNOWN_PARAMETER"),
        ({"period": ["7d", "30d"]}, "REPEATED_PARAMETER"),
    ],
)
def test_what_it_does_not_understand_is_refused(alice, signed_in, query, error):
    refused(signed_in(alice).get(USAGE, query), 400, error)


def test_mallory_gets_no_usage_of_alice(mallory, signed_in, used):
    client = signed_in(mallory)
    body = client.get(USAGE).json()
    assert (body["calls"], body["refusals"], body["keys"]) == (0, 0, [])
    refused(client.get(USAGE, {"key_id": used["studio"].pk}), 404, "NOT_FOUND")
    refused(client.get(USAGE, {"key_id": uuid4()}), 404, "NOT_FOUND")
