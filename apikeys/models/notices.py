"""Notices to owners about the expiry of keys, and about unused keys."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apikeys.models.keys import APIKey


class KeyNotice(models.Model):
    """A notice that was sent. Its row is written in the transaction that queues the mail.

    A key whose expiry changes gets new notices, since `about` differs.
    """

    class Kind(models.TextChoices):
        WEEK = "week", _("expires in a week")
        DAY = "day", _("expires in a day")
        EXPIRED = "expired", _("has expired")
        UNUSED = "unused", _("unused for a year")

    key = models.ForeignKey(APIKey, on_delete=models.CASCADE, related_name="notices")
    kind = models.CharField(_("kind"), max_length=16, choices=Kind)
    # The expiry, or the moment since which the key has been unused for a number of whole years.
    about = models.DateTimeField(_("about"))
    sent_at = models.DateTimeField(_("sent"), default=timezone.now)

    class Meta:
        verbose_name = _("notice")
        verbose_name_plural = _("notices")
        constraints = [
            models.UniqueConstraint(fields=["key", "kind", "about"], name="apikeys_keynotice_once"),
        ]

    def __str__(self) -> str:
        return f"{self.key_id} {self.kind} {self.about:%Y-%m-%d %H:%M}"
