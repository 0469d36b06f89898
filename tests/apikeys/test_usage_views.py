"""The usage page and its CSV."""

import csv
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from accounts import services as accounts
from apikeys import services, usage, usage_reports
from apikeys.models import DailyUse, HourlyRefusal, HourlyUse, Reason


def use(token, times: int = 1) -> None:
    for _ in range(times):
        services.validate(token.reveal())


def rows_of(page) -> dict[str, tuple[int, int]]:
    return {row.key.name: (row.calls, row.refusals) for row in page.context["report"].rows}


@pytest.mark.parametrize("times", [1, 7])
@pytest.mark.parametrize("period", usage_reports.PERIODS)
def test_the_page_shows_calls_and_refusals_of_each_key(alice, issue, signed_in, times, period):
    _key, token = issue("studio")
    gone, gone_token = issue("gone")
    use(token, times)
    use(gone_token)
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER)
    use(gone_token, 2)
    usage.flush()
    page = signed_in(alice).get("/usage/", {"period": period})
    assert rows_of(page) == {"studio": (times, 0), "gone": (1, 2)}
    assert f"API calls: {times + 1}. Refused calls: 2." in page.text
    assert "The key was deleted <b>2</b>" in page.text
    assert "<svg" in page.text


def test_the_busiest_key_and_its_share_are_on_top(alice, issue, signed_in):
    for name, times in [("studio", 1), ("laptop", 3)]:
        use(issue(name)[1], times)
    usage.flush()
    page = signed_in(alice).get("/usage/")
    assert page.context["report"].busiest.key.name == "laptop"
    assert "75% of calls" in page.text


def test_keys_without_calls_are_folded(alice, issue, signed_in):
    use(issue("studio")[1])
    issue("spare")
    usage.flush()
    table, _details, folded = signed_in(alice).get("/usage/").text.partition("<details")
    assert "studio" in table
    assert "spare" not in table
    assert "1 key without calls" in folded
    assert "spare" in folded


def test_there_is_nothing_yet_without_calls_or_without_keys(alice, issue, signed_in):
    client = signed_in(alice)
    page = client.get("/usage/")
    assert "Nothing yet" in page.text
    assert 'href="/keys/?new=1"' in page.text
    issue("studio")
    page = client.get("/usage/")
    assert "Nothing yet" in page.text
    assert 'href="/connect"' in page.text
    assert "studio" in page.text


def test_an_unknown_period_leads_to_the_default(alice, signed_in):
    client = signed_in(alice)
    assert client.get("/usage/?period=1y")["Location"] == "/usage/"
    assert client.get("/usage.csv?period=1y")["Location"] == "/usage.csv"
    assert client.get("/usage/").context["report"].period == "7d"


def test_one_key_can_be_shown_alone(alice, issue, signed_in):
    key, token = issue("studio")
    use(token, 2)
    use(issue("laptop")[1])
    usage.flush()
    page = signed_in(alice).get("/usage/", {"key": key.pk, "period": "30d"})
    assert rows_of(page) == {"studio": (2, 0)}
    assert f"?key={key.pk}&amp;period=90d" in page.text
    assert 'href="?period=30d"' in page.text, "the link to all keys"


@pytest.mark.parametrize("path", ["/usage/", "/usage.csv"])
def test_keys_of_others_and_nonsense_are_not_found(alice, mallory, issue, signed_in, path):
    theirs, _token = issue("theirs", owner=mallory)
    client = signed_in(alice)
    for key in (theirs.pk, uuid4(), "studio", ""):
        assert client.get(path, {"key": key}).status_code == 404


def test_mallory_sees_none_of_alices_usage(mallory, issue, signed_in):
    use(issue("studio")[1])
    usage.flush()
    client = signed_in(mallory)
    page = client.get("/usage/")
    assert "studio" not in page.text
    assert "Nothing yet" in page.text
    assert "studio" not in client.get("/usage.csv").text


def test_the_page_names_the_time_zone(alice, signed_in):
    client = signed_in(alice)
    assert "Times are in UTC." in client.get("/usage/").text
    client.cookies["timezone"] = "Asia/Tokyo"
    page = client.get("/usage/")
    assert "Times are in Asia/Tokyo." in page.text
    assert str(page.context["report"].zone) == "Asia/Tokyo"


def test_the_page_runs_a_bounded_number_of_queries(
    alice, issue, signed_in, django_assert_num_queries
):
    client = signed_in(alice)
    client.get("/usage/")
    for number in range(20):
        key, token = issue(f"key {number}")
        use(token)
        HourlyRefusal.objects.create(key=key, hour=timezone.now(), code="EXPIRED", calls=1)
    usage.flush()
    # Three for the session, its user and its activity; one for the navigation.
    with django_assert_num_queries(10):
        client.get("/usage/?period=90d")


def test_the_csv_has_a_line_for_each_key(alice, issue, signed_in):
    key, token = issue("studio")
    use(token, 3)
    issue("idle")
    usage.flush()
    response = signed_in(alice).get("/usage.csv?period=30d")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert 'attachment; filename="usage-30d-' in response["Content-Disposition"]
    assert "no-store" in response["Cache-Control"]
    key.refresh_from_db()
    last_use = key.last_used_at.isoformat(timespec="seconds")
    assert list(csv.reader(response.text.splitlines())) == [
        ["name", "key", "calls", "refused_calls", "last_used_at"],
        ["studio", key.masked, "3", "0", last_use],
        ["idle", response.text.splitlines()[2].split(",")[1], "0", "0", ""],
    ]


@pytest.mark.parametrize("name", ['=HYPERLINK("https://evil.example")', "+1", "-1", "@SUM(A1)"])
def test_a_spreadsheet_runs_no_name_of_a_key(alice, issue, signed_in, name):
    issue(name)
    (_head, (cell, *_rest)) = csv.reader(signed_in(alice).get("/usage.csv").text.splitlines())
    assert cell == f"'{name}"


def test_the_data_export_has_refusals_and_deletion_removes_them(alice, issue):
    key, _token = issue("studio")
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    HourlyRefusal.objects.create(key=key, hour=hour, code="EXPIRED", calls=2)
    exported = accounts.personal_data(alice)["hourly_refusals"]
    assert list(exported) == [{"key_id": key.pk, "hour": hour, "code": "EXPIRED", "calls": 2}]
    accounts.delete_account(alice)
    for model in (HourlyRefusal, HourlyUse, DailyUse):
        assert not model.objects.exists()
