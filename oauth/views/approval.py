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
    descriptions = {
        scopes.SIGN_IN: _("Sign in to ComfyUI as you: it sees your name and email"),
        scopes.ANY_PROVIDER: _("Use API nodes through this site's gateway"),
        scopes.MANAGE: _("List, rotate and delete all your API keys"),
    }
    return [
        descriptions.get(scope)
        or _("Use API nodes of %(provider)s through this site's gateway")
        % {"provider": scope.partition(":")[2]}
        for scope in granted
    ]


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
