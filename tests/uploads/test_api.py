"""Ask for an upload, upload the file, download it: who may, and what is refused."""

import io
import logging
import re
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from accounts.models import User
from apikeys import services as keys
from apikeys.models import APIKey, Reason
from core import causes
from tests.factories import failing_statements, invented_key, later
from tests.uploads.conftest import get, path_of, put, stored_files
from uploads import spooling
from uploads.models import Upload

PNG = b"\x89PNG\r\n\x1a\n and the rest of a picture"
MIB = 1 << 20


def code_of(response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error", "message"} | ({"cause"} if response.status_code == 503 else set())
    assert body["message"]
    return response.status_code, body["error"]


def test_a_file_is_uploaded_and_downloaded(client, ask, folder):
    before = timezone.now()
    response = ask(content_type="image/png", file_hash=sha256(PNG).hexdigest())
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"upload_url", "download_url", "expires_at", "existing_file"}
    assert body["existing_file"] is False
    expires_at = parse_datetime(body["expires_at"])
    assert timedelta(hours=24) <= expires_at - before < timedelta(hours=24, minutes=1)

    uploaded = put(client, body["upload_url"], PNG, "image/png")
    assert (uploaded.status_code, uploaded.content) == (200, b"")
    assert uploaded["ETag"] == f'"{sha256(PNG).hexdigest()}"'

    downloaded = get(client, body["download_url"])
    assert downloaded.status_code == 200
    assert downloaded.data == PNG
    assert downloaded["Content-Type"] == "image/png"
    assert downloaded["Content-Length"] == str(len(PNG))
    (file,) = stored_files(folder)
    assert file.read_bytes() == PNG
    assert file.stat().st_mode & 0o077 == 0


def test_the_urls_are_those_of_the_public_url_and_end_in_the_extension(ask, settings):
    settings.PUBLIC_URL = "https://keys.example.org"
    for name, ending in (
        ("cat.PNG", "file.PNG"),
        ("a.tar.gz", "file.gz"),
        ("no extension", "file"),
        ("odd.p/ng", "file"),
        ("猫.猫", "file"),
        (".png", "file.png"),
    ):
        body = ask(file_name=name).json()
        for url in (body["upload_url"], body["download_url"]):
            assert re.fullmatch(
                rf"https://keys\.example\.org/customers/storage/[0-9a-f-]{{36}}/{re.escape(ending)}"
                r"\?token=[\w%.-]+",
                url,
            ), url


def test_without_a_content_type_that_of_the_upload_counts(client, ask):
    for sent, served in (("", "application/octet-stream"), ("video/mp4", "video/mp4")):
        for absent in ({}, {"content_type": None}, {"content_type": ""}):
            body = ask(**absent).json()
            assert put(client, body["upload_url"], b"x", sent).status_code == 200
            assert get(client, body["download_url"])["Content-Type"] == served


def test_unknown_members_are_ignored(ask):
    assert ask(later="what Comfy API may have some day").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"file_name": None},
        {"file_name": ""},
        {"file_name": "   "},
        {"file_name": 5},
        {"file_name": "a/"},
        {"file_name": "..."},
        {"file_name": "../.."},
        {"file_name": "a\nb.png"},
        {"file_name": "a\u202egnp.exe"},
        {"file_name": "\u200b"},
        {"file_name": "a" * 256},
        {"file_name": "a" * 5000},
        {"content_type": "png"},
        {"content_type": "image/png\r\nX: y"},
        {"content_type": "image/" + "p" * 250},
        {"content_type": "text/html; charset"},
        {"content_type": 5},
    ],
    ids=repr,
)
def test_bad_input_is_refused_and_makes_nothing(ask, fields):
    assert code_of(ask(**fields)) == (400, "INVALID_REQUEST")
    assert not Upload.objects.exists()


def test_a_name_with_a_key_in_it_is_refused_and_not_repeated(ask):
    key = invented_key()
    response = ask(file_name=f"{key}.png")
    assert code_of(response) == (400, "INVALID_REQUEST")
    assert key not in response.content.decode()


@pytest.mark.parametrize(
    "name", ["日本語の 猫.png", 'a "quoted" \\name.png', "naïve.png", "plain.png"]
)
def test_names_of_any_script_are_kept(client, ask, name):
    body = ask(file_name=f"folder/{name}" if "\\" not in name else name).json()
    put(client, body["upload_url"], b"x")
    header = get(client, body["download_url"])["Content-Disposition"]
    assert header.startswith("attachment; filename")
    assert header.isascii()
    expected = name.rpartition("\\")[2]
    assert Upload.objects.get().file_name == expected
    if not expected.isascii():
        assert "filename*=utf-8''" in header


# --- Who may ------------------------------------------------------------------------------------


