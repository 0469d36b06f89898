"""`make bench-retention`: the size of each growing table, and what a cleanup delays.

BENCH_RETENTION_ROWS   hourly uses that the cleanup deletes (default 1000000)

Measures SQLite and PostgreSQL in turn, or the one that the argument names: the size of each table
with its indexes, and the times of writes and validations with and without a cleanup in another
process.
"""

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import batched, count
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from bench.server_pool import log_progress
from tests import postgres
from tests.platforms import new_database

ROOT = Path(__file__).parents[1]
ROWS = int(os.environ.get("BENCH_RETENTION_ROWS") or 1_000_000)
# Rows of each table from which its size is computed.
SAMPLE = 32_000
# Keys that the rows of the other tables refer to.
KEYS = 4_000
# Seconds of the measurement without a cleanup.
CALM = 15.0


def main() -> int:
    kinds = sys.argv[1:] or ["sqlite", "postgresql"]
    with TemporaryDirectory(prefix="retention-") as folder:
        if "sqlite" in kinds:
            _run(lambda name: f"sqlite:///{folder}/{name}.sqlite3", folder)
        if "postgresql" in kinds:
            with postgres.running() as server:
                _run(lambda _: new_database(server.get_uri()), folder)
    return 0


def _run(new_url: Callable[[str], str], folder: str) -> None:
    """Measure in processes with the settings of new databases."""
    for what in ("sizes", "times"):
        environment = {
            **os.environ,
            "VAR_DIR": f"{folder}/{what}",
            "DATABASE_URL": new_url(what),
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "EMAIL_URL": "none",
            "LOG_LEVEL": "ERROR",
            "KEYS_PER_ACCOUNT": "1000000",
            "NEW_KEYS_PER_HOUR": "0",
            # Locks are measured, not hashes.
            "ARGON2_MEMORY_KIB": "8",
            "ARGON2_PASSES": "1",
        }
        for command in (["server.migrate"], ["bench.retention", "measure", what]):
            subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=True)


def measure(what: str) -> int:
    import django

    django.setup()
    from django.db import connection

    from accounts.models import User

    log_progress(f"{connection.vendor}: {what}")
    owner = User.objects.create_user("alice@example.org")
    if what == "sizes":
        print(f"\n{connection.vendor}, MB per million rows, with indexes\n")
        for name, size in _sizes(owner):
            print(f"{name:12} {size / SAMPLE:6.0f}")
    else:
        _measure_times(owner)
    return 0


def _measure_times(owner: Any) -> None:
    """Measure writes and validations without a cleanup, and while one deletes hourly uses."""
    from django.db import connection

    from apikeys.models import HourlyUse

    _add_old_uses(owner)
    old = HourlyUse.objects.filter(hour__lt=_now() - timedelta(days=300))
    rows = old.count()
    calm = _times(owner, until=lambda began: time.monotonic() > began + CALM)
    command = [sys.executable, "manage.py", "cleanup", "--verbosity", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT) as process:
        cleaning = _times(owner, until=lambda _: process.poll() is not None)
    seconds = time.monotonic() - began
    print(f"\n{connection.vendor}: {rows - old.count()} of {rows} hourly uses in {seconds:.0f} s\n")
    for name, measured in cleaning.items():
        print(f"{name:12} without: {_listed(calm[name])}   meanwhile: {_listed(measured)}")


def _add_old_uses(owner: Any) -> None:
    from django.db import connection

    from apikeys.models import APIKey, HourlyUse

    APIKey.objects.bulk_create(_keys(owner, KEYS, revoked_from=KEYS))
    old = _now() - timedelta(days=400)
    HourlyUse.objects.bulk_create(
        HourlyUse(key_id=key_id, hour=old, calls=7)
        for key_id in APIKey.objects.values_list("pk", flat=True)
    )
    earlier = (
        "hour - interval '{hours} hours'"
        if connection.vendor == "postgresql"
        else "datetime(hour, '-{hours} hours')"
    )
    hours = 1
    with connection.cursor() as cursor:
        while KEYS * hours < ROWS:
            shifted = earlier.format(hours=hours)
            cursor.execute(
                "INSERT INTO apikeys_hourlyuse (key_id, hour, calls)"  # noqa: S608
                f" SELECT key_id, {shifted}, calls FROM apikeys_hourlyuse ORDER BY id"
            )
            hours *= 2


def _listed(seconds: list[float]) -> str:
    cuts = quantiles(seconds, n=100)
    return (
        f"median {cuts[49] * 1e3:.1f}, 99 % {cuts[98] * 1e3:.1f}, max {max(seconds) * 1e3:.0f} ms"
    )


def _now() -> Any:
    from django.utils import timezone

    return timezone.now().replace(minute=0, second=0, microsecond=0)


