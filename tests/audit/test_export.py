"""The trail as a file: whole, readable by programs, harmless in a spreadsheet."""

import csv
import io
import json

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command

from audit.models import Action, Event, Via
from audit.trail import Actor, record

EXPORT = "/admin/audit/event/export"


@pytest.fixture
def events(alice) -> list[Event]:
    told = [{"how": "password"}, {"url": '=HYPERLINK("http://evil.example")'}]
    return [
        record(
            Action.SIGNED_IN, account_id=alice.pk, by=Actor(alice, Via.PAGE, address), detail=one
        )
        for one, address in zip(told, ["192.0.2.7", "2001:db8::1"], strict=True)
    ]


@pytest.fixture
def staff(signed_in, sam):
    return signed_in(sam)


def test_json_lines_hold_every_event_whole(staff, events, alice):
    answer = staff.get(f"{EXPORT}/jsonl?action__exact=account.signed_in")
    assert answer["Content-Type"].startswith("application/jsonl")
    assert "no-store" in answer["Cache-Control"]
    rows = [json.loads(line) for line in answer.getvalue().decode().splitlines()]
    assert {row["id"] for row in rows} >= {event.pk for event in events}
    row = next(row for row in rows if row["id"] == events[0].pk)
    assert row["account_id"] == str(alice.pk)
    assert (row["address"], row["detail"]) == ("192.0.2.7", {"how": "password"})
    assert row["at"] == events[0].at.isoformat()


def test_csv_is_harmless_in_a_spreadsheet(staff, events):
    answer = staff.get(f"{EXPORT}/csv")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert {row["id"] for row in rows} >= {str(event.pk) for event in events}
    assert not any(cell[:1] in "=+-@\t\r" and cell for row in rows for cell in row.values())


def test_what_is_exported_is_what_the_list_shows(staff, events, issue):
    issue("studio")
    answer = staff.get(f"{EXPORT}/jsonl?action__exact=key.issued")
    rows = [json.loads(line) for line in answer.getvalue().decode().splitlines()]
    assert {row["action"] for row in rows} == {"key.issued"}


def test_an_export_is_an_event_itself(staff, sam, events):
    staff.get(f"{EXPORT}/csv?q=alice%40example.org")
    event = Event.objects.get(action=Action.STAFF_EXPORTED)
    assert (event.actor, event.via) == (sam, "admin")
    assert event.detail == {"format": "csv", "filters": "q"}


def test_whoever_may_look_may_not_take_it_all_along(client, signed_in, mallory, events):
    mallory.is_staff = True
    mallory.save()
    mallory.user_permissions.add(Permission.objects.get(codename="view_event"))
    client = signed_in(mallory)
    listed = client.get("/admin/audit/event/")
    assert listed.status_code == 200
    assert "export/csv" not in listed.text
    assert client.get(f"{EXPORT}/csv").status_code == 403
    assert not Event.objects.filter(action=Action.STAFF_EXPORTED).exists()


def test_there_is_no_third_form(staff):
    assert staff.get(f"{EXPORT}/xml").status_code == 404


def test_the_command_prints_from_a_day_on(events, capsys):
    day = events[0].at.date().isoformat()
    call_command("export_events", "--since", day)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [event.pk for event in events]
    call_command("export_events", "--until", day, "--format", "csv")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_command_says_what_a_day_looks_like():
    with pytest.raises(CommandError, match="2026-11-01"):
        call_command("export_events", "--since", "yesterday")
