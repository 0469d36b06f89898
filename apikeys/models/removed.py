"""Keys whose rows a cleanup has deleted: a restored backup must not revive them."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from apikeys.models.keys import Reason


class RemovedKey(models.Model):
    """What is left of a revoked key: enough for a tombstone (backups.tombstone_recorder).

    Without an owner, so that it is no personal data.
    """

    public_id = models.CharField(_("public id"), max_length=12, primary_key=True)
    revoked_at = models.DateTimeField(_("revoked"))
    reason = models.CharField(_("reason"), max_length=16, choices=Reason)

    class Meta:
        verbose_name = _("removed key")
        verbose_name_plural = _("removed keys")

    def __str__(self) -> str:
        return f"{self.public_id} {self.revoked_at:%Y-%m-%d %H:%M:%S} {self.reason}"
