"""A hundred thousand accounts, a million keys: what a page asks does not grow with what there is.

Counted are queries, and the rows that they read; times are in docs/deployment.md. The pages are
the real ones, their statements are caught on the way, and the database is asked how it runs them.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from html import unescape
from typing import Any
from uuid import UUID

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialApp
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from apikeys import notices, services, usage
from apikeys.models import APIKey, DailyUse, HourlyRefusal, HourlyUse, KeyNetwork, Reason
from apikeys.services import VerdictCode
from audit.models import Action, Event, Via
from audit.services import Actor
from core import admin_mixins
from oauth.models import Site
from outbox.models import Mail
from sites.models import ProtectedSite
from tests.conftest import PASSWORD

# As many accounts, keys, events … as tell reading all from reading some. With fewer rows PostgreSQL
# reads whole tables where there is an index; SQLite does not estimate what that costs.
MANY = 20_000 if connection.vendor == "postgresql" else 8_000
# How far a list counts in these tests, and how far it leads.
BOUND = 300
# What a page may read of one table: twice the bound, as what is counted and what is shown.
FEW_ROWS = 1_000
# The same in steps of SQLite's machine, of which reading a row takes some.
FEW_STEPS = 35_000

LARGE = [User, APIKey, Event, DailyUse, HourlyUse, HourlyRefusal, KeyNetwork, EmailAddress]
TABLES = {model._meta.db_table for model in LARGE}

KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"
ACCOUNTS = "/admin/accounts/user/"
ADDRESSES = "/admin/account/emailaddress/"


# --- How many queries ------------------------------------------------------------------------


def add_keys(owner: User, numbers: range) -> None:
    APIKey.objects.bulk_create(
        APIKey(
            owner=owner,
            name=f"render {number}",
            folded_name=f"render {number}",
            public_id=f"ffff{number:08x}",
            encoded="never matches",
            created_at=timezone.now() - timedelta(hours=number),
        )
        for number in numbers
    )


def queries(client, url: str, query: Any = None) -> int:
    with CaptureQueriesContext(connection) as asked:
        response = client.get(url, query)
    assert response.status_code == 200, response
    return len(asked)


@pytest.mark.parametrize(
    ("url", "at_most"),
    [
        ("/keys/", 8),
        ("/keys/?q=render", 8),
        ("/keys/?q=none", 7),
        ("/usage/?period=24h", 10),
        ("/usage/?period=90d", 10),
        ("/customers/usage?period=90d", 9),
    ],
)
def test_a_persons_page_asks_as_much_for_five_hundred_keys_as_for_one(
    alice, signed_in, url, at_most
):
    client = signed_in(alice)
    add_keys(alice, range(1))
    one = queries(client, url)
    add_keys(alice, range(1, 500))
    assert queries(client, url) == one <= at_most
    if url == "/keys/":
        assert queries(client, "/keys/?page=25") == one


@pytest.fixture
def one_of_each(alice, issue) -> None:
    """Enough that every list of the staff pages has rows that differ."""
    for number in range(5):
        owner = User.objects.create_user(f"person{number}@example.org", name=f"Person {number}")
        EmailAddress.objects.create(user=owner, email=owner.email)
        key, _token = issue(owner=owner)
        services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=Actor(owner, Via.PAGE))
        Mail.objects.create(to=owner.email, subject="Your key")
        Group.objects.create(name=f"group {number}")
        Site.objects.create(origin=f"https://comfy{number}.example", added_by=owner)
        ProtectedSite.objects.create(origin=f"https://comfy{number}.example", added_by=owner)
    for name in ("Google", "GitHub"):
        SocialApp.objects.create(provider=name.lower(), name=name, client_id="x", secret="x")


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_a_list_for_staff_asks_as_much_for_a_full_page_as_for_one_row(staff, one_of_each, model):
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    row = model._default_manager.first()
    # Django remembers what kinds of rows there are.
    staff.get(url)
    one = queries(staff, url, {f"{model._meta.pk.name}__exact": row.pk})
    assert queries(staff, url) == one <= 8
    # Two of them find out whose it is, and write down who looked.
    assert queries(staff, f"{url}{row.pk}/change/") <= 9
    for link in offered(staff, url):
        assert queries(staff, link) <= one, link


@pytest.mark.parametrize(("page", "at_most"), [("change", 9), ("overview", 18)])
def test_the_page_of_an_account_asks_as_much_for_five_hundred_keys_as_for_one(
    staff, alice, page, at_most
):
    add_keys(alice, range(1))
    url = f"{ACCOUNTS}{alice.pk}/{page}/"
    # Django remembers what kinds of rows there are.
    staff.get(url)
    one = queries(staff, url)
    add_keys(alice, range(1, 500))
    keys = APIKey.objects.filter(owner=alice)
    KeyNetwork.objects.bulk_create(
        KeyNetwork(key=key, network="192.0.2.0/24", first_used_at=timezone.now()) for key in keys
    )
    DailyUse.objects.bulk_create(
        DailyUse(key=key, day=timezone.now().date(), calls=1) for key in keys
    )
    assert queries(staff, url) == one <= at_most


def offered(client, url: str) -> list[str]:
    """Every filter, order and page that a list leads to."""
    page = unescape(client.get(url).text)
    return sorted({url + link for link in re.findall(r'href="(\?[^"]*)"', page)})


@pytest.fixture
def bound(monkeypatch) -> int:
    monkeypatch.setattr(admin_mixins, "MAX_ROWS", BOUND)
    monkeypatch.setattr(admin_mixins, "MAX_COMMON", BOUND // 2)
    return BOUND


# --- How the database runs it ----------------------------------------------------------------


@dataclass
class Statement:
    """What was asked of the database, as its driver got it."""

    sql: str
    parameters: Any = field(repr=False)

    @property
    def can_run_again(self) -> bool:
        return not self.sql.startswith("INSERT")

    def explained(self, how: str) -> list[tuple[Any, ...]]:
        """What the database says of it. What it changes anew is undone."""
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"{how} {self.sql}", self.parameters)
            said = list(cursor.fetchall()) if cursor.description else []
            transaction.set_rollback(True)
        return said


@contextmanager
def caught() -> Iterator[list[Statement]]:
    statements: list[Statement] = []

    def catch(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.strip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            statements.append(Statement(sql.strip(), parameters))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(catch):
        yield statements


def assert_indexed(statements: list[Statement]) -> None:
    """None of these reads a large table from one end to the other, with or without an index."""
    assert any(table in statement.sql for statement in statements for table in TABLES)
    for statement in statements:
        if connection.vendor == "postgresql":
            _assert_indexed_on_postgresql(statement)
        else:
            _assert_indexed_on_sqlite(statement)


def _assert_indexed_on_sqlite(statement: Statement) -> None:
    steps = [detail for *_ids, detail in statement.explained("EXPLAIN QUERY PLAN")]
    names = TABLES | {
        alias
        for table, alias in re.findall(r'"(\w+)" (?:AS )?"?([UVWT]\d+)"?', statement.sql)
        if table in TABLES
    }
    for step in steps:
        scanned = re.match(r"SCAN (\w+)", step)
        if scanned and scanned[1] in names and " USING " not in step:
            # To count no further than the bound, the first rows that there are need no index. How
            # many steps that takes, is below.
            assert " LIMIT " in statement.sql, (step, statement.sql)
    if not statement.can_run_again:
        return
    # An index that is read from end to end is no better. Its virtual machine counts for us.
    taken = [0]

    def count() -> None:
        taken[0] += 100

    connection.connection.set_progress_handler(count, 100)
    try:
        statement.explained("")
    finally:
        connection.connection.set_progress_handler(None, 0)
    assert taken[0] < FEW_STEPS, (steps, statement.sql)


def _assert_indexed_on_postgresql(statement: Statement) -> None:
    how = "ANALYZE, FORMAT JSON" if statement.can_run_again else "FORMAT JSON"
    ((explained,),) = statement.explained(f"EXPLAIN ({how})")
    plan = explained if isinstance(explained, list) else json.loads(explained)
    for node, is_cut_short in _nodes(plan[0]["Plan"]):
        if node["Node Type"] in {"Sort", "Incremental Sort"}:
            rows = sum(below.get("Actual Rows", 0) for below in node["Plans"])
            assert rows <= FEW_ROWS, f"sorts {rows} rows: {statement.sql}"
        if node.get("Relation Name") not in TABLES:
            continue
        read = sum(
            node.get(kind, 0)
            for kind in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        ) * node.get("Actual Loops", 1)
        step = f"{node['Node Type']} of {node['Relation Name']}, {read} rows: {statement.sql}"
        # As on SQLite: so many rows are soon counted.
        assert node["Node Type"] != "Seq Scan" or is_cut_short, step
        assert read <= FEW_ROWS, step


def _nodes(plan: dict[str, Any], cut: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each step, and whether it ends as soon as there are enough rows."""
    yield plan, cut
    for below in plan.get("Plans", []):
        # A nested loop reads rows as they are needed; a sort or a hash reads all before the first.
        kind = plan["Node Type"]
        yield from _nodes(below, kind == "Limit" or (cut and kind == "Nested Loop"))


