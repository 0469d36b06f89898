"""Who may approve a key for a machine or a site, and the descriptions that both pages show."""

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from accounts import reauthentication
from accounts.requests import current_user
from accounts.services import may_hold_keys
from apikeys import expiry, scopes
from apikeys import services as keys
from apikeys.scope_labels import scope_label
from oauth.forms import ConsentForm


def require_eligible(request: HttpRequest, *, back: str) -> HttpResponse | None:
    """Return a redirect if the user must confirm an email or reauthenticate first, else None.

    back: the URL to return to after the reauthentication.
    """
    if not may_hold_keys(current_user(request)):
        messages.error(request, _("Confirm your email before you create an API key."))
        return redirect("account_email")
    return reauthentication.ask_before_key(request, then=back)


def describe_scopes(granted: list[str]) -> list[str]:
    """Return a description for the user of each scope in `granted`."""
    # Here it is another program that signs in, and the owner decides what it sees.
    sign_in = _("Sign in to ComfyUI as you: it sees your name and email")
    return [sign_in if scope == scopes.SIGN_IN else scope_label(scope) for scope in granted]


def warn_if_impossible(request: HttpRequest, form: ConsentForm, granted: str) -> None:
    """Add a warning to the page if the account cannot have such a key."""
    try:
        keys.check(
            owner=current_user(request),
            name=str(form["name"].value()),
            # The user chooses it next, among those that are allowed.
            expires_at=expiry.latest_expires_at(),
            scopes=granted.split(),
        )
    except ValidationError as error:
        for message in error.messages:
            messages.warning(request, message)
