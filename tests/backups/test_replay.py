"""A database as it was, and what has ended since: nothing of that lives in it afterwards."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import Code
from audit.models import Action, Event
from backups import marking
from backups.replay import replay
from backups.tombstones import Known, Mark, State, Tombstones, as_text, read
from outbox.models import Mail
from tests.backups.conftest import told
from tests.conftest import Issue

pytestmark = pytest.mark.django_db

Tell = Callable[..., Known]


@pytest.fixture
def made_at() -> datetime:
    return timezone.now() - timedelta(days=1)


@pytest.fixture
def tell(tmp_path: Path) -> Tell:
    """What is known of marks that happened, did not, or may have (None)."""

    def known(*marks: Mark, happened: bool | None = True) -> Known:
        path = tmp_path / "known"
        if happened is None:
            Tombstones(path).begin(*marks)
        else:
            path.write_text("".join(as_text(mark, happened=happened) for mark in marks))
        return read([path])

    return known


def test_a_key_revoked_since_is_revoked_with_its_time_and_reason(
    issue: Issue, tell: Tell, made_at: datetime
) -> None:
    key, token = issue()
    other = issue("another")[1]
    mark = Mark(State.REVOKED, (key.public_id,), why="leaked")
    assert replay(tell(mark), made_at=made_at)["keys revoked"] == 1
    key.refresh_from_db()
    assert (key.revoked_at, key.revoked_reason) == (mark.at, Reason.LEAKED)
    assert services.validate(token.reveal()).code is Code.REVOKED
    assert services.validate(other.reveal()).code is Code.VALID
    event = Event.objects.get(action=Action.KEY_REVOKED)
    assert (event.public_id, event.detail["reason"]) == (key.public_id, "leaked")
    assert replay(tell(mark), made_at=made_at)["keys revoked"] == 0


@pytest.mark.parametrize(
    ("happened", "since", "code"),
    [
        (True, True, Code.REVOKED),
        (True, False, Code.REVOKED),
        # Nobody knows, and whoever pressed Delete wanted it dead.
        (None, True, Code.REVOKED),
        # The backup is younger, and has the key alive.
        (None, False, Code.VALID),
        (False, True, Code.VALID),
    ],
)
def test_a_doubt_is_decided_for_death_unless_the_backup_knows_better(
    issue: Issue, tell: Tell, made_at: datetime, happened: bool | None, since: bool, code: Code
) -> None:
    key, token = issue()
    at = made_at + timedelta(hours=1 if since else -1)
    replay(tell(Mark(State.REVOKED, (key.public_id,), at=at), happened=happened), made_at=made_at)
    assert services.validate(token.reveal()).code is code


def test_the_last_word_on_a_suspension_counts(issue: Issue, tell: Tell, made_at: datetime) -> None:
    key, token = issue()
    id_ = (key.public_id,)
    suspended, restored = (
        Mark(state, id_, at=made_at + timedelta(hours=hours))
        for hours, state in enumerate([State.SUSPENDED, State.RESTORED], start=1)
    )
    replay(tell(suspended), made_at=made_at)
    assert services.validate(token.reveal()).code is Code.SUSPENDED
    replay(tell(restored, suspended), made_at=made_at)
    assert services.validate(token.reveal()).code is Code.VALID


def test_what_was_undone_before_the_backup_stays_undone(
    alice: User, issue: Issue, tell: Tell, made_at: datetime
) -> None:
    key, token = issue()
    before = made_at - timedelta(days=1)
    marks = [
        Mark(State.SUSPENDED, (key.public_id,), at=before),
        Mark(State.DISABLED, (str(alice.pk),), at=before),
    ]
    replay(tell(*marks), made_at=made_at)
    assert services.validate(token.reveal()).code is Code.VALID


def test_in_doubt_nothing_is_given_back(
    alice: User, issue: Issue, tell: Tell, made_at: datetime
) -> None:
    key, token = issue()
    APIKey.objects.update(suspended_at=made_at)
    User.objects.update(is_active=False)
    marks = [Mark(State.RESTORED, (key.public_id,)), Mark(State.ENABLED, (str(alice.pk),))]
    replay(tell(*marks, happened=None), made_at=made_at)
    assert services.validate(token.reveal()).code is Code.SUSPENDED
    assert not User.objects.get().is_active


@pytest.mark.parametrize("given", [None, timedelta(days=9), timedelta(minutes=1)])
def test_a_key_ends_when_it_would_have_and_never_later(
    issue: Issue, tell: Tell, made_at: datetime, given: timedelta | None
) -> None:
    now = timezone.now()
    key, _token = issue(expires_at=given and now + given)
    ends = now + timedelta(hours=1)
    replay(tell(Mark(State.ENDS, (key.public_id,), ends=ends)), made_at=made_at)
    here = APIKey.objects.get()
    assert here.expires_at == (min(ends, now + given) if given else ends)


def test_an_account_deleted_since_is_gone_with_all_that_was_theirs(
    alice: User, mallory: User, issue: Issue, tell: Tell, made_at: datetime
) -> None:
    _key, token = issue()
    other = services.issue(owner=mallory, name="hers")[1]
    # She was staff in the backup, and had lost that by the time at which she left.
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    mark = Mark(State.DELETED, (str(alice.pk),), at=made_at - timedelta(days=9))
    assert replay(tell(mark), made_at=made_at)["accounts deleted"] == 1
    assert [user.email for user in User.objects.all()] == [mallory.email]
    assert services.validate(token.reveal()).code is Code.NOT_FOUND
    assert services.validate(other.reveal()).code is Code.VALID


def test_an_account_disabled_since_is_disabled(
    alice: User, issue: Issue, tell: Tell, made_at: datetime
) -> None:
    _key, token = issue()
    replay(tell(Mark(State.DISABLED, (str(alice.pk),))), made_at=made_at)
    assert services.validate(token.reveal()).code is Code.ACCOUNT_DISABLED


def test_ids_that_nobody_has_are_no_trouble(tell: Tell, made_at: datetime) -> None:
    marks = [
        *(Mark(state, ("0" * 12,)) for state in [State.REVOKED, State.SUSPENDED, State.RESTORED]),
        *(Mark(state, (str(uuid4()),)) for state in [State.DELETED, State.DISABLED]),
        Mark(State.ENDS, ("1" * 12,), ends=made_at),
    ]
    assert set(replay(tell(*marks), made_at=made_at).values()) == {0}


def test_sessions_codes_and_mail_do_not_come_back(
    client: Client, alice: User, tell: Tell, made_at: datetime
) -> None:
    client.force_login(alice)
    Mail.objects.create(to=alice.email, sender="us@example.org", subject="Your code", text="123456")
    cache.set("limit", 1)
    replay(tell(), made_at=made_at)
    assert (Session.objects.count(), Mail.objects.count(), cache.get("limit")) == (0, 0, None)


def test_the_database_itself_tells_who_is_dead(
    alice: User, mallory: User, issue: Issue, file: Path
) -> None:
    revoked, suspended, lives = (issue(name)[0] for name in ["one", "two", "three"])
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER)
    APIKey.objects.filter(pk=suspended.pk).update(suspended_at=timezone.now())
    User.objects.filter(pk=mallory.pk).update(is_active=False)
    doubts = [
        Mark(State.REVOKED, (lives.public_id,)),
        Mark(State.REVOKED, ("0" * 12,)),
    ]
    found = [(mark.state, mark.ids, happened) for mark, happened in marking.of_database(doubts)]
    assert sorted(found) == sorted(
        [
            (State.REVOKED, (revoked.public_id,), True),
            (State.SUSPENDED, (suspended.public_id,), True),
            (State.DISABLED, (str(mallory.pk),), True),
            (State.REVOKED, (lives.public_id,), False),
            (State.REVOKED, ("0" * 12,), True),
            (State.REVOKED, ("0" * 12,), False),
        ]
    )
    assert told(file)
