"""Bounds and validators of the fields that users write."""

from typing import Final

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from apikeys import scopes, tokens
from core import text, validators

MAX_NAME: Final = 80
MAX_DESCRIPTION: Final = 500
# One character can fold and compose to several.
MAX_FOLDED: Final = MAX_NAME * 12


def validate_name(name: str) -> None:
    validators.validate_name(name)


def validate_description(description: str) -> None:
    if text.has_controls(description, allow="\r\n\t"):
        raise ValidationError(
            _("The description contains an invisible control character. Remove it."),
            code="controls",
        )
    validators.reject_api_key(description)


def validate_scopes(text: str) -> None:
    try:
        scopes.parse(text)
    except ValueError as error:
        raise ValidationError(
            _("Unknown scope “%(scope)s”. The scopes are %(all)s and proxy:<provider>."),
            code="scope",
            params={"scope": tokens.redact(str(error)[:80]), "all": ", ".join(scopes.ALL)},
        ) from None
