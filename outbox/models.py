"""What waits to be sent. A row is gone once a mail server has taken it: it may hold a code."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Mail(models.Model):
    """One mail to one address, as text and as HTML."""

    to = models.EmailField(_("to"))
    sender = models.CharField(max_length=320)
    subject = models.CharField(_("subject"), max_length=400)
    text = models.TextField()
    html = models.TextField(blank=True)
    queued_at = models.DateTimeField(_("queued"), default=timezone.now)
    # When it may be tried next. Whoever moves this on has the mail to itself until then.
    due_at = models.DateTimeField(_("next try"), default=timezone.now, db_index=True)
    tries = models.PositiveSmallIntegerField(_("tries"), default=0)

    class Meta:
        verbose_name = _("mail")
        verbose_name_plural = _("mails that wait")
        ordering = ["due_at", "pk"]

    def __str__(self) -> str:
        return f"{self.subject} → {self.to}"