def spread(number: int) -> str:
    """Twelve digits that are another's for no other number, and nobody's neighbours."""
    return f"{number * 0x9E3779B97F4B % 2**48:012x}"


@pytest.fixture(scope="module")
def crowd(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """MANY of everything, over twenty years, for this file's tests alone."""
    with django_db_blocker.unblock(), transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # Rows are made in between for longer than anybody else's transaction may idle.
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        _fill()
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # Without names it also waits for tables of the server that others analyze.
                cursor.execute(f"ANALYZE {', '.join(sorted(TABLES))}")
        yield
        transaction.set_rollback(True)


def _fill() -> None:
    now = timezone.now()
    numbers = range(MANY)
    ago = [now - timedelta(days=7300 / MANY) * number for number in numbers]
    users = [
        User(
            email=f"person{number:05}@example.org",
            name=f"Ada{number:05} Lovelace",
            password="!",
            is_active=number % 200 != 0,
            is_staff=number % 1000 == 1,
            date_joined=ago[number],
        )
        for number in numbers
    ]
    User.objects.bulk_create(users)
    EmailAddress.objects.bulk_create(
        EmailAddress(user=user, email=user.email, verified=number % 100 != 0, primary=True)
        for number, user in enumerate(users)
    )
    keys = [
        APIKey(
            id=UUID(hex=spread(number) + "0" * 20),
            owner=user,
            name=f"Studio{number:05} LAN",
            folded_name=f"studio{number:05} lan",
            public_id=spread(number),
            # As long as a hash is: what reading the whole table costs depends on it.
            encoded="never matches" * 10,
            created_at=ago[number],
            expires_at=now + timedelta(days=-1 if number % 100 == 1 else 10)
            if number % 10 == 1
            else None,
            suspended_at=now if number % 100 == 4 else None,
            revoked_at=now if number % 100 == 2 else None,
            revoked_reason=Reason.DELETED_BY_OWNER if number % 100 == 2 else "",
        )
        for number, user in enumerate(users)
    ]
    APIKey.objects.bulk_create(keys)
    Event.objects.bulk_create(
        Event(
            at=key.created_at,
            action=Action.KEY_REVOKED if number % 100 == 2 else Action.KEY_ISSUED,
            account=key.owner,
            actor=key.owner,
            key_id=key.pk,
            public_id=key.public_id,
            via=[Via.COMMAND, Via.ADMIN, Via.API, Via.PAGE][min(number % 100, 3)],
        )
        for number, key in enumerate(keys)
    )
    DailyUse.objects.bulk_create(DailyUse(key=key, day=now.date(), calls=1) for key in keys)
    HourlyUse.objects.bulk_create(HourlyUse(key=key, hour=now, calls=1) for key in keys)
    HourlyRefusal.objects.bulk_create(
        HourlyRefusal(key=key, hour=now, code="EXPIRED", calls=1) for key in keys
    )
    KeyNetwork.objects.bulk_create(
        KeyNetwork(key=key, network="192.0.2.0/24", first_used_at=now) for key in keys
    )


@pytest.mark.parametrize("url", [KEYS, EVENTS, ACCOUNTS, ADDRESSES])
def test_whatever_a_list_for_staff_offers_is_read_by_an_index(crowd, staff, bound, url):
    links = offered(staff, url)
    assert len(links) >= 4, "filters, orders and pages"
    for link in [url, f"{url}?p={bound // 100}", *links]:
        with caught() as statements:
            response = staff.get(link)
        assert response.status_code == 200, link
        assert_indexed(statements)


@pytest.mark.parametrize("url", [KEYS, EVENTS, ACCOUNTS, ADDRESSES])
def test_what_staff_search_is_found_by_an_index(crowd, staff, bound, url):
    for words in (
        "person01234@example.org",
        "PERSON0123",
        "ada01234 love",
        f"comfyui-{spread(1234)}…",
        spread(1234)[:6],
        "studio01234 lan",
        f"person01234@example.org {spread(1234)}",
        "nobody knows",
        "2026-11-24",
    ):
        with caught() as statements:
            response = staff.get(url, {"q": words})
        assert response.status_code == 200
        assert_indexed(statements)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (KEYS, "studio"),
        (KEYS, "person"),
        (KEYS, "studio person"),
        (KEYS, "studio person01234@"),
        (KEYS, "studio person0123"),
        (EVENTS, "person"),
        (ACCOUNTS, "studio"),
        (ACCOUNTS, "ada person"),
        (ADDRESSES, "person"),
    ],
)
def test_a_word_that_all_rows_begin_with_is_found_by_an_index(crowd, staff, bound, url, words):
    with caught() as statements:
        response = staff.get(url, {"q": words})
    assert response.status_code == 200
    assert_indexed(statements)
    rows = list(response.context["cl"].result_list)
    if "0123" in words:
        # A rare word beside the common one: those rows, and all of them.
        assert {str(key.owner)[:10] for key in rows} == {"person0123"}
        assert len(rows) == (1 if "01234" in words else 10)
        assert "Enter more characters" not in response.text
    else:
        assert response.text.count("Enter more characters") == 1


