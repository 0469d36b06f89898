"""The trail as a file: CSV (RFC 4180) for a spreadsheet, JSON lines for a program."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from django.db.models import QuerySet

from audit.models import Event

_FIELDS: Final = (
    "id", "at", "action", "account_id", "actor_id", "key_id", "public_id", "via", "address",
    "detail",
)  # fmt: skip
# What a spreadsheet takes for the beginning of a formula, and runs.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_json_lines(events: QuerySet[Event]) -> Iterator[str]:
    """One object a line. Times in ISO 8601 and UTC, ids as text."""
    for row in _rows(events):
        yield json.dumps(row, default=str, ensure_ascii=False) + "\n"


def as_csv(events: QuerySet[Event]) -> Iterator[str]:
    """A line of names, then one for each event; `detail` is JSON."""
    yield _line(_FIELDS)
    for row in _rows(events):
        detail = json.dumps(row["detail"], ensure_ascii=False)
        yield _line(_harmless(value) for value in ({**row, "detail": detail}).values())


FORMATS: Final[dict[str, tuple[str, Callable[[QuerySet[Event]], Iterator[str]]]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "jsonl": ("application/jsonl; charset=utf-8", as_json_lines),
}


def _rows(events: QuerySet[Event]) -> Iterator[dict[str, object]]:
    # Page by page: a trail of years does not fit into memory.
    for row in events.values(*_FIELDS).iterator(chunk_size=2_000):
        yield {**row, "at": row["at"].isoformat()}


def _line(cells: Iterable[object]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue()


def _harmless(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
