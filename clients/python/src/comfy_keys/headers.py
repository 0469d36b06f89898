"""The headers that carry a key, and the texts of refusals.

They are those of the platform, so that a service responds as the platform does.
"""

import math
from typing import Final

REALM: Final = "ComfyUI keys"
CHALLENGE: Final = f'Bearer realm="{REALM}"'
NO_KEY: Final = "Send an API key in the X-API-Key header."
UNAVAILABLE: Final = "API keys can't be checked right now. Try again shortly."


def presented_key(x_api_key: str | None, authorization: str | None) -> str | None:
    """Return the key in the two headers' values, or None.

    X-API-Key wins over Authorization. An empty or blank header counts as absent. Keys in URLs are
    not read, because URLs are written into logs.
    """
    if key := _non_empty(x_api_key or ""):
        return key
    scheme, _space, value = (authorization or "").strip().partition(" ")
    return _non_empty(value) if scheme.lower() == "bearer" else None


def _non_empty(value: str) -> str | None:
    # Repeated headers are joined with commas (RFC 9110 §5.3), empty ones as well. Two keys stay
    # joined, which is no valid key.
    return ",".join(one for one in value.split(",") if one.strip()) or None


def invalid_token_challenge() -> str:
    """Return the challenge for an invalid key (RFC 6750 §3.1)."""
    return f'{CHALLENGE}, error="invalid_token"'


def insufficient_scope_challenge(scope: str) -> str:
    """Return the challenge for a valid key that lacks `scope`."""
    return f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'


def missing_scope_message(scope: str) -> str:
    return f"This API key doesn't have the scope {scope}. Create a key that has it."


def retry_after(seconds: float) -> int:
    """Return `seconds` for Retry-After: rounded up, at least 1."""
    return max(1, math.ceil(seconds))
