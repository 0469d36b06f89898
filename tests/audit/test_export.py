"""Exports of the audit log: complete, machine-readable, without spreadsheet formulas."""

import csv
import io
import json
import re

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command

from audit.models import Action, Event, Via
from audit.services import Actor, record

EXPORT = "/admin/audit/event/export"


@pytest.fixture
def events(alice) -> list[Event]:
    details = [{"how": "password"}, {"url": '=HYPERLINK("http://evil.example")'}]
    return [
        record(Action.SIGNED_IN, account_id=alice.pk, by=Actor(alice, Via.PAGE, ip), detail=detail)
        for detail, ip in zip(details, ["192.0.2.7", "2001:db8::1"], strict=True)
    ]


def test_json_lines_have_all_events_with_all_fields(staff, events, alice):
    answer = staff.get(f"{EXPORT}/jsonl?action__exact=account.signed_in")
    assert answer["Content-Type"].startswith("application/jsonl")
    assert "no-store" in answer["Cache-Control"]
    rows = [json.loads(line) for line in answer.getvalue().decode().splitlines()]
    assert {row["id"] for row in rows} >= {event.pk for event in events}
    row = next(row for row in rows if row["id"] == events[0].pk)
    assert row["account_id"] == str(alice.pk)
    assert (row["address"], row["detail"]) == ("192.0.2.7", {"how": "password"})
    assert row["at"] == events[0].at.isoformat()


def test_csv_has_the_same_fields_with_the_detail_as_json(staff, events, alice):
    record(Action.SIGNED_IN, account_id=alice.pk, by=Actor(), detail={"name": "スタジオ"})
    exports = [
        staff.get(f"{EXPORT}/{form}?action__exact=account.signed_in").getvalue().decode()
        for form in ("csv", "jsonl")
    ]
    lines = [json.loads(line) for line in exports[1].splitlines()]
    rows = list(csv.DictReader(io.StringIO(exports[0], newline="")))
    assert [json.loads(row.pop("detail")) for row in rows] == [line.pop("detail") for line in lines]
    assert rows == [
        {name: "" if value is None else str(value) for name, value in line.items()}
        for line in lines
    ]
    # As people write it, for a search in the file.
    assert all("スタジオ" in export for export in exports)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_name_of_the_file_is_fixed_except_for_the_date(staff, events, form):
    answer = staff.get(f"{EXPORT}/{form}?q=a%22%0D%0Ab&action__exact=key.issued")
    assert re.fullmatch(
        rf'attachment; filename="comfyui-keys-events-\d{{4}}-\d\d-\d\d\.{form}"',
        answer["Content-Disposition"],
    )


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_csv_has_no_formulas(staff, events, formula):
    # No event has such an id today; the export doesn't rely on it.
    odd = Event.objects.create(action=Action.SIGNED_IN, via=Via.PAGE, public_id=formula)
    answer = staff.get(f"{EXPORT}/csv")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode(), newline="")))
    assert {row["id"] for row in rows} >= {str(event.pk) for event in (*events, odd)}
    (row,) = [row for row in rows if row["id"] == str(odd.pk)]
    assert row["public_id"] == f"'{formula}"
    assert not any(cell[:1] in "=+-@\t\r" and cell for row in rows for cell in row.values())


def test_the_export_has_the_filters_of_the_list(staff, events, issue):
    issue("studio")
    answer = staff.get(f"{EXPORT}/jsonl?action__exact=key.issued")
    rows = [json.loads(line) for line in answer.getvalue().decode().splitlines()]
    assert {row["action"] for row in rows} == {"key.issued"}


def test_an_export_is_recorded(staff, sam, events):
    staff.get(f"{EXPORT}/csv?q=alice%40example.org")
    event = Event.objects.get(action=Action.STAFF_EXPORTED)
    assert (event.actor, event.via) == (sam, "admin")
    assert event.detail == {"format": "csv", "filters": "q"}


def test_the_view_permission_does_not_allow_the_export(client, signed_in, mallory, events):
    mallory.is_staff = True
    mallory.save()
    mallory.user_permissions.add(Permission.objects.get(codename="view_event"))
    client = signed_in(mallory)
    listed = client.get("/admin/audit/event/")
    assert listed.status_code == 200
    assert "export/csv" not in listed.text
    assert client.get(f"{EXPORT}/csv").status_code == 403
    assert not Event.objects.filter(action=Action.STAFF_EXPORTED).exists()


def test_an_unknown_format_is_not_found(staff):
    assert staff.get(f"{EXPORT}/xml").status_code == 404


def test_the_command_filters_by_time(events, capsys):
    day = events[0].at.date().isoformat()
    call_command("export_events", "--since", day)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [event.pk for event in events]
    call_command("export_events", "--until", day, "--format", "csv")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_command_rejects_an_invalid_day_with_an_example():
    with pytest.raises(CommandError, match="2026-11-01"):
        call_command("export_events", "--since", "yesterday")


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "2026-02-30"])
def test_any_day_can_be_searched(staff, day):
    assert staff.get("/admin/audit/event/", {"q": day}).status_code == 200


def test_a_time_before_year_one_is_rejected_with_a_message():
    with pytest.raises(CommandError, match="not a date or time"):
        call_command("export_events", "--since=0001-01-01T00:00:00+14:00")
