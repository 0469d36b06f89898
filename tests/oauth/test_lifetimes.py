"""Lifetimes of keys for devices and sites: the operator's default and maximum."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apikeys.models import APIKey
from oauth.models import DeviceRequest
from tests.oauth.conftest import confirm

DAY = timedelta(days=1)


def test_the_preset_expiry_of_a_device_is_the_default(begin, signed_in, alice, settings):
    settings.KEY_LIFETIME_DEFAULT = 14 * DAY
    page = signed_in(alice).post("/device", {"user_code": begin().user_code})
    assert page.context["form"]["expires"].value() == "14"


@pytest.mark.parametrize("choice", ["never", "90"])
def test_a_device_gets_no_key_beyond_the_maximum(begin, signed_in, alice, settings, choice):
    settings.KEY_LIFETIME_MAX = settings.KEY_LIFETIME_DEFAULT = 30 * DAY
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, expires=choice)
    assert refused.status_code == 400
    assert set(refused.context["form"].errors) == {"expires"}
    assert machine.row.decided_at is None


def test_a_page_for_a_device_warns_of_no_maximum(begin, signed_in, alice, settings):
    settings.KEY_LIFETIME_MAX = settings.KEY_LIFETIME_DEFAULT = 30 * DAY
    page = signed_in(alice).post("/device", {"user_code": begin().user_code})
    assert "at most" not in page.text


def test_a_grant_that_is_older_than_the_maximum_gives_a_key_within_it(
    begin, signed_in, alice, settings
):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    assert DeviceRequest.objects.get().key_expires_at is None
    settings.KEY_LIFETIME_MAX = 30 * DAY
    machine.poll()
    assert 29 * DAY < APIKey.objects.get().expires_at - timezone.now() <= 30 * DAY
