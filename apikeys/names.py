"""What may be a key's name or description, in any script.

Pure Python: no Django, no database.
"""

import unicodedata
from typing import Final

MAX_NAME: Final = 80
MAX_DESCRIPTION: Final = 500

# One character can fold and compose to several: this is room for the worst of them.
MAX_FOLDED: Final = MAX_NAME * 12


def fold(name: str) -> str:
    """`name` as it counts for uniqueness: regardless of case, in any script.

    Unicode's canonical caseless match (Unicode Standard §3.13, D145), which databases don't agree
    on: SQLite's LOWER knows ASCII only.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