@pytest.mark.parametrize("state", ["live", "suspended", "revoked", "expired"])
def test_a_search_within_a_filter_is_found_by_an_index(crowd, staff, bound, state):
    with caught() as statements:
        staff.get(KEYS, {"q": "person0123", "state": state})
    assert_indexed(statements)


def test_no_other_list_for_staff_has_a_large_table():
    large = {
        reverse(f"admin:{m._meta.app_label}_{m._meta.model_name}_changelist")
        for m in LARGE
        if m in admin.site._registry
    }
    assert large == {KEYS, EVENTS, ACCOUNTS, ADDRESSES}
    large_lists = [
        model
        for model, made in admin.site._registry.items()
        if isinstance(made, admin_mixins.LargeTableAdmin)
    ]
    # Sites are few.
    assert set(large_lists) == {APIKey, Event, User, EmailAddress, Site, ProtectedSite}


def test_single_rows_for_staff_are_read_by_an_index(crowd, staff):
    key = APIKey.objects.filter(revoked_at=None).first()
    event = Event.objects.first()
    for url in (
        f"{KEYS}{key.pk}/change/",
        f"{KEYS}{key.pk}/revoke/",
        f"{KEYS}?owner__id__exact={key.owner_id}",
        f"{KEYS}{key.pk}/suspend/",
        f"{ACCOUNTS}{key.owner_id}/change/",
        f"{ACCOUNTS}{key.owner_id}/overview/",
        f"{EVENTS}?account__id__exact={key.owner_id}",
        f"{EVENTS}?key_id__exact={key.pk}",
        f"{EVENTS}{event.pk}/change/",
        f"{ADDRESSES}{EmailAddress.objects.first().pk}/change/",
    ):
        with caught() as statements:
            assert staff.get(url).status_code == 200, url
        assert_indexed(statements)


