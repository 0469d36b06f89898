"""The admin's front page: numbers, hints about the configuration, and the lists below."""

from datetime import timedelta
from html import unescape

import pytest
from django.contrib import admin
from django.core import checks
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.cache import invalidation
from apikeys.models import APIKey, DailyTotal, DailyUse
from audit.models import Action
from audit.services import Actor, record
from core import admin_mixins
from outbox.models import Mail
from staff import front_page, hints
from tests.factories import failing_statements

FRONT = "/admin/"


def figures(client) -> dict[str, front_page.Figure]:
    return {str(figure.label): figure for figure in client.get(FRONT).context["figures"]}


def titles(client) -> list[str]:
    return [str(hint.title) for hint in client.get(FRONT).context["hints"]]


@pytest.fixture
def mail_server(settings) -> None:
    settings.HAS_MAIL_SERVER = True


def add_mail(*, tries: int) -> None:
    Mail.objects.create(to="alice@example.org", subject="Your key", tries=tries)


# --- Numbers ---------------------------------------------------------------------------------


def test_the_numbers_count_rows_and_link_to_them(superuser_browser, issue, mail_server):
    _kept, exposed = issue("studio")[0], issue("laptop")[0]
    services.suspend(exposed, by=Actor())
    record(Action.KEY_LEAKED, account_id=exposed.owner_id, key=exposed, by=Actor())
    User.objects.create_user("early@example.org", date_joined=timezone.now() - timedelta(days=99))
    for tries in (0, 1, 2, 9):
        add_mail(tries=tries)
    shown = figures(superuser_browser)
    accounts = User.objects.count()
    assert f"{accounts - 1} new" in shown["Accounts"].value.note
    for label, count in (
        ("Accounts", accounts), ("Live keys", 1), ("Exposed keys", 1), ("Failing email", 2)
    ):  # fmt: skip
        assert shown[label].value.text == str(count)
        listed = superuser_browser.get(shown[label].url).context["cl"]
        assert listed.result_count == count, label
    assert [label for label in shown if shown[label].value.is_alarming][:2] == [
        "Exposed keys",
        "Failing email",
    ]


def test_keys_exposed_long_ago_are_not_counted(superuser_browser, issue):
    key, _token = issue()
    long_ago = timezone.now() - timedelta(days=front_page.DAYS)
    record(Action.KEY_LEAKED, account_id=key.owner_id, key=key, by=Actor(), at=long_ago)
    assert figures(superuser_browser)["Exposed keys"].value.text == "0"


def test_numbers_are_counted_up_to_a_bound(superuser_browser, issue, monkeypatch):
    monkeypatch.setattr(admin_mixins, "MAX_ROWS", 2)
    for number in range(3):
        issue(f"render {number}")
    assert figures(superuser_browser)["Live keys"].value.text == "2+"


def test_dirty_buckets_of_the_validation_cache_are_counted(
    superuser_browser, settings, tmp_path, monkeypatch
):
    table = invalidation.VersionTable(tmp_path / "versions")
    monkeypatch.setattr(invalidation, "version_table", lambda: table)
    assert figures(superuser_browser)["Dirty cache buckets"].value.text == "0"
    table.begin_write([7, 8])
    value = figures(superuser_browser)["Dirty cache buckets"].value
    assert (value.text, value.is_alarming) == ("2", True)


def test_calls_of_the_last_30_days_are_shown_as_a_chart_and_as_a_table(superuser_browser):
    today = timezone.now().date()
    DailyTotal.objects.create(day=today, calls=1234, refusals=56)
    DailyTotal.objects.create(day=today - timedelta(days=29), calls=1000)
    DailyTotal.objects.create(day=today - timedelta(days=30), calls=777_777)
    page = superuser_browser.get(FRONT)
    usage = page.context["usage"]
    assert (usage.calls, usage.refusals, len(usage.chart.bars)) == (2234, 56, front_page.DAYS)
    for text in ("2,234", "1,234", "56", "<svg"):
        assert text in page.text, text


def test_a_number_whose_store_does_not_answer_is_unknown(superuser_browser, issue, monkeypatch):
    issue()

    def fail() -> None:
        raise OSError("No such file")

    monkeypatch.setattr(invalidation, "version_table", fail)
    with failing_statements(DailyTotal._meta.db_table), failing_statements(APIKey._meta.db_table):
        page = superuser_browser.get(FRONT)
    assert page.status_code == 200
    assert page.context["usage"] is None
    unknown = {str(item.label) for item in page.context["figures"] if item.value is None}
    assert unknown == {"Live keys", "Dirty cache buckets"}
    assert "Not available at the moment." in page.text


