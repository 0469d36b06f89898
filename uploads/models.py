"""Uploads: who may upload a file and until when, and where its content is stored."""

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apikeys.models import APIKey

MAX_FILE_NAME = 255
MAX_CONTENT_TYPE = 255


class UploadQuerySet(models.QuerySet["Upload"]):
    def live(self) -> "UploadQuerySet":
        """Return the uploads that have not expired."""
        return self.filter(expires_at__gt=timezone.now())


class Upload(models.Model):
    """A file that a key may upload, or has uploaded.

    With an S3-compatible store the client uploads to the store: `size`, `digest` and `stored_at`
    stay empty, and `stored_as` is set from the beginning.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    # None: the key's row was deleted.
    key = models.ForeignKey(APIKey, null=True, on_delete=models.SET_NULL, related_name="+")
    file_name = models.CharField(max_length=MAX_FILE_NAME)
    # Empty: the client named none.
    content_type = models.CharField(max_length=MAX_CONTENT_TYPE, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    # The file is deleted after this.
    expires_at = models.DateTimeField(db_index=True)
    stored_at = models.DateTimeField(null=True)
    # The name in the storage. Empty: nothing is stored yet.
    stored_as = models.CharField(max_length=255, blank=True)
    # In bytes.
    size = models.PositiveBigIntegerField(null=True)
    # SHA-256 in hexadecimal.
    digest = models.CharField(max_length=64, blank=True)

    objects = UploadQuerySet.as_manager()

    class Meta:
        verbose_name = _("upload")
        verbose_name_plural = _("uploads")

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= timezone.now()
