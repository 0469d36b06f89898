"""Create, store, find and delete uploads."""

import logging
import time
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import Storage, storages
from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils import timezone
from django.utils.crypto import salted_hmac

from accounts.models import User
from apikeys import allowed_networks
from apikeys.models import APIKey
from apikeys.verdict_codes import VerdictCode
from core.exceptions import StorageUnavailable
from uploads import s3, spooling
from uploads.models import Upload
from uploads.spooling import SpooledBody

logger = logging.getLogger(__name__)

MIB: Final = 1 << 20
# Uploads that an account may have at a time. Most are small images.
MAX_UPLOADS: Final = 10_000
# Seconds between two cleanups of a process.
CLEANUP_INTERVAL: Final = 10 * 60
# Seconds of a cleanup: its thread has other tasks.
_CLEANUP_TIME: Final = 5.0
# Rows that are deleted together.
_BATCH: Final = 100


class UploadsExceeded(Exception):  # noqa: N818 (an expected outcome)
    """The account's uploads take UPLOAD_QUOTA, or there are MAX_UPLOADS of them."""


class KeyNotUsable(Exception):  # noqa: N818 (as above)
    """The key that asked for the upload can't be used any more."""


class NetworkNotAllowed(Exception):  # noqa: N818 (as above)
    """The key that asked for the upload can't be used from the client's network."""


class NotStored(Exception):  # noqa: N818 (as above)
    """There is no such upload, or nothing was uploaded yet."""


def create(*, key: APIKey, file_name: str, content_type: str) -> Upload:
    """Return a new upload of the key's owner, with nothing stored.

    Raise UploadsExceeded, and StorageUnavailable.
    """
    now = timezone.now()
    upload = Upload(
        owner=key.owner,
        key=key,
        file_name=file_name,
        content_type=content_type,
        created_at=now,
        expires_at=now + timedelta(seconds=settings.UPLOAD_LIFETIME),
    )
    if settings.UPLOADS_IN_S3:
        folder = _s3_folder(key.owner)
        used = _measured(folder)
        upload.stored_as = f"{folder}/{upload.pk.hex}"
    with transaction.atomic():
        _lock(key.owner)
        live = Upload.objects.filter(owner=key.owner).live()
        if not settings.UPLOADS_IN_S3:
            used = _total(live)
        if used >= settings.UPLOAD_QUOTA * MIB or live.count() >= MAX_UPLOADS:
            raise UploadsExceeded
        upload.save(force_insert=True)
    return upload


def check_key(upload: Upload, *, client_ip: str | None) -> None:
    """Raise KeyNotUsable or NetworkNotAllowed unless the key of `upload` may be used now.

    client_ip: the client's; None: unknown.
    """
    key = upload.key
    if key is None or key.state(owner_is_active=upload.owner.is_active) is not VerdictCode.VALID:
        raise KeyNotUsable
    if not allowed_networks.allow(key.allowed_networks, client_ip):
        raise NetworkNotAllowed


def store(upload: Upload, body: SpooledBody, *, content_type: str) -> Upload:
    """Store `body` as the content of `upload`, in place of what was stored before.

    A client that got no response repeats its request. Downloads get all of the former content or
    all of the new one. Raise UploadsExceeded, NotStored if the upload was deleted meanwhile, and
    StorageUnavailable.
    """
    name = _save(body)
    try:
        with transaction.atomic():
            _lock(upload.owner)
            row = Upload.objects.live().filter(pk=upload.pk).first()
            if row is None:
                raise NotStored
            others = Upload.objects.filter(owner=upload.owner).live().exclude(pk=row.pk)
            if _total(others) + body.length > settings.UPLOAD_QUOTA * MIB:
                raise UploadsExceeded
            former = row.stored_as
            row.stored_as, row.size, row.digest = name, body.length, body.digest
            row.stored_at, row.content_type = timezone.now(), content_type
            row.save()
    except BaseException:
        _delete_files([name])
        raise
    _delete_files([former])
    return row


