"""What a person types who lets a machine or a site have a key."""

from django import forms
from django.utils.translation import gettext_lazy as _

from apikeys import names
from apikeys.forms import ExpiryForm


class UserCodeForm(forms.Form):
    user_code = forms.CharField(
        label=_("Code"),
        # Some air for spaces and dashes; what it is, the service knows.
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


class AllowForm(ExpiryForm):
    """The key that a machine or a site is to have. The service judges it."""

    name = forms.CharField(
        label=_("API Key name"),
        max_length=names.MAX_NAME,
        strip=False,
        error_messages={"required": _("Give the key a name, so that you know it again later.")},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text=_("You find it under this name among your keys, and can delete it there."),
    )

    field_order = ["name", "expires", "expires_on"]
