"""Unicode rules for text that users enter, in any script. No Django."""

import re
import unicodedata
from typing import Final

# Controls, lone surrogates, line and paragraph separators.
_FORBIDDEN: Final = {"Cc", "Cs", "Zl", "Zp"}
# Bidirectional controls: with them a name can look like another name.
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Categories without a visible glyph.
_INVISIBLE: Final = {"Cf", "Cn", "Co", "Mn", "Me", "Zs"}
# Unicode's property Default_Ignorable_Code_Point (DerivedCoreProperties.txt, Unicode 16), which
# `unicodedata` lacks: fonts draw nothing for these. Some are letters by category, such as the
# Hangul fillers.
_IGNORABLE: Final = frozenset(
    chr(code)
    for block in (
        range(0x00AD, 0x00AE),
        range(0x034F, 0x0350),
        range(0x061C, 0x061D),
        range(0x115F, 0x1161),
        range(0x17B4, 0x17B6),
        range(0x180B, 0x1810),
        range(0x200B, 0x2010),
        range(0x202A, 0x202F),
        range(0x2060, 0x2070),
        range(0x3164, 0x3165),
        range(0xFE00, 0xFE10),
        range(0xFEFF, 0xFF00),
        range(0xFFA0, 0xFFA1),
        range(0xFFF0, 0xFFF9),
        range(0x1BCA0, 0x1BCA4),
        range(0x1D173, 0x1D17B),
        range(0xE0000, 0xE1000),
    )
    for code in block
)
# Letters and symbols with an empty glyph: Braille pattern blank, the null notehead, the blanks of
# Egyptian hieroglyphs; and the object replacement character.
_BLANK: Final = frozenset("\u2800\ufffc\U0001d159\U00013441\U00013442")
# Canonical combining classes from here on are vowel points, tone marks and accents (Unicode
# Standard §4.3). Those below change the letter, as the voicing mark does that makes "が" of "か".
FIRST_ACCENT: Final = 10
# A whole key, or most of one: 40 of the 64 digits are the public id and 112 bits of the secret.
_KEY: Final = re.compile(r"comfyui-[0-9a-f]{40}", re.IGNORECASE)


def tidy(text: str) -> str:
    """Return `text` trimmed and in Unicode NFC, so that texts that look equal are stored equal."""
    return unicodedata.normalize("NFC", text.strip())


def has_controls(text: str, *, allow: str = "") -> bool:
    """Return whether `text` has a control, lone surrogate or bidi control not in `allow`."""
    return any(
        (unicodedata.category(character) in _FORBIDDEN or character in _BIDI_CONTROLS)
        and character not in allow
        for character in text
    )


def is_visible(name: str) -> bool:
    """Return whether `name` has at least one visible character."""
    return any(
        unicodedata.category(character) not in _INVISIBLE
        and character not in _BLANK
        and character not in _IGNORABLE
        for character in name
    )


def contains_key(text: str) -> bool:
    """Return whether `text` contains an API key, or most of one, of any platform.

    Line breaks, other dashes, full-width letters and invisible characters do not hide a key.
    """
    return _KEY.search("".join(map(_plain, unicodedata.normalize("NFKC", text)))) is not None


def _plain(character: str) -> str:
    if character.isspace() or character in _IGNORABLE:
        return ""
    return "-" if unicodedata.category(character) == "Pd" else character


def fold(text: str) -> str:
    """Return `text` folded for case-insensitive comparison in any script.

    Unicode's canonical caseless match (Unicode Standard §3.13, D145). Databases differ: SQLite's
    LOWER handles ASCII only.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def search_form(text: str) -> str:
    """Return `text` without case and accents, in any script: "Éclair" becomes "eclair".

    For searches. Compatibility forms become plain ones ("Ａ" and "ａ" become "a").
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    letters = "".join(c for c in decomposed if unicodedata.combining(c) < FIRST_ACCENT)
    # Parts of a syllable, as in Korean, become the syllable again.
    return unicodedata.normalize("NFKC", letters)
