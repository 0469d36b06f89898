"""Service secrets: who a service is, what it may ask, and what the audit log has of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apikeys import usage
from apikeys.service_secrets import UNNAMED, ServiceScope, parse, parse_all, split
from audit.models import Action, Event

ROOT = Path(__file__).parents[2]
A, B, C = "a" * 40, "b" * 40, "c" * 40


# --- How the variable is read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", []),
        (f" {A} , {B}\n{C},, ", [A, B, C]),
        (f"gateway:batch:{A}", [f"gateway:batch:{A}"]),
        (f"gateway:batch+introspect:{A}", [f"gateway:batch+introspect:{A}"]),
        (f"gateway:batch,introspect:{A}", [f"gateway:batch,introspect:{A}"]),
        (f"gateway:batch, introspect:{A} , {B}", [f"gateway:batch,introspect:{A}", B]),
        (
            f"gateway:batch,introspect:{A},scanner:leaks:{B}\n{C}",
            [f"gateway:batch,introspect:{A}", f"scanner:leaks:{B}", C],
        ),
        (f"a:batch,verify,leaks:{A}", [f"a:batch,verify,leaks:{A}"]),
        # A secret is missing: it is judged as it stands.
        ("gateway:batch", ["gateway:batch"]),
        (f"gateway:batch,{A}", ["gateway:batch", A]),
    ],
)
def test_the_variable_is_a_list_of_services(text, entries):
    assert split(text) == entries


def test_a_service_has_a_name_scopes_and_a_secret():
    service = parse(f"gateway:batch,introspect:{A}")
    assert (service.name, service.secret) == ("gateway", A)
    assert service.scopes == {ServiceScope.BATCH, ServiceScope.INTROSPECT}
    assert A not in repr(service)


def test_a_secret_alone_may_ask_everything_as_before():
    service = parse(A)
    assert (service.name, service.scopes) == (UNNAMED, set(ServiceScope))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["short"], "at least 32 characters"),
        (["gateway:batch:short"], "'gateway' that is too short"),
        ([f"gateway:{A}"], "name:scopes:secret"),
        (["gateway:batch"], "name:scopes:secret"),
        ([f"gateway:revoke:{A}"], "The scopes are verify, batch, introspect, leaks"),
        ([f"gateway::{A}"], "a scope that does not exist"),
        ([f"two words:batch:{A}"], "name:scopes:secret"),
        ([f"comfyui gateway!:batch:{A}"], "name:scopes:secret"),
        ([A, f"gateway:batch:{A}"], "one secret twice"),
    ],
)
def test_a_fault_is_said_in_words_without_the_secret(entries, words):
    with pytest.raises(ValueError, match=words) as fault:
        parse_all(entries)
    assert A not in str(fault.value)


# --- What a service may do -------------------------------------------------------------------


def ask(client, where: str, secret: str, token: str):
    bearer = {"Authorization": f"Bearer {secret}"}
    json = {"content_type": "application/json"}
    match where:
        case "batch":
            body = {"keys": [token]}
            return client.post("/api/v1/keys/validate/batch", body, headers=bearer, **json)
        case "leaks":
            return client.post("/api/v1/leaks", {"leaks": [{"key": token}]}, headers=bearer, **json)
        case "introspect":
            return client.post(
                "/oauth/introspect",
                f"token={token}",
                content_type="application/x-www-form-urlencoded",
                headers=bearer,
            )
        case _:
            headers = {"X-Comfy-Admin-Secret": secret}
            return client.post("/admin/verify-api-key", {"api_key": token}, headers=headers, **json)


@pytest.mark.parametrize("scope", list(ServiceScope))
def test_a_service_does_what_its_scopes_say_and_nothing_else(client, settings, issue, scope):
    settings.SERVICE_SECRETS = [f"gateway:{scope}:{A}"]
    key, token = issue("studio")
    others = set(ServiceScope) - {scope}
    for other in others:
        response = ask(client, other, A, token.reveal())
        assert response.status_code == 403, other
        assert other in response.json()["message"]
        assert "gateway" in response.json()["message"]
        key.refresh_from_db()
        assert (key.revoked_at, key.suspended_at) == (None, None)
    assert ask(client, scope, A, token.reveal()).status_code == 200
    assert ask(client, scope, B, token.reveal()).status_code == 401


def test_secrets_from_before_work_as_before(client, settings, issue):
    settings.SERVICE_SECRETS = [A, f"gateway:batch:{B}"]
    _key, token = issue("studio")
    for scope in ServiceScope:
        assert ask(client, scope, A, token.reveal()).status_code == 200, scope


def test_two_secrets_of_one_service_work_while_one_replaces_the_other(client, settings, issue):
    settings.SERVICE_SECRETS = [f"gateway:batch:{A}", f"gateway:batch:{B}"]
    _key, token = issue("studio")
    for secret in (A, B):
        assert ask(client, "batch", secret, token.reveal()).status_code == 200


def test_the_audit_log_names_the_service_once_an_hour_and_never_its_secret(client, settings, issue):
    settings.SERVICE_SECRETS = [f"gateway:batch+leaks:{A}", f"reader:introspect:{B}"]
    key, token = issue("studio")
    for _time in range(3):
        ask(client, "batch", A, token.reveal())
        ask(client, "batch", B, token.reveal())
        ask(client, "introspect", B, token.reveal())
    usage.flush()
    ask(client, "leaks", A, token.reveal())
    usage.flush()

    def events(action):
        found = Event.objects.filter(action=action).values_list("detail", flat=True)
        return sorted((detail["service"], detail["scope"]) for detail in found)

    assert events(Action.SERVICE_USED) == [
        ("gateway", "batch"),
        ("gateway", "leaks"),
        ("reader", "introspect"),
    ]
    assert events(Action.SERVICE_REFUSED) == [("reader", "batch")]
    assert Event.objects.get(action=Action.KEY_LEAKED).detail["service"] == "gateway"
    assert not any(A in str(event.detail) for event in Event.objects.all())
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_what_the_operator_sets_is_read_and_a_fault_ends_the_start_in_words(tmp_path):
    """As a process reads it, from the environment and from a file."""

    def start(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from config import settings; print(settings.SERVICE_SECRETS)"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    file = tmp_path / "services"
    file.write_text(f"gateway:batch,introspect:{A}\n{B}\n")
    assert start(SERVICE_SECRETS_FILE=str(file)).stdout.strip() == str(
        [f"gateway:batch,introspect:{A}", B]
    )
    refused = start(SERVICE_SECRETS=f"gateway:revoke:{A}")
    assert refused.returncode == 1
    assert "SERVICE_SECRETS: gives 'gateway' a scope that does not exist" in refused.stderr
    assert A not in refused.stderr
    assert "Traceback" not in refused.stderr
