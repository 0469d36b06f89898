"""Keys. The plaintext of a key is not stored."""

import uuid
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from apikeys import allowed_networks, scopes, tokens
from apikeys.cache.ages import Lifetime
from apikeys.cache.invalidation import changing
from apikeys.models.validators import (
    MAX_DESCRIPTION,
    MAX_FOLDED,
    MAX_NAME,
    validate_allowed_networks,
    validate_description,
    validate_name,
    validate_scopes,
)
from apikeys.verdict_codes import VerdictCode
from core import text


class Reason(models.TextChoices):
    """Why a key was revoked."""

    DELETED_BY_OWNER = "owner", _("deleted by its owner")
    REVOKED_BY_STAFF = "staff", _("revoked by staff")
    ACCOUNT_DELETED = "account", _("its account was deleted")
    ROTATED = "rolled", _("replaced by a new key")
    LEAKED = "leaked", _("reported as exposed")
    CODE_REUSED = "code", _("its authorization code was used twice")


class KeyState(models.TextChoices):
    """Filters of lists of keys, as in the URLs of pages and of the REST API."""

    ALL = "all", _("All")
    NEVER_USED = "never_used", pgettext_lazy("a filter of keys", "Never used")
    UNUSED = "unused", _("Unused for 90 days")
    EXPIRING = "expiring", _("Expiring soon")
    EXPIRED = "expired", _("Expired")
    SUSPENDED = "suspended", _("Suspended")


UNUSED_AFTER: Final = timedelta(days=90)
"""The time since its last use, or without one since its creation, after which a key is unused."""

EXPIRING_SOON: Final = timedelta(days=7)

NAME_TAKEN: Final = "name_taken"
"""The code of the ValidationError for a name that another key of the owner has."""

# Fields that no verdict depends on.
_FIELDS_WITHOUT_EFFECT = frozenset({"last_used_at", "holds_name", "tag_pepper"})
# Fields that end or suspend a key, for watchers of changes.
_END_FIELDS = ("revoked_at", "revoked_reason", "suspended_at", "expires_at")


class APIKeyQuerySet(models.QuerySet["APIKey"]):
    """Keys. Updates and deletions invalidate the validation cache, as `APIKey.save` does."""

    def update(self, **kwargs: Any) -> int:
        if kwargs.keys() <= _FIELDS_WITHOUT_EFFECT:
            return super().update(**kwargs)
        return self.update_known(self._public_ids(), **kwargs)

    def update_known(self, public_ids: Collection[str], **kwargs: Any) -> int:
        """Update keys whose public ids the caller knows, without a query for them."""
        with changing(public_ids, kwargs):
            return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        with changing(self._public_ids(), None):
            return super().delete()

    def _public_ids(self) -> list[str]:
        return list(self.order_by().values_list("public_id", flat=True))

    def kept(self) -> "APIKeyQuerySet":
        """Return keys that are not revoked; some may have expired."""
        return self.filter(revoked_at__isnull=True)

    def live(self) -> "APIKeyQuerySet":
        """Return keys that are not revoked, suspended or expired."""
        return (
            self.kept()
            .filter(suspended_at__isnull=True)
            .filter(models.Q(expires_at__isnull=True) | models.Q(expires_at__gt=timezone.now()))
        )

    def expired(self) -> "APIKeyQuerySet":
        """Return keys that have expired and are not revoked."""
        return self.kept().filter(expires_at__lte=timezone.now())

    def listed(self) -> "APIKeyQuerySet":
        """Return keys as lists show them: replaced ones only until they expire."""
        replaced = models.Q(successor__isnull=False, expires_at__lte=timezone.now())
        return self.kept().exclude(replaced)

    def in_state(self, state: KeyState) -> "APIKeyQuerySet":
        """Return keys in a state; a key may be in several.

        Suspended keys are in no other state but ALL. Keys with a successor are not EXPIRING.
        """
        return self.filter(_state_filters()[state])

    def count_by_state(self) -> dict[str, int]:
        """Return the number of keys in each state, in the order of KeyState, with one query."""
        counts = {
            state.value: models.Count("pk", filter=condition)
            for state, condition in _state_filters().items()
        }
        return self.order_by().aggregate(**counts)

    def matching(self, words: str) -> "APIKeyQuerySet":
        """Return keys with `words` in the name, the description or the masked key.

        In any script, whatever the case and the accents.
        """
        searched = text.search_form(words)
        return self.filter(
            models.Q(name__search_form__contains=searched)
            | models.Q(description__search_form__contains=searched)
            # Only the public part of a pasted key goes into the query.
            | models.Q(public_id__startswith=words.lower().removeprefix(tokens.PREFIX)[:12])
        )


def live_condition() -> models.Q:
    """Return the condition of keys that are not revoked, suspended or expired."""
    active = models.Q(revoked_at=None, suspended_at=None)
    return active & (models.Q(expires_at=None) | models.Q(expires_at__gt=timezone.now()))


