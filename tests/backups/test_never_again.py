"""Whatever comes in whatever order, machines that stop in the middle included: no key that was
deleted is ever good again, and none dies that nobody wanted dead.
"""

import json
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django
from django.db import connection, transaction
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
from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import Code
from audit.models import Event
from audit.trail import Actor
from backups import marking
from backups.replay import replay
from backups.tombstones import as_text, read

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nobody_elses_file(settings: Any) -> None:
    """Whatever the machine says of it is undone after the test."""
    settings.TOMBSTONES_FILE = None


# With what a backup would bring back: each table's rows as they are.
_TABLES = [User, APIKey, Event]
_number = st.integers(min_value=0, max_value=99)


def _rows() -> dict[Any, list[dict[str, Any]]]:
    return {model: list(model._base_manager.order_by("pk").values()) for model in _TABLES}


def _clear() -> None:
    with connection.cursor() as cursor:
        for model in reversed(_TABLES):
            table = connection.ops.quote_name(model._meta.db_table)
            if connection.vendor == "postgresql":
                cursor.execute(f"TRUNCATE {table} CASCADE")
            else:
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608 (our own tables)


class Life(RuleBasedStateMachine):
    """Keys of one platform, on a database that is lost now and then. A second machine has a file
    of tombstones of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        _clear()
        self.folder = Path(tempfile.mkdtemp())
        self.files = [self.folder / "here", self.folder / "there"]
        self.at(0)
        self.tokens: dict[str, str] = {}
        self.dead: set[str] = set()
        self.wanted_dead: set[str] = set()
        self.backups: list[tuple[datetime, dict[Any, list[dict[str, Any]]]]] = []
        # Something to be deleted, in something to be restored.
        self.issue(0)
        self.issue(1)
        self.back_up()

    def at(self, machine: int) -> None:
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
        self.at(machine)
        if key := self.pick(number):
            assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
            self.dead.add(key.public_id)
            if stops:
                self.stop_before_the_last_line(machine)

    @rule(number=_number, machine=_number)
    def revoke_and_roll_back(self, number: int, machine: int) -> None:
        self.at(machine)
        if key := self.pick(number):
            with transaction.atomic():
                services.revoke(key, reason=Reason.DELETED_BY_OWNER)
                transaction.set_rollback(True)
            self.wanted_dead.add(key.public_id)

    @rule(number=_number, machine=_number)
    def suspend_and_give_back(self, number: int, machine: int) -> None:
        self.at(machine)
        if key := self.pick(number):
            services.suspend(key, by=Actor())
            services.restore(key, by=Actor())

    @rule(number=_number, machine=_number)
    def leave(self, number: int, machine: int) -> None:
        self.at(machine)
        if key := self.pick(number):
            theirs = APIKey.objects.filter(owner=key.owner)
            self.dead |= set(theirs.values_list("public_id", flat=True))
            delete_account(key.owner)

    def stop_before_the_last_line(self, machine: int) -> None:
        """What a machine leaves that stopped after a commit: nobody said that it happened."""
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
        there = [file for file in self.files if file.exists()]
        known = read(there)
        assert known.torn == 0
        if not lost:
            doubts = [mark for mark in known.marks if mark.number not in known.outcomes]
            survey = self.folder / "survey"
            told = marking.of_database(doubts)
            survey.write_text("".join(as_text(mark, happened=true) for mark, true in told))
            known = read([*there, survey])
        file, django.TOMBSTONES_FILE = django.TOMBSTONES_FILE, None
        _clear()
        for model in _TABLES:
            model._base_manager.bulk_create(model(**row) for row in rows[model])
        replay(known, made_at=made_at)
        django.TOMBSTONES_FILE = file

    @invariant()
    def the_dead_stay_dead(self) -> None:
        alive = {id_ for id_, token in self.tokens.items() if self.is_good(token)}
        assert not alive & self.dead
        here = set(APIKey.objects.values_list("public_id", flat=True))
        assert here - alive <= self.dead | self.wanted_dead

    def is_good(self, token: str) -> bool:
        return services.validate(token).code is Code.VALID

    def teardown(self) -> None:
        _clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def test_no_deleted_key_is_ever_good_again() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