def test_an_upload_needs_a_valid_key(client, ask, issue):
    assert client.post("/customers/storage").status_code == 401
    key, token = issue("deleted")
    keys.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert code_of(ask(token.reveal())) == (401, "REVOKED")
    assert not Upload.objects.exists()


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        (["proxy:*"], 200),
        (["proxy:openai"], 200),
        (["customers:read", "proxy:bfl"], 200),
        (["customers:read"], 403),
        (["keys:manage", "customers:read"], 403),
    ],
)
def test_an_upload_needs_a_scope_for_any_provider(ask, issue, scopes, status):
    _key, token = issue("narrow", scopes=scopes)
    response = ask(token.reveal())
    assert response.status_code == status
    if status == 403:
        assert code_of(response) == (403, "INSUFFICIENT_SCOPE")
        assert 'scope="proxy:*"' in response["WWW-Authenticate"]


def end(key: APIKey, how: str) -> None:
    match how:
        case "revoked":
            keys.revoke(key, reason=Reason.DELETED_BY_OWNER)
        case "suspended":
            APIKey.objects.filter(pk=key.pk).update(suspended_at=timezone.now())
        case "expired":
            APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
        case "without a row":
            APIKey.objects.filter(pk=key.pk).delete()
        case "of a disabled account":
            User.objects.filter(pk=key.owner_id).update(is_active=False)


@pytest.mark.parametrize(
    "how", ["revoked", "suspended", "expired", "without a row", "of a disabled account"]
)
def test_a_key_that_ended_uploads_nothing(client, ask, issue, folder, how):
    key, token = issue("short")
    body = ask(token.reveal()).json()
    end(key, how)
    assert code_of(put(client, body["upload_url"], PNG)) == (403, "KEY_NOT_USABLE")
    assert stored_files(folder) == []


def test_a_key_uploads_from_its_networks_only(client, ask, issue, folder):
    _key, token = issue("at home", allowed_networks=["203.0.113.0/24"])
    client.defaults["REMOTE_ADDR"] = "203.0.113.7"
    url = ask(token.reveal()).json()["upload_url"]
    elsewhere = put(client, url, PNG, REMOTE_ADDR="198.51.100.1")
    assert code_of(elsewhere) == (403, "NETWORK_NOT_ALLOWED")
    assert stored_files(folder) == []
    assert put(client, url, PNG).status_code == 200


def test_files_of_a_disabled_account_are_not_served(client, ask, alice):
    body = ask().json()
    put(client, body["upload_url"], PNG)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert code_of(get(client, body["download_url"])) == (404, "NOT_FOUND")


# --- URLs ---------------------------------------------------------------------------------------


def test_a_url_is_for_one_file_and_one_method(client, ask):
    one, two = ask().json(), ask().json()
    put(client, one["upload_url"], PNG)
    put(client, two["upload_url"], PNG)

    def query(url: str) -> str:
        return url.partition("?")[2]

    for url in (
        # The token for the other method, and that of the other file.
        f"{one['download_url'].partition('?')[0]}?{query(one['upload_url'])}",
        f"{one['download_url'].partition('?')[0]}?{query(two['download_url'])}",
        one["download_url"].partition("?")[0],
        one["download_url"][:-1],
        f"{one['download_url'].partition('?')[0]}?token=%00",
        f"{one['download_url'].partition('?')[0]}?token={'a' * 5000}",
    ):
        assert code_of(get(client, url)) == (403, "INVALID_URL"), url
    assert code_of(put(client, one["download_url"], b"other")) == (403, "INVALID_URL")
    crossed = f"{two['upload_url'].partition('?')[0]}?{query(one['upload_url'])}"
    assert code_of(put(client, crossed, b"other")) == (403, "INVALID_URL")
    assert get(client, two["download_url"]).data == PNG


def test_parameters_are_strict(client, ask):
    url = ask().json()["download_url"]
    assert code_of(get(client, f"{url}&more=1")) == (400, "UNKNOWN_PARAMETER")
    assert code_of(get(client, f"{url}&{url.partition('?')[2]}")) == (400, "REPEATED_PARAMETER")


def test_the_url_for_uploads_is_valid_for_an_hour(client, ask):
    body = ask().json()
    with later(timedelta(minutes=59)):
        assert put(client, body["upload_url"], PNG).status_code == 200
    with later(timedelta(minutes=61)):
        assert code_of(put(client, body["upload_url"], b"other")) == (403, "URL_EXPIRED")
        assert get(client, body["download_url"]).data == PNG
    with later(timedelta(hours=25)):
        assert code_of(get(client, body["download_url"])) == (403, "URL_EXPIRED")


