"""Export formats of the audit log: CSV (RFC 4180) for spreadsheets, JSON lines for programs."""

import json
from collections.abc import Callable, Iterator
from typing import Final

from django.db.models import QuerySet

from audit.models import Event
from core.spreadsheets import csv_line

_FIELDS: Final = (
    "id", "at", "action", "account_id", "actor_id", "key_id", "public_id", "via", "address",
    "detail",
)  # fmt: skip


def as_json_lines(events: QuerySet[Event]) -> Iterator[str]:
    """Yield one JSON object per line. Times are ISO 8601 in UTC, ids are strings."""
    for row in _rows(events):
        yield json.dumps(row, default=str, ensure_ascii=False) + "\n"


def as_csv(events: QuerySet[Event]) -> Iterator[str]:
    """Yield a header line, then one line per event; `detail` is JSON."""
    yield csv_line(_FIELDS)
    for row in _rows(events):
        detail = json.dumps(row["detail"], ensure_ascii=False)
        yield csv_line({**row, "detail": detail}.values())


FORMATS: Final[dict[str, tuple[str, Callable[[QuerySet[Event]], Iterator[str]]]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "jsonl": ("application/jsonl; charset=utf-8", as_json_lines),
}


def _rows(events: QuerySet[Event]) -> Iterator[dict[str, object]]:
    # In chunks: the audit log of years does not fit into memory.
    for row in events.values(*_FIELDS).iterator(chunk_size=2_000):
        yield {**row, "at": row["at"].isoformat()}
