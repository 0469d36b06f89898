"""One table and one JSON file of the measurements."""

import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.load import CONNECTIONS
from bench.servers import WORKERS

if TYPE_CHECKING:
    from bench.run import Options, Outcome

_FLOOR = "floor-wsgi"
_PEERS = ["drf-api-key", "knox", "authtoken", "oauth-toolkit", "better-auth", "better-auth-redis"]
_HITS = ["ours-valid", "ours-hot", "ours-forged"]
_MISSES = ["ours-drf", "ours-json", "ours-off"]

type Found = dict[str, Any]


def summarise(outcomes: "list[Outcome]", options: "Options", *, took: float) -> Found:
    rates = {one.row.name: [each.rate for each in one.measured] for one in outcomes}
    rows = {one.row.name: _row(one, rates) for one in outcomes}
    return {
        "options": asdict(options),
        "connections": CONNECTIONS,
        "workers": WORKERS,
        "took_seconds": round(took),
        "machine": {
            "processors": os.cpu_count(),
            "model": _model(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "versions": {
            name: version(name)
            for name in [
                "django",
                "djangorestframework",
                "granian",
                "psycopg",
                "djangorestframework-api-key",
                "django-rest-knox",
                "django-oauth-toolkit",
            ]
        },
        "rows": rows,
        "bars": _bars(rates, rows, options.sizes),
    }


def _row(outcome: "Outcome", rates: dict[str, list[float]]) -> Found:
    row = outcome.row
    found: Found = {"what": row.description, "expects": None, "error": outcome.error}
    if outcome.error is not None or not outcome.measured:
        return found
    measured = outcome.measured
    rate = [each.rate for each in measured]
    return found | {
        "expects": row.template(0).status,
        "rate": round(median(rate), 1),
        "rate_min": round(min(rate), 1),
        "rate_max": round(max(rate), 1),
        "of_floor": _ratio(rates, row.name, _FLOOR),
        "p50_ms": round(median(each.p50 for each in measured), 3),
        "p99_ms": round(median(each.p99 for each in measured), 3),
        "cpu_us": round(median(each.cpu for each in measured), 1),
        "database_cpu_us": round(median(each.database_cpu for each in measured), 1),
        "memory_mib": round(median(each.memory for each in measured) / 2**20, 1),
        "requests": sum(each.requests for each in measured),
        "rates": [round(each, 1) for each in rate],
    }


def _ratio(rates: dict[str, list[float]], one: str, other: str) -> float | None:
    """Return the median over rounds of the ratio of rates: a slow round slows both."""
    pairs = list(zip(rates.get(one, []), rates.get(other, []), strict=False))
    return round(median(a / b for a, b in pairs), 4) if pairs else None


def _bars(rates: dict[str, list[float]], rows: Found, sizes: list[int]) -> list[Found]:
    from bench.rows import short

    def bar(words: str, value: float | None, at_least: float) -> Found:
        met = None if value is None else value >= at_least
        return {"bar": words, "value": value, "met": met}

    bars = [bar(f"{name} >= 0.90 of the empty WSGI application", _ratio(rates, name, _FLOOR), 0.9)
            for name in _HITS]  # fmt: skip
    measured = [name for name in _PEERS if rates.get(name) and not rows[name]["error"]]
    fastest = max(measured, key=lambda name: median(rates[name]), default="")
    bars += [
        bar(
            f"ours-valid >= 10 times the fastest peer ({fastest or 'none measured'})",
            _ratio(rates, "ours-valid", fastest),
            10,
        ),
        bar("ours-valid >= 20 times drf-api-key", _ratio(rates, "ours-valid", "drf-api-key"), 20),
        bar("ours-valid >= 20 times knox", _ratio(rates, "ours-valid", "knox"), 20),
        *(
            bar(
                f"{name} >= 0.50 of the empty REST framework view",
                _ratio(rates, name, "floor-drf"),
                0.5,
            )
            for name in _MISSES
        ),
    ]
    for name in [*_HITS, *_MISSES]:
        p99 = rows.get(name, {}).get("p99_ms")
        met = None if p99 is None else p99 < 10
        bars.append({"bar": f"{name}: p99 under 10 ms", "value": p99, "met": met})
    small, large = short(min(sizes)), short(max(sizes))
    bars += [
        bar(
            f"{large} keys within 10 % of {small}: {way}",
            _ratio(rates, f"growth-{large}-{way}", f"growth-{small}-{way}"),
            0.9,
        )
        for way in ["cached", "drf"]
    ]
    return bars


def table(found: Found) -> str:
    """Return the table and the bars as text."""
    heads = [
        "row", "what", "status", "req/s", "min–max", "of WSGI", "p50 ms", "p99 ms", "CPU µs",
        "+DB µs", "MiB",
    ]  # fmt: skip
    lines = [heads, *(_cells(name, row) for name, row in found["rows"].items())]
    widths = [max(len(line[i]) for line in lines if len(line) > 3) for i in range(len(heads))]
    widths[:2] = [max(len(line[i]) for line in lines) for i in range(2)]
    text = ["", *(_aligned(line, widths) for line in lines), ""]
    for bar in found["bars"]:
        met = {True: "met", False: "NOT MET", None: "not measured"}[bar["met"]]
        value = "" if bar["value"] is None else f"{bar['value']:.2f}"
        text.append(f"{met:>12}  {value:>8}  {bar['bar']}")
    options = found["options"]
    text += [
        "",
        f"{found['connections']} connections, {found['workers']} workers, "
        f"{options['rounds']} rounds of {options['seconds']} s, {options['keys']} keys; "
        f"{found['machine']['processors']} processors ({found['machine']['model']}); "
        f"took {found['took_seconds']} s",
    ]
    floor = found["rows"].get(_FLOOR, {})
    if floor.get("rate") and floor["rate_max"] > 1.2 * floor["rate_min"]:
        text.append(
            f"This machine was busy with other things: {_FLOOR} went from "
            f"{floor['rate_min']:,.0f} to {floor['rate_max']:,.0f} req/s. Read ratios and CPU µs."
        )
    return "\n".join(text)


def _cells(name: str, row: Found) -> list[str]:
    if row["error"] is not None or "rate" not in row:
        return [name, row["what"], f"error: {(row['error'] or 'not measured').splitlines()[-1]}"]
    return [
        name,
        row["what"],
        str(row["expects"]),
        f"{row['rate']:,.0f}",
        f"{row['rate_min']:,.0f}–{row['rate_max']:,.0f}",
        "" if row["of_floor"] is None else f"{row['of_floor']:.3f}",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{row['cpu_us']:,.0f}",
        f"{row['database_cpu_us']:,.0f}",
        f"{row['memory_mib']:,.0f}",
    ]


def _aligned(line: list[str], widths: list[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
    numbers = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=False)]
    return "  ".join([*words, *numbers])


def write(found: Found, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    print(f"Written to {path}", file=sys.stderr)


def _model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor()
