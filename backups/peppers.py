"""Changing the pepper of the keys' hashes while keys are in use.

A pepper is known everywhere before anything is made with it: one process may be the old one and
its neighbour the new one, and neither may take the other's keys for forgeries. So it comes in as
the last of the fallbacks, and becomes the first only after every process was restarted.
"""

import json
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from apikeys.hashing import keyid_in, keyid_of
from apikeys.models import APIKey
from backups.archive import Refused
from backups.tombstones import sync_folder


@dataclass(frozen=True, slots=True)
class Report:
    """Where a rotation stands. Peppers are named by their keyids."""

    current: str
    fallbacks: list[str]
    # Hashes of keys that are not revoked, by pepper.
    hashes: dict[str, int]
    # Since when the current one is known to be that.
    since: datetime
    # Keys that can be used and may have a tag of a former pepper: all from before `since`.
    tags: int

    @property
    def lost(self) -> dict[str, int]:
        at_hand = {self.current, *self.fallbacks}
        return {keyid: count for keyid, count in self.hashes.items() if keyid not in at_hand}


def report() -> Report:
    current = keyid_of(settings.KEY_PEPPER)
    since = _since(current)
    kept = APIKey.objects.kept().order_by()
    return Report(
        current=current,
        fallbacks=[keyid_of(pepper) for pepper in settings.KEY_PEPPER_FALLBACKS],
        hashes=dict(Counter(map(keyid_in, kept.values_list("encoded", flat=True).iterator()))),
        since=since,
        tags=kept.filter(
            Q(expires_at=None) | Q(expires_at__gt=timezone.now()), created_at__lt=since
        ).count(),
    )


def begin() -> str:
    """Makes a new pepper, and lets it be known: as a fallback, which nothing is made with yet.

    Returns its keyid. Raises Refused where the peppers are not this machine's own, or where one is
    under way.
    """
    _refuse_elsewhere()
    if (waiting := _waiting()) is not None:
        raise Refused(f"{keyid_of(waiting)} is on its way already. Restart, then: --switch.")
    pepper = secrets.token_urlsafe(48)
    _write(_fallbacks(), [*_read(_fallbacks()), pepper])
    _write(_next(), [pepper])
    return keyid_of(pepper)


def switch(*, restarted: bool = False) -> str:
    """Makes the pepper of `begin` the current one, and the current one a fallback.

    restarted: the caller answers for it that every process knows the new one.
    Killed at any moment it can be repeated; every pepper is in one of the files all the while.
    """
    _refuse_elsewhere()
    pepper = _waiting()
    if pepper is None:
        raise Refused("No pepper is on its way: --begin makes one.")
    if not restarted and not _started_since(_next()):
        raise Refused(
            "No platform was started here since that pepper came, so none that runs knows it: it "
            "would take new keys for forgeries. Restart, then: --switch. If it is started by "
            "something else than `make run`: --switch --restarted."
        )
    former = _read(_current())
    others = [other for other in _read(_fallbacks()) if other not in {pepper, *former}]
    former = [each for each in former if each != pepper]
    # First known as a former one, then replaced.
    _write(_fallbacks(), [*former, pepper, *others])
    _write(_current(), [pepper])
    _write(_fallbacks(), [*former, *others])
    _note(keyid_of(pepper), timezone.now())
    _next().unlink()
    return keyid_of(pepper)


def _refuse_elsewhere() -> None:
    if not settings.KEY_PEPPER_IN_VAR:
        raise Refused(
            "KEY_PEPPER comes from the environment, so it is changed there, on every machine. "
            "`manage.py rotate_pepper` without an option says what comes next."
        )


def _waiting() -> str | None:
    """The pepper that is on its way, known to whoever was started since."""
    found = _read(_next())
    return found[0] if found else None


def _started_since(path: Path) -> bool:
    """Whether `make run` got ready here after `path` was written (config.serve takes this lock)."""
    lock = Path(settings.VAR, ".prepare.lock")
    return lock.exists() and lock.stat().st_mtime > path.stat().st_mtime


def _since(keyid: str) -> datetime:
    """Since when `keyid` is known to be the current pepper: from now on, if nobody noted it.

    Then all keys there are count as older, so that no pepper is thrown away too soon.
    """
    for line in _read(_notes()):
        noted = json.loads(line)
        if noted["keyid"] == keyid:
            return datetime.fromisoformat(noted["since"])
    return _note(keyid, timezone.now())


def _note(keyid: str, since: datetime) -> datetime:
    line = json.dumps({"keyid": keyid, "since": since.isoformat()}, separators=(",", ":"))
    _write(_notes(), [*_read(_notes()), line])
    return since


def _current() -> Path:
    return Path(settings.VAR, "key_pepper")


def _fallbacks() -> Path:
    return Path(settings.VAR, "key_pepper_fallbacks")


def _next() -> Path:
    return Path(settings.VAR, "key_pepper_next")


def _notes() -> Path:
    """When which pepper came. No secrets."""
    return Path(settings.VAR, "key_pepper_notes")


def _read(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _write(path: Path, lines: Sequence[str]) -> None:
    """The whole file or, after a crash, the one before; readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
