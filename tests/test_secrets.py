"""A key's plaintext appears only in the one response that shows it."""

import logging
import pickle
import re
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib.sessions.models import Session
from django.core import mail, serializers
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from apikeys import services, usage
from apikeys.cache import verified
from apikeys.log_redaction import Formatter
from apikeys.models import APIKey, DailyUse, Reason
from apikeys.services import validation
from audit.models import Event
from tests.conftest import show_who

SECRET = slice(20, 56)


@pytest.fixture
def traces_of_a_key(alice, sam, client, caplog):
    """A key that was created on the page, used, viewed by staff and deleted; and all its traces."""
    for name in ["", "django", "django.request"]:
        caplog.set_level(logging.DEBUG, name)
    with CaptureQueriesContext(connection):
        return live_through(alice, sam, client)


def live_through(alice, sam, client):
    client.force_login(alice)
    show_who(client, alice)
    response = client.post("/keys/generate", {"name": "studio", "nonce": uuid4()})
    (plaintext,) = re.findall(r"comfyui-[0-9a-f]{64}", response.text)
    key = APIKey.objects.get()
    pages = [
        client.get(path)
        for path in ["/keys/", "/keys/?new=1", f"/keys/{key.pk}/delete", "/usage/", "/account/"]
    ]
    caller = Client()
    for headers in [{"X-API-Key": plaintext}, {"Authorization": f"Bearer {plaintext}"}]:
        pages += [
            caller.post("/customers", headers=headers),
            caller.get("/customers/me", headers=headers),
            caller.get("/customers/api-keys", headers=headers),
            caller.get(f"/customers/me?key={plaintext}", headers=headers),
            caller.post("/api/v1/keys/validate", headers=headers),
            caller.get("/nothing", headers=headers),
        ]
    usage.flush()
    staff = Client()
    staff.force_login(sam)
    pages += [
        staff.get(path)
        for path in [
            "/admin/",
            "/admin/apikeys/apikey/",
            f"/admin/apikeys/apikey/{key.pk}/change/",
            f"/admin/apikeys/apikey/{key.pk}/history/",
            "/admin/audit/event/",
            *(f"/admin/audit/event/{event.pk}/change/" for event in Event.objects.all()),
            "/admin/accounts/user/",
            f"/admin/accounts/user/{alice.pk}/change/",
        ]
    ]
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    pages.append(caller.post("/customers", headers={"X-API-Key": plaintext}))
    return plaintext, pages


def test_the_plaintext_is_on_no_later_page(traces_of_a_key):
    plaintext, pages = traces_of_a_key
    for page in pages:
        assert plaintext[SECRET] not in page.text
        assert plaintext[SECRET] not in str(page.headers)


def test_the_plaintext_is_in_no_table(traces_of_a_key):
    plaintext, _pages = traces_of_a_key
    rows = [row for model in apps.get_models() for row in model._default_manager.all()]
    assert {User, APIKey, Event, DailyUse, Session} <= {type(row) for row in rows}
    assert plaintext[SECRET] not in serializers.serialize("json", rows)
    for session in Session.objects.all():
        assert plaintext[SECRET] not in str(session.get_decoded())


def test_the_plaintext_is_in_no_log_line_and_in_no_mail(traces_of_a_key, caplog):
    plaintext, _pages = traces_of_a_key
    # Before our handler masks them: records should hold no key in the first place.
    lines = [record.getMessage() for record in caplog.get_records("setup")]
    assert any("INSERT INTO" in line for line in lines)
    assert any("Unauthorized: /customers" in line for line in lines)
    assert plaintext[SECRET] not in "".join(lines)
    assert plaintext[SECRET] not in str([vars(message) for message in mail.outbox])


def test_the_debug_error_page_shows_no_key(client, issue, settings, monkeypatch):
    settings.DEBUG = True
    client.raise_request_exception = False
    _key, token = issue()
    presented = token.reveal()

    def broken(*args, **kwargs):
        a_local_variable = presented
        raise RuntimeError(f"while looking at {a_local_variable}")

    monkeypatch.setattr(validation, "_verdict_on", broken)
    for headers in [{"X-API-Key": presented}, {"Authorization": f"Bearer {presented}"}]:
        page = client.post("/customers?a=b", headers=headers)
        assert page.status_code == 500
        assert "a_local_variable" in page.text
        assert "while looking at comfyui-" in page.text
        assert presented[SECRET] not in page.text


def test_a_key_in_a_log_line_or_traceback_is_masked(issue):
    _key, token = issue()
    try:
        raise ValueError(token.reveal())
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "%s", (token.reveal(),), (type(error), error, None)
        )
    line = Formatter().format(record)
    assert token.public_id in line
    assert token.reveal()[SECRET] not in line


def test_every_log_handler_masks_keys(settings):
    for handler in settings.LOGGING["handlers"].values():
        if handler["class"] != "logging.NullHandler":
            formatter = settings.LOGGING["formatters"][handler["formatter"]]
            assert formatter["()"] == "apikeys.log_redaction.Formatter"
    assert settings.LOGGING["loggers"]["django"]["handlers"] == []


def test_no_repr_shows_a_secret(issue):
    key, token = issue()
    verdict = services.validate(token.reveal())
    for thing in [key, token, verdict, vars(key), [token], {"token": token}]:
        assert token.reveal()[SECRET] not in repr(thing)
        assert token.reveal()[SECRET] not in str(thing)


def test_the_verified_hash_cache_holds_no_plaintext(issue):
    _key, token = issue()
    services.validate(token.reveal())
    assert len(verified._verified) == 1
    assert token.reveal()[SECRET].encode() not in pickle.dumps(dict(verified._verified))