def _sizes(owner: Any) -> Iterator[tuple[str, int]]:
    """Fill the tables. Yield the name of each and the bytes of SAMPLE rows."""
    from accounts import expired_sessions
    from apikeys.models import (
        APIKey,
        DailyUse,
        HourlyRefusal,
        HourlyUse,
        KeyNetwork,
        Reason,
        RemovedKey,
    )
    from audit.models import Action, Event, Via

    old = _now() - timedelta(days=800)
    random = Random(1)  # noqa: S311 (data of a benchmark)
    yield "keys", _size_of(APIKey, _keys(owner, SAMPLE, revoked_from=KEYS))
    ids = list(APIKey.objects.filter(revoked_at=None).values_list("pk", flat=True))
    rounds = SAMPLE // KEYS

    def per_key(row: Callable[[UUID, int], Any]) -> Iterator[Any]:
        return (row(key_id, number) for number in range(rounds) for key_id in ids)

    hour = timedelta(hours=1)
    yield (
        "hourly uses",
        _size_of(
            HourlyUse, per_key(lambda id_, n: HourlyUse(key_id=id_, hour=old + n * hour, calls=7))
        ),
    )
    yield (
        "refusals",
        _size_of(
            HourlyRefusal,
            per_key(
                lambda id_, n: HourlyRefusal(
                    key_id=id_, hour=old + n * hour, code="EXPIRED", calls=7
                )
            ),
        ),
    )
    day = timedelta(days=1)
    yield (
        "daily uses",
        _size_of(
            DailyUse,
            per_key(lambda id_, n: DailyUse(key_id=id_, day=(old - n * day).date(), calls=7)),
        ),
    )
    yield (
        "networks",
        _size_of(
            KeyNetwork,
            per_key(
                lambda id_, n: KeyNetwork(
                    key_id=id_, network=f"203.0.{n}.0/24", first_used_at=old, last_used_at=old
                )
            ),
        ),
    )
    numbers = count()
    yield (
        "audit events",
        _size_of(
            Event,
            per_key(
                lambda id_, n: Event(
                    at=old + next(numbers) * timedelta(seconds=1),
                    action=Action.KEY_NEW_NETWORK,
                    account_id=owner.pk,
                    key_id=id_,
                    public_id=f"{id_.int & (1 << 48) - 1:012x}",
                    via=Via.API,
                    address="203.0.113.7",
                    detail={"network": "203.0.113.0/24"},
                )
            ),
        ),
    )
    yield (
        "removed keys",
        _size_of(
            RemovedKey,
            (
                RemovedKey(
                    public_id=f"{random.getrandbits(48):012x}",
                    revoked_at=old,
                    reason=Reason.DELETED_BY_OWNER,
                )
                for _ in range(SAMPLE)
            ),
        ),
    )
    session = expired_sessions.model()
    yield (
        "sessions",
        _size_of(
            session,
            (
                session(
                    session_key=f"{random.getrandbits(160):040x}",
                    session_data="x" * 400,
                    expire_date=old,
                )
                for _ in range(SAMPLE)
            ),
        ),
    )


def _keys(owner: Any, number: int, *, revoked_from: int) -> Iterator[Any]:
    from apikeys.models import APIKey, Reason

    old = _now() - timedelta(days=800)
    random = Random(2)  # noqa: S311 (data of a benchmark)
    for each in range(number):
        is_revoked = each >= revoked_from
        yield APIKey(
            owner=owner,
            name=f"render node {each}",
            folded_name=f"render node {each}",
            public_id=f"{random.getrandbits(48):012x}",
            # As long as a real one.
            encoded="$argon2id$v=19$m=19456,t=2,p=1,keyid=AAAAAAAA$".ljust(112, "x"),
            tag_pepper="AAAAAAAA",
            created_at=old,
            revoked_at=old if is_revoked else None,
            revoked_reason=Reason.DELETED_BY_OWNER if is_revoked else "",
        )


def _size_of(model: Any, rows: Iterator[Any]) -> int:
    before = _bytes(model)
    for batch in batched(rows, 5_000):
        model._base_manager.bulk_create(batch)
    return _bytes(model) - before


def _bytes(model: Any) -> int:
    """Return the size of a table with its indexes; on SQLite that of the database."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_total_relation_size(%s)", [model._meta.db_table])
        else:
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return int(cursor.fetchone()[0])


def _times(owner: Any, *, until: Callable[[float], bool]) -> dict[str, list[float]]:
    """Return the seconds of each operation, which are repeated `until` says that it is enough."""
    from accounts.models import User
    from apikeys import services, usage
    from apikeys.models import APIKey

    keys = list(APIKey.objects.filter(revoked_at=None, owner=owner)[:50])
    seconds: dict[str, list[float]] = defaultdict(list)
    began = time.monotonic()
    # Of few keys: the limit of an account counts them.
    other = User.objects.create_user(f"{began}@example.org")
    _key, token = services.issue(owner=other, name="first")

    def count_uses() -> None:
        for key in keys:
            usage.count(key.pk)
        usage.flush()

    operations: dict[str, Callable[[], object]] = {
        "validate": lambda: services.validate(token.reveal()),
        "count uses": count_uses,
        "create a key": lambda: services.issue(owner=other, name=f"key {time.monotonic_ns()}"),
    }
    while not until(began):
        for name, operation in operations.items():
            started = time.monotonic()
            operation()
            seconds[name].append(time.monotonic() - started)
        time.sleep(0.005)
    return seconds


if __name__ == "__main__":
    sys.exit(measure(sys.argv[2]) if sys.argv[1:2] == ["measure"] else main())
