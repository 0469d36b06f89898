"""Forms for a user code and for the key that a machine or site gets."""

from django import forms
from django.utils.translation import gettext_lazy as _

from apikeys.forms import ExpiryForm
from apikeys.models import MAX_NAME
from core.validators import validate_name


class UserCodeForm(forms.Form):
    user_code = forms.CharField(
        label=_("Code"),
        # More than eight letters, for spaces and dashes.
        max_length=32,
        error_messages={"required": _("Type the code that the machine shows.")},
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "characters",
                "autofocus": True,
                "spellcheck": "false",
                "placeholder": "BCDF-GHJK",
            }
        ),
        help_text=_("Eight letters. Capitals and the dash don't matter."),
    )


class ConsentForm(ExpiryForm):
    """Name and expiry of the key for a machine or site; the key service validates the rest."""

    name = forms.CharField(
        label=_("API Key name"),
        max_length=MAX_NAME,
        strip=False,
        # Validated here as well: the key is created later, when the client redeems the grant.
        validators=[validate_name],
        error_messages={"required": _("Give the key a name, so that you know it again later.")},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text=_("You find it under this name among your keys, and can delete it there."),
    )

    field_order = ["name", "expires", "expires_on"]
