"""The time zone of pages."""

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from apikeys.models import APIKey
from core import time_zones


@pytest.mark.parametrize(
    ("cookie", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("Etc/GMT+5", "Etc/GMT+5"),
        ("UTC", "UTC"),
        ("", "UTC"),
        ("Middle-earth/Shire", "UTC"),
        ("../../../../etc/passwd", "UTC"),
        ("/etc/localtime", "UTC"),
        ("localtime", "UTC"),
        ("Europe/Berlin\0", "UTC"),
        ("é" * 5000, "UTC"),
    ],
)
def test_a_page_is_in_the_zone_of_the_cookie(rf, cookie, zone):
    request = rf.get("/usage/")
    request.COOKIES["timezone"] = cookie
    seen = []
    time_zones.activate_time_zone(lambda _: seen.append(timezone.get_current_timezone()))(request)
    assert [str(each) for each in seen] == [zone]
    assert timezone.get_current_timezone_name() == "UTC"


def test_api_responses_are_in_utc_whatever_the_cookie_says(rf):
    request = rf.get("/customers/api-keys")
    request.COOKIES["timezone"] = "Europe/Berlin"
    seen = []
    time_zones.activate_time_zone(lambda _: seen.append(timezone.get_current_timezone()))(request)
    assert [str(each) for each in seen] == ["UTC"]


def test_times_on_pages_are_local(alice, signed_in, issue):
    key, _token = issue("studio")
    APIKey.objects.filter(pk=key.pk).update(created_at=datetime(2026, 7, 1, 22, 30, tzinfo=UTC))
    client = signed_in(alice)
    client.cookies["timezone"] = "Europe/Berlin"
    assert "2026-07-02T00:30:00+02:00" in client.get("/keys/").text
    del client.cookies["timezone"]
    assert "2026-07-01T22:30:00+00:00" in client.get("/keys/").text
