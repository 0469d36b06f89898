"""The user model: an account with its email as the login name."""

import uuid
from collections.abc import Collection
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.db import models, transaction
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import password_validation, signals
from core import text, validators
from core.db_lookups import Caseless


class UserQuerySet(models.QuerySet["User"]):
    """Notifies watchers of bulk changes, as `User.save` does of changes to one account."""

    def update(self, **kwargs: Any) -> int:
        if signals.watched_fields(kwargs):
            kwargs.setdefault("updated_at", timezone.now())
        with signals.changing(self._ids(), kwargs):
            return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        with signals.changing(self._ids()):
            return super().delete()

    def _ids(self) -> list[uuid.UUID]:
        return list(self.order_by().values_list("pk", flat=True))


class UserManager(BaseUserManager["User"]):
    """Creates accounts. Emails are stored in lower case, since users ignore their case."""

    def get_queryset(self) -> UserQuerySet:
        return UserQuerySet(self.model, using=self._db)

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        if not email or not email.strip():
            raise ValueError("An account needs an email address.")
        user = self.model(email=email, **fields)
        user.set_password(password)
        user.clean()
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """An account. The email is the login name."""

    MAX_NAME = 80

    class Notices(models.TextChoices):
        """Which optional mails the account gets. Security mails can't be turned off."""

        ALL = "all", _("All changes to my API keys")
        SECURITY = "security", _("Security notices only")

    # A UUID, since clients see the id and a counter would reveal the number of accounts.
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(
        _("email"),
        unique=True,
        error_messages={"unique": _("An account with this email already exists.")},
    )
    name = models.CharField(
        _("name"),
        max_length=MAX_NAME,
        blank=True,
        help_text=_("Shown in ComfyUI and on this site."),
    )
    is_active = models.BooleanField(
        _("active"),
        default=True,
        help_text=_(
            "Clear this instead of deleting the account. Logins and API keys "
            "stop working immediately."
        ),
    )
    is_staff = models.BooleanField(
        _("staff"), default=False, help_text=_("Can open the staff pages.")
    )
    language = models.CharField(
        _("language"),
        max_length=16,
        choices=settings.LANGUAGES,
        blank=True,
        help_text=_("Used on pages and in emails."),
    )
    # Language of the browser at the last login, for mails.
    browser_language = models.CharField(
        _("browser language"),
        max_length=16,
        blank=True,
        default="",
        # During an upgrade, hosts with the previous version insert rows without this column.
        db_default="",
        editable=False,
    )
    notices = models.CharField(
        _("emails about my API keys"),
        max_length=16,
        choices=Notices,
        default=Notices.ALL,
        help_text=_("We always email you about new devices and password or two-factor changes."),
    )
    date_joined = models.DateTimeField(_("joined"), default=timezone.now, editable=False)
    # Changes only with fields in API responses (signals.watched_fields), so that a new language or
    # password does not invalidate cached responses of the account's keys.
    updated_at = models.DateTimeField(_("changed"), default=timezone.now, editable=False)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        ordering = ["email"]
        permissions = [
            ("disable_user", _("Can disable and enable accounts")),
            ("end_sessions", _("Can log people out everywhere")),
            ("recover_user", _("Can reset two-factor authentication")),
            ("manage_staff", _("Can assign staff roles")),
        ]
        # For the staff list's filters and search, besides the email.
        indexes = [
            models.Index(fields=["date_joined"], name="accounts_user_joined"),
            models.Index(
                fields=["email"], condition=models.Q(is_active=False), name="accounts_user_disabled"
            ),
            models.Index(
                fields=["email"], condition=models.Q(is_staff=True), name="accounts_user_staff"
            ),
            models.Index(Caseless("name"), name="accounts_user_name_begins"),
        ]
        constraints = [
            # With `unique` above, this makes emails unique regardless of case.
            models.CheckConstraint(
                condition=models.Q(email=Lower("email")),
                name="accounts_user_email_lower",
                violation_error_message=_("Write the email in lower case."),
            ),
        ]

    def __str__(self) -> str:
        return self.email

    def set_password(self, raw_password: str | None) -> None:
        """Set the password to the hash of `raw_password` in its normalized form."""
        if raw_password is None:
            super().set_password(None)
            return
        normalized = password_validation.normalize(raw_password)
        super().set_password(normalized)
        if normalized != raw_password:
            # As many passes as `check_password` makes. Authentication backends call this method
            # for an unknown email, and timing must not reveal which emails have an account.
            make_password(raw_password)

    def check_password(self, raw_password: str | None) -> bool:
        """Return whether `raw_password` is right, also for a hash of the unnormalized text.

        Earlier versions hashed passwords without normalization.
        """
        if raw_password is None:
            return False
        normalized = password_validation.normalize(raw_password)
        return super().check_password(normalized) or (
            normalized != raw_password and super().check_password(raw_password)
        )

    def has_password_as_typed(self, raw_password: str) -> bool:
        """Return whether the hash was made from `raw_password` without normalization.

        raw_password: the correct password. Costs one hasher pass unless it is normalized.
        """
        normalized = password_validation.normalize(raw_password)
        return normalized != raw_password and not super().check_password(normalized)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding:
            # No cache has a new account, so there is nothing to invalidate.
            self.updated_at = timezone.now()
            super().save(*args, **kwargs)
            return
        fields = kwargs.get("update_fields")
        changed_fields = signals.watched_fields(fields)
        if not changed_fields:
            super().save(*args, **kwargs)
            return
        with transaction.atomic():
            if not self._has_changes_in(changed_fields):
                super().save(*args, **kwargs)
                return
            self.updated_at = timezone.now()
            if fields is not None:
                kwargs["update_fields"] = {*fields, "updated_at"}
            with signals.changing([self.pk]):
                super().save(*args, **kwargs)

    def _has_changes_in(self, fields: Collection[str]) -> bool:
        """Return whether `fields` differ from the row in the database, and lock the row.

        The values this object was loaded with may be outdated.
        """
        rows = User.objects.filter(pk=self.pk).select_for_update(no_key=True)
        row = rows.order_by().values(*fields).first()
        return row is None or any(getattr(self, name) != value for name, value in row.items())

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with signals.changing([self.pk]):
            return super().delete(*args, **kwargs)

    def clean_fields(self, exclude: Any = None) -> None:
        self.name = text.tidy(self.name)
        errors = {}
        try:
            super().clean_fields(exclude=exclude)
        except ValidationError as error:
            errors = error.error_dict
        if self.name and "name" not in {*(exclude or ()), *errors}:
            try:
                validators.validate_name(self.name)
            except ValidationError as error:
                errors["name"] = [error]
        if errors:
            raise ValidationError(errors)

    def clean(self) -> None:
        super().clean()
        self.email = self.email.strip().lower()

    def get_full_name(self) -> str:
        return self.name

    def get_short_name(self) -> str:
        return self.name

    @property
    def mail_language(self) -> str:
        """The language code for mails to this account; empty if unknown."""
        return self.language or self.browser_language

    def email_user(self, subject: str, message: str, **kwargs: Any) -> None:
        send_mail(subject, message, None, [self.email], **kwargs)
