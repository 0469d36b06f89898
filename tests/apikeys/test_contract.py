"""What ComfyUI and comfy-cli ask beside whose key it is."""

import pytest

from apikeys import services
from apikeys.models import Reason


@pytest.fixture
def ask(client, issue):
    """Asks with a good key. Returns status and body."""
    _key, token = issue()

    def ask(path, method="get", **more):
        answer = getattr(client, method)(path, headers={"X-API-Key": token.reveal()}, **more)
        return answer.status_code, answer.json()

    return ask


@pytest.mark.parametrize("path", ["/customers/balance", "/api/billing/balance"])
def test_no_balance_is_made_up(ask, path):
    status, said = ask(path)
    assert (status, said["error"]) == (404, "NOT_FOUND")
    assert "keeps no credits" in said["message"]


def test_nothing_is_gated(ask):
    assert ask("/api/billing/status") == (200, {"is_active": True, "has_funds": True})


def test_workflows_may_be_run_and_nothing_else_be_done_with_a_workspace(ask):
    _status, workspace = ask("/api/workspaces/current")
    status, said = ask("/api/billing/capabilities")
    assert status == 200
    assert [name for name, may in said["capabilities"].items() if may] == ["can_run_workflows"]
    # The frontend throws away what was said of another workspace, and reports it.
    assert said["resolved_for"]["workspace_id"] == workspace["id"]
    assert not any(said["rollout_defaults_applied"].values())


def test_no_plan_is_offered(ask):
    assert ask("/api/billing/plans") == (200, {"plans": []})


@pytest.mark.parametrize("path", ["/customers/credit", "/customers/billing"])
def test_nothing_is_sold(ask, path):
    status, said = ask(path, "post", data={"amount": 5}, content_type="application/json")
    assert (status, said["error"]) == (403, "NOT_SOLD")


def test_the_credits_panel_has_an_empty_page(ask):
    assert ask("/customers/events?page=3&limit=7") == (
        200,
        {"total": 0, "page": 3, "limit": 7, "totalPages": 0, "events": []},
    )


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "limit=101", "limit=-1", "page=1e9", "page="]
)
def test_a_page_that_is_no_number_is_refused_in_words(ask, query):
    status, said = ask(f"/customers/events?{query}")
    assert (status, said["error"]) == (400, "INVALID_REQUEST")
    assert "whole number" in said["message"]


def test_the_workspace_of_a_key_is_its_account(ask, alice):
    status, said = ask("/api/workspaces/current")
    joined = alice.date_joined.isoformat().replace("+00:00", "Z")
    assert (status, said) == (
        200,
        {
            "id": str(alice.pk),
            "name": said["name"],
            "type": "personal",
            "role": "owner",
            "created_at": joined,
            "joined_at": joined,
        },
    )
    status, members = ask("/api/workspace/members")
    assert status == 200
    assert members["pagination"] == {"offset": 0, "limit": 1, "total": 1}
    assert [(one["id"], one["email"], one["role"]) for one in members["members"]] == [
        (str(alice.pk), alice.email, "owner")
    ]


def test_there_are_no_features_and_no_releases(ask, client):
    assert ask("/api/features") == (200, {})
    query = "project=comfyui&current_version=0.26.2&form_factor=git-linux&locale=en"
    answer = client.get(f"/releases?{query}", headers={"Origin": "http://127.0.0.1:8188"})
    assert (answer.status_code, answer.json()) == (200, [])
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
@pytest.mark.parametrize("path", ["/proxy/openai/v1/images", "/proxy/x", "/proxy/"])
def test_a_node_with_a_bad_key_hears_of_the_key_first(client, issue, ask, method, path):
    key, token = issue("deleted")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    answer = getattr(client, method)(path, headers={"X-API-Key": token.reveal()})
    assert (answer.status_code, answer.json()["error"]) == (401, "REVOKED")
    status, said = ask(path, method)
    assert (status, said["error"]) == (404, "NOT_FOUND")
    assert "gateway" in said["message"]


def test_a_page_of_comfyui_may_read_why_a_node_failed(client):
    answer = client.post("/proxy/openai/v1/images", headers={"Origin": "http://a.example"})
    assert answer.status_code == 401
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    preflight = client.options(
        "/proxy/openai/v1/images",
        headers={
            "Origin": "http://a.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key,comfy-env",
        },
    )
    assert preflight.status_code in {200, 204}
    assert "comfy-env" in preflight.headers["Access-Control-Allow-Headers"]


def test_storage_is_a_gateways_business(client, ask):
    assert client.post("/customers/storage").status_code == 401
    assert ask("/customers/storage", "post")[0] == 404