def test_urls_are_valid_under_a_former_secret_key(client, ask, settings):
    body = ask().json()
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "n" * 50
    assert put(client, body["upload_url"], PNG).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert code_of(get(client, body["download_url"])) == (403, "INVALID_URL")


def test_a_file_that_was_not_uploaded_is_404(client, ask):
    body = ask().json()
    assert code_of(get(client, body["download_url"])) == (404, "NOT_FOUND")
    Upload.objects.all().delete()
    assert code_of(put(client, body["upload_url"], PNG)) == (404, "NOT_FOUND")


def test_other_methods_are_refused(client, ask):
    url = path_of(ask().json()["upload_url"])
    for method in ("POST", "DELETE", "PATCH"):
        response = client.generic(method, url)
        assert code_of(response) == (405, "METHOD_NOT_ALLOWED")
    assert client.options(url).status_code == 204


# --- The content --------------------------------------------------------------------------------


def test_the_content_type_is_that_of_the_request_for_the_upload(client, ask, folder):
    url = ask(content_type="image/png").json()["upload_url"]
    for wrong in ("", "image/jpeg", "text/html", "image/png; a=b"):
        assert code_of(put(client, url, PNG, wrong)) == (403, "WRONG_CONTENT_TYPE")
    assert stored_files(folder) == []
    assert put(client, url, PNG, "image/png").status_code == 200


def test_a_malformed_content_type_is_refused(client, ask, folder):
    url = ask().json()["upload_url"]
    for wrong in ("png", "a/" + "b" * 300):
        assert code_of(put(client, url, PNG, wrong)) == (400, "INVALID_REQUEST")
    assert stored_files(folder) == []


def test_a_compressed_body_is_refused(client, ask, folder):
    url = ask().json()["upload_url"]
    response = put(client, url, PNG, headers={"Content-Encoding": "gzip"})
    assert code_of(response) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert stored_files(folder) == []


def test_an_upload_needs_a_length(client, ask, folder):
    url = ask().json()["upload_url"]
    chunked = put(client, url, PNG, HTTP_TRANSFER_ENCODING="chunked")
    assert code_of(chunked) == (411, "LENGTH_REQUIRED")
    assert code_of(put(client, url, PNG, CONTENT_LENGTH="")) == (411, "LENGTH_REQUIRED")
    assert stored_files(folder) == []


def test_a_file_above_the_limit_is_refused(client, ask, folder, settings):
    settings.UPLOAD_MAX_SIZE = 1
    url = ask().json()["upload_url"]
    response = put(client, url, b"x" * (MIB + 1))
    assert code_of(response) == (413, "BODY_TOO_LARGE")
    assert "1 MiB" in response.json()["message"]
    assert stored_files(folder) == []
    assert put(client, url, b"x" * MIB).status_code == 200


def test_the_limit_is_that_of_the_time_when_the_url_was_made(client, ask, settings):
    settings.UPLOAD_MAX_SIZE = 1
    url = ask().json()["upload_url"]
    settings.UPLOAD_MAX_SIZE = 2
    assert put(client, url, b"x" * (MIB + 1)).status_code == 413


def test_an_incomplete_body_leaves_nothing(client, ask, folder):
    url = ask().json()["upload_url"]
    more = {"wsgi.input": io.BytesIO(PNG), "CONTENT_LENGTH": str(len(PNG) + 1)}
    response = put(client, url, PNG, **more)
    assert code_of(response) == (400, "INVALID_REQUEST")
    assert stored_files(folder) == []
    assert Upload.objects.get().stored_at is None


def test_an_empty_file_is_a_file(client, ask):
    body = ask().json()
    assert put(client, body["upload_url"], b"", CONTENT_LENGTH="0").status_code == 200
    downloaded = get(client, body["download_url"])
    assert (downloaded.status_code, downloaded["Content-Length"]) == (200, "0")
    assert downloaded.data == b""


def test_a_repeated_upload_replaces_the_content(client, ask, folder):
    """A node repeats a PUT whose response was lost."""
    body = ask().json()
    assert put(client, body["upload_url"], b"first").status_code == 200
    reading = client.get(path_of(body["download_url"]))
    assert put(client, body["upload_url"], b"second").status_code == 200
    # A download that has begun is completed.
    assert b"".join(reading.streaming_content) == b"first"
    assert get(client, body["download_url"]).data == b"second"
    assert [path.read_bytes() for path in stored_files(folder)] == [b"second"]


def test_a_failed_repetition_keeps_the_former_content(client, ask, folder):
    body = ask().json()
    put(client, body["upload_url"], b"first")
    with failing_statements('UPDATE "uploads_upload"'):
        response = put(client, body["upload_url"], b"second")
    assert code_of(response) == (503, "SERVICE_UNAVAILABLE")
    assert response["Retry-After"]
    assert get(client, body["download_url"]).data == b"first"
    assert len(stored_files(folder)) == 1


