"""The system clock is changed while the platform runs.

The platform's processes add the seconds in a file to the time of day. Monotonic clocks are not
changed: setting the system clock does not affect them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.conftest import Account, Answer, Browser, Folder, ask, join, serving, shell
from tests.live.test_guessing import PASSWORD, new_member
from tests.platforms import Platform

HOUR = 60 * 60
DAY = 24 * HOUR
# Enough new connections to reach both workers.
REPEATS = 8

SITECUSTOMIZE = """
import os, time
from datetime import timedelta
from django.utils import timezone

def shift():
    try:
        with open(os.environ["CLOCK_FILE"]) as file:
            return float(file.read() or 0)
    except (KeyError, OSError):
        return 0.0

of_day, now = time.time, timezone.now
time.time = lambda: of_day() + shift()
timezone.now = lambda: now() + timedelta(seconds=shift())
"""


@dataclass(frozen=True)
class ShiftedPlatform:
    running: Platform
    file: Path

    def shift(self, seconds: float) -> None:
        draft = self.file.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.rename(self.file)

    def codes(self, token: str) -> set[str]:
        """Return the codes that both workers answer, at two endpoints."""
        answers = [
            ask(self.running, method, path, key=token)
            for method, path in (("POST", "/customers"), ("POST", "/api/v1/keys/validate"))
            for _ in range(REPEATS)
        ]
        return {answer.json()["error"] if answer.status == 401 else str(answer.status)
                for answer in answers}  # fmt: skip


@pytest.fixture(scope="module")
def platform(
    fresh_folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ShiftedPlatform]:
    folder = tmp_path_factory.mktemp("clock")
    # Python imports a module of this name at the start of each process.
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    file = folder / "shift"
    variables = {"PYTHONPATH": str(folder), "CLOCK_FILE": str(file), "GUESSES_PER_MINUTE": "60"}
    with serving(fresh_folder(), WORKERS="2", **variables) as running:
        yield ShiftedPlatform(running, file)


@pytest.fixture
def clock(platform: ShiftedPlatform) -> Iterator[ShiftedPlatform]:
    platform.shift(0)
    yield platform
    platform.shift(0)


def expiring(clock: ShiftedPlatform, *, after: int) -> str:
    account = join(clock.running)
    token: str = shell(
        clock.running,
        "from datetime import timedelta\n"
        "from django.utils import timezone\n"
        "from accounts.models import User\n"
        "from apikeys import services\n"
        "owner = User.objects.get(email=given['email'])\n"
        "ends = timezone.now() + timedelta(seconds=given['after'])\n"
        "answer = services.issue(owner=owner, name='brief', expires_at=ends)[1].reveal()",
        email=account.email,
        after=after,
    )
    return token


def test_a_key_expires_by_the_current_time(clock: ShiftedPlatform) -> None:
    """Also in the validation cache, which stores the time of expiry and not a duration."""
    token = expiring(clock, after=DAY)
    assert clock.codes(token) == {"200"}
    clock.shift(2 * DAY)
    assert clock.codes(token) == {"EXPIRED"}
    clock.shift(-HOUR)
    assert clock.codes(token) == {"200"}
    clock.shift(DAY + HOUR)
    assert clock.codes(token) == {"EXPIRED"}


@pytest.mark.parametrize("shift", [-DAY, -HOUR, HOUR, DAY])
def test_a_deleted_key_is_refused_at_any_time(clock: ShiftedPlatform, shift: int) -> None:
    deleted, other = join(clock.running, keys=2).keys
    assert clock.codes(deleted.token) == {"200"}
    clock.shift(shift)
    assert clock.codes(other.token) == {"200"}
    gone = ask(clock.running, "DELETE", f"/customers/api-keys/{deleted.id}", key=other.token)
    assert gone.status == 204
    assert clock.codes(deleted.token) == {"REVOKED"}
    for later in (0, -shift, shift):
        clock.shift(later)
        assert clock.codes(deleted.token) == {"REVOKED"}
        assert clock.codes(other.token) == {"200"}


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
def test_sessions_and_log_in_work_after_a_clock_change(clock: ShiftedPlatform, shift: int) -> None:
    alice: Account = join(clock.running)
    browser = Browser(clock.running, alice)
    member = new_member(clock.running)
    assert log_in(clock, member.email).status == 302
    clock.shift(shift)
    assert browser.get("/keys/", allow_redirects=False).status_code == 200
    assert log_in(clock, member.email).status == 302
    made = browser.post(
        "/keys/generate", **browser.hidden("/keys/?new=1"), name="s", description=""
    )
    # The last authentication may be in the future: then the password is asked for again.
    assert made.status_code in {200, 302}


def log_in(clock: ShiftedPlatform, email: str) -> Answer:
    browser = Browser(clock.running)
    hidden = browser.hidden("/login")
    return Answer.of(browser.post("/login", **hidden, login=email, password=PASSWORD))


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
def test_a_rate_limit_ends_by_the_current_time(clock: ShiftedPlatform, shift: int) -> None:
    (key,) = join(clock.running, keys=1).keys
    typo = key.token[:-1] + ("0" if key.token[-1] != "0" else "1")

    def guess() -> int:
        return ask(clock.running, "POST", "/customers", key=typo).status

    assert until_limited(guess)
    clock.shift(shift)
    assert guess() == 401
    assert ask(clock.running, "POST", "/customers", key=key.token).status == 200


def until_limited(guess: Callable[[], int]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if guess() == 429:
            return True
    return False
