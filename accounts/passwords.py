"""Passwords that whoever guesses tries first: common ones in any dress, and this platform's words.

No rule of what a password has to be made of: a long one of lower-case letters is a good one.
"""

import re
import string
from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.password_validation import CommonPasswordValidator
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

# What this place is about (docs/asvs.md). Its own host name comes on top.
WORDS: Final = (
    "comfyui", "comfyorg", "comfy", "apikeys", "apikey", "api", "keys", "key", "stablediffusion",
    "diffusion", "workflow", "administrator", "admin", "staff", "support", "security", "account",
    "password", "passwort", "login",
)  # fmt: skip
# So many characters besides such words are some work to guess.
_OWN: Final = 6
_SHORTEST_STEM: Final = 4
# Past this, what is around a common password is a password of its own.
_LONGEST_DRESSED: Final = 24
_LONGEST_SAID: Final = 256
_DRESS: Final = string.digits + string.punctuation + string.whitespace


class CommonInDisguiseValidator(CommonPasswordValidator):
    """Refuses a common password with digits and signs around it, or said several times.

    Of Django's 20,000, which come from breaches, only some are as long as ours have to be. What
    people make of a short one, to have it taken, is guessed as soon.
    """

    def validate(self, password: str, user: Any = None) -> None:
        folded = password.lower().strip()
        for said in {*_once(folded), *_undressed(folded)}:
            if len(said) >= _SHORTEST_STEM:
                super().validate(said, user)


class WordsOfThisPlaceValidator:
    """Refuses what is little more than this platform's own words: `ComfyUI-Keys-2026`."""

    def validate(self, password: str, user: Any = None) -> None:
        folded = re.sub(r"[\W_]+", "", password.lower())
        rest = folded
        for word in sorted(words(), key=len, reverse=True):
            rest = rest.replace(word, "")
        if rest != folded and len(rest) < _OWN:
            raise ValidationError(
                _("This is little more than words that everybody here would try first."),
                code="password_of_this_place",
            )

    def get_help_text(self) -> str:
        return _("Not little more than words that everybody here would try first.")


def words() -> set[str]:
    """The words, this platform's own name among them."""
    labels = settings.PUBLIC_HOST.replace("-", "").split(".")
    return {*WORDS, *(label for label in labels if len(label) > 2)}


def _undressed(text: str) -> Iterator[str]:
    """`text` with less and less of the digits and signs at its ends, which may be its own."""
    if len(text) > _LONGEST_DRESSED:
        return
    before, after = (len(text) - len(rest) for rest in (text.lstrip(_DRESS), text.rstrip(_DRESS)))
    for start in range(before + 1):
        for end in range(after + 1):
            yield text[start : len(text) - end]


def _once(text: str) -> Iterator[str]:
    """What is said several times in `text`, once."""
    if len(text) > _LONGEST_SAID:
        # Looked at in each of its parts, a password of a megabyte would keep a process busy.
        return
    for times in range(2, len(text) // _SHORTEST_STEM + 1):
        said = text[: len(text) // times]
        if said * times == text:
            yield said
