"""Sites that may sign users in, and pending grants. Codes are stored as digests."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from apikeys import scopes as key_scopes
from apikeys.models import MAX_NAME
from core import origins
from core.origins import RejectReason
from core.validators import reject_api_key

# Seconds between two polls of a device, also the increment after `slow_down` (RFC 8628 §3.5).
INTERVAL = 5
MAX_INTERVAL = 60
MAX_DEVICE_NAME = MAX_NAME
MAX_USER_AGENT = 255

REJECT_MESSAGES = {
    RejectReason.SHAPE: _(
        "Write the site's origin: scheme, host and port alone, such as https://comfy.example.org. "
        "A name in another script goes in its form that begins xn--."
    ),
    RejectReason.PLAIN_HTTP: _(
        "A LAN or plain-http site can't sign people in with a session: anybody on the way could "
        "read along. Use a key there."
    ),
    RejectReason.PRIVATE: _(
        "A LAN or plain-http site can't sign people in with a session: this address means another "
        "machine in each network. Use a key there."
    ),
    RejectReason.LOOPBACK: _("One's own machine is always allowed, and need not be listed."),
}


class Site(models.Model):
    """An origin, such as that of a ComfyUI server, that may get keys by an authorization code."""

    origin = models.CharField(
        _("origin"),
        max_length=origins.MAX_LENGTH,
        unique=True,
        help_text=_("Such as https://comfy.example.org. It may ask people for a key of their own."),
        error_messages={"unique": _("This site is listed already.")},
    )
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("listed"), default=timezone.now, editable=False)
    added_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name=_("by"),
    )

    class Meta:
        verbose_name = _("site")
        verbose_name_plural = _("sites")
        ordering = ["origin"]

    def __str__(self) -> str:
        return self.origin

    def clean_fields(self, exclude: Any = None) -> None:
        try:
            self.origin = origins.validate_listable(self.origin)
        except origins.OriginRejected as rejected:
            message = REJECT_MESSAGES[rejected.reason]
            raise ValidationError({"origin": message}, code="origin") from None
        super().clean_fields(exclude=exclude)
        try:
            reject_api_key(self.note)
        except ValidationError as error:
            raise ValidationError({"note": error}) from None


class PendingGrant(models.Model):
    """A client's request for a key, until a user approved it and the client redeemed it.

    Redeeming creates the key, with this row's id as its nonce: concurrent attempts create one key
    (`apikeys.services.issue`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    client_id = models.CharField(max_length=origins.MAX_LENGTH)
    scopes = models.CharField(max_length=key_scopes.MAX_LENGTH)
    created_at = models.DateTimeField(default=timezone.now)
    # The row is deleted some time after this (services._delete_expired).
    expires_at = models.DateTimeField(db_index=True)
    # The user who decided, who will own the key, and their client IP.
    owner = models.ForeignKey(User, null=True, on_delete=models.CASCADE, related_name="+")
    decided_from = models.GenericIPAddressField(null=True)
    key_name = models.CharField(max_length=MAX_NAME, blank=True)
    key_expires_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True

    def get_client_id(self) -> str:
        return self.client_id

    def get_scope(self) -> str:
        return self.scopes

    def is_expired(self) -> bool:
        return self.expires_at <= timezone.now()


class DeviceRequestQuerySet(models.QuerySet["DeviceRequest"]):
    def waiting(self) -> "DeviceRequestQuerySet":
        """Return the requests that no user has decided."""
        return self.filter(decided_at=None, expires_at__gt=timezone.now())


class DeviceRequest(PendingGrant):
    """A device's request for a key, which a user confirms in a browser (RFC 8628)."""

    LIFETIME = timedelta(minutes=10)
    # After an approval at the last moment, the device has this time to redeem it.
    GRACE_PERIOD = timedelta(minutes=1)

    device_digest = models.CharField(max_length=64, unique=True)
    user_digest = models.CharField(max_length=64, unique=True)
    # Unverified: what the device sends.
    device_name = models.CharField(max_length=MAX_DEVICE_NAME, blank=True)
    user_agent = models.CharField(max_length=MAX_USER_AGENT, blank=True)
    # The device's client IP.
    address = models.GenericIPAddressField(null=True)
    interval = models.PositiveSmallIntegerField(default=INTERVAL)
    polled_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)
    approved = models.BooleanField(default=False)

    objects = DeviceRequestQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.client_id} from {self.address}"

    @property
    def next_poll_at(self) -> datetime | None:
        """The time from which a poll is not too early, with a second's tolerance for jitter."""
        if self.polled_at is None:
            return None
        return self.polled_at + timedelta(seconds=self.interval - 1)


class AuthorizationCode(PendingGrant):
    """A code that the browser carries to the program or site that the user approved."""

    LIFETIME = timedelta(seconds=60)

    digest = models.CharField(max_length=64, unique=True)
    redirect_uri = models.CharField(max_length=origins.MAX_REDIRECT)
    # S256 only (RFC 7636 §4.2).
    code_challenge = models.CharField(max_length=43)

    def __str__(self) -> str:
        return f"{self.client_id} for {self.owner_id}"

    def get_redirect_uri(self) -> str:
        return self.redirect_uri
