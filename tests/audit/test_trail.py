"""The trail is only ever added to, by whatever way one comes."""

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from audit.models import Action, Event, Via
from audit.trail import Actor, actor, record


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
def test_postgresql_itself_refuses_to_rewrite_an_event(event, statement):
    before = Event.objects.values().get()
    if connection.vendor != "postgresql":
        # There the model stands alone: the migration says why.
        assert _triggers() == set()
        return
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert Event.objects.values().get() == before


def _triggers() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        return {name for (name,) in cursor.fetchall()}


def test_whoever_leaves_takes_along_where_they_came_from(event, alice, sam):
    by_staff = record(
        Action.STAFF_VIEWED, account_id=alice.pk, by=Actor(sam, Via.ADMIN, "192.0.2.8")
    )
    by_stranger = record(
        Action.SIGN_IN_REFUSED, account_id=alice.pk, by=Actor(None, Via.PAGE, "192.0.2.9")
    )
    Event.objects.forget_where_from(alice)
    kept = dict(Event.objects.values_list("pk", "address"))
    assert kept == {event.pk: None, by_staff.pk: "192.0.2.8", by_stranger.pk: None}


def test_the_actor_is_who_is_signed_in_and_where_the_server_saw_them(rf, alice):
    request = rf.get("/", REMOTE_ADDR="192.0.2.7", HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert actor(request, via=Via.PAGE) == Actor(None, Via.PAGE, "192.0.2.7")
    request.user = alice
    assert actor(request, via=Via.PAGE) == Actor(alice, Via.PAGE, "192.0.2.7")


@pytest.mark.django_db(transaction=True)
def test_events_and_rights_of_before_move_along(alice):
    """From the last version in which events were in the room of keys."""
    executor = MigrationExecutor(connection)
    newest = executor.loader.graph.leaf_nodes()
    executor.migrate([("apikeys", "0007_scopes_and_successors"), ("audit", None)])
    old = executor.loader.project_state([("apikeys", "0007_scopes_and_successors")]).apps
    old.get_model("apikeys", "Event").objects.create(
        action="key.issued", public_id="0" * 12, via="page", account_id=alice.pk
    )
    ContentType = old.get_model("contenttypes", "ContentType")
    kind, _made = ContentType.objects.get_or_create(app_label="apikeys", model="event")
    executor = MigrationExecutor(connection)
    executor.migrate(newest)
    event = Event.objects.get()
    assert (event.action, event.public_id, event.account) == ("key.issued", "0" * 12, alice)
    assert ContentType.objects.get(pk=kind.pk).app_label == "audit"
