"""Where keys are used from, and which are refused: in the trail, and never on an answer's time."""

import pytest
from django.db import OperationalError

from apikeys import noticing, services, usage
from apikeys.models import KeyNetwork, Reason
from apikeys.noticing import network_of
from audit.models import Action, Event


def ask(client, token, *, address: str = "192.0.2.7", path: str = "/customers"):
    return client.post(path, headers={"X-API-Key": token.reveal()}, REMOTE_ADDR=address)


def events(action: Action) -> list[Event]:
    usage.flush()
    return list(Event.objects.filter(action=action).order_by("id"))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("", ""),
        ("unix", ""),
        ("192.0.2.7:8080", ""),
    ],
)
def test_a_network_is_what_one_customer_gets(address, network):
    assert network_of(address) == network


def test_the_first_use_from_a_network_is_an_event(client, issue, alice):
    key, token = issue()
    for address in ["192.0.2.7", "192.0.2.9", "192.0.2.7", "198.51.100.1", "2001:db8::1"]:
        assert ask(client, token, address=address).status_code == 200
    first, *others = events(Action.KEY_NEW_NETWORK)
    assert first.detail == {"network": "192.0.2.0/24", "first": "yes"}
    assert (first.account, first.key_id, first.address) == (alice, key.pk, "192.0.2.7")
    assert [event.detail["network"] for event in others] == ["198.51.100.0/24", "2001:db8::/48"]
    assert all("first" not in event.detail for event in others)
    assert KeyNetwork.objects.filter(key=key).count() == 3


@pytest.mark.parametrize("path", ["/customers", "/api/v1/keys/validate", "/api/v1/auth"])
def test_every_door_that_takes_a_client_s_key_looks_where_it_comes_from(client, issue, path):
    _key, token = issue()
    assert ask(client, token, path=path).status_code in {200, 204}
    assert len(events(Action.KEY_NEW_NETWORK)) == 1


def test_a_network_is_new_once_whoever_forgets(client, issue):
    _key, token = issue()
    ask(client, token)
    usage.flush()
    noticing.forget()
    ask(client, token)
    assert len(events(Action.KEY_NEW_NETWORK)) == 1


def test_what_a_service_asks_about_says_nothing_of_where_the_key_is(client, issue):
    _key, token = issue()
    asked = {"key": token.reveal()}
    answer = client.post("/api/v1/keys/validate", asked, content_type="application/json")
    assert answer.json()["valid"] is True
    assert events(Action.KEY_NEW_NETWORK) == []


def test_a_dead_key_that_is_still_used_is_written_down_once_an_hour(client, issue, alice):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    for address in ["192.0.2.7", "192.0.2.8", "198.51.100.1"]:
        assert ask(client, token, address=address).status_code == 401
    refused = events(Action.KEY_REFUSED)
    assert [(event.account, event.key_id, event.detail) for event in refused] == [
        (alice, key.pk, {"code": "REVOKED"})
    ] * 2
    assert [event.address for event in refused] == ["192.0.2.7", "198.51.100.1"]


def test_what_strangers_make_up_fills_no_trail(client, issue):
    _key, token = issue()
    wrong = token.reveal()[:-9] + ("0" if token.reveal()[-9] != "0" else "1") + token.reveal()[-8:]
    for text in [wrong, "comfyui-" + 64 * "0", "nonsense"]:
        assert client.post("/customers", headers={"X-API-Key": text}).status_code == 401
    assert events(Action.KEY_REFUSED) == []


def test_what_cannot_be_written_now_is_written_later(client, issue, monkeypatch, caplog):
    _key, token = issue()
    ask(client, token)

    def fail(*_: object) -> None:
        raise OperationalError

    with monkeypatch.context() as broken:
        broken.setattr(noticing, "_write", fail)
        assert events(Action.KEY_NEW_NETWORK) == []
    assert "kept for later" in caplog.text
    assert len(events(Action.KEY_NEW_NETWORK)) == 1


def test_a_key_that_is_gone_with_its_account_leaves_nothing_to_write(client, issue):
    gone, token = issue()
    ask(client, token)
    gone.delete()
    assert events(Action.KEY_NEW_NETWORK) == []
