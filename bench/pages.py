"""`make bench-pages`: the time of every page, list and search with many rows in the tables.

FILL_…         how many rows (bench/fill.py)
PAGES_ROUNDS   how often each page is requested (default 5), after one request that does not count
PAGES_ROWS     which, by patterns of their names: "/admin/*,/usage/*" (default: all)
DATABASE_URL   a database that `python -m bench.fill` has filled, with the VAR_DIR of that run.
               Without it, a PostgreSQL is started, filled and removed.

Each page is requested in this process through all middleware, as `manage.py serve` would call it:
the time of the server itself, some tenths of a millisecond, is not in it. CPU ms is the processor
time of this process and of its PostgreSQL backend, which other programs on the machine hardly
change. Pages above 300 ms are marked; the run does not fail.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from html import unescape
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from bench import fill

if TYPE_CHECKING:
    from django.test import Client

AIM: Final = 300
ROOT: Final = Path(__file__).parents[1]
# Searches of staff: exact, rare and common prefixes, several words, and none that is found.
WORDS: Final = (
    "person0001234@example.org",
    "PERSON00012",
    "ada0001234 love",
    "studio00001234 lan",
    "studio",
    "person",
    "ada person",
    "studio person0001234@",
    "ffff00",
    "comfyui-ffff00000001…",
    "nobody knows",
    "198.18.0.1",
)


class Taken(NamedTuple):
    """Milliseconds of one request: by the clock, and of processors."""

    clock: float
    processor: float


class Found(NamedTuple):
    """The medians of a page, and its number of queries."""

    clock: float
    processor: float
    queries: int
    name: str


@dataclass(frozen=True)
class Page:
    """A page with the browser that requests it, and the time zone of that browser's cookie."""

    name: str
    url: str
    client: "Client"
    zone: str = ""

    def request(self) -> Taken:
        """Request the page once."""
        self.client.cookies["timezone"] = self.zone or "UTC"
        began, used = time.perf_counter(), _processor_ms()
        response = self.client.get(self.url)
        if response.streaming:
            for _part in response.streaming_content:
                pass
        taken = Taken((time.perf_counter() - began) * 1000, _processor_ms() - used)
        if response.status_code != HTTPStatus.OK:
            raise RuntimeError(f"{self.url}: {response.status_code}")
        return taken


def _processor_ms() -> float:
    """Return the processor time of this process and of its backend so far, in ms.

    The backend counts where it runs on this machine (Linux, proc(5): nanoseconds).
    """
    from django.db import connection

    connection.ensure_connection()
    backend = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat")
    of_backend = int(backend.read_text().split()[0]) / 1e6 if backend.exists() else 0.0
    return time.process_time() * 1000 + of_backend


def pages() -> Iterator[Page]:
    """Yield the pages of the busy account, its REST lists, and those of staff."""
    from accounts.models import User

    busy = User.objects.get(email=fill.BUSY)
    yield from _personal(busy, _browser(busy))
    yield from _of_staff(busy, _browser(User.objects.get(email=fill.STAFF)))


def _personal(busy: Any, client: "Client") -> Iterator[Page]:
    key = busy.api_keys.order_by("public_id").first()
    for url in (
        "/keys/",
        "/keys/?page=10",
        "/keys/?q=render 7",
        "/keys/?q=none",
        "/keys/?state=unused",
        "/keys/?sort=name",
        "/keys/?sort=-last_used",
        f"/keys/{key.pk}/",
        f"/keys/{key.pk}/first-use",
        "/connect",
        "/account/",
        "/account/activity",
        "/account/activity?page=100",
        "/account/activity?kind=keys",
        f"/account/activity?key={key.pk}",
        "/account/data",
        "/account/sessions",
        "/account/delete",
        "/account/email",
        "/account/factors",
        "/customers/api-keys",
        "/customers/api-keys?limit=50",
        "/customers/api-keys?limit=50&q=render%207",
        "/customers/api-keys?state=expiring",
        f"/customers/api-keys/{key.pk}",
    ):
        yield Page(url.replace(str(key.pk), "<id>"), url, client)
    for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Auckland"):
        for period in ("24h", "7d", "30d", "90d"):
            for url in (f"/usage/?period={period}", f"/usage/?period={period}&key={key.pk}"):
                name = f"{url.replace(str(key.pk), '<id>')} ({zone})"
                yield Page(name, url, client, zone)
        for url in (
            "/usage.csv?period=90d",
            f"/customers/usage?period=90d&time_zone={zone}",
        ):
            yield Page(f"{url} ({zone})", url, client, zone)