def test_the_numbers_on_the_front_page_for_staff_are_read_by_an_index(crowd, staff, bound):
    with caught() as statements:
        assert staff.get("/admin/").status_code == 200
    assert_indexed(statements)


def test_all_of_an_account_is_read_by_an_index_however_many_keys_it_has(crowd, alice, staff):
    add_keys(alice, range(500))
    with caught() as statements:
        assert staff.get(f"{ACCOUNTS}{alice.pk}/overview/").status_code == 200
    assert_indexed(statements)


@pytest.mark.parametrize(
    "url",
    [
        "/keys/",
        "/keys/?page=25",
        "/keys/?q=render 7",
        "/usage/?period=24h",
        "/usage/?period=90d",
        "/usage/?period=90d&key={key}",
        "/usage.csv?period=30d",
        "/customers/usage",
        "/customers/usage?period=90d&time_zone=Asia/Kolkata",
        "/customers/api-keys?limit=100",
        "/customers/api-keys?limit=100&q=render 7&state=unused",
        "/customers/api-keys/{key}",
        "/keys/{key}/",
        "/keys/{key}/first-use",
        "/account/",
        "/account/activity",
        "/account/activity?page=3",
        "/account/activity?kind=keys",
        "/account/activity?key={key}",
        "/account/sessions",
        "/account/delete",
    ],
)
def test_a_persons_page_is_read_by_an_index(crowd, bound, alice, signed_in, url):
    add_keys(alice, range(500))
    key = APIKey.objects.filter(owner=alice).first()
    assert key is not None
    url = url.format(key=key.pk)
    made = {"action": Action.KEY_CHANGED, "account": alice, "actor": alice, "via": Via.PAGE}
    # More than a page may read.
    Event.objects.bulk_create(Event(**made, key_id=key.pk) for _number in range(2 * FEW_ROWS))
    client = signed_in(alice)
    client.cookies["timezone"] = "Asia/Kolkata"
    with caught() as statements:
        assert client.get(url).status_code == 200
    assert_indexed(statements)


