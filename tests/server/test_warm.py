"""What the workers know of tokens when the platform comes back, and what they make of a lie."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from apikeys import tokens
from tests.server.conftest import Folder, Key, ask, join, serving, shell, validate
from tests.servers import Platform

pytestmark = pytest.mark.server

# So often, on new connections, that both workers have answered.
OFTEN = 10
# With these a worker's line lets nobody in: whatever needs an Argon2 pass is told to come back.
NO_PASSES = {"ARGON2_CONCURRENCY": "0", "ARGON2_WAIT": "0", "ARGON2_PATIENT_WAIT": "0"}


@dataclass(frozen=True)
class Before:
    """A platform that has run: some of its keys were used once, some never."""

    folder: Path
    used: list[Key]
    unused: list[Key]
    tag_key: bytes
    # What its workers share, and what was in there at its end.
    table: Path
    proofs: bytes

    def wrong_secret(self) -> str:
        """Of a used key, all but the secret: only a pass, or what is known, tells them apart."""
        body = self.used[0].token[:20] + "0" * 36
        tagged = body + tokens._tag(body, self.tag_key)
        return tagged + tokens._crc(tagged)


_TABLE = """
import os
from django.conf import settings
from apikeys import services
folder = settings.SHARED_PROOFS_FOLDER
name = f"comfyui-keys-{os.geteuid()}-{services._where()}"
answer = [folder and str(folder / name), services.tag_keys()[0].hex()]
"""


@pytest.fixture(scope="module")
def past(fresh_folder: Folder) -> Iterator[Before]:
    folder = fresh_folder()
    with serving(folder, WORKERS="2") as running:
        keys = join(running, keys=6).keys
        shared, tag_key = shell(running, _TABLE)
        table = Path(shared)
        for key in keys[:4]:
            assert validate(running, key.token).status == 200
    try:
        yield Before(folder, keys[:4], keys[4:], bytes.fromhex(tag_key), table, table.read_bytes())
    finally:
        remove(table)


@pytest.fixture
def before(past: Before) -> Before:
    """As it was left, whatever another test has made of the table."""
    remove(past.table)
    past.table.touch(0o600)
    past.table.write_bytes(past.proofs)
    return past


@contextmanager
def again(before: Before, **variables: str) -> Iterator[Platform]:
    with serving(before.folder, WORKERS="2", **variables) as running:
        yield running


def statuses(running: Platform, key: str) -> set[int]:
    return {validate(running, key).status for _ in range(OFTEN)}


@pytest.mark.parametrize("lane", ["1", "0"], ids=["fast lane", "without it"])
def test_a_restart_costs_no_pass_for_a_key_that_was_used_before(before: Before, lane: str) -> None:
    """Observed where no pass is possible: what is answered all the same needed none.

    Each key was used once, so one worker had proved it, and now both know it.
    """
    with again(before, FAST_LANE=lane, **NO_PASSES) as running:
        for key in before.used:
            assert statuses(running, key.token) == {200}
            assert ask(running, "POST", "/customers", key=key.token).status == 200
        for needs_a_pass in (*(key.token for key in before.unused), before.wrong_secret()):
            answer = validate(running, needs_a_pass)
            assert answer.status == 503
            assert "retry-after" in answer.headers


def test_a_key_that_was_deleted_meanwhile_is_refused_though_its_secret_is_known(
    before: Before,
) -> None:
    with again(before) as running:
        account = join(running, keys=2)
        doomed, other = account.keys
        assert validate(running, doomed.token).status == 200
        answer = ask(running, "DELETE", f"/customers/api-keys/{doomed.id}", key=other.token)
        assert answer.status == 204, answer.body
    with again(before, **NO_PASSES) as running:
        answer = validate(running, doomed.token)
        assert (answer.status, answer.json()["error"]) == (401, "REVOKED")


def remove(table: Path) -> None:
    table.unlink(missing_ok=True)
    elsewhere_of(table).unlink(missing_ok=True)


def elsewhere_of(table: Path) -> Path:
    return table.with_name(f"{table.name}-elsewhere")


def noise(table: Path) -> None:
    # In its place: a file that is cut short kills whoever has it mapped.
    with table.open("r+b") as file:
        file.write(os.urandom(table.stat().st_size))


def one_flipped_bit_in_each_entry(table: Path) -> None:
    changed = bytearray(table.read_bytes())
    for at in range(0, len(changed), 32):
        if any(changed[at : at + 32]):
            changed[at + 31] ^= 1
    table.write_bytes(changed)


def cut_off(table: Path) -> None:
    os.truncate(table, 1000)


def open_to_all(table: Path) -> None:
    table.chmod(0o666)


def a_link(table: Path) -> None:
    table.symlink_to(table.rename(elsewhere_of(table)))


@pytest.mark.parametrize(
    "spoil", [remove, noise, one_flipped_bit_in_each_entry, cut_off, open_to_all, a_link]
)
def test_verdicts_are_right_whatever_became_of_what_the_workers_shared(
    before: Before, spoil: Callable[[Path], None]
) -> None:
    spoil(before.table)
    with again(before) as running:
        assert_right(running, before)


def test_verdicts_are_right_when_it_is_spoilt_while_they_run(before: Before) -> None:
    with again(before, FAST_LANE="0") as running:
        assert_right(running, before)
        noise(before.table)
        assert_right(running, before)
        remove(before.table)
        assert_right(running, before)


def assert_right(running: Platform, before: Before) -> None:
    assert [statuses(running, key.token) for key in before.used] == [{200}] * len(before.used)
    forged = tokens.make(tag_key=b"not the platform's").reveal()
    unknown = tokens.make(tag_key=before.tag_key).reveal()
    for bad in (before.wrong_secret(), unknown, forged):
        answers = [validate(running, bad) for _ in range(3)]
        told = {(answer.status, answer.json()["error"]) for answer in answers}
        assert told == {(401, "NOT_FOUND")}
    assert running.process.poll() is None


def test_what_is_spoilt_is_believed_by_nobody(before: Before) -> None:
    """A bit of each seal was changed: where no pass is possible, nobody vouches for the keys."""
    one_flipped_bit_in_each_entry(before.table)
    with again(before, **NO_PASSES) as running:
        for key in before.used:
            assert validate(running, key.token).status == 503


def test_a_table_that_is_not_safe_is_told_of_and_left_as_it_is(before: Before) -> None:
    open_to_all(before.table)
    with again(before) as running:
        assert validate(running, before.unused[1].token).status == 200
        assert "Workers can't share what they have proved" in running.printed()
    assert before.table.read_bytes() == before.proofs


def test_neither_a_token_nor_its_secret_is_in_what_the_workers_share(before: Before) -> None:
    assert before.table.stat().st_mode & 0o777 == 0o600
    for key in before.used:
        for secret in (key.token, key.secret):
            assert secret.encode() not in before.proofs
        assert bytes.fromhex(key.secret) not in before.proofs
    entries = [before.proofs[at : at + 32] for at in range(0, len(before.proofs), 32)]
    assert sum(any(entry) for entry in entries) == len(before.used)
