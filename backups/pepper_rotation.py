"""Rotation of the pepper of key hashes, without downtime.

All processes must know a pepper before one of them uses it, or they would reject each other's new
keys. So a new pepper is added as the last fallback, and becomes the current one after a restart.
"""

import logging
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from apikeys.hashing import keyid_of
from apikeys.models import APIKey
from backups import contents
from backups.archive import BackupError
from backups.secretfiles import read as _read
from backups.secretfiles import write as _write
from core.progress import StartProgress, silent

logger = logging.getLogger(__name__)

# Keys that `warn_if_lost` checks.
_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Need:
    """Number of keys that need a pepper for their hash or tag, without revoked ones."""

    live: int = 0
    # With the pepper, validating an expired key answers "expired".
    expired: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The state of a rotation. Peppers are identified by their keyids."""

    current: str
    fallbacks: list[str]
    # Number of hashes of keys that are not revoked, by pepper.
    hashes: dict[str, int]
    # By pepper, for hashes and tags.
    needs: dict[str, Need]
    # Keys with an unknown pepper of their tag: they may need any of the fallbacks.
    unknown: Need
    # Live keys with a tag that is not known to need the current pepper.
    tags: int

    def need(self, keyid: str) -> Need:
        return self.needs.get(keyid, Need())

    def is_needed(self, keyid: str) -> bool:
        """Return whether a live key needs this pepper, or may need it."""
        return bool(self.need(keyid).live or self.unknown.live)

    @property
    def lost(self) -> dict[str, int]:
        """Number of live keys that do not work, by the pepper that is missing."""
        available = {self.current, *self.fallbacks}
        return {
            keyid: need.live
            for keyid, need in self.needs.items()
            if keyid not in available and need.live
        }


def report(*, progress: StartProgress = silent) -> Report:
    """Return the state of the rotation, with exact counts from all rows."""
    current, now = keyid_of(settings.KEY_PEPPER), timezone.now()
    hashes: Counter[str] = Counter()
    live: Counter[str | None] = Counter()
    expired: Counter[str | None] = Counter()
    tags = 0
    kept = APIKey.objects.kept().order_by()
    rows = kept.values_list("encoded", "tag_pepper", "expires_at")
    with progress("Counting keys", kept.count()) as counted:
        for encoded, tag, expires_at in rows.iterator():
            pepper = contents.hash_pepper(encoded)
            hashes[pepper] += 1
            is_live = expires_at is None or expires_at > now
            tags += is_live and tag != current
            (live if is_live else expired).update({pepper, tag})
            counted.advance()
    return Report(
        current=current,
        fallbacks=[keyid_of(pepper) for pepper in settings.KEY_PEPPER_FALLBACKS],
        hashes=dict(hashes),
        needs={
            keyid: Need(live[keyid], expired[keyid])
            for keyid in {*live, *expired}
            if keyid is not None
        },
        unknown=Need(live[None], expired[None]),
        tags=tags,
    )


def warn_if_lost() -> None:
    """Log an error if none of the newest keys can be verified: KEY_PEPPER was lost or replaced.

    A pepper that is missing in VAR_DIR is generated again, and then no older key works.
    """
    available = {
        keyid_of(pepper) for pepper in [settings.KEY_PEPPER, *settings.KEY_PEPPER_FALLBACKS]
    }
    newest = APIKey.objects.kept().order_by("-created_at", "-id").values_list("encoded", flat=True)
    needed = {contents.hash_pepper(encoded) for encoded in newest[:_SAMPLE]}
    if needed and not needed & available:
        logger.error(
            "No key works: their hashes need peppers (%s) that are not configured. Stop the "
            "platform, and restore that KEY_PEPPER.",
            ", ".join(sorted(needed)),
        )


def begin() -> str:
    """Generate a pepper, add it to the fallbacks and return its keyid.

    Raises BackupError if peppers come from the environment, or if a rotation has begun.
    """
    _check_in_var()
    if (pending := _pending()) is not None:
        raise BackupError(f"{keyid_of(pending)} is on its way already. Restart, then: --switch.")
    pepper = secrets.token_urlsafe(48)
    _write(_fallbacks(), [*_read(_fallbacks()), pepper])
    _write(_next(), [pepper])
    return keyid_of(pepper)


def switch(*, restarted: bool = False) -> str:
    """Make the pepper of `begin` the current one, and the current one a fallback.

    restarted: the caller asserts that all processes know the new pepper. If the process is killed,
    no pepper is lost and the call can be repeated.
    """
    _check_in_var()
    pepper = _pending()
    if pepper is None:
        raise BackupError("No pepper is on its way: --begin makes one.")
    if not restarted and not _started_since(_next()):
        raise BackupError(
            "No platform was started here since that pepper came, so none that runs knows it: it "
            "would take new keys for forgeries. Restart, then: --switch. If it is started by "
            "something else than `make run`: --switch --restarted."
        )
    former = _read(_current())
    others = [other for other in _read(_fallbacks()) if other not in {pepper, *former}]
    former = [other for other in former if other != pepper]
    # The current pepper becomes a fallback before it is replaced, so that it is never lost.
    _write(_fallbacks(), [*former, pepper, *others])
    _write(_current(), [pepper])
    _write(_fallbacks(), [*former, *others])
    _next().unlink()
    return keyid_of(pepper)


def finish(*, restarted: bool = False, progress: StartProgress = silent) -> list[str]:
    """Remove the former peppers that no live key needs. Return their keyids.

    restarted: the caller asserts that all processes were restarted since `switch`: others still
    create keys with a former pepper.
    """
    _check_in_var()
    if not restarted:
        raise BackupError(
            "Processes that were not restarted since --switch still create keys with the old "
            "pepper. Once all processes were restarted: --finish --restarted."
        )
    found = report(progress=progress)
    pending = _pending()
    kept: list[str] = []
    removed: list[str] = []
    for pepper in _read(_fallbacks()):
        is_kept = pepper == pending or found.is_needed(keyid_of(pepper))
        (kept if is_kept else removed).append(pepper)
    if removed:
        _write(_fallbacks(), kept)
    return [keyid_of(pepper) for pepper in removed]


def _check_in_var() -> None:
    if not settings.KEY_PEPPER_IN_VAR:
        raise BackupError(
            "KEY_PEPPER is set in the environment. Change it there, on all hosts. "
            "`manage.py rotate_pepper` without an option prints the steps."
        )


def _pending() -> str | None:
    """Return the new pepper between `begin` and `switch`."""
    peppers = _read(_next())
    return peppers[0] if peppers else None


def _started_since(path: Path) -> bool:
    """Return whether `manage.py serve` started here after `path` was written."""
    lock = Path(settings.VAR, ".prepare.lock")
    return lock.exists() and lock.stat().st_mtime > path.stat().st_mtime


def _current() -> Path:
    return Path(settings.VAR, "key_pepper")


def _fallbacks() -> Path:
    return Path(settings.VAR, "key_pepper_fallbacks")


def _next() -> Path:
    return Path(settings.VAR, "key_pepper_next")
