"""What is kept of keys: the rows, what must always hold of them, and what they were used for.

No plaintext, ever. What one may do with a row is in services.py.
"""

import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apikeys import names, scopes, tokens
from apikeys.coherence import changing
from config import text


class Reason(models.TextChoices):
    """Why a key was revoked."""

    DELETED_BY_OWNER = "owner", _("deleted by its owner")
    REVOKED_BY_STAFF = "staff", _("revoked by staff")
    ACCOUNT_DELETED = "account", _("its account was deleted")
    ROLLED = "rolled", _("replaced by a new key")
    LEAKED = "leaked", _("found where others can read it")
    CODE_CAME_TWICE = "code", _("the code it was fetched with came twice")


# What is noted of a key without changing a verdict on it.
_BESIDE_THE_VERDICT = frozenset({"last_used_at", "encoded"})
# By what a key ends, for whoever watches.
_ENDINGS = ("revoked_at", "revoked_reason", "suspended_at", "expires_at")


class APIKeyQuerySet(models.QuerySet["APIKey"]):
    """Rows of keys. A change to many tells the fast lane, as `APIKey.save` does of one."""

    def update(self, **kwargs: Any) -> int:
        if kwargs.keys() <= _BESIDE_THE_VERDICT:
            return super().update(**kwargs)
        with changing(self._public_ids(), kwargs):
            return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        with changing(self._public_ids(), None):
            return super().delete()

    def _public_ids(self) -> list[str]:
        return list(self.order_by().values_list("public_id", flat=True))

    def kept(self) -> "APIKeyQuerySet":
        """Keys in their owners' lists: not revoked, though some may have expired."""
        return self.filter(revoked_at__isnull=True)

    def live(self) -> "APIKeyQuerySet":
        """Keys that can be used, as far as the row alone can tell."""
        return (
            self.kept()
            .filter(suspended_at__isnull=True)
            .filter(models.Q(expires_at__isnull=True) | models.Q(expires_at__gt=timezone.now()))
        )

    def listed(self) -> "APIKeyQuerySet":
        """Keys as lists show them: one that was replaced is shown for as long as it works."""
        over = models.Q(successor__isnull=False, expires_at__lte=timezone.now())
        return self.kept().exclude(over)

    def matching(self, words: str) -> "APIKeyQuerySet":
        """Keys with `words` in the name, the description or the visible part of the key."""
        return self.filter(
            models.Q(folded_name__contains=names.fold(words))
            | models.Q(description__icontains=words)
            # Whoever pastes a whole key means its visible part: the rest goes into no query.
            | models.Q(public_id__startswith=words.lower().removeprefix(tokens.PREFIX)[:12])
        )


def validate_name(name: str) -> None:
    if text.has_controls(name):
        raise ValidationError(
            _("This name has a line break or another invisible control character. Remove it."),
            code="controls",
        )
    if not text.is_visible(name):
        raise ValidationError(
            _("This name would be invisible. Use at least one letter, digit or symbol."),
            code="invisible",
        )


def validate_description(description: str) -> None:
    if text.has_controls(description, allow="\r\n\t"):
        raise ValidationError(
            _("This description has an invisible control character. Remove it."), code="controls"
        )


def validate_scopes(text: str) -> None:
    try:
        scopes.parse(text)
    except ValueError as error:
        raise ValidationError(
            _("There is no scope “%(scope)s”. The scopes are %(all)s and proxy:<provider>."),
            code="scope",
            params={"scope": tokens.redact(str(error)[:80]), "all": ", ".join(scopes.ALL)},
        ) from None


