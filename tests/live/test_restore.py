"""A restore while the platform was in use: deleted keys and accounts stay deleted."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tests.live.conftest import Browser, Key, Place, ask, code, delete, join, shell, validate
from tests.platforms import Platform

CLIENTS = 8


@contextmanager
def in_use(platform: Platform, keys: list[Key]) -> Iterator[list[int]]:
    """Validate and generate keys from several clients until the context ends."""
    statuses: list[int] = []
    over = Event()

    def use(number: int) -> None:
        key, made = keys[number % len(keys)], 0
        while not over.is_set():
            made += 1
            name = {"name": f"{number} {made}"}
            generated = ask(platform, "POST", "/customers/api-keys", key=key.token, body=name)
            # Rate limits and a busy machine may refuse some of them.
            assert generated.status in {201, 429, 503}, generated.body
            statuses.append(validate(platform, key.token).status)

    threads = [Thread(target=use, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_keys_deleted_since_the_backup_stay_deleted(place: Place, postgresql: str) -> None:
    with place.running() as platform:
        alice, bob = join(platform, keys=2), join(platform, keys=1)
        lives, dies = alice.keys
        with in_use(platform, alice.keys) as statuses:
            path = place.backup()
        assert {200} <= set(statuses) <= {200, 503}
        delete(platform, dies)
        leave = "from accounts.models import User; from accounts.services import delete_account"
        shell(
            platform,
            f"{leave}\ndelete_account(User.objects.get(email=given['email']))",
            email=bob.email,
        )
        since = join(platform, keys=1).keys[0]
        # A client has the database open, also where each request opens a connection.
        assert code(platform, lives) == "VALID"
        assert "Stop the platform" in place.refused(path)
        assert code(platform, since) == "VALID"

    # The table itself is dropped at the end.
    (table,) = place.folder.glob("*epochs*")
    linked = place.folder / "linked"
    linked.hardlink_to(table)
    before = linked.read_bytes()
    said = place.restore(path)
    assert "accounts deleted: 1" in said
    assert linked.read_bytes() == before, "a restore changes nothing in the table that it deletes"
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, bob.keys[0], since]] == [
            "VALID",
            "REVOKED",
            "NOT_FOUND",
            "NOT_FOUND",
        ]
        # The session is older than the restore, and has ended.
        assert "/login" in Browser(platform, alice).get("/keys/").url
        delete(platform, lives)

    place.lose_the_database(postgresql)
    tombstones = place.folder / "tombstones"
    kept = tombstones.rename(place.folder / "elsewhere")
    assert "Neither the current database nor a tombstone file" in place.refused(path)
    assert place.restore(path, "--tombstones", str(kept))
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, bob.keys[0]]] == [
            "REVOKED",
            "REVOKED",
            "NOT_FOUND",
        ]
    assert place.leftovers(postgresql) == []
