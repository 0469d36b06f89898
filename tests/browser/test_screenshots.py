"""The pictures of README.md and docs/: taken here, and copied by `make screenshots`.

Fonts differ between machines, so pictures are not compared. Beside each one is a file with the text
that was on the page and the picture's digest: a page whose text has changed needs a new picture.
"""

import re
import struct
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import SCREENSHOTS, Person
from tests.platforms import ROOT, Platform, shell

FOLDER = SCREENSHOTS / "docs"
COMMITTED = ROOT / "docs" / "screenshots"
SIZE = {"width": 1280, "height": 800}
PATHS = {
    "keys": "/keys/",
    "new-key": "/keys/?new=1",
    "connect": "/connect?system=local",
    "usage": "/usage/",
}
SCHEMES = ("light", "dark")
NAMES = {f"{name}-{scheme}.png" for name in PATHS for scheme in SCHEMES}
# A small phone, a phone, a laptop, and a screen of 4K at its full resolution.
WIDTHS = (320, 390, 1280, 3840)
PICTURE = re.compile(r"[\w./-]*screenshots/[\w-]+\.(?:png|jpe?g|webp)")
# In docs/, a picture is not worth more than this.
LARGEST = 150_000

SEED = """
import math
from datetime import timedelta
from django.utils import timezone
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, DailyUse, HourlyUse

owner = User.objects.get(email=given["email"])
now = timezone.now().replace(minute=0, second=0, microsecond=0)
keys = [
    ("studio-pc", "The workstation in the studio", 40, 3, 90),
    ("render-node-1", "Second shelf, no screen", 33, 11, 60),
    ("render-node-2", "", 33, 12, 45),
    ("discord-bot", "Pictures for the server", 21, 1, 25),
    ("laptop", "", 12, 190, 8),
    ("ci", "Nightly workflow tests", 4, None, 0),
]
for name, description, days, minutes, calls in keys:
    key, _token = services.issue(owner=owner, name=name, description=description)
    used_at = None if minutes is None else timezone.now() - timedelta(minutes=minutes)
    APIKey.objects.filter(pk=key.pk).update(
        created_at=timezone.now() - timedelta(days=days), last_used_at=used_at
    )
    by_day = {}
    hours = []
    for ago in range(1, min(days, 30) * 24 if calls else 0):
        hour = now - timedelta(hours=ago)
        # Busy by day, quiet by night and at weekends.
        share = max(0, math.sin((hour.hour - 5) / 24 * math.tau)) * (0.3 + ago * 7 % 10 / 10)
        number = int(calls * share * (0.4 if hour.weekday() > 4 else 1))
        if number:
            hours.append(HourlyUse(key=key, hour=hour, calls=number))
            by_day[hour.date()] = by_day.get(hour.date(), 0) + number
    HourlyUse.objects.bulk_create(hours)
    DailyUse.objects.bulk_create(
        DailyUse(key=key, day=day, calls=number) for day, number in by_day.items()
    )
"""


@pytest.fixture
def page(enter: Callable[..., Page], site: Platform, alice: Person) -> Page:
    """Return a page of an account with keys that are in use."""
    shell(site, SEED, email=alice.email)
    return enter(viewport=SIZE)


def test_the_pictures_show_pages_that_fit_into_every_window(page: Page) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    beyond = {}
    for name, path in PATHS.items():
        page.goto(path)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            picture = FOLDER / f"{name}-{scheme}.png"
            page.screenshot(path=picture, animations="disabled")
            assert_is_picture(picture)
            picture.with_suffix(".txt").write_text(f"{digest(picture)}\n{text_on(page)}")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": SIZE["height"]})
            over = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            if over:
                beyond[path, width] = over
        page.set_viewport_size(SIZE)
    assert beyond == {}
    light, dark = ((FOLDER / f"keys-{scheme}.png").read_bytes() for scheme in SCHEMES)
    assert light != dark


def test_the_documents_show_no_other_pictures() -> None:
    shown = set()
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for path in PICTURE.findall(document.read_text()):
            assert (document.parent / path).exists(), f"{document.name} shows {path}"
            shown.add(Path(path).name)
    assert shown
    assert shown <= NAMES
    committed = list(COMMITTED.glob("*.png"))
    assert {path.name for path in committed} <= NAMES, "run make screenshots"
    assert {path.name for path in committed} == shown
    assert [path.name for path in committed if path.stat().st_size > LARGEST] == []
    for path in committed:
        assert_is_picture(path)
        recorded = path.with_suffix(".txt").read_text().partition("\n")[0]
        assert recorded == digest(path), f"{path.name} has the text of another picture"


def test_the_documents_show_the_pages_as_they_are(page: Page) -> None:
    outdated = []
    for path in sorted(COMMITTED.glob("*.txt")):
        name, _dash, scheme = path.stem.rpartition("-")
        page.goto(PATHS[name])
        page.emulate_media(color_scheme=scheme)
        if text_on(page) != path.read_text().partition("\n")[2]:
            outdated.append(path.stem)
    assert outdated == [], "run make screenshots"


def text_on(page: Page) -> str:
    """Return the visible text, with the same numbers and relative times at each visit."""
    text = page.locator("body").inner_text()
    text = re.sub(r"comfyui-[0-9a-f]+", "comfyui-", text)
    text = re.sub(r"\b(?:an?|\d+)\s(second|minute|hour|day|week|month)s?\b", r"0 \1s", text)
    return (
        "\n".join(" ".join(line.split()) for line in re.sub(r"\d+", "0", text).splitlines()) + "\n"
    )


def digest(picture: Path) -> str:
    return sha256(picture.read_bytes()).hexdigest()


def assert_is_picture(path: Path) -> None:
    """Check the size of a PNG, and that it has more on it than one color."""
    content = path.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (SIZE["width"], SIZE["height"])
    at, packed = 8, b""
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if kind == b"IDAT":
            packed += content[at + 8 : at + 8 + length]
        at += length + 12
    # Lines of one color are all alike, once they are filtered (PNG, chapter 9).
    pixels = zlib.decompress(packed)
    line = len(pixels) // SIZE["height"]
    lines = {pixels[start : start + line] for start in range(0, len(pixels), line)}
    assert len(lines) > 50, f"{path.name} is nearly blank"