class APIKey(models.Model):
    """A key: who owns it, what it is called, and how a token is proved to be it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        # Nothing deletes an account and its keys in passing: accounts.services does, in order.
        on_delete=models.PROTECT,
        related_name="api_keys",
        verbose_name=_("owner"),
    )
    name = models.CharField(_("name"), max_length=names.MAX_NAME, validators=[validate_name])
    # The name as it counts for uniqueness (names.fold): databases disagree on what a case is.
    folded_name = models.CharField(max_length=names.MAX_FOLDED, editable=False)
    description = models.CharField(
        _("description"),
        max_length=names.MAX_DESCRIPTION,
        blank=True,
        validators=[validate_description],
    )
    public_id = models.CharField(
        _("public id"),
        max_length=12,
        unique=True,
        editable=False,
        validators=[RegexValidator(r"\A[0-9a-f]{12}\Z")],
    )
    encoded = models.CharField(max_length=255, editable=False)
    # Which showing of the form this key was made from: one form makes one key.
    nonce = models.UUIDField(default=uuid.uuid4, editable=False)
    # With spaces between; none: it may do everything (apikeys.scopes).
    scopes = models.CharField(
        _("scopes"),
        max_length=scopes.MAX_LENGTH,
        blank=True,
        default="",
        db_default="",
        editable=False,
        validators=[validate_scopes],
    )
    # The key that takes this one's place. From then on the name is the successor's.
    successor = models.ForeignKey(
        "self",
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        # Its index is the constraint's below: SQLite would use one that has all the keys without
        # a successor in it to find those, which are nearly all.
        db_index=False,
        related_name="+",
        verbose_name=_("replaced by"),
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)
    # Taken out of use by staff, who may give it back; the name stays taken.
    suspended_at = models.DateTimeField(_("suspended"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked"), null=True, editable=False)
    revoked_reason = models.CharField(
        _("reason"), max_length=16, choices=Reason, blank=True, editable=False
    )

    objects = APIKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ["-created_at", "-id"]
        permissions = [
            ("revoke_apikey", _("Can revoke API keys")),
            ("suspend_apikey", _("Can suspend and restore API keys")),
        ]
        indexes = [
            models.Index(
                fields=["owner", "-created_at"],
                condition=models.Q(revoked_at__isnull=True),
                name="apikeys_apikey_kept",
            ),
            models.Index(fields=["-created_at", "-id"], name="apikeys_apikey_newest"),
            # What staff filter and search by. No use of a key changes a column of these.
            models.Index(
                fields=["-created_at", "-id"],
                condition=models.Q(revoked_at__isnull=False),
                name="apikeys_apikey_revoked",
            ),
            models.Index(
                fields=["-created_at", "-id"],
                condition=models.Q(revoked_at__isnull=True, suspended_at__isnull=False),
                name="apikeys_apikey_suspended",
            ),
            models.Index(
                fields=["expires_at"],
                condition=models.Q(revoked_at__isnull=True, expires_at__isnull=False),
                name="apikeys_apikey_expiring",
            ),
            models.Index(
                fields=["folded_name"],
                opclasses=["varchar_pattern_ops"],
                name="apikeys_apikey_begins",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "folded_name"],
                condition=models.Q(revoked_at__isnull=True, successor__isnull=True),
                name="apikeys_apikey_name",
                violation_error_message=_(
                    "You have a key with this name already. "
                    "Choose another name, or delete that key first."
                ),
            ),
            models.UniqueConstraint(fields=["owner", "nonce"], name="apikeys_apikey_nonce"),
            models.UniqueConstraint(
                fields=["successor"],
                condition=models.Q(successor__isnull=False),
                name="apikeys_apikey_successor",
            ),
            models.CheckConstraint(
                condition=models.Q(revoked_at__isnull=True, revoked_reason="")
                | (models.Q(revoked_at__isnull=False) & ~models.Q(revoked_reason="")),
                name="apikeys_apikey_revoked_with_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.masked})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        # Nobody has heard of a new key yet.
        ended = {name: getattr(self, name) for name in _ENDINGS if getattr(self, name)}
        with changing([] if self._state.adding else [self.public_id], ended):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with changing([self.public_id], None):
            return super().delete(*args, **kwargs)

    def clean_fields(self, exclude: Any = None) -> None:
        self.name = text.tidy(self.name)
        self.description = text.tidy(self.description)
        self.folded_name = names.fold(self.name)
        super().clean_fields(exclude=exclude)

    @property
    def masked(self) -> str:
        """What may be shown of the key: `comfyui-87d01e28d3f4…`."""
        return tokens.mask(self.public_id)

    @property
    def granted(self) -> tuple[str, ...]:
        """The scopes that count: all of them for a key that has none of its own."""
        return scopes.granted(self.scopes)

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class DailyUse(models.Model):
    """How many calls a key answered for on one day (UTC)."""

    key = models.ForeignKey(APIKey, on_delete=models.CASCADE, related_name="daily_uses")
    day = models.DateField(_("day"))
    calls = models.PositiveBigIntegerField(_("calls"), default=0)

    class Meta:
        verbose_name = _("daily use")
        verbose_name_plural = _("daily uses")
        constraints = [
            models.UniqueConstraint(fields=["key", "day"], name="apikeys_dailyuse_key_day"),
        ]

    def __str__(self) -> str:
        return f"{self.key_id} {self.day}: {self.calls}"


class HourlyUse(models.Model):
    """How many calls a key answered for in one hour (UTC)."""

    key = models.ForeignKey(APIKey, on_delete=models.CASCADE, related_name="hourly_uses")
    hour = models.DateTimeField(_("hour"))
    calls = models.PositiveBigIntegerField(_("calls"), default=0)

    class Meta:
        verbose_name = _("hourly use")
        verbose_name_plural = _("hourly uses")
        constraints = [
            models.UniqueConstraint(fields=["key", "hour"], name="apikeys_hourlyuse_key_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.key_id} {self.hour:%Y-%m-%d %H:00}: {self.calls}"


class KeyNetwork(models.Model):
    """A network that a key was used from: the first 24 bits of an IPv4 address, 48 of IPv6."""

    key = models.ForeignKey(APIKey, on_delete=models.CASCADE, related_name="networks")
    network = models.CharField(_("network"), max_length=43)
    first_used_at = models.DateTimeField(_("first used"))

    class Meta:
        verbose_name = _("network of a key")
        verbose_name_plural = _("networks of keys")
        constraints = [
            models.UniqueConstraint(fields=["key", "network"], name="apikeys_keynetwork_once"),
        ]

    def __str__(self) -> str:
        return f"{self.key_id} {self.network}"