# --- Limits of space ----------------------------------------------------------------------------


def test_an_account_has_a_quota(client, ask, folder, settings):
    settings.UPLOAD_MAX_SIZE, settings.UPLOAD_QUOTA = 1, 2
    first, second, third = (ask().json() for _ in range(3))
    assert put(client, first["upload_url"], b"x" * MIB).status_code == 200
    assert put(client, second["upload_url"], b"x" * (MIB - 10)).status_code == 200
    refused = put(client, third["upload_url"], b"x" * 11)
    assert code_of(refused) == (403, "UPLOAD_QUOTA_EXCEEDED")
    assert len(stored_files(folder)) == 2
    # Replacing counts once.
    assert put(client, second["upload_url"], b"x" * MIB).status_code == 200
    # Nodes show the message of this response, not that of the upload's.
    assert code_of(ask()) == (403, "UPLOAD_QUOTA_EXCEEDED")
    with later(timedelta(hours=25)):
        assert ask().status_code == 200


def test_the_quota_is_that_of_the_account(client, ask, issue, mallory, settings):
    settings.UPLOAD_MAX_SIZE, settings.UPLOAD_QUOTA = 1, 1
    put(client, ask().json()["upload_url"], b"x" * MIB)
    assert code_of(ask(issue("another key")[1].reveal())) == (403, "UPLOAD_QUOTA_EXCEEDED")
    assert ask(issue("hers", owner=mallory)[1].reveal()).status_code == 200


def test_the_number_of_uploads_is_limited(ask, monkeypatch):
    monkeypatch.setattr("uploads.services.MAX_UPLOADS", 2)
    assert [ask().status_code for _ in range(3)] == [200, 200, 403]


def test_a_nearly_full_disk_takes_no_uploads(client, ask, folder, monkeypatch):
    monkeypatch.setattr(spooling, "RESERVE", 1 << 60)
    response = put(client, ask().json()["upload_url"], PNG)
    assert code_of(response) == (503, "SERVICE_UNAVAILABLE")
    assert response["Retry-After"]
    assert stored_files(folder) == []


def test_a_full_disk_is_logged_once_with_its_reason(client, ask, folder, monkeypatch, caplog):
    urls = [ask().json()["upload_url"] for _ in range(3)]
    monkeypatch.setattr(spooling, "RESERVE", 1 << 60)
    causes.reset()
    caplog.clear()
    assert {put(client, url, PNG).status_code for url in urls} == {503}
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (line.name, line.cause) == ("core.causes", "storage_unavailable")
    assert "The disk for uploads is nearly full." in line.getMessage()


def test_a_folder_that_cant_be_written_is_503(client, ask, settings, tmp_path):
    blocked = tmp_path / "a file"
    blocked.touch()
    body = ask().json()
    settings.UPLOAD_FOLDER = blocked
    assert code_of(put(client, body["upload_url"], PNG)) == (503, "SERVICE_UNAVAILABLE")


def test_uploads_can_be_turned_off(client, ask, settings):
    body = ask().json()
    settings.UPLOADS = False
    response = ask()
    assert code_of(response) == (404, "NOT_FOUND")
    assert "stores no files" in response.json()["message"]
    assert code_of(put(client, body["upload_url"], PNG)) == (404, "NOT_FOUND")
    assert code_of(get(client, body["download_url"])) == (404, "NOT_FOUND")


def test_a_database_that_cant_answer_is_503(ask):
    with failing_statements('INTO "uploads_upload"'):
        response = ask()
    assert code_of(response) == (503, "SERVICE_UNAVAILABLE")
    assert response["Retry-After"]


def test_a_page_of_comfyui_may_upload(client: Client, ask):
    url = path_of(ask().json()["upload_url"])
    preflight = client.options(
        url,
        headers={
            "Origin": "http://a.example",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert preflight["Access-Control-Allow-Origin"] == "*"
    assert "PUT" in preflight["Access-Control-Allow-Methods"]


def test_stored_files_have_random_names(client, ask, folder: Path):
    for _time in range(2):
        put(client, ask().json()["upload_url"], b"x")
    assert all(re.fullmatch("[0-9a-f]{32}", path.name) for path in stored_files(folder))


def test_the_file_name_is_no_path(client, ask, folder: Path):
    for name in ("../../etc/passwd", "..\\..\\boot.ini", "/etc/cron.d/x", "C:\\x.exe"):
        put(client, ask(file_name=name).json()["upload_url"], b"x")
    assert {path.parent for path in stored_files(folder)} == {folder / "files"}
    assert {row.file_name for row in Upload.objects.all()} == {"passwd", "boot.ini", "x", "x.exe"}
