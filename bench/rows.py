"""The rows: server, request and expected answer of each measurement."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import RequestTemplate
from bench.seed import SITE
from core import site_names

VALIDATE = "/api/v1/keys/validate"
CUSTOMERS = "/customers"
# The body that ComfyUI's page posts to /customers at each load, from its sources.
SIGN_IN = '{"signup_source":"localhost"}'
IN_HEADER = {"X-API-Key": "{}"}
AUTH = "/api/v1/auth"
AT_SITE = f"{AUTH}?site={SITE}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    template: returns the request for the number of a round.
    warm: whether each worker gets each key before the measurement.
    counts: whether so many uses are counted that the next row has to wait until they are written.
    """

    name: str
    description: str
    server: str
    template: Callable[[int], RequestTemplate]
    warm: bool = False
    counts: bool = False


def all_rows(files: Path, sizes: list[int]) -> list[Row]:
    """Return all rows. files: the folder with a file of keys for each kind."""

    def always(template: RequestTemplate) -> Callable[[int], RequestTemplate]:
        return lambda _round: template

    def ours(file: str, *, status: int = 200, contains: bytes = b'"valid":true') -> RequestTemplate:
        return RequestTemplate(
            VALIDATE, files / file, headers=IN_HEADER, status=status, contains=contains
        )

    def refused(file: str, code: bytes) -> RequestTemplate:
        return ours(file, status=401, contains=code)

    def cold(round_: int) -> RequestTemplate:
        return RequestTemplate(VALIDATE, files / f"cold-{round_}", headers=IN_HEADER, once=True)

    def peer(
        path: str, file: str, name: str, value: str, contains: bytes = b"true"
    ) -> RequestTemplate:
        return RequestTemplate(
            path, files / file, method="GET", headers={name: value}, contains=contains
        )

    def floor(path: str, file: str = "valid", contains: bytes = b"") -> RequestTemplate:
        return RequestTemplate(path, files / file, headers=IN_HEADER, contains=contains)

    def introspect(_round: int) -> RequestTemplate:
        own_token = (files / "oauth-toolkit-own").read_text()
        return RequestTemplate(
            "/o/introspect/",
            files / "oauth-toolkit",
            headers={
                "Authorization": f"Bearer {own_token}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            body="token={}",
            contains=b'"active": true',
        )

    valid, some = ours("valid"), ours("some")
    uncached = replace(some, headers={**IN_HEADER, "Cookie": "a=b"})
    sign_in = replace(
        valid,
        path=CUSTOMERS,
        headers={**IN_HEADER, "Content-Type": "application/json"},
        body=SIGN_IN,
        contains=b'"email":',
    )
    auth = replace(valid, path=AUTH, method="GET", status=204, contains=b"")
    by_cookie = replace(
        auth,
        path=AT_SITE,
        keys=files / "sessions",
        headers={"Cookie": f"theirs=1; {site_names.session_cookie(SITE)}={{}}"},
    )
    in_body = replace(some, headers={"Content-Type": "application/json"}, body='{"key":"{}"}')
    return [
        Row("ours-valid", "validation cache, all keys in turn", "ours", always(valid), True, True),
        Row("ours-metrics", "validation cache, with METRICS=1", "ours-metrics", always(valid), True,
            True),
        Row("ours-hot", "validation cache, one key", "ours", always(ours("hot")), True, True),
        Row("ours-sign-in", "POST /customers with ComfyUI's body", "ours",
            always(sign_in), True, True),
        Row("ours-auth", "GET /api/v1/auth with a key", "ours", always(auth), True, True),
        Row("ours-auth-site", "the same, at a protected site", "ours",
            always(replace(auth, path=AT_SITE)), True, True),
        Row("ours-auth-scope", "the same, with a scope", "ours",
            always(replace(auth, path=f"{AT_SITE}&scope=proxy:openai")), True, True),
        Row("ours-auth-cookie", "the same, with a browser's session", "ours",
            always(by_cookie), True),
        Row("ours-forged", "validation cache, wrong tag: 401", "ours",
            always(refused("forged", b"NOT_FOUND"))),
        Row("ours-flood", "the same, each for the first time", "ours",
            always(refused("flood", b"NOT_FOUND"))),
        Row("ours-unknown", "validation cache, no such row: 401", "ours",
            always(refused("unknown", b"NOT_FOUND")), True),
        Row("ours-deleted", "validation cache, deleted keys: 401", "ours",
            always(refused("deleted", b"REVOKED")), True),
        Row("ours-drf", "cache miss: with a cookie", "ours", always(uncached), True, True),
        Row("ours-json", "cache miss: key in a body", "ours", always(in_body), True, True),
        Row("ours-off", "VALIDATION_CACHE=off: a read each time", "ours-off", always(some), True),
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
                f"growth-{short(size)}-{way}", always(some), True, way == "cached")
            for size in sizes
            for way, words in [("cached", "validation cache"), ("drf", "VALIDATION_CACHE=off")]
        ),
    ]  # fmt: skip


def short(number: int) -> str:
    """Return a number such as 1000000 as 1M."""
    for unit, letter in [(1_000_000, "M"), (1_000, "k")]:
        if number >= unit and number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)
