"""The form that disconnects a social login."""

from typing import Any

from allauth.socialaccount import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from accounts import services


class DisconnectForm(forms.DisconnectForm):  # type: ignore[misc]
    """Disconnects a login unless it is the last login method. allauth counts passwords only."""

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super(forms.DisconnectForm, self).clean() or {}
        login = data.get("account")
        if login is not None and not services.has_other_login_method(login.user, besides=login):
            raise ValidationError(
                _(
                    "This is your only way to log in. Set a password or connect another "
                    "login first."
                ),
                code="last_way_in",
            )
        return data
