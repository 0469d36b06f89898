"""Who may sign people in, and who waits for a key. No code is kept: what is kept is its digest."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from apikeys import names
from apikeys import scopes as granted
from oauth import origins
from oauth.origins import Why

# Seconds between two questions of a machine that waits, and by how much that grows (RFC 8628 §3.5).
INTERVAL = 5
MAX_INTERVAL = 60
MAX_DEVICE_NAME = names.MAX_NAME
MAX_USER_AGENT = 255

REASONS = {
    Why.SHAPE: _(
        "Write the site's origin: scheme, host and port alone, such as https://comfy.example.org. "
        "A name in another script goes in its form that begins xn--."
    ),
    Why.PLAIN_HTTP: _(
        "A LAN or plain-http site can't sign people in with a session: anybody on the way could "
        "read along. Use a key there."
    ),
    Why.PRIVATE: _(
        "A LAN or plain-http site can't sign people in with a session: this address means another "
        "machine in each network. Use a key there."
    ),
    Why.LOOPBACK: _("One's own machine is always allowed, and need not be listed."),
}


class Site(models.Model):
    """An origin that may sign people in with their session here: ComfyUI served under a name."""

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
        verbose_name = _("site that may sign people in")
        verbose_name_plural = _("sites that may sign people in")
        ordering = ["origin"]

    def __str__(self) -> str:
        return self.origin

    def clean_fields(self, exclude: Any = None) -> None:
        try:
            self.origin = origins.to_list(self.origin)
        except origins.Refused as refused:
            raise ValidationError({"origin": REASONS[refused.why]}, code="origin") from None
        super().clean_fields(exclude=exclude)


class Asking(models.Model):
    """Somebody who asks for a key, until a person said yes and they fetched it.

    The key is made as it is fetched, with this row's id for its nonce: one row makes one key,
    however often and however simultaneously it is asked for (`services.issue`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    client_id = models.CharField(max_length=origins.MAX_LENGTH)
    scopes = models.CharField(max_length=granted.MAX_LENGTH)
    created_at = models.DateTimeField(default=timezone.now)
    # After which nothing can be had for this. Some time later the row goes.
    expires_at = models.DateTimeField(db_index=True)
    # The person who answered: theirs is the key, and from there they answered.
    owner = models.ForeignKey(User, null=True, on_delete=models.CASCADE, related_name="+")
    decided_from = models.GenericIPAddressField(null=True)
    key_name = models.CharField(max_length=names.MAX_NAME, blank=True)
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
        """Those that nobody has answered yet."""
        return self.filter(decided_at=None, expires_at__gt=timezone.now())


class DeviceRequest(Asking):
    """A machine that asks for a key and waits for a person (RFC 8628)."""

    LIFE = timedelta(minutes=10)
    # Whoever confirms at the last moment must not have done it for nothing.
    LAST_CALL = timedelta(minutes=1)

    device_digest = models.CharField(max_length=64, unique=True)
    user_digest = models.CharField(max_length=64, unique=True)
    # What it says of itself, and where it was seen. Nothing of this is proved.
    device_name = models.CharField(max_length=MAX_DEVICE_NAME, blank=True)
    user_agent = models.CharField(max_length=MAX_USER_AGENT, blank=True)
    address = models.GenericIPAddressField(null=True)
    interval = models.PositiveSmallIntegerField(default=INTERVAL)
    polled_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)
    approved = models.BooleanField(default=False)

    objects = DeviceRequestQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.client_id} from {self.address}"

    @property
    def may_ask_again_at(self) -> datetime | None:
        """When its next question is not too early; a second of grace, as networks are uneven."""
        if self.polled_at is None:
            return None
        return self.polled_at + timedelta(seconds=self.interval - 1)


class AuthorizationCode(Asking):
    """A code on its way from a person's browser to the program or site that they allowed."""

    LIFE = timedelta(seconds=60)

    digest = models.CharField(max_length=64, unique=True)
    redirect_uri = models.CharField(max_length=origins.MAX_REDIRECT)
    # S256 and nothing else (RFC 7636 §4.2).
    code_challenge = models.CharField(max_length=43)

    def __str__(self) -> str:
        return f"{self.client_id} for {self.owner_id}"

    def get_redirect_uri(self) -> str:
        return self.redirect_uri
