"""Password validators: common passwords with decoration, and words of this site.

There are no composition rules: a long password of lower-case letters is fine (NIST SP 800-63B).
"""

import re
import string
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.password_validation import (
    CommonPasswordValidator,
    MinimumLengthValidator,
    UserAttributeSimilarityValidator,
)
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

# Words related to this product (docs/asvs.md). The labels of the host name are added.
SITE_WORDS: Final = (
    "comfyui", "comfyorg", "comfy", "apikeys", "apikey", "api", "keys", "key", "stablediffusion",
    "diffusion", "workflow", "administrator", "admin", "staff", "support", "security", "account",
    "password", "passwort", "login",
)  # fmt: skip
# Characters that a password needs besides these words.
_MIN_OTHER_CHARACTERS: Final = 6
_MIN_STEM: Final = 4
# Longer passwords are not common ones with decoration.
_MAX_STRIPPED: Final = 24
_MAX_REPEATED: Final = 256
_DECORATION: Final = string.digits + string.punctuation + string.whitespace


def normalize(password: str) -> str:
    """Return `password` in the form that is hashed: RFC 8265 §4.2.2, OpaqueString.

    Keyboards and systems encode one character in several ways: `é` as one code point or as two, a
    space as U+0020 or U+3000. Case and width are kept, and any code point is allowed.
    """
    spaced = "".join(
        " " if unicodedata.category(character) == "Zs" else character for character in password
    )
    return unicodedata.normalize("NFC", spaced)


class _Normalized:
    """Validates a password in the form that is hashed."""

    def validate(self, password: str, user: Any = None) -> None:
        super().validate(normalize(password), user)  # type: ignore[misc]  # of the other base


class LengthValidator(_Normalized, MinimumLengthValidator):
    """Counts characters after normalization: a decomposed `é` is one."""


class SimilarityValidator(_Normalized, UserAttributeSimilarityValidator):
    """Compares with the name and the email address, which are stored normalized."""


class DecoratedCommonPasswordValidator(CommonPasswordValidator):
    """Refuses a common password surrounded by digits and signs, or repeated.

    Most of Django's 20,000 common passwords are shorter than the minimum length. Attackers also
    try their usual extensions.
    """

    def validate(self, password: str, user: Any = None) -> None:
        folded = normalize(password).lower().strip()
        for unit in {*_repeated_units(folded), *_stripped(folded)}:
            if len(unit) >= _MIN_STEM:
                super().validate(unit, user)


class SiteWordsValidator:
    """Refuses passwords that are little more than words of this site: `ComfyUI-Keys-2026`."""

    def validate(self, password: str, user: Any = None) -> None:
        folded = re.sub(r"[\W_]+", "", normalize(password).lower())
        rest = folded
        for word in sorted(site_words(), key=len, reverse=True):
            rest = rest.replace(word, "")
        if rest != folded and len(rest) < _MIN_OTHER_CHARACTERS:
            raise ValidationError(
                _(
                    "This password is too easy to guess: it is based on words that are "
                    "common on this site."
                ),
                code="password_of_this_place",
            )

    def get_help_text(self) -> str:
        return _("Your password can't be based on words that are common on this site.")


def site_words() -> set[str]:
    """Return SITE_WORDS and the labels of the host name in PUBLIC_URL."""
    labels = settings.PUBLIC_HOST.replace("-", "").split(".")
    return {*SITE_WORDS, *(label for label in labels if len(label) > 2)}


def _stripped(text: str) -> Iterator[str]:
    """Yield `text` without any number of the digits and signs at its ends."""
    if len(text) > _MAX_STRIPPED:
        return
    before, after = (
        len(text) - len(rest) for rest in (text.lstrip(_DECORATION), text.rstrip(_DECORATION))
    )
    for start in range(before + 1):
        for end in range(after + 1):
            yield text[start : len(text) - end]


def _repeated_units(text: str) -> Iterator[str]:
    """Yield each unit that `text` is a repetition of."""
    if len(text) > _MAX_REPEATED:
        # The loop is quadratic in the length of the password, which is chosen by the client.
        return
    for times in range(2, len(text) // _MIN_STEM + 1):
        unit = text[: len(text) // times]
        if unit * times == text:
            yield unit
