"""What may be a key's name or description, in any script.

Pure Python: no Django, no database.
"""

from typing import Final

# Names that fold the same are the same name.
from config.text import fold as fold

MAX_NAME: Final = 80
MAX_DESCRIPTION: Final = 500

# One character can fold and compose to several: this is room for the worst of them.
MAX_FOLDED: Final = MAX_NAME * 12
