"""A state machine: in any order of operations, with machines that stop in the middle, no deleted
key is ever valid again, and no other key is revoked.
"""

import json
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from accounts.models import User
from accounts.services import delete_account
from apikeys import retention, services
from apikeys.models import APIKey, Reason, RemovedKey
from apikeys.services import VerdictCode
from audit.models import Event
from audit.services import Actor
from backups import tombstone_recorder
from backups.replay_tombstones import replay
from backups.tombstones import as_text, read

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_tombstone_file(settings: Any) -> None:
    """The state machine sets TOMBSTONES_FILE; the fixture restores it."""
    settings.TOMBSTONES_FILE = None


# The tables that backups of the state machine contain.
_TABLES = [User, APIKey, RemovedKey, Event]
_number = st.integers(min_value=0, max_value=99)


def _rows() -> dict[Any, list[dict[str, Any]]]:
    return {model: list(model._base_manager.order_by("pk").values()) for model in _TABLES}


def _clear() -> None:
    call_command("flush", verbosity=0, interactive=False)


class Platform(RuleBasedStateMachine):
    """A platform on two machines with a tombstone file each. Its database may be lost."""

    def __init__(self) -> None:
        super().__init__()
        _clear()
        self.folder = Path(tempfile.mkdtemp())
        self.files = [self.folder / "here", self.folder / "there"]
        self.use(0)
        self.tokens: dict[str, str] = {}
        self.revoked: set[str] = set()
        self.rolled_back: set[str] = set()
        self.backups: list[tuple[datetime, dict[Any, list[dict[str, Any]]]]] = []
        # A first key to delete, and a first backup to restore.
        self.issue(0)
        self.issue(1)
        self.back_up()

    def use(self, machine: int) -> None:
        django.TOMBSTONES_FILE = self.files[machine % 2]

    def pick(self, number: int) -> APIKey | None:
        keys = list(APIKey.objects.kept().order_by("public_id"))
        return keys[number % len(keys)] if keys else None

    @rule(number=_number)
    def issue(self, number: int) -> None:
        owner, _new = User.objects.get_or_create(email=f"person-{number % 3}@example.org")
        key, token = services.issue(owner=owner, name=f"key {len(self.tokens)}")
        self.tokens[key.public_id] = token.reveal()

    @rule(number=_number, machine=_number, stops=st.booleans())
    def revoke(self, number: int, machine: int, stops: bool) -> None:
        self.use(machine)
        if key := self.pick(number):
            assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
            self.revoked.add(key.public_id)
            if stops:
                self.drop_last_outcome(machine)

    @rule(number=_number, machine=_number)
    def revoke_and_roll_back(self, number: int, machine: int) -> None:
        self.use(machine)
        if key := self.pick(number):
            with transaction.atomic():
                services.revoke(key, reason=Reason.DELETED_BY_OWNER)
                transaction.set_rollback(True)
            self.rolled_back.add(key.public_id)

    @rule(number=_number, machine=_number)
    def suspend_and_restore(self, number: int, machine: int) -> None:
        self.use(machine)
        if key := self.pick(number):
            services.suspend(key, by=Actor())
            services.restore(key, by=Actor())

    @rule(number=_number, machine=_number)
    def delete_account(self, number: int, machine: int) -> None:
        self.use(machine)
        if key := self.pick(number):
            theirs = APIKey.objects.filter(owner=key.owner)
            self.revoked |= set(theirs.values_list("public_id", flat=True))
            delete_account(key.owner)

    @rule(machine=_number)
    def clean_up(self, machine: int) -> None:
        """Delete the rows of all revoked keys."""
        self.use(machine)
        assert sum(retention.delete_revoked_keys(timedelta(days=-1), False)) >= 0
        assert not APIKey.objects.exclude(revoked_at=None).exists()

    def drop_last_outcome(self, machine: int) -> None:
        """Remove the last outcome, as if the machine had stopped after the commit."""
        file = self.files[machine % 2]
        lines = file.read_text().splitlines(keepends=True)
        assert "of" in json.loads(lines[-1])
        file.write_text("".join(lines[:-1]))

    @rule()
    def back_up(self) -> None:
        self.backups.append((timezone.now(), _rows()))

    @rule(number=_number, lost=st.booleans())
    def restore(self, number: int, lost: bool) -> None:
        made_at, rows = self.backups[number % len(self.backups)]
        existing = [file for file in self.files if file.exists()]
        log = read(existing)
        assert log.torn == 0
        if not lost:
            current = self.folder / "current"
            state = tombstone_recorder.from_database(log.unresolved)
            current.write_text("".join(as_text(each, happened=done) for each, done in state))
            log = read([*existing, current])
        file, django.TOMBSTONES_FILE = django.TOMBSTONES_FILE, None
        _clear()
        for model in _TABLES:
            model._base_manager.bulk_create(model(**row) for row in rows[model])
        replay(log, made_at=made_at)
        django.TOMBSTONES_FILE = file

    @invariant()
    def revoked_keys_stay_revoked(self) -> None:
        valid = {id_ for id_, token in self.tokens.items() if self.is_valid(token)}
        assert not valid & self.revoked
        existing = set(APIKey.objects.values_list("public_id", flat=True))
        assert existing - valid <= self.revoked | self.rolled_back

    def is_valid(self, token: str) -> bool:
        return services.validate(token).code is VerdictCode.VALID

    def teardown(self) -> None:
        _clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def test_no_deleted_key_is_ever_valid_again() -> None:
    run_state_machine_as_test(
        Platform,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
