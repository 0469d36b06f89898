"""The operator's default and longest lifetime of keys, wherever a key gets its expiry."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.utils import timezone

from apikeys import expiry, services
from apikeys.forms import NewKeyForm
from apikeys.models import APIKey
from tests.factories import generate_key, run_command

DAY = timedelta(days=1)
KEYS = "/customers/api-keys"


@pytest.fixture
def month(settings):
    """At most 30 days, by default 7."""
    settings.KEY_LIFETIME_MAX = 30 * DAY
    settings.KEY_LIFETIME_DEFAULT = 7 * DAY
    return settings


def post(client, url, body):
    return client.post(url, body, content_type="application/json")


def lifetime(key: APIKey) -> timedelta | None:
    """Return the lifetime of a key in whole days."""
    if key.expires_at is None:
        return None
    return timedelta(days=round((key.expires_at - key.created_at) / DAY))


# --- Pages -----------------------------------------------------------------------------------


def test_the_expiry_is_asked_in_the_open():
    form = NewKeyForm()
    assert [value for value, _label in form.fields["expires"].choices] == [
        "30", "90", "365", "date", "never",
    ]  # fmt: skip
    assert form["expires"].value() == "never"
    assert {"expires", "expires_on"} <= {field.name for field in form.main_fields}
    assert [field.name for field in form.more_fields] == ["scopes", "allowed_networks"]
    assert {field.name for field in [*form.main_fields, *form.more_fields]} | {"nonce"} == set(
        form.fields
    )


def test_the_choices_are_labelled(db):
    labels = dict(expiry.choices())
    assert labels["30"] == "30 days"
    assert (labels["date"], labels["never"]) == ("On a date", "Never")


def test_the_choices_end_at_the_maximum(settings, month):
    choices = [value for value, _label in expiry.choices()]
    assert choices == ["7", "30", "date"]
    assert NewKeyForm()["expires"].value() == "7"
    last = datetime.fromisoformat(NewKeyForm().fields["expires_on"].widget.attrs["max"]).date()
    expiry.validate_expires_at(expiry.end_of(last))
    with pytest.raises(ValidationError):
        expiry.validate_expires_at(expiry.end_of(last + DAY))
    settings.KEY_LIFETIME_MAX = 400 * DAY
    assert [value for value, _ in expiry.choices()] == ["7", "30", "90", "365", "400", "date"]


@pytest.mark.parametrize("choice", ["never", "90"])
def test_the_page_refuses_a_choice_beyond_the_maximum(alice, signed_in, month, choice):
    response = generate_key(signed_in(alice), expires=choice, scopes=["keys:manage"])
    assert response.status_code == 400
    assert set(response.context["form"].errors) == {"expires"}
    assert not APIKey.objects.exists()


def test_the_page_refuses_a_date_beyond_the_maximum_and_keeps_it(alice, signed_in, month):
    day = f"{timezone.now() + 40 * DAY:%Y-%m-%d}"
    response = generate_key(signed_in(alice), expires="date", expires_on=day, scopes=["proxy:*"])
    assert response.status_code == 400
    assert "Keys on this site work for 30 days at most" in response.text
    assert f'value="{day}"' in response.text
    assert not APIKey.objects.exists()


@pytest.mark.parametrize("fields", [{}, {"expires": ""}, {"expires": "7"}])
def test_a_form_without_a_choice_creates_a_key_with_the_default(alice, signed_in, month, fields):
    generate_key(signed_in(alice), scopes=["customers:read"], **fields)
    assert lifetime(APIKey.objects.get()) == 7 * DAY


def test_a_date_without_a_choice_is_not_ignored(alice, signed_in):
    generate_key(signed_in(alice), expires_on="2099-12-31")
    assert APIKey.objects.get().expires_at == datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "day", "expires_at"),
    [
        ("Asia/Tokyo", "2099-12-31", datetime(2099, 12, 31, 14, 59, 59, tzinfo=UTC)),
        ("America/Los_Angeles", "2099-12-31", datetime(2100, 1, 1, 7, 59, 59, tzinfo=UTC)),
        # Clocks are turned back at midnight: the day ends at the second 23:59:59.
        ("America/Santiago", "2035-04-07", datetime(2035, 4, 8, 3, 59, 59, tzinfo=UTC)),
        ("", "2099-12-31", datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_the_last_day_ends_in_the_time_zone_of_the_user(alice, signed_in, zone, day, expires_at):
    here = signed_in(alice)
    here.cookies["timezone"] = zone
    generate_key(here, expires="date", expires_on=day, scopes=["proxy:*"])
    key = APIKey.objects.get()
    assert key.expires_at == expires_at
    page = here.get("/keys/").text
    assert f"until this day ends ({zone or 'UTC'})" in page
    assert f'<time datetime="{day}T23:59:59' in page
    # The form of the page of a key has the same day.
    here.post(f"/keys/{key.pk}/", {**unchanged(key), "expiry": "date", "expiry_date": "2098-05-05"})
    page = here.get(f"/keys/{key.pk}/").text
    assert '<time datetime="2098-05-05T23:59:59' in page
    assert f"until this day ends ({zone or 'UTC'})" in page


def unchanged(key: APIKey) -> dict[str, object]:
    return {"name": key.name, "scopes": list(key.granted)}


def test_the_last_possible_day_is_that_of_the_user(month):
    latest = expiry.latest_expires_at()
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"):
        with timezone.override(zone):
            day = expiry.last_day()
            assert expiry.end_of_local(day) <= latest < expiry.end_of_local(day + DAY)


def test_the_last_day_of_the_calendar_is_too_late_everywhere(alice, signed_in):
    here = signed_in(alice)
    here.cookies["timezone"] = "Pacific/Pago_Pago"
    response = generate_key(here, expires="date", expires_on="9999-12-31", scopes=["proxy:*"])
    assert set(response.context["form"].errors) == {"expires_on"}


# --- REST ------------------------------------------------------------------------------------


def test_comfyuis_request_creates_a_key_with_the_default(alice, signed_in, month):
    body = {"name": "studio", "description": "ComfyUI"}
    assert post(signed_in(alice), KEYS, body).status_code == 201
    assert lifetime(APIKey.objects.get()) == 7 * DAY


def test_without_settings_comfyuis_request_creates_a_key_that_never_expires(alice, signed_in):
    assert post(signed_in(alice), KEYS, {"name": "studio", "description": ""}).status_code == 201
    assert APIKey.objects.get().expires_at is None


@pytest.mark.parametrize(
    "options", [{"expires_at": None}, {"expires_at": "2099-12-31"}, {"expires_in_days": 31}]
)
def test_rest_names_the_latest_time_that_is_allowed(alice, signed_in, month, options):
    response = post(signed_in(alice), KEYS, {"name": "studio", **options})
    body = response.json()
    assert (response.status_code, body["error"]) == (400, "EXPIRES_TOO_LATE")
    assert "30 days at most" in body["message"]
    latest = datetime.fromisoformat(body["latest_expires_at"])
    assert timedelta(0) <= timezone.now() + 30 * DAY - latest < timedelta(minutes=1)
    assert not APIKey.objects.exists()
    again = {"name": "studio", "expires_at": body["latest_expires_at"]}
    assert post(signed_in(alice), KEYS, again).status_code == 201


def test_a_null_expiry_over_rest_is_never_also_with_a_default(alice, signed_in, settings):
    settings.KEY_LIFETIME_DEFAULT = 7 * DAY
    post(signed_in(alice), KEYS, {"name": "studio", "expires_at": None})
    assert APIKey.objects.get().expires_at is None


@pytest.mark.parametrize(("own", "expected"), [(2, 2), (20, 7), (None, 7)])
def test_a_key_creates_keys_with_the_default_or_its_own_expiry(client, issue, month, own, expected):
    month.KEYS_MAY_CREATE_KEYS = True
    ends = timezone.now() + (own or 30) * DAY
    creator, token = issue("creator", expires_at=ends)
    if own is None:
        # It is older than the maximum.
        APIKey.objects.filter(pk=creator.pk).update(expires_at=None)
    made = client.post(
        KEYS, {"name": "made"}, "application/json", headers={"X-API-Key": token.reveal()}
    )
    assert made.status_code == 201
    assert lifetime(APIKey.objects.get(name="made")) == expected * DAY


# --- Services and commands -------------------------------------------------------------------


@pytest.mark.parametrize("days", [None, 31])
def test_no_service_creates_a_key_beyond_the_maximum(alice, issue, month, days):
    expires_at = days and timezone.now() + days * DAY
    for create in (
        lambda: issue(expires_at=expires_at),
        lambda: services.check(owner=alice, name="studio", expires_at=expires_at),
        lambda: expiry.validate_expires_at(expires_at),
    ):
        with pytest.raises(ValidationError) as refused:
            create()
        assert refused.value.code == "lifetime"
    assert not APIKey.objects.exists()


@pytest.mark.parametrize(("code", "days"), [("past", -1), ("far", 40_000)])
def test_an_expiry_is_in_the_future_and_within_a_century(code, days):
    with pytest.raises(ValidationError) as refused:
        expiry.validate_expires_at(timezone.now() + days * DAY)
    assert refused.value.code == code
    expiry.validate_expires_at(None)


@pytest.mark.parametrize(("old", "new"), [(None, 30), (100, 30), (10, 10)])
def test_a_successor_lives_no_longer_than_the_maximum(issue, settings, old, new):
    key, _token = issue(expires_at=old and timezone.now() + old * DAY)
    settings.KEY_LIFETIME_MAX = 30 * DAY
    successor, _token = services.rotate(key, overlap=timedelta())
    assert lifetime(successor) == new * DAY
    assert successor.expires_at <= timezone.now() + 30 * DAY


def test_a_key_that_is_older_than_the_maximum_stays_as_it_is(issue, settings):
    key, token = issue()
    settings.KEY_LIFETIME_MAX = DAY
    assert services.validate(token.reveal()).code is services.VerdictCode.VALID
    key.refresh_from_db()
    assert key.expires_at is None


def test_issue_key_has_the_default_and_the_maximum(alice, settings):
    settings.KEY_LIFETIME_DEFAULT = 7 * DAY
    run_command("issue_key", alice.email, "--name", "default")
    run_command("issue_key", alice.email, "--name", "never", "--expires-at", "never")
    assert lifetime(APIKey.objects.get(name="default")) == 7 * DAY
    assert lifetime(APIKey.objects.get(name="never")) is None
    settings.KEY_LIFETIME_MAX = 30 * DAY
    for option in ("--expires-at=never", "--expires-at=2099-12-31", "--expires-in-days=31"):
        with pytest.raises(CommandError, match="30 days at most"):
            run_command("issue_key", alice.email, "--name", "x", option)
