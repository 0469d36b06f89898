"""Django's caches: a table in the database, or Redis."""

from typing import Any

from config.settings.base import env
from core import database_urls

env.section("Cache")

CACHE_URL: str | None = env.text(
    "CACHE_URL",
    default_help="a table in the database",
    kind="URL",
    help="`redis://…` or `rediss://…` (Redis or Valkey), for rate limits that several hosts share.",
)
if CACHE_URL:
    try:
        database_urls.cache(CACHE_URL)
    except ValueError as _error:
        env.add_error("CACHE_URL", str(_error))
        CACHE_URL = None
CACHES: dict[str, dict[str, Any]] = {
    # Falls back to memory, so that rate limits work when the shared cache does not answer.
    "default": {"BACKEND": "core.cache.FailoverCache", "LOCATION": "shared"},
    "shared": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": CACHE_URL,
        "KEY_PREFIX": "comfyui-keys",
        "OPTIONS": {
            # Seconds, so that requests do not wait for a cache that hangs.
            "socket_timeout": 1.0,
            "socket_connect_timeout": 1.0,
            "serializer": "core.cache.JSON",
        },
    }
    if CACHE_URL
    else {
        # Rate limits must be shared by all processes. This needs no other server.
        "BACKEND": "core.cache.AtomicDatabaseCache",
        "LOCATION": "cache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}