def _state_filters() -> Mapping[KeyState, models.Q]:
    now = timezone.now()
    live = live_condition()
    never_used = models.Q(last_used_at=None)
    long_ago = now - UNUSED_AFTER
    soon = now + EXPIRING_SOON
    return {
        # An empty Q is no condition for Count.
        KeyState.ALL: models.Q(pk__isnull=False),
        KeyState.NEVER_USED: live & never_used,
        KeyState.UNUSED: live
        & (models.Q(last_used_at__lt=long_ago) | (never_used & models.Q(created_at__lt=long_ago))),
        KeyState.EXPIRING: live & models.Q(expires_at__lte=soon, successor=None),
        KeyState.EXPIRED: models.Q(revoked_at=None, suspended_at=None, expires_at__lte=now),
        KeyState.SUSPENDED: models.Q(revoked_at=None, suspended_at__isnull=False),
    }


class APIKey(models.Model):
    """A key of an account, with the hash of its token."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        # accounts.services deletes an account's keys before the account.
        on_delete=models.PROTECT,
        related_name="api_keys",
        verbose_name=_("owner"),
    )
    name = models.CharField(_("name"), max_length=MAX_NAME, validators=[validate_name])
    # The case-folded name (text.fold), for uniqueness: databases differ in case folding.
    folded_name = models.CharField(max_length=MAX_FOLDED, editable=False)
    # Whether no other key of the owner may have this name. A key that has expired loses this when
    # another key takes the name, since a constraint can't compare with the current time.
    holds_name = models.BooleanField(default=True, db_default=True, editable=False)
    description = models.CharField(
        _("description"),
        max_length=MAX_DESCRIPTION,
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
    # The id of the pepper of the token's tag. NULL: unknown, for keys older than this column that
    # were not used since. The hash contains the id of its own pepper.
    tag_pepper = models.CharField(max_length=8, null=True, editable=False)  # noqa: DJ001
    # Identifies the rendered form that created this key: one form creates one key.
    nonce = models.UUIDField(default=uuid.uuid4, editable=False)
    # The hash of the API request with an Idempotency-Key that created this key.
    request_digest = models.CharField(
        max_length=64, blank=True, default="", db_default="", editable=False
    )
    # Separated by spaces; empty: all scopes (apikeys.scopes).
    scopes = models.CharField(
        _("scopes"),
        max_length=scopes.MAX_LENGTH,
        blank=True,
        default="",
        db_default="",
        editable=False,
        validators=[validate_scopes],
    )
    # Separated by spaces; empty: every client (apikeys.allowed_networks).
    allowed_networks = models.CharField(
        _("allowed networks"),
        max_length=allowed_networks.MAX_LENGTH,
        blank=True,
        default="",
        db_default="",
        editable=False,
        validators=[validate_allowed_networks],
    )
    # The key that replaces this one. The name belongs to the successor.
    successor = models.ForeignKey(
        "self",
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        # The constraint below has an index. SQLite would use a second one to find keys without a
        # successor, which are nearly all.
        db_index=False,
        related_name="+",
        verbose_name=_("replaced by"),
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)
    # Suspended by staff; the name remains reserved.
    suspended_at = models.DateTimeField(_("suspended"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked"), null=True, editable=False)
    revoked_reason = models.CharField(
        _("reason"), max_length=16, choices=Reason, blank=True, editable=False
    )

    # Lifetime of the cached row; None unless apikeys.cache.rows.find has read it.
    lifetime: Lifetime | None = None
    # The version of its bucket before the row was read; None if the bucket was dirty.
    read_version: int | None = None
    # Whether the row was in the row cache.
    was_cached: bool = False

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
            # For the filters and the search of staff. Using a key changes no column of these.
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
            # For the cleanup: among expired keys, few were replaced.
            models.Index(
                fields=["expires_at", "id"],
                condition=models.Q(revoked_at__isnull=True, successor__isnull=False),
                name="apikeys_apikey_replaced",
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
                condition=models.Q(
                    revoked_at__isnull=True, successor__isnull=True, holds_name=True
                ),
                name="apikeys_apikey_name",
                violation_error_code=NAME_TAKEN,
                violation_error_message=_(
                    "You already have a key with this name. Choose another name, or "
                    "delete that key first."
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
        # No cache has a new key.
        ended = {name: getattr(self, name) for name in _END_FIELDS if getattr(self, name)}
        with changing([] if self._state.adding else [self.public_id], ended):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with changing([self.public_id], None):
            return super().delete(*args, **kwargs)

    def clean_fields(self, exclude: Any = None) -> None:
        self.name = text.tidy(self.name)
        self.description = text.tidy(self.description)
        self.folded_name = text.fold(self.name)
        super().clean_fields(exclude=exclude)

    @property
    def masked(self) -> str:
        """Return the part of the key that may be shown: `comfyui-87d01e28d3f4…`."""
        return tokens.mask(self.public_id)

    @property
    def granted(self) -> tuple[str, ...]:
        """Return the effective scopes: all of them if none are stored."""
        return scopes.granted(self.scopes)

    @property
    def allowed_network_list(self) -> tuple[str, ...]:
        """Return the networks that the key may be used from; empty: all."""
        return allowed_networks.parse(self.allowed_networks)

    def state(self, *, owner_is_active: bool) -> VerdictCode:
        """Return VALID, or the first reason for which a validation refuses the key.

        All code that shows or checks the state of a key uses this order. The allowed networks are
        apart: they depend on the client.
        """
        if self.revoked_at is not None:
            return VerdictCode.REVOKED
        if self.suspended_at is not None:
            return VerdictCode.SUSPENDED
        if not owner_is_active:
            return VerdictCode.ACCOUNT_DISABLED
        return VerdictCode.EXPIRED if self.is_expired else VerdictCode.VALID

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()