def test_what_is_done_with_a_key_is_done_by_an_index(crowd, alice, client, issue):
    with caught() as statements:
        key, token = issue("laptop")
        assert services.validate(token.reveal()).code is VerdictCode.VALID
        client.post("/api/v1/keys/validate", headers={"X-API-Key": token.reveal()})
        usage.flush()
        successor, _token = services.rotate(key, overlap=timedelta())
        assert services.validate(token.reveal()).code is VerdictCode.REVOKED
        services.revoke(successor, reason=Reason.DELETED_BY_OWNER)
    assert len(statements) > 10
    assert_indexed(statements)


def test_the_counts_of_many_keys_are_written_by_an_index(crowd):
    for key_id in APIKey.objects.values_list("pk", flat=True)[:200]:
        usage.count(key_id)
        usage.count_refusal(key_id, "EXPIRED")
    with caught() as statements:
        usage.flush()
    assert any("UPDATE" in statement.sql for statement in statements)
    assert_indexed(statements)


def test_the_keys_that_need_a_notice_are_found_by_an_index(crowd, alice, monkeypatch):
    monkeypatch.setattr(notices, "_KEYS_PER_RUN", 10)
    # Before the keys of the crowd expire, none of which is due; a week before; a day before.
    for ahead in (timedelta(), timedelta(days=4), timedelta(days=9, hours=1)):
        now = timezone.now() + ahead
        monkeypatch.setattr(timezone, "now", lambda now=now: now)
        with caught() as statements:
            assert notices.send(part=0x55) > 1
        monkeypatch.undo()
        monkeypatch.setattr(notices, "_KEYS_PER_RUN", 10)
        assert_indexed(statements)


def test_people_sign_in_by_an_index(crowd, alice, client):
    with caught() as statements:
        response = client.post("/login", {"login": alice.email, "password": PASSWORD})
    assert response["Location"] == "/keys/"
    assert_indexed(statements)
