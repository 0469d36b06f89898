"""An S3-compatible store: pre-signed URLs, sizes, errors. The store is moto's server."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import requests
from django.core.files.storage import storages
from moto.server import ThreadedMotoServer

from accounts import services as accounts
from tests.factories import later
from tests.platforms import free_port
from uploads import services
from uploads.models import Upload

MIB = 1 << 20
BUCKET = "uploads-of-nodes"


@dataclass
class Store:
    """A running store, with a bucket."""

    url: str
    client: Any

    def names(self) -> set[str]:
        listed = self.client.list_objects_v2(Bucket=BUCKET)
        return {entry["Key"] for entry in listed.get("Contents", [])}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def configure(settings: Any, url: str) -> None:
    """Configure the store as config.settings.uploads does for UPLOAD_STORAGE=s3://…/folder."""
    from botocore.config import Config

    settings.UPLOADS_IN_S3 = True
    settings.STORAGES = {
        **settings.STORAGES,
        "uploads": {
            "BACKEND": "storages.backends.s3.S3Storage",
            "OPTIONS": {
                "bucket_name": BUCKET,
                "location": "folder",
                "endpoint_url": url,
                "region_name": "us-east-1",
                "access_key": "id",
                "secret_key": "secret",
                "client_config": Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"},
                    request_checksum_calculation="when_required",
                    connect_timeout=1,
                    read_timeout=5,
                    retries={"total_max_attempts": 1},
                ),
            },
        },
    }


@pytest.fixture
def store(server: str, settings: Any) -> Iterator[Store]:
    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket=BUCKET)
    configure(settings, server)
    yield Store(server, client)
    requests.post(f"{server}/moto-api/reset", timeout=10)
    for storage in (storages["uploads"],):
        storage.connection.meta.client.close()
    client.close()


def put(url: str, content: bytes, content_type: str | None = None) -> requests.Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return requests.put(url, content, headers=headers, timeout=10)


def test_a_file_goes_to_the_store_and_comes_from_there(ask, store):
    body = ask(file_name="猫.png", content_type="image/png").json()
    for url in (body["upload_url"], body["download_url"]):
        assert url.startswith(f"{store.url}/{BUCKET}/folder/")
    assert put(body["upload_url"], b"a picture", "image/png").status_code == 200
    downloaded = requests.get(body["download_url"], timeout=10)
    assert (downloaded.status_code, downloaded.content) == (200, b"a picture")
    assert downloaded.headers["Content-Type"] == "image/png"
    assert downloaded.headers["Content-Disposition"].startswith("attachment; filename*=utf-8''")
    part = requests.get(body["download_url"], headers={"Range": "bytes=2-4"}, timeout=10)
    assert (part.status_code, part.content) == (206, b"pic")


def test_the_content_type_is_signed(ask, store):
    url = ask(content_type="image/png").json()["upload_url"]
    signed = urlsplit(url).query
    assert "X-Amz-SignedHeaders=content-type%3Bhost" in signed
    assert "checksum" not in signed.lower()
    assert "X-Amz-Expires=3600" in signed
    assert "X-Amz-SignedHeaders=host" in urlsplit(ask().json()["upload_url"]).query
    assert "X-Amz-Expires=86400" in ask().json()["download_url"]


def test_names_in_the_store_reveal_no_account(ask, store, alice):
    body = ask().json()
    assert str(alice.pk) not in body["upload_url"]
    assert alice.pk.hex not in body["upload_url"]
    assert "cat" not in urlsplit(body["upload_url"]).path


def test_the_quota_counts_what_is_in_the_store(ask, issue, mallory, store, settings):
    settings.UPLOAD_MAX_SIZE, settings.UPLOAD_QUOTA = 1, 2
    for _ in range(2):
        put(ask().json()["upload_url"], b"x" * MIB)
    refused = ask()
    assert (refused.status_code, refused.json()["error"]) == (403, "UPLOAD_QUOTA_EXCEEDED")
    assert ask(issue("hers", owner=mallory)[1].reveal()).status_code == 200


def test_a_too_large_file_is_deleted(ask, store, settings, caplog):
    settings.UPLOAD_MAX_SIZE, settings.UPLOAD_QUOTA = 1, 2
    put(ask().json()["upload_url"], b"x" * (MIB + 1))
    assert len(store.names()) == 1
    assert ask().status_code == 200
    assert store.names() == set()
    assert "UPLOAD_MAX_SIZE" in caplog.text


def test_expired_files_and_those_of_deleted_accounts_are_deleted(
    ask, issue, alice, mallory, store, django_capture_on_commit_callbacks
):
    put(ask().json()["upload_url"], b"hers")
    theirs = issue("m", owner=mallory)[1].reveal()
    put(ask(theirs).json()["upload_url"], b"theirs")
    with django_capture_on_commit_callbacks(execute=True):
        accounts.delete_account(alice)
    assert len(store.names()) == 1
    # Nothing was uploaded for this one.
    ask(theirs)
    with later(timedelta(hours=25)):
        assert services.delete_expired() == 2
    assert store.names() == set()


def test_the_platform_serves_no_such_file_itself(client, ask, store, settings):
    from uploads import signed_urls

    ask()
    upload = Upload.objects.get()
    for method, url in (
        ("GET", signed_urls.download_url(upload)),
        ("PUT", signed_urls.upload_url(upload)),
    ):
        parts = urlsplit(url)
        response = client.generic(method, f"{parts.path}?{parts.query}", b"x")
        assert response.status_code == 404


def test_a_store_that_does_not_answer_is_503(ask, settings, caplog):
    configure(settings, f"http://127.0.0.1:{free_port()}")
    response = ask()
    assert (response.status_code, response.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert response["Retry-After"]
    assert not Upload.objects.exists()
    assert "S3" in caplog.text


def test_a_store_that_refuses_is_503(ask, store, settings, caplog):
    settings.STORAGES["uploads"]["OPTIONS"]["bucket_name"] = "absent"
    settings.STORAGES = dict(settings.STORAGES)
    response = ask()
    assert (response.status_code, response.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert "NoSuchBucket" in caplog.text
    assert "Signature" not in caplog.text
