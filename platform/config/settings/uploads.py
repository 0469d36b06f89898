"""Uploads of ComfyUI's API nodes: their limits, and where the files are stored."""

import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.parsers import folder_problem
from config.settings.base import LOOPBACK, VAR, env
from config.settings.static_files import STORAGES

env.section("Uploads")

UPLOADS: bool = env.boolean(
    "UPLOADS",
    default=True,
    help="API nodes may [upload files](uploads.md) for their providers.",
)
UPLOAD_MAX_SIZE: int = env.integer(
    "UPLOAD_MAX_SIZE",
    default=256,
    least=1,
    most=10_240,
    help="Largest file, in MiB. A proxy has a limit of its own.",
)
UPLOAD_QUOTA: int = env.integer(
    "UPLOAD_QUOTA",
    default=2048,
    least=1,
    most=10_000_000,
    help="Space of all files of an account, in MiB; at least `UPLOAD_MAX_SIZE`.",
)
if UPLOAD_QUOTA < UPLOAD_MAX_SIZE:
    env.add_error("UPLOAD_QUOTA", "must be at least UPLOAD_MAX_SIZE.")
# A week is the longest that a URL of S3 can be valid.
UPLOAD_LIFETIME: float = env.seconds(
    "UPLOAD_LIFETIME",
    default=86_400,
    least=60,
    most=604_800,
    help="How long a file can be downloaded; then it is deleted.",
)
_given = env.text(
    "UPLOAD_STORAGE",
    kind="path, or `s3://bucket` or `s3://bucket/folder`",
    default_help="`VAR_DIR/uploads`",
    help="Where the files are stored. Several hosts need a folder that they share, or an "
    "S3-compatible store ([S3](uploads.md#s3)).",
)
S3_ENDPOINT_URL: str | None = env.text(
    "S3_ENDPOINT_URL",
    kind="URL",
    default_help="that of AWS",
    help="The URL of an S3-compatible store, which ComfyUI and the providers have to reach too.",
)
S3_REGION: str | None = env.text("S3_REGION", help="The region of the bucket.")
S3_ACCESS_KEY_ID: str | None = env.text(
    "S3_ACCESS_KEY_ID",
    default_help="as boto3 finds it, such as the role of the machine",
    help="The id of the access key to the bucket.",
)
S3_SECRET_ACCESS_KEY: str | None = env.text(
    "S3_SECRET_ACCESS_KEY", help="The secret of `S3_ACCESS_KEY_ID`."
)

UPLOADS_IN_S3: bool = (_given or "").startswith("s3:")
UPLOAD_FOLDER: Path = VAR / "uploads"
if UPLOADS_IN_S3:
    _url = urlsplit(_given or "")
    if not _url.hostname or _url.netloc != _url.hostname or _url.query or _url.fragment:
        env.add_error("UPLOAD_STORAGE", "must be a folder, or a bucket such as s3://uploads.")
    if importlib.util.find_spec("storages") is None or importlib.util.find_spec("boto3") is None:
        env.add_error(
            "UPLOAD_STORAGE",
            "is S3, which needs packages that are not installed: pip install 'comfyui-keys[s3]', "
            "or requirements/extras.txt in a clone.",
        )
elif _given:
    UPLOAD_FOLDER = Path(_given)
    if not UPLOAD_FOLDER.is_absolute() or "://" in _given:
        env.add_error("UPLOAD_STORAGE", "must be an absolute path, or begin with s3://.")
    elif _problem := folder_problem(UPLOAD_FOLDER):
        env.add_error("UPLOAD_STORAGE", _problem)
for _name, _value in {
    "S3_ENDPOINT_URL": S3_ENDPOINT_URL,
    "S3_REGION": S3_REGION,
    "S3_ACCESS_KEY_ID": S3_ACCESS_KEY_ID,
    "S3_SECRET_ACCESS_KEY": S3_SECRET_ACCESS_KEY,
}.items():
    if _value and not UPLOADS_IN_S3:
        env.add_error(_name, "needs UPLOAD_STORAGE=s3://…: the files are stored in a folder.")
if bool(S3_ACCESS_KEY_ID) != bool(S3_SECRET_ACCESS_KEY):
    env.add_error("S3_ACCESS_KEY_ID", "and S3_SECRET_ACCESS_KEY go together: set both or neither.")
# Whether files cross no network in plain text.
IS_S3_SAFE = True
if S3_ENDPOINT_URL:
    _parts = urlsplit(S3_ENDPOINT_URL)
    if _parts.scheme not in {"http", "https"} or not _parts.hostname or _parts.query:
        env.add_error("S3_ENDPOINT_URL", "must be a URL such as https://s3.example.org.")
    IS_S3_SAFE = _parts.scheme == "https" or _parts.hostname in LOOPBACK


def _s3() -> dict[str, Any]:
    options: dict[str, Any] = {
        "bucket_name": urlsplit(_given or "").hostname,
        "location": urlsplit(_given or "").path.strip("/"),
        "endpoint_url": S3_ENDPOINT_URL,
        "region_name": S3_REGION,
        "access_key": S3_ACCESS_KEY_ID,
        "secret_key": S3_SECRET_ACCESS_KEY,
    }
    if importlib.util.find_spec("botocore") is not None:
        from botocore.config import Config

        options["client_config"] = Config(
            signature_version="s3v4",
            # Other stores have no host name for each bucket.
            s3={"addressing_style": "path" if S3_ENDPOINT_URL else "auto"},
            # A client of a pre-signed URL sends no checksum.
            request_checksum_calculation="when_required",
            # Seconds: a request to the platform waits for it.
            connect_timeout=3,
            read_timeout=5,
            retries={"total_max_attempts": 2},
        )
    return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}


uploads_storage: dict[str, Any] = (
    _s3()
    if UPLOADS_IN_S3
    else {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": UPLOAD_FOLDER / "files",
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    }
)
STORAGES["uploads"] = uploads_storage