def test_the_number_of_queries_does_not_depend_on_the_number_of_rows(
    superuser_browser, alice, issue, mail_server
):
    def count() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert superuser_browser.get(FRONT).status_code == 200
        return len(captured)

    count()
    before = count()
    for number in range(20):
        key, _token = issue(f"render {number}")
        DailyUse.objects.create(key=key, day=timezone.now().date(), calls=1)
        User.objects.create_user(f"person{number}@example.org")
        add_mail(tries=number)
    assert count() == before <= 16


# --- Roles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "labels"),
    [
        ("support", ["Accounts", "Live keys", "Exposed keys"]),
        ("security", ["Accounts", "Live keys", "Exposed keys"]),
        (
            "administrator",
            ["Accounts", "Live keys", "Exposed keys", "Failing email", "Dirty cache buckets"],
        ),
    ],
)
def test_each_role_sees_the_numbers_of_its_lists(open_as, request, role, labels):
    assert list(figures(open_as(request.getfixturevalue(role)))) == labels


def test_staff_without_permissions_see_neither_numbers_nor_the_lookup(open_as, make_staff_member):
    page = open_as(make_staff_member()).get(FRONT)
    assert page.context["figures"] == []
    assert "usage" not in page.context
    assert "/admin/lookup/" not in page.text


# --- Hints -----------------------------------------------------------------------------------


@pytest.fixture
def no_warnings(monkeypatch) -> None:
    """Leave the machine of the tests out: the modes of its files vary."""
    monkeypatch.setattr(hints.checks, "run_checks", lambda **_: [])


def test_administrators_see_hints_about_the_configuration(
    open_as, administrator, settings, no_warnings
):
    client = open_as(administrator)
    settings.HAS_MAIL_SERVER, settings.NO_MAIL, settings.PLAINTEXT_PUBLIC = True, False, False
    settings.STAFF_SECOND_FACTOR, settings.DEBUG = False, False
    settings.SECURITY_CONTACT = ["mailto:security@example.org"]
    assert titles(client) == ["Staff pages open with a password alone"]
    settings.HAS_MAIL_SERVER, settings.SECURITY_CONTACT = False, []
    settings.PLAINTEXT_PUBLIC = True
    assert set(titles(client)) >= {
        "This site is reached over plain HTTP",
        "There is no mail server",
        "There is no security contact",
    }
    settings.NO_MAIL = True
    assert "Email is off" in titles(client)


def test_warnings_of_system_checks_are_hints(open_as, administrator, monkeypatch):
    messages = [
        checks.Warning("Others can read var/.", hint="Run: chmod", id="config.W001"),
        checks.Info("Only for information."),
    ]
    monkeypatch.setattr(hints.checks, "run_checks", lambda **_: messages)
    page = open_as(administrator).get(FRONT)
    shown = [(hint.title, hint.remedy) for hint in page.context["hints"]]
    assert ("Others can read var/.", "Run: chmod") in shown
    assert "Only for information." not in page.text


def test_other_staff_see_only_the_hint_about_plain_http(open_as, support, settings):
    settings.HAS_MAIL_SERVER, settings.PLAINTEXT_PUBLIC = False, True
    assert titles(open_as(support)) == ["This site is reached over plain HTTP"]


# --- Look-up and lists -----------------------------------------------------------------------


def test_a_key_is_looked_up_from_the_front_page_by_post(security_browser, issue):
    key, token = issue("studio")
    page = security_browser.get(FRONT)
    assert '<form class="card front-lookup" method="post" action="/admin/lookup/"' in page.text
    found = security_browser.post("/admin/lookup/", {"token": token.reveal()}).context["found"]
    assert found.key == key


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_an_empty_list_says_what_it_is_for(superuser_browser, model):
    text = str(admin.site._registry[model].empty_text)
    assert text.endswith(".")
    # Staff always have an account, and there are always groups and events.
    if not model._base_manager.exists():
        url = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        assert text in unescape(superuser_browser.get(url).text)


def test_a_list_without_matches_says_so(superuser_browser):
    page = superuser_browser.get("/admin/apikeys/apikey/", {"state": "suspended"})
    assert "No entry matches" in page.text


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_names_of_lists_are_short(superuser_browser, model):
    url = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    title = superuser_browser.get(url).context["title"]
    assert len(title.split()) <= 2, title
