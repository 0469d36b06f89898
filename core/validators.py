"""Validators for text that users enter: no API keys, no invisible or multi-line names."""

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from core import text


def reject_api_key(value: object) -> None:
    """Raise ValidationError for text that contains an API key."""
    if isinstance(value, str) and text.contains_key(value):
        raise ValidationError(
            _(
                "This contains a whole API key, and others can read what is written here. Remove "
                "the key. If you sent it to anyone by mistake, delete it and generate another."
            ),
            code="key",
        )


def validate_name(value: str) -> None:
    """Raise ValidationError for a name with control characters, an invisible one, or an API key."""
    if text.has_controls(value):
        raise ValidationError(
            _("This name has a line break or another invisible control character. Remove it."),
            code="controls",
        )
    if not text.is_visible(value):
        raise ValidationError(
            _("This name would be invisible. Use at least one letter, digit or symbol."),
            code="invisible",
        )
    reject_api_key(value)
