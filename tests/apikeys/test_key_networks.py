"""Audit events about networks of keys and refused keys."""

from datetime import timedelta

import pytest

from apikeys import key_networks, services, usage
from apikeys.key_networks import customer_network
from apikeys.models import KeyNetwork, Reason
from audit.models import Action, Event
from tests.factories import failing_statements, later


def ask(client, token, *, client_ip: str = "192.0.2.7", path: str = "/customers"):
    return client.post(path, headers={"X-API-Key": token.reveal()}, REMOTE_ADDR=client_ip)


def events(action: Action) -> list[Event]:
    usage.flush()
    return list(Event.objects.filter(action=action).order_by("id"))


@pytest.mark.parametrize(
    ("client_ip", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("", ""),
        ("unix", ""),
        ("192.0.2.7:8080", "192.0.2.0/24"),
    ],
)
def test_a_network_is_what_one_customer_gets(client_ip, network):
    assert customer_network(client_ip) == network


def test_the_first_use_from_a_network_is_an_event(client, issue, alice):
    key, token = issue()
    for client_ip in ["192.0.2.7", "192.0.2.9", "192.0.2.7", "198.51.100.1", "2001:db8::1"]:
        assert ask(client, token, client_ip=client_ip).status_code == 200
    first, *others = events(Action.KEY_NEW_NETWORK)
    assert first.detail == {"network": "192.0.2.0/24", "first": "yes"}
    assert (first.account, first.key_id, first.address) == (alice, key.pk, "192.0.2.7")
    assert [event.detail["network"] for event in others] == ["198.51.100.0/24", "2001:db8::/48"]
    assert all("first" not in event.detail for event in others)
    assert KeyNetwork.objects.filter(key=key).count() == 3


@pytest.mark.parametrize("path", ["/customers", "/api/v1/keys/validate", "/api/v1/auth"])
def test_every_endpoint_that_takes_a_key_records_its_network(client, issue, path):
    _key, token = issue()
    assert ask(client, token, path=path).status_code in {200, 204}
    assert len(events(Action.KEY_NEW_NETWORK)) == 1


def test_a_network_is_new_once_also_after_a_restart(client, issue):
    _key, token = issue()
    ask(client, token)
    usage.flush()
    key_networks.reset()
    ask(client, token)
    assert len(events(Action.KEY_NEW_NETWORK)) == 1


def test_a_validation_by_a_service_records_no_network_of_the_key(client, issue):
    _key, token = issue()
    body = {"key": token.reveal()}
    response = client.post("/api/v1/keys/validate", body, content_type="application/json")
    assert response.json()["valid"] is True
    assert events(Action.KEY_NEW_NETWORK) == []


def test_a_refused_key_that_is_still_used_is_an_event_once_an_hour(client, issue, alice):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    for client_ip in ["192.0.2.7", "192.0.2.8", "198.51.100.1"]:
        assert ask(client, token, client_ip=client_ip).status_code == 401
    refused = events(Action.KEY_REFUSED)
    assert [(event.account, event.key_id, event.detail) for event in refused] == [
        (alice, key.pk, {"code": "REVOKED"})
    ] * 2
    assert [event.address for event in refused] == ["192.0.2.7", "198.51.100.1"]


def test_unknown_keys_add_no_audit_events(client, issue):
    _key, token = issue()
    wrong = token.reveal()[:-9] + ("0" if token.reveal()[-9] != "0" else "1") + token.reveal()[-8:]
    for text in [wrong, "comfyui-" + 64 * "0", "nonsense"]:
        assert client.post("/customers", headers={"X-API-Key": text}).status_code == 401
    assert events(Action.KEY_REFUSED) == []


def test_events_that_cannot_be_written_are_kept_for_the_next_flush(client, issue, caplog):
    _key, token = issue()
    ask(client, token)
    with failing_statements("apikeys_keynetwork"):
        assert events(Action.KEY_NEW_NETWORK) == []
    assert "kept for later" in caplog.text
    assert len(events(Action.KEY_NEW_NETWORK)) == 1


def test_no_event_is_written_about_a_deleted_key(client, issue):
    gone, token = issue()
    ask(client, token)
    gone.delete()
    assert events(Action.KEY_NEW_NETWORK) == []


def test_the_last_use_of_a_network_is_written_once_an_hour(
    client, issue, django_assert_num_queries
):
    key, token = issue()
    ask(client, token)
    usage.flush()
    first = KeyNetwork.objects.get(key=key)
    assert first.last_used_at == first.first_used_at
    ask(client, token, client_ip="192.0.2.99")
    with django_assert_num_queries(0):
        key_networks.flush()
    with later(timedelta(hours=1)):
        ask(client, token, client_ip="192.0.2.99")
        usage.flush()
    again = KeyNetwork.objects.get(key=key)
    assert again.first_used_at == first.first_used_at
    assert timedelta(minutes=59) < again.last_used_at - first.last_used_at < timedelta(minutes=61)
