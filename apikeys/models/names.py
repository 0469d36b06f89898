"""The former names of keys: the audit log has ids only, and shows the name of the time."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from apikeys.models.keys import APIKey
from apikeys.models.validators import MAX_NAME


class FormerName(models.Model):
    """A name that a key had until `replaced_at`. It is deleted with the key."""

    key = models.ForeignKey(APIKey, on_delete=models.CASCADE, related_name="former_names")
    name = models.CharField(_("name"), max_length=MAX_NAME)
    replaced_at = models.DateTimeField(_("replaced"))

    class Meta:
        verbose_name = _("former name")
        verbose_name_plural = _("former names")
        ordering = ["replaced_at", "pk"]

    def __str__(self) -> str:
        return f"{self.key_id} {self.replaced_at:%Y-%m-%d %H:%M:%S}: {self.name}"
