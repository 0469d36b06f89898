"""The form behind `+ New`."""

import uuid
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from apikeys import names


class NewKeyForm(forms.Form):
    """What a person says of a key they want. The service judges it; this shows where it failed."""

    name = forms.CharField(
        label=_("API Key name"),
        max_length=names.MAX_NAME,
        strip=False,
        error_messages={"required": _("Give the key a name, so that you know it again later.")},
        widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True}),
        help_text=_("For example the machine it is for: studio-pc."),
    )
    description = forms.CharField(
        label=_("Description"),
        required=False,
        max_length=names.MAX_DESCRIPTION,
        strip=False,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    # One showing of the form makes one key, however often it is sent.
    nonce = forms.UUIDField(widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any] | None:
        if "nonce" in self.errors:
            # Nothing a person could mend: give the form another one, and keep what they wrote.
            del self.errors["nonce"]
            fresh = {name: self.data.get(name) for name in self.fields}
            self.data = {**fresh, "nonce": str(uuid.uuid4())}
            self.add_error(None, _("This form was incomplete. Press Generate once more."))
        return super().clean()
