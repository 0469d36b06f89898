"""Replaying tombstones in the database of a backup: revocations since then count."""

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
from apikeys import retention, services
from apikeys.models import APIKey, Reason, RemovedKey
from apikeys.services import VerdictCode
from audit.models import Action, Event
from backups import tombstone_recorder
from backups.replay_tombstones import replay
from backups.tombstones import State, Tombstone, TombstoneFile, TombstoneLog, as_text, read
from outbox.models import Mail
from tests.backups.conftest import read_entries
from tests.conftest import Issue

pytestmark = pytest.mark.django_db

MakeLog = Callable[..., TombstoneLog]


@pytest.fixture
def made_at() -> datetime:
    return timezone.now() - timedelta(days=1)


@pytest.fixture
def make_log(tmp_path: Path) -> MakeLog:
    """A function that creates a log of tombstones with an outcome, or without one (None)."""

    def make_log(*tombstones: Tombstone, happened: bool | None = True) -> TombstoneLog:
        path = tmp_path / "log"
        if happened is None:
            TombstoneFile(path).begin(*tombstones)
        else:
            path.write_text("".join(as_text(each, happened=happened) for each in tombstones))
        return read([path])

    return make_log


def test_a_key_revoked_since_the_backup_is_revoked_with_time_and_reason(
    issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    key, token = issue()
    other = issue("another")[1]
    tombstone = Tombstone(State.REVOKED, (key.public_id,), reason="leaked")
    assert replay(make_log(tombstone), made_at=made_at)["keys revoked"] == 1
    key.refresh_from_db()
    assert (key.revoked_at, key.revoked_reason) == (tombstone.at, Reason.LEAKED)
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    assert services.validate(other.reveal()).code is VerdictCode.VALID
    event = Event.objects.get(action=Action.KEY_REVOKED)
    assert (event.public_id, event.detail["reason"]) == (key.public_id, "leaked")
    assert replay(make_log(tombstone), made_at=made_at)["keys revoked"] == 0


@pytest.mark.parametrize(
    ("happened", "since", "code"),
    [
        (True, True, VerdictCode.REVOKED),
        (True, False, VerdictCode.REVOKED),
        # Unresolved tombstones count, as the user wanted the key deleted.
        (None, True, VerdictCode.REVOKED),
        # The backup is newer, and the key is valid in it.
        (None, False, VerdictCode.VALID),
        (False, True, VerdictCode.VALID),
    ],
)
def test_an_unresolved_revocation_counts_unless_the_backup_is_newer(
    issue: Issue,
    make_log: MakeLog,
    made_at: datetime,
    happened: bool | None,
    since: bool,
    code: VerdictCode,
) -> None:
    key, token = issue()
    at = made_at + timedelta(hours=1 if since else -1)
    replay(
        make_log(Tombstone(State.REVOKED, (key.public_id,), at=at), happened=happened),
        made_at=made_at,
    )
    assert services.validate(token.reveal()).code is code


def test_the_last_suspension_or_restoration_counts(
    issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    key, token = issue()
    id_ = (key.public_id,)
    suspended, restored = (
        Tombstone(state, id_, at=made_at + timedelta(hours=hours))
        for hours, state in enumerate([State.SUSPENDED, State.RESTORED], start=1)
    )
    replay(make_log(suspended), made_at=made_at)
    assert services.validate(token.reveal()).code is VerdictCode.SUSPENDED
    replay(make_log(restored, suspended), made_at=made_at)
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_reversible_states_from_before_the_backup_are_ignored(
    alice: User, issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    key, token = issue()
    before = made_at - timedelta(days=1)
    tombstones = [
        Tombstone(State.SUSPENDED, (key.public_id,), at=before),
        Tombstone(State.DISABLED, (str(alice.pk),), at=before),
    ]
    replay(make_log(*tombstones), made_at=made_at)
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_tombstones_that_do_not_count_hide_no_later_ones(
    issue: Issue, made_at: datetime, tmp_path: Path
) -> None:
    (one, _token), (other, _token) = issue("one"), issue("other")
    hour = timedelta(hours=1)
    path = tmp_path / "log"
    path.write_text(
        # Reversible, and in the backup; then a revocation that was rolled back.
        as_text(Tombstone(State.SUSPENDED, (one.public_id,), at=made_at - hour), happened=True)
        + as_text(Tombstone(State.REVOKED, (one.public_id,), at=made_at + hour), happened=False)
        + as_text(
            Tombstone(State.REVOKED, (other.public_id,), at=made_at + 2 * hour), happened=True
        )
    )
    assert replay(read([path]), made_at=made_at)["keys revoked"] == 1
    assert APIKey.objects.get(revoked_at__isnull=False) == other


def test_an_unresolved_restoration_is_ignored(
    alice: User, issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    key, token = issue()
    APIKey.objects.update(suspended_at=made_at)
    User.objects.update(is_active=False)
    tombstones = [
        Tombstone(State.RESTORED, (key.public_id,)),
        Tombstone(State.ENABLED, (str(alice.pk),)),
    ]
    replay(make_log(*tombstones, happened=None), made_at=made_at)
    assert services.validate(token.reveal()).code is VerdictCode.SUSPENDED
    assert not User.objects.get().is_active


@pytest.mark.parametrize("state", [State.UNLIMITED, State.EXPIRES])
@pytest.mark.parametrize("happened", [True, None])
def test_an_expiry_that_was_removed_or_moved_does_not_come_back(
    issue: Issue, make_log: MakeLog, made_at: datetime, state: State, happened: bool | None
) -> None:
    """If that is certain: its tombstone is within the margin before the time of the copy."""
    later = timezone.now() + timedelta(days=9) if state is State.EXPIRES else None
    key, _token = issue(expires_at=later)
    ends = timezone.now() + timedelta(hours=1)
    first, second = (made_at - timedelta(minutes=minutes) for minutes in (4, 2))
    log = make_log(Tombstone(State.EXPIRES, (key.public_id,), expires_at=ends, at=first))
    change = Tombstone(state, (key.public_id,), expires_at=later, at=second)
    log.tombstones.append(change)
    if happened is not None:
        log.outcomes[change.number] = happened
    replay(log, made_at=made_at)
    assert APIKey.objects.get().expires_at == (later if happened else ends)


@pytest.mark.parametrize("given", [None, timedelta(days=9), timedelta(minutes=1)])
def test_an_expiry_is_shortened_and_never_extended(
    issue: Issue, make_log: MakeLog, made_at: datetime, given: timedelta | None
) -> None:
    now = timezone.now()
    key, _token = issue(expires_at=given and now + given)
    ends = now + timedelta(hours=1)
    replay(make_log(Tombstone(State.EXPIRES, (key.public_id,), expires_at=ends)), made_at=made_at)
    here = APIKey.objects.get()
    assert here.expires_at == (min(ends, now + given) if given else ends)


def test_an_account_deleted_since_the_backup_is_deleted_with_its_keys(
    alice: User, mallory: User, issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    _key, token = issue()
    other = services.issue(owner=mallory, name="hers")[1]
    # She was staff at the time of the backup, and no longer when she deleted her account.
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    tombstone = Tombstone(State.DELETED, (str(alice.pk),), at=made_at - timedelta(days=9))
    assert replay(make_log(tombstone), made_at=made_at)["accounts deleted"] == 1
    assert [user.email for user in User.objects.all()] == [mallory.email]
    assert services.validate(token.reveal()).code is VerdictCode.NOT_FOUND
    assert services.validate(other.reveal()).code is VerdictCode.VALID


def test_an_account_disabled_since_the_backup_is_disabled(
    alice: User, issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    _key, token = issue()
    replay(make_log(Tombstone(State.DISABLED, (str(alice.pk),))), made_at=made_at)
    assert services.validate(token.reveal()).code is VerdictCode.ACCOUNT_DISABLED


def test_unknown_ids_are_ignored(make_log: MakeLog, made_at: datetime) -> None:
    tombstones = [
        *(
            Tombstone(state, ("0" * 12,))
            for state in [State.REVOKED, State.SUSPENDED, State.RESTORED]
        ),
        *(Tombstone(state, (str(uuid4()),)) for state in [State.DELETED, State.DISABLED]),
        Tombstone(State.EXPIRES, ("1" * 12,), expires_at=made_at),
    ]
    assert set(replay(make_log(*tombstones), made_at=made_at).values()) == {0}


def test_sessions_codes_and_emails_are_not_restored(
    database_cache: object, client: Client, alice: User, make_log: MakeLog, made_at: datetime
) -> None:
    client.force_login(alice)
    Mail.objects.create(to=alice.email, sender="us@example.org", subject="Your code", text="123456")
    cache.set("limit", 1)
    replay(make_log(), made_at=made_at)
    assert (Session.objects.count(), Mail.objects.count(), cache.get("limit")) == (0, 0, None)


def test_tombstones_are_derived_from_the_database(
    alice: User, mallory: User, issue: Issue, file: Path
) -> None:
    revoked, suspended, valid = (issue(name)[0] for name in ["one", "two", "three"])
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER)
    APIKey.objects.filter(pk=suspended.pk).update(suspended_at=timezone.now())
    User.objects.filter(pk=mallory.pk).update(is_active=False)
    unresolved = [
        Tombstone(State.REVOKED, (valid.public_id,)),
        Tombstone(State.REVOKED, ("0" * 12,)),
    ]
    found = [
        (each.state, each.ids, happened)
        for each, happened in tombstone_recorder.from_database(unresolved)
    ]
    assert sorted(found) == sorted(
        [
            (State.REVOKED, (revoked.public_id,), True),
            (State.SUSPENDED, (suspended.public_id,), True),
            (State.DISABLED, (str(mallory.pk),), True),
            (State.REVOKED, (valid.public_id,), False),
            (State.REVOKED, ("0" * 12,), True),
            (State.REVOKED, ("0" * 12,), False),
        ]
    )
    assert read_entries(file)


def test_a_key_whose_row_was_deleted_stays_revoked_without_a_tombstone_file(
    issue: Issue, tmp_path: Path, made_at: datetime
) -> None:
    key, token = issue()
    (row,) = APIKey.objects.filter(pk=key.pk).values()
    services.revoke(key, reason=Reason.LEAKED)
    revoked_at = key.revoked_at
    assert sum(retention.delete_revoked_keys(timedelta(days=-1), False)) == 1
    assert services.validate(token.reveal()).code is VerdictCode.NOT_FOUND
    current = tmp_path / "current"
    current.write_text(
        "".join(as_text(each, happened=done) for each, done in tombstone_recorder.from_database([]))
    )
    # The backup is from before the deletion.
    RemovedKey.objects.all().delete()
    APIKey.objects.bulk_create([APIKey(**row)])
    assert replay(read([current]), made_at=made_at)["keys revoked"] == 1
    restored = APIKey.objects.get()
    assert (restored.revoked_at, restored.revoked_reason) == (revoked_at, Reason.LEAKED)
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED


def test_the_deletion_of_a_row_does_not_change_the_reason_of_a_tombstone(
    issue: Issue, make_log: MakeLog, made_at: datetime
) -> None:
    key, _token = issue()
    revoked = Tombstone(State.REVOKED, (key.public_id,), reason="leaked")
    later = Tombstone(State.REVOKED, (key.public_id,), at=revoked.at + timedelta(days=365))
    assert replay(make_log(revoked, later), made_at=made_at)["keys revoked"] == 1
    key.refresh_from_db()
    assert (key.revoked_at, key.revoked_reason) == (revoked.at, Reason.LEAKED)
