"""Forms for a user code and for the key that a machine or site gets."""

from django import forms
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from apikeys.forms import ExpiryForm
from apikeys.models import MAX_NAME
from core.validators import validate_name


class UserCodeForm(forms.Form):
    user_code = forms.CharField(
        label=pgettext_lazy("shown on a device", "Code"),
        # More than eight letters, for spaces and dashes.
        max_length=32,
        error_messages={"required": _("Enter the code shown on your device.")},
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "characters",
                "autofocus": True,
                "spellcheck": "false",
                "dir": "ltr",
                "placeholder": "BCDF-GHJK",
            }
        ),
        help_text=_("Eight letters. Case and the dash don't matter."),
    )


class ConsentForm(ExpiryForm):
    """Name and expiry of the key for a machine or site; the key service validates the rest."""

    name = forms.CharField(
        label=_("API Key name"),
        max_length=MAX_NAME,
        strip=False,
        # Validated here as well: the key is created later, when the client redeems the grant.
        validators=[validate_name],
        error_messages={"required": _("Name this key so you can recognize it later.")},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text=_("You can find and delete it by this name in your list of API keys."),
    )

    field_order = ["name", "expires", "expires_on"]
