"""How a key comes in a request, and what those are told who bring none, or a bad one.

The platform's own rules and words, so that a service behind it answers as it does.
"""

import math
from typing import Final

REALM: Final = "ComfyUI keys"
CHALLENGE: Final = f'Bearer realm="{REALM}"'
NO_KEY: Final = "Send an API key in the X-API-Key header."
CANNOT_KNOW: Final = "Keys can't be checked just now. Try again shortly."


def presented_key(x_api_key: str | None, authorization: str | None) -> str | None:
    """The text presented as a key, from the two headers' values; None for none.

    With both, X-API-Key wins. A key in the address is none: addresses are written into logs.
    """
    if x_api_key is not None:
        return x_api_key
    scheme, _space, value = (authorization or "").strip().partition(" ")
    return value if scheme.lower() == "bearer" else None


def refused() -> str:
    """The challenge to a key that is not good (RFC 6750 §3.1)."""
    return f'{CHALLENGE}, error="invalid_token"'


def out_of_scope(scope: str) -> str:
    """The challenge to a good key that is not for this."""
    return f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'


def lacks(scope: str) -> str:
    return (
        f"This API key may not be used for this: it lacks the scope {scope}. "
        "Generate one that has it."
    )


def wait(seconds: float) -> int:
    """`seconds` as Retry-After says it: whole ones, and not none."""
    return max(1, math.ceil(seconds))
