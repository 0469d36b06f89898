"""What monitors see of the validation cache and of the usage counts."""

from collections.abc import Iterator

from django.conf import settings

from apikeys import usage
from apikeys.cache.invalidation import version_table
from core import health, metrics


def is_cache_off() -> bool:
    """Return whether no response and no row is cached, although the settings want it."""
    table = version_table()
    return settings.VALIDATION_CACHE and (table is None or not table.is_current())


def is_without_lease() -> bool:
    """Return whether this host does not use its caches: no notifications of other hosts arrive."""
    table = version_table()
    return bool(_has_listener() and table is not None and not table.has_lease())


def readings() -> Iterator[metrics.Reading]:
    """Read the version table of this host."""
    table = version_table()
    if table is None:
        return
    yield metrics.Reading(
        "comfyui_keys_dirty_buckets",
        "Buckets of the version table with a change in progress, which are not cached.",
        len(table.dirty()),
    )
    yield metrics.Reading(
        "comfyui_keys_swept_buckets_total",
        "Buckets that were dirty for CACHE_MAX_AGE: the outcome of a change was unknown.",
        table.swept(),
        kind="counter",
    )
    if _has_listener():
        yield metrics.Reading(
            "comfyui_keys_listener_lease_seconds",
            "Time for which this host may use its caches; 0: it does not.",
            table.lease_seconds(),
        )


def _has_listener() -> bool:
    return bool(settings.MULTI_HOST and settings.VALIDATION_CACHE)


health.register_check("validation_cache_unavailable", is_cache_off)
health.register_check("listener_without_lease", is_without_lease)
health.register_check("usage_not_written", usage.is_failing)
metrics.at_scrape("version_table", readings)
