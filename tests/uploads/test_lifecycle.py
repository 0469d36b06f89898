"""The end of uploads: expiry, cleanup, deleted accounts, backups; and the owner's export."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.storage import storages
from django.utils import timezone

from accounts import services as accounts
from backups import contents
from server import housekeeping
from tests.factories import later
from tests.uploads.conftest import get, put, stored_files
from uploads import services
from uploads.models import Upload

DAY = timedelta(days=1)


def upload(client, ask, content=b"x", **fields) -> str:
    """Upload a file; return the URL for its download."""
    body = ask(**fields).json()
    assert put(client, body["upload_url"], content).status_code == 200
    return body["download_url"]


def age(path: Path, by: timedelta) -> None:
    moment = time.time() - by.total_seconds()
    os.utime(path, (moment, moment))


def test_files_are_deleted_after_a_day(client, ask, folder):
    upload(client, ask)
    ask()
    with later(DAY - timedelta(minutes=1)):
        assert services.delete_expired() == 0
    assert len(stored_files(folder)) == 1
    with later(DAY + timedelta(minutes=1)):
        assert services.delete_expired() == 2
        assert services.delete_expired() == 0
    assert stored_files(folder) == []
    assert not Upload.objects.exists()


def test_an_expired_upload_is_not_served_before_it_is_deleted(client, ask):
    url = upload(client, ask)
    assert get(client, url).status_code == 200
    # Earlier than the URL says.
    Upload.objects.update(expires_at=timezone.now())
    assert get(client, url).status_code == 404


def test_the_lifetime_is_a_setting(client, ask, folder, settings):
    settings.UPLOAD_LIFETIME = 60.0
    body = ask().json()
    put(client, body["upload_url"], b"x")
    with later(timedelta(seconds=61)):
        # The URL for the upload does not outlive the upload.
        assert put(client, body["upload_url"], b"y").json()["error"] == "URL_EXPIRED"
        assert services.delete_expired() == 1
    assert stored_files(folder) == []


def test_many_expired_uploads_are_deleted(ask, issue, alice, monkeypatch):
    monkeypatch.setattr(services, "_BATCH", 3)
    for _ in range(7):
        ask()
    with later(DAY + timedelta(minutes=1)):
        assert services.delete_expired() == 7


def test_housekeeping_deletes_them():
    assert services.delete_expired in {task.run for task in housekeeping.tasks()}


def test_a_file_that_cant_be_deleted_keeps_its_row(client, ask, folder, monkeypatch, caplog):
    upload(client, ask)
    storage = storages["uploads"]

    def fail(name: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, later(DAY * 2):
        patched.setattr(storage, "delete", fail)
        assert services.delete_expired() == 0
    assert Upload.objects.count() == 1
    assert "can't be deleted" in caplog.text
    with later(DAY * 2):
        assert services.delete_expired() == 1
    assert stored_files(folder) == []


def test_files_without_a_row_are_deleted_once_they_are_old(client, ask, folder):
    """Such as those of a process that was killed, or of a time before a restore."""
    url = upload(client, ask, b"of a row")
    orphan, young, part = (
        folder / "files" / "a",
        folder / "files" / "b",
        folder / "incoming/c.part",
    )
    for path in (orphan, young, part):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    age(orphan, timedelta(days=3))
    age(part, timedelta(days=3))
    services.delete_expired()
    assert {path.name for path in stored_files(folder)} & {"a", "b", "c.part"} == {"b"}
    assert get(client, url).data == b"of a row"


def test_a_deleted_account_leaves_no_files(
    client, ask, issue, alice, mallory, folder, django_capture_on_commit_callbacks
):
    upload(client, ask)
    theirs = upload(client, lambda **more: ask(issue("m", owner=mallory)[1].reveal(), **more), b"m")
    with django_capture_on_commit_callbacks(execute=True):
        accounts.delete_account(alice)
    assert [row.owner for row in Upload.objects.all()] == [mallory]
    assert [path.read_bytes() for path in stored_files(folder)] == [b"m"]
    assert get(client, theirs).data == b"m"


def test_the_files_of_an_account_stay_if_its_deletion_is_rolled_back(
    client, ask, alice, folder, django_capture_on_commit_callbacks
):
    upload(client, ask)
    accounts.account_deleting.connect(_fail)
    try:
        with django_capture_on_commit_callbacks(execute=True), pytest.raises(RuntimeError):
            accounts.delete_account(alice)
    finally:
        accounts.account_deleting.disconnect(_fail)
    assert len(stored_files(folder)) == 1
    assert Upload.objects.count() == 1


def _fail(**_: object) -> None:
    raise RuntimeError("A receiver failed.")


def test_the_export_lists_uploads(client, ask, alice):
    upload(client, ask, b"12345", file_name="猫.png")
    (exported,) = accounts.personal_data(alice)["uploads"]
    assert (exported["file_name"], exported["size"]) == ("猫.png", 5)
    assert set(exported) == {"file_name", "content_type", "size", "created_at", "expires_at"}


def test_backups_have_no_uploads():
    assert Upload._meta.db_table in contents.tables_without_rows()
