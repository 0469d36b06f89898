"""The use of keys: calls and refusals per day and hour, and the networks of clients."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from apikeys.models.keys import APIKey


class DailyUse(models.Model):
    """Number of calls with a key on one day (UTC)."""

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
    """Number of calls with a key in one hour (UTC)."""

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


class HourlyRefusal(models.Model):
    """Number of refused calls with a key, whose secret was right, in one hour (UTC), by reason."""

    key = models.ForeignKey(APIKey, on_delete=models.CASCADE, related_name="hourly_refusals")
    hour = models.DateTimeField(_("hour"))
    # The VerdictCode.
    code = models.CharField(_("code"), max_length=32)
    calls = models.PositiveBigIntegerField(_("calls"), default=0)

    class Meta:
        verbose_name = _("hourly refusal")
        verbose_name_plural = _("hourly refusals")
        constraints = [
            models.UniqueConstraint(
                fields=["key", "hour", "code"], name="apikeys_hourlyrefusal_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key_id} {self.hour:%Y-%m-%d %H:00} {self.code}: {self.calls}"


class DailyTotal(models.Model):
    """Number of calls and of refused calls with all keys on one day (UTC).

    A row of its own, since the sum of a million keys takes seconds. Deleted keys stay counted.
    """

    day = models.DateField(_("day"), primary_key=True)
    calls = models.PositiveBigIntegerField(_("calls"), default=0)
    refusals = models.PositiveBigIntegerField(_("refused calls"), default=0)

    class Meta:
        verbose_name = _("daily total")
        verbose_name_plural = _("daily totals")

    def __str__(self) -> str:
        return f"{self.day}: {self.calls}, {self.refusals} refused"


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