def _of_staff(busy: Any, client: "Client") -> Iterator[Page]:
    from django.contrib import admin
    from django.urls import reverse

    from apikeys.models import APIKey

    yield Page("/admin/", "/admin/", client)
    for model in admin.site._registry:
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        yield Page(url, url, client)
        text = unescape(client.get(url).text)
        # Every filter, order and page that the list leads to.
        for link in sorted(set(_links(text))):
            yield Page(url + link, url + link, client)
        if 'id="searchbar"' in text:
            for words in WORDS:
                yield Page(f"{url}?q={words}", f"{url}?q={quote(words)}", client)
        if row := model._default_manager.order_by("pk").first():
            change = f"{url}{row.pk}/change/"
            yield Page(f"{url}<id>/change/", change, client)
    key = APIKey.objects.filter(owner=busy, revoked_at=None).first()
    for name, url in (
        ("of the busy account", f"/admin/accounts/user/{busy.pk}/change/"),
        ("of the busy account", f"/admin/accounts/user/{busy.pk}/overview/"),
        ("of the busy account", f"/admin/apikeys/apikey/?owner__id__exact={busy.pk}"),
        ("of the busy account", f"/admin/audit/event/?account__id__exact={busy.pk}"),
        ("of a busy key", f"/admin/apikeys/apikey/{key.pk}/change/"),
        ("of a busy key", f"/admin/audit/event/?key_id__exact={key.pk}"),
    ):
        short = url.replace(str(busy.pk), "<id>").replace(str(key.pk), "<id>")
        yield Page(f"{short} {name}", url, client)
    for state in ("live", "suspended", "revoked", "expired"):
        url = f"/admin/apikeys/apikey/?q=person00012&state={state}"
        yield Page(url, url, client)


def _links(text: str) -> Iterator[str]:
    import re

    yield from re.findall(r'href="(\?[^"]*)"', text)


def _browser(user: Any) -> "Client":
    """Return a browser in which `user` has just logged in."""
    from django.test import Client

    client = Client(headers={"user-agent": "bench"}, SERVER_NAME="127.0.0.1")
    client.force_login(user)
    session = client.session
    session["account_authentication_methods"] = [{"method": "password", "at": time.time()}]
    session["account_authentication_methods_user"] = str(user.pk)
    session.save()
    return client


def measure(rounds: int, patterns: str) -> list[Found]:
    """Return the medians of the wanted pages, the slowest first."""
    from django.db import connection, reset_queries
    from django.test.utils import CaptureQueriesContext

    found = []
    for page in pages():
        if not any(fnmatch(page.name, pattern.strip()) for pattern in patterns.split(",")):
            continue
        # The log of queries is bounded.
        reset_queries()
        with CaptureQueriesContext(connection) as queries:
            page.request()
        number = len(queries)
        taken = [page.request() for _round in range(rounds)]
        clock = statistics.median(one.clock for one in taken)
        processor = statistics.median(one.processor for one in taken)
        found.append(Found(clock, processor, number, page.name))
        print(f"{clock:8.0f} {processor:8.0f}  {page.name}", file=sys.stderr, flush=True)
    return sorted(found, reverse=True)


def report(found: list[Found]) -> str:
    """Return a table, the slowest page first."""
    lines = ["median ms   CPU ms  queries  page"]
    for one in found:
        mark = "  <- above 300 ms" if one.clock > AIM else ""
        lines.append(f"{one.clock:9.0f} {one.processor:8.0f} {one.queries:8}  {one.name}{mark}")
    slow = sum(one.clock > AIM for one in found)
    lines.append(f"\n{len(found)} pages, {slow} above {AIM} ms.")
    return "\n".join(lines)


def sizes() -> str:
    """Return rows and megabytes (table and indexes) of each filled table."""
    from django.db import connection

    lines = ["rows         MB table   MB indexes  table"]
    with connection.cursor() as cursor:
        for table in fill.TABLES:
            cursor.execute(
                "SELECT reltuples::bigint, pg_table_size(oid), pg_indexes_size(oid)"
                " FROM pg_class WHERE oid = %s::regclass",
                [table],
            )
            rows, of_table, of_indexes = cursor.fetchone()
            lines.append(f"{rows:<12,} {of_table / 1e6:8.0f} {of_indexes / 1e6:12.0f}  {table}")
    return "\n".join(lines)


def _own_server() -> int:
    """Start a PostgreSQL, fill it, measure, and remove it."""
    from bench import seed, servers

    folder = seed.VAR / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with servers.postgres() as postgres:
        url = postgres.create("pages")
        variables = {**os.environ, "DATABASE_URL": url, "VAR_DIR": str(folder)}
        for module in ("server.migrate", "bench.fill", "bench.pages"):
            done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, env=variables)
            if done.returncode:
                return done.returncode
    return 0


def main() -> int:
    if not os.environ.get("DATABASE_URL"):
        return _own_server()
    import django
    from django.core.management import call_command

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    # Pages name their style sheets by a hash of the content.
    call_command("collectstatic", verbosity=0, interactive=False)
    rounds = int(os.environ.get("PAGES_ROUNDS") or 5)
    print(report(measure(rounds, os.environ.get("PAGES_ROWS") or "*")))
    print(f"\n{sizes()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
