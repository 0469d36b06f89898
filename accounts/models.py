"""Who people are: one account each, known by email address."""

import uuid
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.core.mail import send_mail
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import changes
from config.lookups import Caseless


class UserQuerySet(models.QuerySet["User"]):
    """Tells of changes to many at once, as `User.save` does of one."""

    def update(self, **kwargs: Any) -> int:
        with changes.changing(self._ids(), kwargs):
            return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        with changes.changing(self._ids()):
            return super().delete()

    def _ids(self) -> list[uuid.UUID]:
        return list(self.order_by().values_list("pk", flat=True))


class UserManager(BaseUserManager["User"]):
    """Makes accounts. Addresses are kept in lower case: people don't tell them apart by case."""

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
    """An account. The email address is the login name; there is no other."""

    MAX_NAME = 80

    class Notices(models.TextChoices):
        """Which mails a person wants, beyond those that nobody can turn off."""

        ALL = "all", _("Everything that happens to my keys")
        SECURITY = "security", _("Only what concerns my account's safety")

    # Not a counter: clients see this id, and must not learn from it how many accounts there are.
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(
        _("email address"),
        unique=True,
        error_messages={"unique": _("An account with this email address exists already.")},
    )
    name = models.CharField(
        _("name"),
        max_length=MAX_NAME,
        blank=True,
        help_text=_("How ComfyUI and this site greet you."),
    )
    is_active = models.BooleanField(
        _("active"),
        default=True,
        help_text=_("Untick instead of deleting: sign-in and every key stop working at once."),
    )
    is_staff = models.BooleanField(
        _("staff"), default=False, help_text=_("May open the staff pages.")
    )
    language = models.CharField(
        _("language"),
        max_length=16,
        choices=settings.LANGUAGES,
        blank=True,
        help_text=_("Of these pages, and of the mails that you get."),
    )
    notices = models.CharField(
        _("mails about my keys"),
        max_length=16,
        choices=Notices,
        default=Notices.ALL,
        help_text=_("Of a new device, a changed password or factor, you are always told."),
    )
    date_joined = models.DateTimeField(_("joined"), default=timezone.now, editable=False)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

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
            ("recover_user", _("Can remove people's second factors")),
            ("manage_staff", _("Can say who is staff, and in which role")),
        ]
        # What staff filter and search by, besides the address.
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
            # With `unique` above, this makes addresses unique regardless of case.
            models.CheckConstraint(
                condition=models.Q(email=Lower("email")),
                name="accounts_user_email_lower",
                violation_error_message=_("Write the email address in lower case."),
            ),
        ]

    def __str__(self) -> str:
        return self.email

    def save(self, *args: Any, **kwargs: Any) -> None:
        with changes.changing([self.pk], kwargs.get("update_fields")):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with changes.changing([self.pk]):
            return super().delete(*args, **kwargs)

    def clean(self) -> None:
        super().clean()
        self.email = self.email.strip().lower()

    def get_full_name(self) -> str:
        return self.name

    def get_short_name(self) -> str:
        return self.name

    def email_user(self, subject: str, message: str, **kwargs: Any) -> None:
        send_mail(subject, message, None, [self.email], **kwargs)
