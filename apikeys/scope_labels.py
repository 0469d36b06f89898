"""What each scope permits, in words for users."""

from typing import Final

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from apikeys import scopes

_LABELS: Final[dict[str, str | Promise]] = {
    scopes.SIGN_IN: gettext_lazy("Sign in to ComfyUI"),
    scopes.ANY_PROVIDER: gettext_lazy("Use API nodes through this site's gateway"),
    scopes.MANAGE: gettext_lazy("List, rotate and delete all your API keys"),
}


def scope_label(scope: str) -> str:
    """Return what a scope permits."""
    if scope in _LABELS:
        return str(_LABELS[scope])
    return _("Use API nodes of %(provider)s through this site's gateway") % {
        "provider": scope.removeprefix("proxy:")
    }


def scope_choices() -> list[tuple[str, str]]:
    """Return the scopes that a new key can have, for a form."""
    return [(scope, scope_label(scope)) for scope in scopes.ALL]
