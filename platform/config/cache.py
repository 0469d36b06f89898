"""What values look like in a shared cache."""

import json
from typing import Any


class JSON:
    """Values as JSON, for Django's Redis cache, which pickles if it is not told otherwise.

    Reading a pickle runs whatever somebody put into it, and whoever can write to a cache should
    not run code here. What can't be read is not there.
    """

    def dumps(self, value: Any) -> bytes | int:
        # A whole number as itself: the store adds to those.
        return value if type(value) is int else json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None
