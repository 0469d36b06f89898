"""The pepper is rotated while keys are in use."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

from tests.live.conftest import Key, Place, code, join, until, validate
from tests.platforms import Platform


@contextmanager
def running_platform(place: Place, platforms: list[Platform]) -> Iterator[None]:
    """Run one of the machine's platforms, listed in `platforms` while it accepts requests."""
    with place.running() as platform:
        platforms.append(platform)
        try:
            yield
        finally:
            platforms.remove(platform)
            # Requests under way are served to the end.
            time.sleep(1)


def test_a_pepper_is_rotated_while_keys_are_in_use(sqlite_place: Place) -> None:
    """Two platforms on one folder, restarted one after the other, as with a load balancer."""
    platforms: list[Platform] = []
    keys: list[Key] = []
    seen: list[int] = []
    over = Event()

    def use(number: int) -> None:
        while not over.is_set():
            number += 1
            if keys and platforms:
                key, platform = keys[number % len(keys)], platforms[-1 - number % len(platforms)]
                answer = validate(platform, key.token)
                seen.append(answer.status)
            # The starting platforms need the processors too.
            time.sleep(0.05)

    def another_key() -> None:
        keys.extend(join(platforms[-1], keys=2).keys)

    def command(*options: str) -> None:
        done = sqlite_place.manage("rotate_pepper", *options)
        assert done.returncode == 0, done.stderr

    clients = [Thread(target=use, args=(number,)) for number in range(4)]
    with ExitStack() as first, ExitStack() as second:
        stacks = [first, second]

        def restart_all() -> None:
            for stack in stacks:
                stack.close()
                stack.enter_context(running_platform(sqlite_place, platforms))
                another_key()

        for stack in stacks:
            stack.enter_context(running_platform(sqlite_place, platforms))
        another_key()
        for client in clients:
            client.start()
        try:
            command("--begin")
            restart_all()
            command("--switch")
            restart_all()
            assert until(lambda: hashes(sqlite_place) == {0, len(keys)}, seconds=90)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert {code(platform, key) for platform in platforms for key in keys} == {"VALID"}
    assert set(seen) == {200}
    assert len(keys) == 10


def hashes(place: Place) -> set[int]:
    """Return the numbers of hashes under each pepper, as the command prints them."""
    printed = place.manage("rotate_pepper").stdout
    return {int(count) for count in re.findall(r": (\d+) keys", printed)}
