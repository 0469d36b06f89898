"""Audit events: who did what, when, through which interface, from which IP. Append-only."""

from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Action(models.TextChoices):
    """The action of an event."""

    KEY_ISSUED = "key.issued", _("API key created")
    KEY_ROTATED = "key.rolled", _("API key rotated")
    KEY_CHANGED = "key.changed", _("API key changed")
    KEY_REVOKED = "key.revoked", _("API key revoked")
    KEY_SUSPENDED = "key.suspended", _("API key suspended")
    KEY_RESTORED = "key.restored", _("API key restored")
    KEY_LEAKED = "key.leaked", _("API key reported as exposed")
    KEY_NEW_NETWORK = "key.new_network", _("API key used from a new network")
    KEY_REFUSED = "key.refused", _("API key refused")
    ACCOUNT_CREATED = "account.made", _("account created")
    SIGNED_IN = "account.signed_in", _("logged in")
    SIGN_IN_REFUSED = "account.refused", _("login refused")
    SIGNED_OUT = "account.signed_out", _("logged out")
    SITE_SIGNED_IN = "account.site_signed_in", _("logged in to a ComfyUI")
    PASSWORD_CHANGED = "account.password", _("password changed")
    EMAIL_CHANGED = "account.address", _("email changed")
    FACTOR_ADDED = "account.factor_added", _("two-factor authentication added")
    FACTOR_REMOVED = "account.factor_removed", _("two-factor authentication removed")
    LOGIN_ADDED = "account.login_added", _("login connected")
    LOGIN_REMOVED = "account.login_removed", _("login disconnected")
    ACCOUNT_DISABLED = "account.disabled", _("account disabled")
    ACCOUNT_ENABLED = "account.enabled", _("account enabled")
    ACCOUNT_DELETED = "account.deleted", _("account deleted by its owner")
    STAFF_VIEWED = "staff.viewed", _("viewed by staff")
    STAFF_CHANGED = "staff.changed", _("changed by staff")
    STAFF_LOOKED_UP = "staff.looked_up", _("key looked up by staff")
    STAFF_REFUSED = "staff.refused", _("staff page refused")
    STAFF_EXPORTED = "staff.exported", _("audit log exported by staff")
    SERVICE_USED = "service.used", _("service validated keys")
    SERVICE_REFUSED = "service.refused", _("service refused")


class Via(models.TextChoices):
    """The interface through which an action was taken."""

    PAGE = "page", _("pages")
    API = "api", _("REST API")
    ADMIN = "admin", _("staff pages")
    COMMAND = "command", _("command line")
    OAUTH = "oauth", _("connected device or site")
    LEAK_REPORT = "leak", _("leak report")


class EventQuerySet(models.QuerySet["Event"]):
    def update(self, **kwargs: Any) -> NoReturn:
        raise TypeError("Events are append-only.")

    def delete(self) -> NoReturn:
        raise TypeError("Events are append-only.")

    def clear_client_ips(self, user: models.Model) -> None:
        """Clear the client IPs of `user`, for the deletion of the account: the only update allowed.

        The IPs of staff who acted on the account stay.
        """
        own = models.Q(actor=user) | models.Q(account=user, actor=None)
        models.QuerySet(self.model, using=self.db).filter(own).update(address=None)


class Event(models.Model):
    """An event of the audit log. On PostgreSQL, a trigger rejects updates and deletes.

    Foreign keys have no database constraint, so that events outlive accounts and keys unchanged.
    """

    at = models.DateTimeField(_("when"), default=timezone.now, db_index=True)
    action = models.CharField(_("what"), max_length=32, choices=Action)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        # The index audit_event_account starts with it.
        db_index=False,
        related_name="+",
        verbose_name=_("account"),
        help_text=_("The account, or the owner of the key."),
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
        verbose_name=_("by"),
        help_text=_("Who did it. Empty for server commands and anonymous clients."),
    )
    key_id = models.UUIDField(_("key"), null=True)
    public_id = models.CharField(_("public id"), max_length=12, blank=True, db_index=True)
    via = models.CharField(_("through"), max_length=16, choices=Via)
    # The client IP.
    address = models.GenericIPAddressField(_("from"), null=True)
    detail = models.JSONField(_("detail"), default=dict)

    objects = EventQuerySet.as_manager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["-at", "-id"]
        permissions = [("export_event", _("Can export the audit log"))]
        indexes = [
            models.Index(fields=["action", "-at", "-id"], name="audit_event_action"),
            models.Index(fields=["via", "-at", "-id"], name="audit_event_via"),
            models.Index(fields=["account", "-at", "-id"], name="audit_event_account"),
            models.Index(fields=["address", "-at", "-id"], name="audit_event_address"),
            models.Index(fields=["key_id", "-at", "-id"], name="audit_event_key"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.action} {self.public_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("Events are append-only.")
        # Without force_insert, a given primary key would overwrite an event.
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Events are append-only.")
