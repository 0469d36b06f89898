"""CSV (RFC 4180) that spreadsheets open without running what is in it."""

import csv
import io
from collections.abc import Iterable
from typing import Final

# Spreadsheets run cells that start with one of these as formulas.
_FORMULA_PREFIXES: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_line(cells: Iterable[object]) -> str:
    """Return a line of CSV; a text that a spreadsheet would run begins with an apostrophe."""
    line = io.StringIO()
    csv.writer(line).writerow(_escape_formula(cell) for cell in cells)
    return line.getvalue()


def _escape_formula(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA_PREFIXES) else text