def opened(upload: Upload) -> tuple[Upload, File[bytes]]:
    """Return the present row of `upload` and its opened content. Raise NotStored."""
    for _attempt in range(2):
        row = Upload.objects.live().filter(pk=upload.pk).first()
        if row is None or not row.stored_as:
            break
        try:
            return row, _storage().open(row.stored_as, "rb")
        except FileNotFoundError:
            # The content was replaced just now; or the cleanup was faster.
            continue
        except OSError as error:
            raise StorageUnavailable("An upload can't be read.") from error
    raise NotStored


def delete_of(owner: User) -> None:
    """Delete the uploads of `owner`: the rows now, the files once that is committed."""
    names = _names(Upload.objects.filter(owner=owner))
    Upload.objects.filter(owner=owner).delete()
    transaction.on_commit(lambda: _delete_files(names))


def delete_expired() -> int:
    """Delete expired uploads, and files that no upload refers to. Return the number of uploads.

    What can't be deleted, or not in time, is left to the next call.
    """
    deleted = 0
    deadline = time.monotonic() + _CLEANUP_TIME
    while time.monotonic() < deadline:
        batch = list(
            Upload.objects.filter(expires_at__lte=timezone.now())
            .order_by("expires_at")
            .only("pk", "stored_as")[:_BATCH]
        )
        kept = _delete_files([row.stored_as for row in batch])
        gone = [row.pk for row in batch if row.stored_as not in kept]
        deleted += Upload.objects.filter(pk__in=gone).delete()[0]
        if len(batch) < _BATCH or not gone:
            break
    if not settings.UPLOADS_IN_S3:
        spooling.delete_abandoned()
        _delete_orphans()
    return deleted


def _delete_orphans() -> None:
    """Delete files that are older than any upload: those of a crash, or from before a restore."""
    oldest = time.time() - settings.UPLOAD_LIFETIME - spooling.ABANDONED
    for path in Path(settings.UPLOAD_FOLDER, "files").glob("*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _storage() -> Storage:
    return storages["uploads"]


def _save(body: SpooledBody) -> str:
    try:
        return _storage().save(uuid.uuid4().hex, body)
    except OSError as error:
        raise StorageUnavailable("An upload can't be stored.") from error


def _names(uploads: Iterable[Upload]) -> list[str]:
    return [upload.stored_as for upload in uploads if upload.stored_as]


def _delete_files(names: Collection[str]) -> set[str]:
    """Delete files. Return the names of those that could not be deleted."""
    left = {name for name in names if name}
    for name in sorted(left):
        try:
            if settings.UPLOADS_IN_S3:
                s3.delete(name)
            else:
                _storage().delete(name)
        except StorageUnavailable:
            # The next one would wait as long.
            break
        except OSError:
            logger.exception("An upload can't be deleted. It is tried again later.")
            continue
        left.discard(name)
    return left


def _lock(owner: User) -> None:
    """Have other requests that add to the uploads of `owner` wait for this transaction."""
    list(User.objects.select_for_update(no_key=True).filter(pk=owner.pk).values_list("pk"))


def _total(uploads: QuerySet[Upload]) -> int:
    """Return the size of the content of `uploads` in bytes."""
    # PostgreSQL returns a Decimal.
    return int(uploads.aggregate(total=Sum("size"))["total"] or 0)


def _s3_folder(owner: User) -> str:
    # Not the id of the account: providers see the URL.
    return salted_hmac("uploads.folder", str(owner.pk), algorithm="sha256").hexdigest()[:32]


def _measured(folder: str) -> int:
    """Return the size of the account's files in bytes, without too large ones, which it deletes."""
    total = 0
    for name, size in s3.sizes(folder).items():
        if size > settings.UPLOAD_MAX_SIZE * MIB:
            logger.warning("A file above UPLOAD_MAX_SIZE was uploaded to S3, and is deleted.")
            s3.delete(name)
        else:
            total += size
    return total
