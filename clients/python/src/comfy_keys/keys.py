"""The shape of a key, as far as anybody can see it offline.

The platform defines it (apikeys/tokens.py); its tests hold the two together. What only the
platform can tell, whether the key was ever made and still lives, stays out of here.
"""

import re
import zlib
from typing import Final

_SHAPE: Final = re.compile(r"comfyui-[0-9a-f]{64}")
_ID: Final = slice(0, 20)
_UP_TO_CRC: Final = slice(0, 64)
_CRC: Final = slice(64, 72)


def looks_right(key: str) -> bool:
    """Whether `key` has the prefix, length, digits and CRC32 of one: if not, it is mistyped."""
    if not _SHAPE.fullmatch(key):
        return False
    return f"{zlib.crc32(key[_UP_TO_CRC].encode('ascii')):08x}" == key[_CRC]


def public_part(key: str) -> str:
    """What may be shown of a key that looks right: `comfyui-87d01e28d3f4`."""
    return key[_ID]
