"""Validators for text that users enter: no API keys, no invisible or multi-line names."""

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from core import text


def reject_api_key(value: object) -> None:
    """Raise ValidationError for text that contains an API key."""
    if isinstance(value, str) and text.contains_key(value):
        raise ValidationError(
            _(
                "This contains a complete API key, and others can read this text. "
                "Remove the key. If you shared it by mistake, delete it and create a "
                "new one."
            ),
            code="key",
        )


def validate_name(value: str) -> None:
    """Raise ValidationError for a name with control characters, an invisible one, or an API key."""
    if text.has_controls(value):
        raise ValidationError(
            _("The name contains a line break or another invisible control character. Remove it."),
            code="controls",
        )
    if not text.is_visible(value):
        raise ValidationError(
            _("The name would be invisible. Use at least one letter, digit or symbol."),
            code="invisible",
        )
    reject_api_key(value)
