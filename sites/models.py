"""Protected sites with their access, and the sessions of browsers there. Secrets are digests."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apikeys.cache import invalidation
from core import origins, site_names
from core.origins import RejectReason
from core.validators import reject_api_key

# Of the path that a login leads back to.
MAX_PATH = 1024
MAX_NAME = 80

REJECT_MESSAGES = {
    RejectReason.SHAPE: _(
        "Enter the origin: only scheme, host and port, such as https://comfy.example.org. "
        "Write an internationalized domain in its form that starts with xn--."
    ),
    RejectReason.PLAIN_HTTP: _(
        "Only https protects a login from others on the network. Plain http is possible "
        "on this machine alone, such as http://127.0.0.1:8188."
    ),
    RejectReason.PRIVATE: _(
        "This host name means another machine in each network, and any of them could receive "
        "a login. Enter a public name. It may resolve to a private address."
    ),
}


class Access(models.TextChoices):
    """Who may enter a site."""

    EVERYONE = "everyone", _("Everyone with an account")
    CHOSEN = "chosen", _("Chosen accounts and groups")


class ProtectedSiteQuerySet(models.QuerySet["ProtectedSite"]):
    """Sites. Updates and deletions invalidate the validation cache, as `ProtectedSite.save`."""

    def update(self, **kwargs: Any) -> int:
        with invalidation.changing_access():
            return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        with invalidation.changing_access():
            return super().delete()


class ProtectedSite(models.Model):
    """A ComfyUI server behind a proxy that asks this platform about each request."""

    origin = models.CharField(
        _("origin"),
        max_length=origins.MAX_LENGTH,
        help_text=_("Where people open ComfyUI, such as https://comfy.example.org."),
    )
    # Host and port: what proxies call the site. Unique, since both schemes share cookies.
    authority = models.CharField(max_length=origins.MAX_LENGTH, unique=True, editable=False)
    title = models.CharField(
        _("name"),
        max_length=MAX_NAME,
        blank=True,
        validators=[reject_api_key],
        help_text=_("Shown to people instead of the origin."),
    )
    access = models.CharField(
        _("access"),
        max_length=16,
        choices=Access,
        default=Access.CHOSEN,
        help_text=_("Where anyone may sign up, everyone means anyone."),
    )
    accounts = models.ManyToManyField(
        settings.AUTH_USER_MODEL, blank=True, related_name="+", verbose_name=_("accounts")
    )
    groups = models.ManyToManyField(Group, blank=True, related_name="+", verbose_name=_("groups"))
    comfyui_url = models.CharField(
        _("URL for separate users"),
        max_length=origins.MAX_LENGTH,
        blank=True,
        help_text=_(
            "Only for a ComfyUI with --multi-user: its URL as this site reaches it, such as "
            "http://127.0.0.1:8188. Each account gets a user of its own there."
        ),
    )
    created_at = models.DateTimeField(_("listed"), default=timezone.now, editable=False)
    added_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name=_("by"),
    )

    objects = ProtectedSiteQuerySet.as_manager()

    class Meta:
        verbose_name = _("protected site")
        verbose_name_plural = _("protected sites")
        ordering = ["origin"]

    def __str__(self) -> str:
        return self.title or self.authority

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.authority = site_names.name_of(self.origin)
        with invalidation.changing_access():
            self._forget_former(ProtectedSite.objects.filter(pk=self.pk).first())
            super().save(*args, **kwargs)

    def _forget_former(self, former: "ProtectedSite | None") -> None:
        if former is not None and former.authority != self.authority:
            # Browsers still send the cookies to the former host, which may be another's now.
            SiteSession.objects.filter(site=self).delete()
            SignInCode.objects.filter(site=self).delete()
        if former is not None and former.comfyui_url != self.comfyui_url:
            ComfyUIUser.objects.filter(site=self).delete()

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with invalidation.changing_access():
            return super().delete(*args, **kwargs)

    def clean_fields(self, exclude: Any = None) -> None:
        errors: dict[str, Any] = {}
        try:
            self.origin = _normalized(self.origin)
        except origins.OriginRejected as rejected:
            errors["origin"] = ValidationError(REJECT_MESSAGES[rejected.reason], code="origin")
        self.comfyui_url = self.comfyui_url.strip().lower().removesuffix("/")
        if self.comfyui_url and not origins.is_origin(self.comfyui_url):
            errors["comfyui_url"] = ValidationError(
                _("Enter scheme, host and port alone, such as http://127.0.0.1:8188."),
                code="comfyui_url",
            )
        if errors:
            raise ValidationError(errors)
        super().clean_fields(exclude=exclude)

    def clean(self) -> None:
        super().clean()
        same = ProtectedSite.objects.filter(authority=site_names.name_of(self.origin))
        if same.exclude(pk=self.pk).exists():
            raise ValidationError({"origin": _("This site is already listed.")}, code="unique")


def _normalized(text: str) -> str:
    """Return the origin in `text`. Raise OriginRejected, but not for loopback."""
    try:
        return origins.validate_listable(text)
    except origins.OriginRejected as rejected:
        if rejected.reason is RejectReason.LOOPBACK:
            return text.strip().lower().removesuffix("/")
        raise


class SiteSessionQuerySet(models.QuerySet["SiteSession"]):
    """Sessions at sites. A deletion invalidates the responses that are cached for them."""

    def delete(self) -> tuple[int, dict[str, int]]:
        digests = list(self.order_by().values_list("digest", flat=True))
        if not digests:
            return 0, {}
        with invalidation.changing_sessions(digests):
            return super().delete()


class SiteSession(models.Model):
    """A browser's session at a site. It is valid while the session here is (`session_key`)."""

    # SHA-256 of the cookie, which has 256 random bits.
    digest = models.CharField(max_length=64, unique=True)
    site = models.ForeignKey(ProtectedSite, on_delete=models.CASCADE, related_name="+")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    # The stored key of the session here (accounts.sessions), which changes when it gets another id.
    session_key = models.CharField(max_length=40, db_index=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects = SiteSessionQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.owner_id} at {self.site_id}"


class SignInCode(models.Model):
    """A code that a browser carries from the login here to the site, once."""

    LIFETIME = timedelta(seconds=60)

    digest = models.CharField(max_length=64, unique=True)
    site = models.ForeignKey(ProtectedSite, on_delete=models.CASCADE, related_name="+")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    session_key = models.CharField(max_length=40)
    # SHA-256 of the nonce in the browser's cookie at the site, in URL-safe Base64 (as in RFC 7636).
    challenge = models.CharField(max_length=43)
    path = models.CharField(max_length=MAX_PATH)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.owner_id} for {self.site_id}"


class ComfyUIUser(models.Model):
    """The id of an account's user in a ComfyUI with --multi-user."""

    site = models.ForeignKey(ProtectedSite, on_delete=models.CASCADE, related_name="+")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    user_id = models.CharField(max_length=255)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["site", "owner"], name="comfyui_sites_user_once"),
        ]

    def __str__(self) -> str:
        return self.user_id
