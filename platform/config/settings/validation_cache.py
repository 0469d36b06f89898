"""Caches of validations: responses, rows and verified hashes (docs/adr/0012)."""

from pathlib import Path

from config.settings.base import env

env.section("Validation cache")

VALIDATION_CACHE: bool = env.boolean(
    "VALIDATION_CACHE",
    old_name="FAST_LANE",
    default=True,
    help="Answer validations from memory, before Django, while no key or account has changed.",
)
# A full cache takes 120 MB, or 280 MB where each key is validated in four ways
# (`make bench-verdicts`).
VALIDATION_CACHE_SIZE: int = env.integer(
    "VALIDATION_CACHE_SIZE",
    old_name="FAST_LANE_VERDICTS",
    default=100_000,
    least=1,
    most=10**8,
    help="Number of responses that a process caches, at about 1.2 KB each: 120 MB for each of "
    "`WORKERS`.",
)
CACHE_MAX_AGE: float = env.seconds(
    "CACHE_MAX_AGE",
    default=60.0,
    least=0,
    most=3600,
    help="How long a cached response or row is used before it is read again, even if no change "
    "was announced ([why](security.md#revocation-is-immediate)). 0 disables both caches.",
)
INVALIDATION_LEASE_SECONDS: float = env.seconds(
    "INVALIDATION_LEASE_SECONDS",
    old_name="FLEET_BOUND",
    default=2.0,
    least=0.1,
    most=60,
    help="How long a host answers from its caches after the last notification from the database. "
    "A deleted key is refused on all hosts within this time.",
)
VERIFIED_CACHE_SIZE: int = env.integer(
    "VERIFIED_CACHE_SIZE",
    old_name="PROOFS_REMEMBERED",
    default=10_000,
    least=1,
    most=10**7,
    help="Number of keys whose verified hash a process keeps in memory, so that Argon2id runs once "
    "per key and not once per request.",
)
_shm = Path("/dev/shm")  # noqa: S108 (its file is opened only if this user owns it)
SHARED_VERIFIED_FOLDER: Path | None = env.file_path(
    "SHARED_VERIFIED_FOLDER",
    old_name="SHARED_PROOFS_FOLDER",
    default=_shm if _shm.is_dir() else None,
    default_help="`/dev/shm`, where there is one",
    help="A folder in memory for verified hashes that the workers share, and that a restart keeps.",
)
if SHARED_VERIFIED_FOLDER and not SHARED_VERIFIED_FOLDER.is_dir():
    env.add_error("SHARED_VERIFIED_FOLDER", "names no folder.")
