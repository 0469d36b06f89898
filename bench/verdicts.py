"""`make bench-verdicts`: the memory of a full validation cache.

Without a server: hashing a hundred thousand keys would take an hour. The responses are as long as
those of a validation. Each verdict is kept in one variant, and then, in another process, in as many
as are kept at most.
"""

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import psutil

from apikeys import tokens
from apikeys.cache.middleware import Environ, StartResponse, ValidationCache
from apikeys.cache.responses import CACHE_DIRECTIVE, MAX_VARIANTS
from apikeys.cache.versions import VersionTable
from bench.rows import VALIDATE

_VERDICTS: Final = 100_000
# Length of a "VALID" response with a name and an email of usual length.
_BODY: Final = 338
_TAG_KEY: Final = b"key of the benchmark"


def main() -> int:
    if len(sys.argv) > 1:
        _fill(ways=int(sys.argv[1]))
        return 0
    for ways in (1, MAX_VARIANTS):
        subprocess.run([sys.executable, "-m", "bench.verdicts", str(ways)], check=True)
    return 0


def _fill(*, ways: int) -> None:
    with TemporaryDirectory(prefix="verdicts-") as folder:
        cache = ValidationCache(
            _answer,
            versions=VersionTable(Path(folder) / "version-table"),
            tag_keys=[_TAG_KEY],
            routes=[("POST", VALIDATE)],
            bodiless=[],
            queries={},
            count=lambda _key: None,
            count_refusal=lambda _key, _code: None,
            count_guess=lambda _client_ip: 0,
            capacity=_VERDICTS,
        )
        _ask(cache, 100, ways)
        before = psutil.Process().memory_info().rss
        # Just before the older half is evicted.
        number = _VERDICTS - 200
        _ask(cache, number, ways)
        taken = psutil.Process().memory_info().rss - before
    print(
        f"{_VERDICTS:,} verdicts, each asked for in {ways} way(s): "
        f"{taken / number * _VERDICTS / 1e6:.0f} MB, {taken / number:,.0f} bytes each"
    )


def _ask(cache: ValidationCache, number: int, ways: int) -> None:
    for _ in range(number):
        token = tokens.make(tag_key=_TAG_KEY).reveal()
        key = uuid4()
        for way in range(ways):
            environ: Environ = {
                "REQUEST_METHOD": "POST",
                "PATH_INFO": VALIDATE,
                "QUERY_STRING": "",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "REMOTE_ADDR": "127.0.0.1",
                "HTTP_HOST": f"127.0.0.1:{8000 + way}",
                "HTTP_X_API_KEY": token,
                "wsgi.url_scheme": "http",
                "bench.key": key,
            }
            cache(environ, lambda *_: None)


def _answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ[CACHE_DIRECTIVE].allow(key_id=environ["bench.key"], begins_at=time.time() - 60)
    headers: list[tuple[str, Any]] = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(_BODY)),
        ("Vary", "Cookie, origin"),
    ]
    start_response("200 OK", headers)
    return [uuid4().hex.encode().ljust(_BODY)]


if __name__ == "__main__":
    sys.exit(main())
