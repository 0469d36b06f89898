"""The form with which owners change a key."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final, cast

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext

from apikeys import expiry, services
from apikeys.models import MAX_DESCRIPTION, MAX_NAME, APIKey, read_allowed_networks
from apikeys.scope_labels import scope_label
from core import dates

_KEEP: Final = "keep"
_NEVER: Final = "never"
_ON_DATE: Final = "date"
_DAYS: Final = (30, 90, 365)

# The field that an error of services.update belongs to, by its code.
_FIELDS: Final = {
    "wider": "scopes",
    "scope": "scopes",
    "networks": "allowed_networks",
    "past": "expiry",
    "far": "expiry",
    "lifetime": "expiry",
}


class KeyForm(forms.Form):
    """The values of a key that its owner may change. services.update validates them."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=MAX_NAME,
        strip=False,
        error_messages={"required": gettext_lazy("Name this key so you can recognize it later.")},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    description = forms.CharField(
        label=gettext_lazy("Description"),
        required=False,
        max_length=MAX_DESCRIPTION,
        strip=False,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    expiry = forms.ChoiceField(label=gettext_lazy("Expires"), initial=_KEEP)
    expiry_date = forms.DateField(
        label=gettext_lazy("Last day"),
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
    )
    scopes = forms.MultipleChoiceField(
        label=gettext_lazy("Permissions"),
        widget=forms.CheckboxSelectMultiple,
        error_messages={
            "required": gettext_lazy("Keep at least one permission. To stop a key, delete it."),
        },
        help_text=gettext_lazy("Permissions can be removed, not added: create a new key for more."),
    )
    allowed_networks = forms.CharField(
        label=gettext_lazy("Allowed networks"),
        required=False,
        # So that a form tells what was changed in it from what was changed since.
        show_hidden_initial=True,
        strip=False,
        max_length=4000,
        widget=forms.Textarea(
            attrs={"rows": 2, "autocomplete": "off", "spellcheck": "false", "dir": "ltr"}
        ),
        help_text=gettext_lazy(
            "One IP address or network in each line, such as 203.0.113.7 or 2001:db8::/48. "
            "Empty: the key works from everywhere."
        ),
    )

    def __init__(
        self, data: QueryDict | None = None, *, key: APIKey, draft: Mapping[str, Any] | None = None
    ) -> None:
        """draft: values that were typed before a reauthentication."""
        stored = {
            "name": key.name,
            "description": key.description,
            "scopes": list(key.granted),
            "allowed_networks": "\n".join(key.allowed_network_list),
        }
        super().__init__(data, initial={**stored, **(draft or {})})
        self.fields["expiry_date"].help_text = expiry.last_day_help()
        never = pgettext("of an expiry", "Never")
        current = never if key.expires_at is None else dates.moment(key.expires_at)
        latest = expiry.latest_expires_at(key.created_at)
        _choice_field(self, "expiry").choices = [
            (_KEEP, current),
            *(
                (str(days), _("In %(days)d days") % {"days": days})
                for days in _DAYS
                if latest is None or expiry.in_days(days) <= latest
            ),
            (_ON_DATE, _("On a date")),
            *([(_NEVER, never)] if latest is None and key.expires_at is not None else []),
        ]
        _choice_field(self, "scopes").choices = [
            (scope, scope_label(scope)) for scope in key.granted
        ]

    def clean_allowed_networks(self) -> list[str]:
        networks: list[str] = self.cleaned_data["allowed_networks"].replace(",", " ").split()
        # services.update does this, too, but after the errors of other fields are gone.
        read_allowed_networks(networks)
        return networks

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean() or self.cleaned_data
        day = cleaned.get("expiry_date")
        if cleaned.get("expiry") == _ON_DATE and day is None and "expiry_date" not in self.errors:
            self.add_error("expiry_date", _("Choose the last day on which the key works."))
        return cleaned

    @property
    def changes(self) -> services.KeyChanges:
        """Return the arguments for services.update. An expiry that is kept is left out."""
        changes = services.KeyChanges(
            name=self.cleaned_data["name"],
            description=self.cleaned_data["description"],
            scopes=self.cleaned_data["scopes"],
        )
        # A form that was rendered before a restriction must not lift it.
        was_rendered = self.add_initial_prefix("allowed_networks") in self.data
        if not was_rendered or "allowed_networks" in self.changed_data:
            changes["allowed_networks"] = self.cleaned_data["allowed_networks"]
        if self.cleaned_data["expiry"] != _KEEP:
            changes["expires_at"] = _expires_at(
                self.cleaned_data["expiry"], self.cleaned_data["expiry_date"]
            )
        return changes

    def focus_first_error(self) -> None:
        """Let the browser scroll to the first error: on phones the form is below the fold."""
        for name in self.fields:
            if name in self.errors:
                self.fields[name].widget.attrs["autofocus"] = True
                return

    def add_refusal(self, error: ValidationError) -> None:
        """Add an error of services.update to the field that it is about."""
        if isinstance(error, services.NameTakenError):
            self.add_error("name", _taken(error.holder))
        elif hasattr(error, "error_dict"):
            self.add_error(None, error)
        else:
            for each in error.error_list:
                self.add_error(_FIELDS.get(each.code or ""), each)


def _choice_field(form: forms.Form, name: str) -> forms.ChoiceField:
    return cast("forms.ChoiceField", form.fields[name])


def _expires_at(choice: str, day: date | None) -> datetime | None:
    if choice == _NEVER:
        return None
    return expiry.end_of_local(day) if day and choice == _ON_DATE else expiry.in_days(int(choice))


def _taken(holder: APIKey) -> str:
    link = format_html(
        '<a href="{}"><bdi>{}</bdi></a>', reverse("key", args=[holder.pk]), holder.name
    )
    return format_html(
        _("You have a key with this name already: {key}. Choose another name."), key=link
    )
