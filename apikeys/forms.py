"""Forms to create and rotate keys."""

import re
import uuid
from datetime import timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from apikeys import expiry, scopes
from apikeys.allowed_networks import MAX_LENGTH
from apikeys.models import MAX_DESCRIPTION, MAX_NAME, read_allowed_networks
from apikeys.scope_labels import scope_choices


class ExpiryForm(forms.Form):
    """The expiry of a key: `cleaned_data["expires_at"]` is a time, or None for never."""

    expires = forms.ChoiceField(
        label=_("Expiration"),
        choices=expiry.choices,
        initial=expiry.default_choice,
        required=False,
        widget=forms.RadioSelect,
    )
    expires_on = forms.DateField(
        label=_("Last day"),
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["expires_on"].help_text = expiry.last_day_help()
        if last_day := expiry.last_day():
            self.fields["expires_on"].widget.attrs["max"] = last_day.isoformat()

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean() or self.cleaned_data
        choice, day = cleaned.pop("expires", None), cleaned.pop("expires_on", None)
        if not {"expires", "expires_on"} & self.errors.keys():
            try:
                cleaned["expires_at"] = expiry.from_choice(
                    choice or (expiry.ON_DATE if day else expiry.default_choice()), day
                )
            except ValidationError as error:
                self.add_error("expires_on", error)
        return cleaned


class NonceForm(forms.Form):
    """A form that creates one key even if it is submitted several times."""

    nonce = forms.UUIDField(widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any] | None:
        if "nonce" in self.errors:
            # Users can't correct the nonce: set a new one and keep the other values.
            del self.errors["nonce"]
            written = {name: self[name].value() for name in self.fields}
            self.data = {**written, "nonce": str(uuid.uuid4())}
            self.add_error(None, _("This form was incomplete. Press the button again."))
        return super().clean()


class NewKeyForm(NonceForm, ExpiryForm):
    """The fields of a new key. services.issue validates them."""

    name = forms.CharField(
        label=_("API Key name"),
        max_length=MAX_NAME,
        strip=False,
        error_messages={"required": _("Name this key so you can recognize it later.")},
        widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True}),
        help_text=_("For example, the device it is for: studio-pc."),
    )
    description = forms.CharField(
        label=_("Description"),
        required=False,
        max_length=MAX_DESCRIPTION,
        strip=False,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    scopes = forms.MultipleChoiceField(
        label=_("Permissions"),
        choices=scope_choices,
        initial=scopes.ALL,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )

    allowed_networks = forms.CharField(
        label=_("Allowed networks"),
        required=False,
        max_length=2 * MAX_LENGTH,
        initial="",
        widget=forms.Textarea(attrs={"rows": 2, "autocomplete": "off", "spellcheck": "false"}),
        help_text=_(
            "IP addresses and networks from which the key can be used, one per line, such as "
            "203.0.113.0/24. Leave this empty to allow all."
        ),
    )

    def clean_allowed_networks(self) -> list[str]:
        written = re.split(r"[\s,]+", self.cleaned_data["allowed_networks"])
        return read_allowed_networks(filter(None, written)).split()

    def clean_scopes(self) -> list[str]:
        chosen: list[str] = self.cleaned_data["scopes"]
        # A page of an older version sends only the name: then no scope was deselected.
        if not chosen and "expires" in self.data:
            raise ValidationError(_("Choose at least one permission."), code="required")
        return chosen

    @property
    def main_fields(self) -> list[forms.BoundField]:
        """Return the fields that are always shown."""
        return [self[name] for name in ("name", "description", "expires", "expires_on")]

    @property
    def more_fields(self) -> list[forms.BoundField]:
        """Return the fields under "More options"."""
        return [self[name] for name in ("scopes", "allowed_networks")]

    @property
    def has_options(self) -> bool:
        """Return whether a field under "More options" was changed or has an error."""
        return any(
            field.errors or field.value() not in (field.field.initial, [*scopes.ALL])
            for field in self.more_fields
        )


class RotateForm(NonceForm):
    overlap = forms.TypedChoiceField(
        label=_("Old key keeps working for"),
        choices=[
            (0, _("Not at all: it stops working immediately")),
            (3600, _("1 hour")),
            (86400, _("24 hours")),
            (604800, _("7 days")),
        ],
        coerce=lambda seconds: timedelta(seconds=int(seconds)),
        initial=86400,
    )
