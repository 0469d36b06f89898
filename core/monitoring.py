"""/metrics, and what monitors see of the workers, the disk and the shared cache."""

import shutil
from collections.abc import Iterator
from importlib.metadata import version

from django.conf import settings
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache

from core import error_views, health
from core import metrics as core_metrics
from core.cache import circuit_breaker
from core.causes import Cause
from core.error_views import safe_methods_only
from core.metrics import Reading, slots
from core.monitor_access import may_read


@never_cache
@safe_methods_only
def metrics(request: HttpRequest) -> HttpResponse:
    """The metrics of all workers for Prometheus. 404 while they are off, 401 for others."""
    if not settings.METRICS:
        return error_views.not_found(request, Http404())
    if not may_read(request):
        return error_views.no_metrics_secret(request)
    # Where metrics are off, their library is not needed.
    from core.metrics import exposition

    try:
        body, media_type = exposition.expose(request.headers.get("Accept", ""))
    except exposition.NotMeasuring:
        message = "This process does not count: see the log."
        return error_views.unavailable(request, message, Cause.METRICS_UNAVAILABLE)
    return HttpResponse(body, content_type=media_type)


def disk_is_nearly_full() -> bool:
    """Return whether the disk of VAR_DIR is nearly full."""
    usage = shutil.disk_usage(settings.VAR)
    return is_nearly_full(total=usage.total, free=usage.free)


def is_nearly_full(*, total: int, free: int) -> bool:
    """Return whether less than 5 % of `total` bytes is free, and less than 1 GiB."""
    return free < min(total * 0.05, 1 << 30)


def cache_is_unavailable() -> bool:
    """Return whether the cache that hosts share (CACHE_URL) does not answer."""
    if not settings.CACHE_URL:
        return False
    # Through the circuit breaker: a cache that hangs costs its timeout once in five seconds.
    cache.get("monitoring")
    return circuit_breaker("shared").is_open


def readings() -> Iterator[Reading]:
    """Read the version, the workers and the disk."""
    yield Reading(
        "comfyui_keys_info", "1, with the version.", 1, {"version": version("comfyui-keys")}
    )
    if core_metrics.folder is not None:
        yield Reading("comfyui_keys_workers", "Running workers.", slots.held(core_metrics.folder))
    yield Reading("comfyui_keys_workers_wanted", "Workers by WORKERS.", settings.WORKERS)
    disk = shutil.disk_usage(settings.VAR)
    yield Reading("comfyui_keys_disk_free_bytes", "Free space of the disk of VAR_DIR.", disk.free)
    yield Reading("comfyui_keys_disk_size_bytes", "Size of the disk of VAR_DIR.", disk.total)


health.register_check("disk_nearly_full", disk_is_nearly_full)
health.register_check("cache_unavailable", cache_is_unavailable)
core_metrics.at_scrape("platform", readings)
