"""Endpoints of Comfy API besides sign-in."""

import pytest

from apikeys import services
from apikeys.models import Reason


@pytest.fixture
def ask(client, issue):
    """Asks with a good key. Returns status and body."""
    _key, token = issue()

    def ask(path, method="get", **more):
        response = getattr(client, method)(path, headers={"X-API-Key": token.reveal()}, **more)
        return response.status_code, response.json()

    return ask


@pytest.mark.parametrize("path", ["/customers/balance", "/api/billing/balance"])
def test_no_balance_is_made_up(ask, path):
    status, said = ask(path)
    assert (status, said["error"]) == (404, "NOT_FOUND")
    assert "has no credits" in said["message"]


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
    response = client.get(f"/releases?{query}", headers={"Origin": "http://127.0.0.1:8188"})
    assert (response.status_code, response.json()) == (200, [])
    assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
@pytest.mark.parametrize("path", ["/proxy/openai/v1/images", "/proxy/x", "/proxy/"])
def test_a_node_with_an_invalid_key_gets_an_error_about_the_key(client, issue, ask, method, path):
    key, token = issue("deleted")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    response = getattr(client, method)(path, headers={"X-API-Key": token.reveal()})
    assert (response.status_code, response.json()["error"]) == (401, "REVOKED")
    status, said = ask(path, method)
    assert (status, said["error"]) == (404, "NOT_FOUND")
    assert "gateway" in said["message"]


def test_a_page_of_comfyui_may_read_why_a_node_failed(client):
    response = client.post("/proxy/openai/v1/images", headers={"Origin": "http://a.example"})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == "*"
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


def test_a_node_that_uploads_gets_the_error_that_no_files_are_stored(client, ask, settings):
    """Behind a gateway as well: it is the platform that is asked, and a gateway is set up."""
    settings.UPLOADS = False
    assert client.post("/customers/storage").status_code == 401
    status, result = ask("/customers/storage", "post")
    assert (status, result["error"]) == (404, "NOT_FOUND")
    assert "stores no files" in result["message"]
    assert "gateway" not in result["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/api/prompt"),
        ("get", "/api/object_info"),
        ("get", "/api/jobs?limit=10"),
        ("get", "/api/jobs/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11"),
        ("post", "/api/upload/image"),
        ("get", "/api/history_v2/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11"),
        ("get", "/api/system_stats"),
        ("post", "/api/queue"),
    ],
)
def test_what_would_run_a_workflow_says_where_to_run_it(client, ask, method, path):
    """`comfy run` calls this URL once both are set, unless an option says otherwise."""
    assert getattr(client, method)(path).status_code == 401
    status, result = ask(path, method)
    assert (status, result["error"]) == (404, "NOT_FOUND")
    assert "comfy run --where local" in result["message"]


@pytest.mark.parametrize("path", ["/api/prompts", "/api/nothing", "/api/v3"])
def test_other_addresses_are_not_there(client, path):
    result = client.get(path)
    assert (result.status_code, result.json()["error"]) == (404, "NOT_FOUND")
    assert "comfy run" not in result.json()["message"]
