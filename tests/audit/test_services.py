"""The audit log is append-only, in the model and in the database."""

import pytest
from django.db import IntegrityError, connection, transaction

from audit.models import Action, Event, Via
from audit.services import Actor, actor, record


@pytest.fixture
def event(alice) -> Event:
    return record(
        Action.SIGNED_IN,
        account_id=alice.pk,
        by=Actor(alice, Via.PAGE, "192.0.2.7"),
        detail={"how": "password"},
    )


def statements() -> list[str]:
    return [
        "UPDATE audit_event SET action = 'key.issued'",
        "UPDATE audit_event SET address = '198.51.100.1'",
        "UPDATE audit_event SET address = NULL, via = 'api'",
        "DELETE FROM audit_event",
    ]


@pytest.mark.parametrize("statement", statements())
def test_a_trigger_rejects_changes_of_events(event, statement):
    before = Event.objects.values().get()
    with (
        pytest.raises(IntegrityError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert Event.objects.values().get() == before


def test_an_event_without_a_key_names_none(event):
    event.refresh_from_db()
    assert (event.key_id, event.public_id) == (None, "")


def test_clearing_client_ips_keeps_those_of_staff(event, alice, sam):
    by_staff = record(
        Action.STAFF_VIEWED, account_id=alice.pk, by=Actor(sam, Via.ADMIN, "192.0.2.8")
    )
    anonymous = record(
        Action.SIGN_IN_REFUSED, account_id=alice.pk, by=Actor(None, Via.PAGE, "192.0.2.9")
    )
    Event.objects.clear_client_ips(alice)
    ips = dict(Event.objects.values_list("pk", "address"))
    assert ips == {event.pk: None, by_staff.pk: "192.0.2.8", anonymous.pk: None}


def test_the_actor_has_the_logged_in_user_and_the_client_ip(rf, alice):
    request = rf.get("/", REMOTE_ADDR="192.0.2.7", HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert actor(request, via=Via.PAGE) == Actor(None, Via.PAGE, "192.0.2.7")
    request.user = alice
    assert actor(request, via=Via.PAGE) == Actor(alice, Via.PAGE, "192.0.2.7")
