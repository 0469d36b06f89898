"""Change keys, and delete several."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from apikeys import scopes, services
from apikeys.models import APIKey, Reason
from apikeys.services import UnknownKeys, VerdictCode
from audit import formatting
from audit.models import Action, Event, Via
from audit.services import Actor

pytestmark = pytest.mark.django_db


@pytest.fixture
def by(alice):
    return Actor(user=alice, via=Via.PAGE, client_ip="192.0.2.7")


def stored(key):
    return APIKey.objects.get(pk=key.pk)


def test_name_description_and_expiry_can_be_changed(issue, by):
    key, token = issue("studio")
    until = timezone.now() + timedelta(days=30)
    changed = services.update(key, by=by, name="Atelier", description="upstairs", expires_at=until)
    assert changed == ("description", "expires_at", "name")
    assert (key.name, key.description, key.expires_at) == ("Atelier", "upstairs", until)
    assert (stored(key).name, stored(key).folded_name) == ("Atelier", "atelier")
    assert services.validate(token.reveal()).key.name == "Atelier"


def test_a_change_is_an_audit_event_with_old_and_new_values(issue, by, alice):
    key, _token = issue("studio")
    services.update(key, by=by, name="atelier", description="upstairs")
    event = Event.objects.get(action=Action.KEY_CHANGED)
    assert (event.account, event.actor, event.key_id) == (alice, alice, key.pk)
    assert event.address == "192.0.2.7"
    # Events outlive the account: they have no texts of its owner.
    assert event.detail == {"changed": "description + name"}
    assert formatting.format_detail(event) == "description · name"


def test_a_change_of_permissions_and_networks_is_recorded_with_its_values(issue, by):
    key, _token = issue("studio", scopes=["customers:read", "proxy:*"])
    services.update(key, by=by, scopes=["proxy:*"], allowed_networks=["203.0.113.7"])
    event = Event.objects.get(action=Action.KEY_CHANGED)
    assert event.detail == {
        "changed": "allowed_networks + scopes",
        "old_scopes": "customers:read proxy:*",
        "new_scopes": "proxy:*",
        "old_allowed_networks": "",
        "new_allowed_networks": "203.0.113.7/32",
    }
    assert formatting.format_detail(event) == (
        "allowed networks: – → 203.0.113.7/32 · permissions: customers:read proxy:* → proxy:*"
    )


def test_without_a_difference_nothing_is_written(issue, by):
    key, _token = issue("studio", scopes=["customers:read", "proxy:*"])
    same = {"name": " studio ", "scopes": ["proxy:*", "customers:read"], "expires_at": None}
    assert services.update(key, by=by, **same) == ()
    assert stored(key).scopes == "customers:read proxy:*"
    assert not Event.objects.filter(action=Action.KEY_CHANGED).exists()


def test_scopes_can_be_narrowed_and_not_widened(issue, by):
    key, token = issue("studio")
    services.update(key, by=by, scopes=["customers:read", "proxy:*"])
    services.update(key, by=by, scopes=["proxy:openai"])
    assert services.validate(token.reveal()).key.granted == ("proxy:openai",)
    for wider in (["proxy:*"], ["proxy:openai", "keys:manage"], list(scopes.ALL), []):
        with pytest.raises(ValidationError, match="can only be narrowed") as refused:
            services.update(key, by=by, name="other", scopes=wider)
        assert refused.value.code == "wider"
    assert (stored(key).scopes, stored(key).name) == ("proxy:openai", "studio")


def test_a_key_that_has_ended_stays_as_it_is(issue, by):
    revoked, _token = issue("revoked")
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER, by=by)
    expired, token = issue("expired", expires_at=timezone.now() - timedelta(seconds=1))
    replaced, _token = issue("replaced")
    services.rotate(replaced, overlap=timedelta(hours=1), by=by)
    for key in (revoked, expired, replaced):
        with pytest.raises(ValidationError, match="can't be changed") as refused:
            services.update(key, by=by, expires_at=timezone.now() + timedelta(days=1))
        assert refused.value.code == "ended"
    assert services.validate(token.reveal()).code is VerdictCode.EXPIRED


def test_a_suspended_key_can_be_changed_and_stays_suspended(issue, by):
    key, token = issue("studio")
    services.suspend(key, by=by)
    services.update(key, by=by, name="atelier")
    assert services.validate(token.reveal()).code is VerdictCode.SUSPENDED


def test_a_name_that_another_key_has_is_refused_with_that_key(issue, by):
    other, _token = issue("Atelier")
    key, _token = issue("studio")
    with pytest.raises(services.NameTakenError) as taken:
        services.update(key, by=by, name="ATELIER")
    assert taken.value.holder == other
    services.update(key, by=by, name="STUDIO")
    assert stored(key).name == "STUDIO"
    with pytest.raises(services.NameTakenError) as taken:
        issue("atelier")
    assert taken.value.holder == other


def test_an_expired_key_gives_up_its_name_to_a_renamed_one(issue, by):
    issue("atelier", expires_at=timezone.now() - timedelta(seconds=1))
    key, _token = issue("studio")
    services.update(key, by=by, name="atelier")
    assert stored(key).name == "atelier"


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"description": "x" * 501},
        {"expires_at": timezone.now() - timedelta(days=1)},
        {"expires_at": timezone.now() + timedelta(days=40_000)},
        {"scopes": ["everything"]},
        {"allowed_networks": ["192.0.2.0/33"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_value_is_refused_and_changes_nothing(issue, by, change):
    key, _token = issue("studio")
    with pytest.raises(ValidationError):
        services.update(key, by=by, **{"description": "new", **change})
    assert stored(key).description == ""


def test_an_extension_can_be_refused(issue, by):
    until = timezone.now() + timedelta(days=30)
    key, _token = issue("studio", expires_at=until, allowed_networks=["192.0.2.0/24"])
    for extension in (
        {"expires_at": None},
        {"expires_at": until + timedelta(days=1)},
        {"allowed_networks": []},
        {"allowed_networks": ["192.0.2.0/24", "198.51.100.7"]},
        {"allowed_networks": ["192.0.0.0/16"]},
        {"allowed_networks": ["2001:db8::/48"]},
    ):
        assert services.extends(key, **extension)
        with pytest.raises(ValidationError) as refused:
            services.update(key, by=by, may_extend=False, **extension)
        assert refused.value.code == "extended"
    restriction = {
        "expires_at": until - timedelta(days=1),
        "allowed_networks": ["192.0.2.7", "192.0.2.128/25"],
    }
    assert not services.extends(key, **restriction)
    services.update(key, by=by, may_extend=False, **restriction)
    assert stored(key).allowed_network_list == ("192.0.2.7/32", "192.0.2.128/25")


# --- Delete several ---------------------------------------------------------------------------


def test_several_keys_are_deleted_together(alice, issue, by):
    keys = [issue(name) for name in ("one", "two", "three")]
    services.revoke(keys[0][0], reason=Reason.DELETED_BY_OWNER, by=by)
    deleted = services.delete_many(owner=alice, ids=[key.pk for key, _token in keys], by=by)
    assert {key.name for key in deleted} == {"two", "three"}
    assert all(key.revoked_at is not None for key in deleted)
    codes = {services.validate(token.reveal()).code for _key, token in keys}
    assert codes == {VerdictCode.REVOKED}
    assert Event.objects.filter(action=Action.KEY_REVOKED, actor=alice).count() == 3


def test_keys_of_others_stop_the_deletion(alice, mallory, issue, by):
    key, token = issue("studio")
    other, other_token = issue("theirs", owner=mallory)
    nobodys = uuid4()
    with pytest.raises(UnknownKeys) as unknown:
        services.delete_many(owner=alice, ids=[key.pk, other.pk, nobodys, other.pk], by=by)
    assert unknown.value.ids == (other.pk, nobodys)
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert services.validate(other_token.reveal()).code is VerdictCode.VALID


def test_changes_do_not_extend_a_key_beyond_the_maximum_from_its_creation(issue, settings):
    key, _token = issue(expires_at=timezone.now() + timedelta(days=10))
    settings.KEY_LIFETIME_MAX = timedelta(days=30)
    APIKey.objects.filter(pk=key.pk).update(created_at=timezone.now() - timedelta(days=20))
    with pytest.raises(ValidationError) as refused:
        services.update(key, by=Actor(), expires_at=timezone.now() + timedelta(days=11))
    assert refused.value.code == "lifetime"
    services.update(key, by=Actor(), expires_at=timezone.now() + timedelta(days=9))


def test_a_key_older_than_the_maximum_may_end_earlier_than_it_would(issue, settings):
    key, _token = issue()
    APIKey.objects.filter(pk=key.pk).update(created_at=timezone.now() - timedelta(days=90))
    settings.KEY_LIFETIME_MAX = timedelta(days=30)
    sooner = timezone.now() + timedelta(days=40)
    services.update(key, by=Actor(), expires_at=sooner)
    assert key.expires_at == sooner


def test_a_rotation_keeps_what_was_limited_meanwhile(issue, by):
    stale, _token = issue("studio")
    current = APIKey.objects.get(pk=stale.pk)
    soon = timezone.now() + timedelta(minutes=5)
    services.update(
        current,
        by=by,
        scopes=[scopes.SIGN_IN],
        allowed_networks=["192.0.2.0/24"],
        expires_at=soon,
    )
    successor, _token = services.rotate(stale, overlap=timedelta(days=7), by=by)
    assert list(successor.granted) == [scopes.SIGN_IN]
    assert successor.allowed_network_list == ("192.0.2.0/24",)
    assert successor.expires_at is not None
    assert APIKey.objects.get(pk=stale.pk).expires_at == soon


def test_more_scopes_than_are_stored_are_refused(issue, by):
    key, _token = issue("studio")
    long = [f"proxy:{'x' * 28}{number:02}" for number in range(20)]
    with pytest.raises(ValidationError):
        services.update(key, by=by, scopes=long)
