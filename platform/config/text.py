"""What may be in a line that a person writes, in any script.

Pure Python: no Django.
"""

import unicodedata
from typing import Final

# Controls, lone surrogates, line and paragraph separators.
_FORBIDDEN: Final = {"Cc", "Cs", "Zl", "Zp"}
# Marks that turn the direction of the text around them: a name could pose as another one.
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What shows nothing by itself: a name made of these alone can't be seen in a list.
_INVISIBLE: Final = {"Cf", "Cn", "Co", "Mn", "Me", "Zs"}


def tidy(text: str) -> str:
    """`text` trimmed and composed (Unicode NFC), so that what looks the same is stored the same."""
    return unicodedata.normalize("NFC", text.strip())


def has_controls(text: str, *, allow: str = "") -> bool:
    """Whether `text` has a control, a lone surrogate or a direction mark that `allow` has not."""
    return any(
        (unicodedata.category(character) in _FORBIDDEN or character in _BIDI_CONTROLS)
        and character not in allow
        for character in text
    )


def is_visible(name: str) -> bool:
    """Whether `name` has at least one character that a person can see."""
    return any(unicodedata.category(character) not in _INVISIBLE for character in name)


def fold(text: str) -> str:
    """`text` as it counts where case does not, in any script.

    Unicode's canonical caseless match (Unicode Standard §3.13, D145), which databases don't agree
    on: SQLite's LOWER knows ASCII only.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
