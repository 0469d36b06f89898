"""The format of a key, as far as it can be checked offline.

apikeys/tokens.py of the platform defines it, and its tests compare both. Only the platform knows
whether a key was issued and is live.
"""

import re
import zlib
from typing import Final

_SHAPE: Final = re.compile(r"comfyui-[0-9a-f]{64}")
_ID: Final = slice(0, 20)
_UP_TO_CRC: Final = slice(0, 64)
_CRC: Final = slice(64, 72)


def looks_right(key: str) -> bool:
    """Return whether `key` has the prefix, length, digits and CRC32 of a key."""
    if not _SHAPE.fullmatch(key):
        return False
    return f"{zlib.crc32(key[_UP_TO_CRC].encode('ascii')):08x}" == key[_CRC]


def public_part(key: str) -> str:
    """Return the public part of a well-formed key: `comfyui-87d01e28d3f4`."""
    return key[_ID]
