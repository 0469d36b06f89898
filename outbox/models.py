"""Pending e-mails. A row is deleted when the mail server accepts it, as it may contain a code."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from outbox import encryption


class MailQuerySet(models.QuerySet["Mail"]):
    def failing(self) -> "MailQuerySet":
        """Return the e-mails that could not be sent at least once."""
        # An attempt is counted when it begins: the first one may be in progress.
        return self.filter(tries__gte=2)


class Mail(models.Model):
    """An e-mail to one recipient, with encrypted text and HTML.

    Recipient and subject are plain, for staff: subjects contain no codes or links.
    """

    to = models.EmailField(_("to"))
    sender = models.CharField(max_length=320)
    subject = models.CharField(_("subject"), max_length=400)
    sealed_text = models.TextField(editable=False)
    sealed_html = models.TextField(blank=True, editable=False)
    queued_at = models.DateTimeField(_("queued"), default=timezone.now)
    # The time of the next attempt. A process claims an e-mail by moving it into the future.
    due_at = models.DateTimeField(_("next attempt"), default=timezone.now, db_index=True)
    tries = models.PositiveSmallIntegerField(_("attempts"), default=0)

    objects = MailQuerySet.as_manager()

    class Meta:
        verbose_name = _("email")
        verbose_name_plural = _("emails")
        ordering = ["due_at", "pk"]

    def __str__(self) -> str:
        return f"{self.subject} → {self.to}"

    @property
    def text(self) -> str:
        """The decrypted text. Raises DecryptionError."""
        return encryption.decrypt(self.sealed_text)

    @text.setter
    def text(self, text: str) -> None:
        self.sealed_text = encryption.encrypt(text)

    @property
    def html(self) -> str:
        """The decrypted HTML, "" for a text-only e-mail. Raises DecryptionError."""
        return encryption.decrypt(self.sealed_html)

    @html.setter
    def html(self, html: str) -> None:
        self.sealed_html = encryption.encrypt(html)
