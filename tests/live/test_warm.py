"""Verified hashes that the workers keep across restarts, intact or manipulated."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from apikeys import tokens
from tests.live.conftest import Folder, Key, ask, join, serving, shell, validate
from tests.platforms import Platform

# Enough validations, on new connections, that both workers have answered.
OFTEN = 10
# With these a worker has no queue for Argon2 passes: whatever needs one is 503.
NO_PASSES = {"ARGON2_CONCURRENCY": "0", "ARGON2_WAIT": "0", "ARGON2_PATIENT_WAIT": "0"}


@dataclass(frozen=True)
class Before:
    """A platform that has run: some of its keys were used once, some never."""

    folder: Path
    used: list[Key]
    unused: list[Key]
    tag_key: bytes
    # The table of verified hashes, and its content at the end.
    table: Path
    proofs: bytes

    def wrong_secret(self) -> str:
        """Return a used key with a wrong secret: Argon2 or the cache tells them apart."""
        body = self.used[0].token[:20] + "0" * 36
        tagged = body + tokens._tag(body, self.tag_key)
        return tagged + tokens._crc(tagged)


_TABLE = """
import os
from django.conf import settings
from apikeys.services import validation
from apikeys.key_hasher import key_hasher
folder = settings.SHARED_VERIFIED_FOLDER
name = f"comfyui-keys-{os.geteuid()}-{validation._namespace()}"
answer = [folder and str(folder / name), key_hasher().tag_keys[0].hex()]
"""


@pytest.fixture(scope="module")
def ran_before(fresh_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    folder = fresh_folder()
    # Not in VAR_DIR, because a start closes its files to other users.
    shared_folder = tmp_path_factory.mktemp("shared")
    with serving(folder, WORKERS="2", SHARED_VERIFIED_FOLDER=str(shared_folder)) as running:
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
def before(ran_before: Before) -> Before:
    """Restore the table, which other tests change."""
    remove(ran_before.table)
    ran_before.table.touch(0o600)
    ran_before.table.write_bytes(ran_before.proofs)
    return ran_before


@contextmanager
def again(before: Before, **variables: str) -> Iterator[Platform]:
    shared = {"SHARED_VERIFIED_FOLDER": str(before.table.parent)}
    with serving(before.folder, WORKERS="2", **shared, **variables) as running:
        yield running


def statuses(running: Platform, key: str) -> set[int]:
    return {validate(running, key).status for _ in range(OFTEN)}


@pytest.mark.parametrize("cached_responses", ["1", "0"], ids=["cached", "not cached"])
def test_a_restart_costs_no_argon2_pass_for_a_used_key(
    before: Before, cached_responses: str
) -> None:
    """No Argon2 pass is possible here, so that a valid answer needed none.

    Each key was used once: one worker verified it, and both have it now.
    """
    with again(before, VALIDATION_CACHE=cached_responses, **NO_PASSES) as running:
        for key in before.used:
            assert statuses(running, key.token) == {200}
            assert ask(running, "POST", "/customers", key=key.token).status == 200
        for needs_a_pass in (*(key.token for key in before.unused), before.wrong_secret()):
            answer = validate(running, needs_a_pass)
            assert answer.status == 503
            assert "retry-after" in answer.headers


def test_a_deleted_key_is_refused_though_its_hash_is_cached(
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
    # Written in place: a process that maps a truncated file is killed.
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
def test_verdicts_are_right_with_a_damaged_table(
    before: Before, spoil: Callable[[Path], None]
) -> None:
    spoil(before.table)
    with again(before) as running:
        assert_right(running, before)


def test_verdicts_are_right_when_the_table_is_damaged_while_running(before: Before) -> None:
    with again(before, VALIDATION_CACHE="0") as running:
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
        answered = {(answer.status, answer.json()["error"]) for answer in answers}
        assert answered == {(401, "NOT_FOUND")}
    assert running.process.poll() is None


def test_a_damaged_entry_is_not_trusted(before: Before) -> None:
    """A bit of each seal is flipped: without an Argon2 pass no key is accepted."""
    one_flipped_bit_in_each_entry(before.table)
    with again(before, **NO_PASSES) as running:
        for key in before.used:
            assert validate(running, key.token).status == 503


def test_an_unsafe_table_is_reported_and_not_changed(before: Before) -> None:
    open_to_all(before.table)
    with again(before) as running:
        assert validate(running, before.unused[1].token).status == 200
        assert "Workers can't share verified hashes" in running.printed()
    assert before.table.read_bytes() == before.proofs


def test_neither_a_token_nor_its_secret_is_in_the_table(before: Before) -> None:
    assert before.table.stat().st_mode & 0o777 == 0o600
    for key in before.used:
        for secret in (key.token, key.secret):
            assert secret.encode() not in before.proofs
        assert bytes.fromhex(key.secret) not in before.proofs
    entries = [before.proofs[at : at + 32] for at in range(0, len(before.proofs), 32)]
    assert sum(any(entry) for entry in entries) == len(before.used)
