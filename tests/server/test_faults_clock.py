"""The machine's clock is put back and forth while the platform runs.

The platform's processes read a clock that is shifted by what a file says: what Python tells them of
the time of day, not how time passes (which no clock is put back for).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server.conftest import Account, Answer, Browser, Folder, ask, join, serving, shell
from tests.server.test_guessing import PASSWORD, new_member
from tests.servers import Platform

pytestmark = pytest.mark.server

HOUR = 60 * 60
DAY = 24 * HOUR
# So often, on new connections, that both workers have answered.
OFTEN = 8

SHIFTED = """
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
class Shifted:
    running: Platform
    file: Path

    def put(self, seconds: float) -> None:
        draft = self.file.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.rename(self.file)

    def codes(self, token: str) -> set[str]:
        """What is said of a key, at each door, by both workers."""
        said = [
            ask(self.running, method, path, key=token)
            for method, path in (("POST", "/customers"), ("POST", "/api/v1/keys/validate"))
            for _ in range(OFTEN)
        ]
        return {answer.json()["error"] if answer.status == 401 else str(answer.status)
                for answer in said}  # fmt: skip


@pytest.fixture(scope="module")
def platform(fresh_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shifted]:
    folder = tmp_path_factory.mktemp("clock")
    # Python runs a module of this name as it starts, in each process.
    (folder / "sitecustomize.py").write_text(SHIFTED)
    file = folder / "shift"
    variables = {"PYTHONPATH": str(folder), "CLOCK_FILE": str(file), "GUESSES_PER_MINUTE": "60"}
    with serving(fresh_folder(), WORKERS="2", **variables) as running:
        yield Shifted(running, file)


@pytest.fixture
def clock(platform: Shifted) -> Iterator[Shifted]:
    platform.put(0)
    yield platform
    platform.put(0)


def expiring(clock: Shifted, *, after: int) -> str:
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


def test_a_key_is_good_until_its_end_by_the_clock_as_it_is_now(clock: Shifted) -> None:
    """Also where the answer is known: what is remembered is the end, not how long until then."""
    token = expiring(clock, after=DAY)
    assert clock.codes(token) == {"200"}
    clock.put(2 * DAY)
    assert clock.codes(token) == {"EXPIRED"}
    clock.put(-HOUR)
    assert clock.codes(token) == {"200"}
    clock.put(DAY + HOUR)
    assert clock.codes(token) == {"EXPIRED"}


@pytest.mark.parametrize("shift", [-DAY, -HOUR, HOUR, DAY])
def test_a_deleted_key_stays_dead_whatever_the_clock_says(clock: Shifted, shift: int) -> None:
    doomed, other = join(clock.running, keys=2).keys
    assert clock.codes(doomed.token) == {"200"}
    clock.put(shift)
    assert clock.codes(other.token) == {"200"}
    gone = ask(clock.running, "DELETE", f"/customers/api-keys/{doomed.id}", key=other.token)
    assert gone.status == 204
    assert clock.codes(doomed.token) == {"REVOKED"}
    for later in (0, -shift, shift):
        clock.put(later)
        assert clock.codes(doomed.token) == {"REVOKED"}
        assert clock.codes(other.token) == {"200"}


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
def test_people_go_on_and_come_in_whatever_the_clock_says(clock: Shifted, shift: int) -> None:
    alice: Account = join(clock.running)
    browser = Browser(clock.running, alice)
    member = new_member(clock.running)
    assert log_in(clock, member.email).status == 302
    clock.put(shift)
    assert browser.get("/keys/", allow_redirects=False).status_code == 200
    assert log_in(clock, member.email).status == 302
    made = browser.post(
        "/keys/generate", **browser.hidden("/keys/?new=1"), name="s", description=""
    )
    # Shown to be them an hour ahead of now, they may be asked once more who they are.
    assert made.status_code in {200, 302}


def log_in(clock: Shifted, email: str) -> Answer:
    browser = Browser(clock.running)
    hidden = browser.hidden("/login")
    return Answer.of(browser.post("/login", **hidden, login=email, password=PASSWORD))


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
def test_a_limit_is_over_when_its_time_is_by_the_clock_as_it_is_now(
    clock: Shifted, shift: int
) -> None:
    (key,) = join(clock.running, keys=1).keys
    typo = key.token[:-1] + ("0" if key.token[-1] != "0" else "1")

    def guess() -> int:
        return ask(clock.running, "POST", "/customers", key=typo).status

    assert until_limited(guess)
    clock.put(shift)
    assert guess() == 401
    assert ask(clock.running, "POST", "/customers", key=key.token).status == 200


def until_limited(guess: Callable[[], int]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if guess() == 429:
            return True
    return False
