"""The settings of uploads: limits, a folder, an S3-compatible store."""

import os
import subprocess
import sys

import pytest

from tests.config.test_environment import ROOT, errors, start

STORAGE = 'STORAGES["uploads"]'


def test_files_are_stored_in_the_folder_of_the_platform(tmp_path):
    started = start(tmp_path, "UPLOADS", "UPLOAD_FOLDER", STORAGE)
    uploads, folder, storage = started.stdout.splitlines()
    assert (uploads, folder) == ("True", str(tmp_path / "uploads"))
    assert str(tmp_path / "uploads" / "files") in storage


def test_another_folder_can_be_named(tmp_path):
    started = start(tmp_path, "UPLOAD_FOLDER", STORAGE, UPLOAD_STORAGE=str(tmp_path / "other"))
    folder, storage = started.stdout.splitlines()
    assert folder == str(tmp_path / "other")
    assert str(tmp_path / "other" / "files") in storage


def test_a_bucket_can_be_named(tmp_path):
    started = start(
        tmp_path,
        "UPLOADS_IN_S3",
        f'{STORAGE}["BACKEND"]',
        f'{STORAGE}["OPTIONS"]["bucket_name"]',
        f'{STORAGE}["OPTIONS"]["location"]',
        f'{STORAGE}["OPTIONS"]["endpoint_url"]',
        f'{STORAGE}["OPTIONS"]["secret_key"]',
        UPLOAD_STORAGE="s3://bucket.of-nodes/a/folder/",
        S3_ENDPOINT_URL="https://s3.example.org",
        S3_ACCESS_KEY_ID="id",
        S3_SECRET_ACCESS_KEY="secret",
    )
    assert started.stdout.split() == [
        "True",
        "storages.backends.s3.S3Storage",
        "bucket.of-nodes",
        "a/folder",
        "https://s3.example.org",
        "secret",
    ]


@pytest.mark.parametrize(
    ("variables", "name", "words"),
    [
        ({"UPLOAD_STORAGE": "relative/folder"}, "UPLOAD_STORAGE", "absolute"),
        ({"UPLOAD_STORAGE": "gs://bucket"}, "UPLOAD_STORAGE", "absolute"),
        ({"UPLOAD_STORAGE": "/var/lib"}, "UPLOAD_STORAGE", "folder of the platform's own"),
        ({"UPLOAD_STORAGE": "s3://"}, "UPLOAD_STORAGE", "bucket"),
        ({"UPLOAD_STORAGE": "s3://key:secret@bucket"}, "UPLOAD_STORAGE", "bucket"),
        ({"UPLOAD_STORAGE": "s3://bucket?region=x"}, "UPLOAD_STORAGE", "bucket"),
        ({"S3_ENDPOINT_URL": "https://s3.example.org"}, "S3_ENDPOINT_URL", "UPLOAD_STORAGE"),
        ({"S3_REGION": "eu-central-1"}, "S3_REGION", "UPLOAD_STORAGE"),
        (
            {"UPLOAD_STORAGE": "s3://bucket", "S3_ACCESS_KEY_ID": "id"},
            "S3_ACCESS_KEY_ID",
            "both or neither",
        ),
        (
            {"UPLOAD_STORAGE": "s3://bucket", "S3_ENDPOINT_URL": "s3.example.org"},
            "S3_ENDPOINT_URL",
            "must be a URL",
        ),
        ({"UPLOAD_QUOTA": "100"}, "UPLOAD_QUOTA", "at least UPLOAD_MAX_SIZE"),
        ({"UPLOAD_MAX_SIZE": "0"}, "UPLOAD_MAX_SIZE", "from 1 to"),
        ({"UPLOAD_LIFETIME": "604801"}, "UPLOAD_LIFETIME", "from 60 to"),
        ({"UPLOADS": "s3"}, "UPLOADS", ""),
    ],
)
def test_an_invalid_value_is_reported(tmp_path, variables, name, words):
    assert words in errors(tmp_path, **variables)[name]


def test_a_secret_is_not_repeated_in_an_error(tmp_path):
    started = start(tmp_path, UPLOAD_STORAGE="s3://key:hunter2@bucket")
    assert "UPLOAD_STORAGE" in started.stderr
    assert "hunter2" not in started.stderr


@pytest.mark.parametrize(
    ("url", "is_refused"),
    [
        ("http://s3.example.org", True),
        ("http://127.0.0.1:9000", False),
        ("https://s3.example.org", False),
    ],
)
def test_production_needs_tls_to_the_store(tmp_path, url, is_refused):
    store = {"UPLOAD_STORAGE": "s3://bucket", "S3_ENDPOINT_URL": url}
    found = errors(tmp_path, PRODUCTION="1", **store)
    assert ("verified TLS" in found.get("S3_ENDPOINT_URL", "")) is is_refused
    allowed = errors(tmp_path, PRODUCTION="1", ALLOW_UNVERIFIED_TLS="S3_ENDPOINT_URL", **store)
    assert "S3_ENDPOINT_URL" not in allowed


@pytest.mark.parametrize("package", ["boto3", "storages"])
def test_missing_packages_are_reported(tmp_path, package):
    started = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.modules[{package!r}] = None; import config.settings",
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), "UPLOAD_STORAGE": "s3://bucket"},
        capture_output=True,
        text=True,
    )
    assert started.returncode == 1
    assert "pip install 'comfyui-keys[s3]'" in started.stderr
    assert "Traceback" not in started.stderr
