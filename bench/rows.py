"""What is measured: which server, asked what, expected to answer what."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import Asking

VALIDATE = "/api/v1/keys/validate"
IN_HEADER = {"X-API-Key": "{}"}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    asking: given the number of the round, what is asked in it.
    warm: whether each worker is asked with each key beforehand.
    counts: whether so many uses are counted, to be written a while after, that the next row has to
    wait for it.
    """

    name: str
    what: str
    server: str
    asking: Callable[[int], Asking]
    warm: bool = False
    counts: bool = False


def all_rows(files: Path, sizes: list[int]) -> list[Row]:
    """Every row there is. files: the folder that holds a file of keys for each kind."""

    def always(asking: Asking) -> Callable[[int], Asking]:
        return lambda _round: asking

    def ours(file: str, *, status: int = 200, says: bytes = b'"valid":true') -> Asking:
        return Asking(VALIDATE, files / file, headers=IN_HEADER, status=status, says=says)

    def refused(file: str, code: bytes) -> Asking:
        return ours(file, status=401, says=code)

    def cold(round_: int) -> Asking:
        return Asking(VALIDATE, files / f"cold-{round_}", headers=IN_HEADER, once=True)

    def peer(path: str, file: str, name: str, value: str, says: bytes = b"true") -> Asking:
        return Asking(path, files / file, method="GET", headers={name: value}, says=says)

    def floor(path: str, file: str = "valid", says: bytes = b"") -> Asking:
        return Asking(path, files / file, headers=IN_HEADER, says=says)

    def introspect(_round: int) -> Asking:
        asks_with = (files / "oauth-toolkit-asks-with").read_text()
        return Asking(
            "/o/introspect/",
            files / "oauth-toolkit",
            headers={
                "Authorization": f"Bearer {asks_with}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            body="token={}",
            says=b'"active": true',
        )

    valid, some = ours("valid"), ours("some")
    past = replace(some, headers={**IN_HEADER, "Cookie": "a=b"})
    in_body = replace(some, headers={"Content-Type": "application/json"}, body='{"key":"{}"}')
    return [
        Row("ours-valid", "fast lane, all keys in turn", "ours", always(valid), True, True),
        Row("ours-hot", "fast lane, one key", "ours", always(ours("hot")), True, True),
        Row("ours-forged", "fast lane, wrong tag: 401", "ours",
            always(refused("forged", b"NOT_FOUND"))),
        Row("ours-flood", "the same, each for the first time", "ours",
            always(refused("flood", b"NOT_FOUND"))),
        Row("ours-unknown", "fast lane, no such row: 401", "ours",
            always(refused("unknown", b"NOT_FOUND")), True),
        Row("ours-deleted", "fast lane, deleted keys: 401", "ours",
            always(refused("deleted", b"REVOKED")), True),
        Row("ours-drf", "past the lane: with a cookie", "ours", always(past), True, True),
        Row("ours-json", "past the lane: key in a body", "ours", always(in_body), True, True),
        Row("ours-off", "FAST_LANE=off: a read each time", "ours-off", always(some), True),
        Row("ours-cold", "first use of each key: Argon2id", "ours", cold),
        Row("drf-api-key", "djangorestframework-api-key", "drf-api-key",
            always(peer("/check/", "drf-api-key", "Authorization", "Api-Key {}"))),
        Row("knox", "django-rest-knox", "knox",
            always(peer("/check/", "knox", "Authorization", "Token {}"))),
        Row("authtoken", "REST framework's authtoken", "authtoken",
            always(peer("/check/", "authtoken", "Authorization", "Token {}"))),
        Row("oauth-toolkit", "OAuth introspection", "oauth-toolkit", introspect),
        Row("better-auth", "better-auth on PostgreSQL", "better-auth",
            always(peer("/", "better-auth", "X-API-Key", "{}"))),
        Row("better-auth-redis", "better-auth on Redis", "better-auth-redis",
            always(peer("/", "better-auth-redis", "X-API-Key", "{}"))),
        Row("floor-wsgi", "empty WSGI application", "floor-wsgi", always(floor("/"))),
        Row("floor-wsgi-1", "the same, one thread", "floor-wsgi-1", always(floor("/"))),
        Row("floor-django", "empty Django view", "floor-django", always(floor("/django"))),
        Row("floor-drf", "empty REST framework view", "floor-django", always(floor("/drf"))),
        Row("floor-select", "Django view, one SELECT", "floor-django",
            always(floor("/select", "floor-django", b"user"))),
        Row("floor-nginx", "nginx, a constant", "floor-nginx", always(floor("/"))),
        *(
            Row(f"growth-{short(size)}-{way}", f"{short(size)} keys, {words}",
                f"growth-{short(size)}-{way}", always(some), True, way == "lane")
            for size in sizes
            for way, words in [("lane", "fast lane"), ("drf", "FAST_LANE=off")]
        ),
    ]  # fmt: skip


def short(number: int) -> str:
    """1000000 as 1M."""
    for unit, letter in [(1_000_000, "M"), (1_000, "k")]:
        if number >= unit and number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)
