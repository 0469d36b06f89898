"""An S3-compatible store: clients upload to it and download from it, by pre-signed URLs.

A pre-signed PUT fixes the content type if the client has named one. It can't limit the size,
which is checked when the account asks for its next upload, and by the cleanup.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.files.storage import storages

from core.exceptions import StorageUnavailable

logger = logging.getLogger(__name__)


def upload_url(name: str, *, content_type: str, seconds: int) -> str:
    """Return a URL for PUT. content_type: what the client has to say; empty: anything."""
    parameters = {"ContentType": content_type} if content_type else {}
    return _presigned("put_object", name, seconds, parameters)


def download_url(name: str, *, disposition: str, seconds: int) -> str:
    """Return a URL for GET. disposition: the header Content-Disposition of the response."""
    return _presigned("get_object", name, seconds, {"ResponseContentDisposition": disposition})


def sizes(folder: str) -> dict[str, int]:
    """Return name and size in bytes of each file in `folder`."""
    with _reporting():
        storage = _storage()
        prefix = f"{storage.location}/" if storage.location else ""
        return {
            entry.key.removeprefix(prefix): entry.size
            for entry in storage.bucket.objects.filter(Prefix=f"{prefix}{folder}/")
        }


def delete(name: str) -> None:
    with _reporting():
        _storage().delete(name)


def _presigned(operation: str, name: str, seconds: int, parameters: dict[str, str]) -> str:
    with _reporting():
        storage = _storage()
        key = f"{storage.location}/{name}" if storage.location else name
        sign: Callable[..., str] = storage.bucket.meta.client.generate_presigned_url
        # No request. Credentials may come from the machine's role, which is asked for them.
        return sign(
            operation,
            Params={"Bucket": storage.bucket_name, "Key": key, **parameters},
            ExpiresIn=seconds,
        )


def _storage() -> Any:
    return storages["uploads"]


@contextmanager
def _reporting() -> Iterator[None]:
    """Raise StorageUnavailable for any error of the store."""
    # Optional packages, which the settings have found.
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        # Not the text of the error, which may have a signed URL in it.
        answer = getattr(error, "response", {}).get("Error", {})
        code = answer.get("Code") or type(error).__name__
        logger.error("The S3 store for uploads failed: %s.", code)
        raise StorageUnavailable("The S3 store failed.") from error
