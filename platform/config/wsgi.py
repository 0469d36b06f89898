"""The WSGI application: Django, the validation cache, request bodies and trusted proxies."""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

_django: Callable[..., Iterable[bytes]] = get_wsgi_application()

from django.conf import settings  # noqa: E402 (after get_wsgi_application, which sets Django up)
from django.db import connections  # noqa: E402

from apikeys.cache.middleware import Application  # noqa: E402
from apikeys.cache.setup import install  # noqa: E402
from core import client_ip, file_permissions, metrics, running  # noqa: E402
from core.error_views import is_path_for_clients  # noqa: E402
from core.metrics import requests as request_metrics  # noqa: E402
from server import leader_follower, postgres_pool, request_body  # noqa: E402

# Before the database is opened. Here as well as in `manage.py serve`, for other WSGI servers.
file_permissions.restrict_to_owner()
# A restore must notice a platform that another WSGI server runs.
running.hold_shared(wait=True)
# In this process only, which serves requests: a migration may take longer.
postgres_pool.bound(settings.DB_STATEMENT_TIMEOUT, connections.settings)
if settings.METRICS:
    metrics.start(settings.METRICS_FILES)
    _django = request_metrics.count_responses(_django)


def _django_with_merged_slashes(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Call Django, or the validation cache again if the path of an API request has `//`.

    Clients that join a path to a base URL that ends in a slash request //customers.
    """
    # From the headers Content_Type and Content_Length, which Django REST framework reads too. The
    # server passes Content-Type and Content-Length under other names.
    environ.pop("HTTP_CONTENT_TYPE", None)
    environ.pop("HTTP_CONTENT_LENGTH", None)
    path = environ["PATH_INFO"]
    if "//" in path and is_path_for_clients(merged := re.sub("/+", "/", path)):
        environ["PATH_INFO"] = merged
        return _cached(environ, start_response)
    return _django(environ, start_response)


_cached: Application = leader_follower.step_down_before(_django_with_merged_slashes)
if settings.VALIDATION_CACHE:
    _cached = install(_cached)

# Outside the cache: it repeats responses, and what is added here belongs to one request.
application: Application = request_body.with_bodies(_cached)

if settings.TRUSTED_PROXIES:
    application = client_ip.apply_forwarded_headers(
        application, proxies=settings.TRUSTED_PROXIES, header=settings.CLIENT_IP_HEADER
    )

if settings.METRICS:
    application = request_metrics.measure(application)
