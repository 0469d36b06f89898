"""The WSGI application: Django, the validation cache, request bodies and trusted proxies."""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

if settings.TRACES_URL is not None:
    from server import tracing

    # Before Django loads its middleware, and in each worker: a thread sends the spans.
    tracing.start(settings.TRACES_URL)

_django: Callable[..., Iterable[bytes]] = get_wsgi_application()

# After get_wsgi_application, which sets Django up.
from django.db import connections  # noqa: E402

from apikeys.cache.middleware import Application  # noqa: E402
from apikeys.cache.setup import install  # noqa: E402
from apikeys.key_networks import customer_network  # noqa: E402
from core import client_ip, file_permissions, metrics, request_log, running  # noqa: E402
from core.error_views import is_path_for_clients  # noqa: E402
from core.metrics import requests as request_metrics  # noqa: E402
from server import leader_follower, long_responses, postgres_pool, request_body  # noqa: E402

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


_cached: Application = request_log.with_request_ids(
    leader_follower.step_down_before(_django_with_merged_slashes)
)
if settings.VALIDATION_CACHE:
    _cached = install(_cached)

# Outside the cache: it repeats responses, and what is added here belongs to one request.
application: Application = request_body.with_bodies(_cached)

if settings.LOG_REQUESTS:
    application = request_log.with_request_log(application, network_of=customer_network)
# A cached response has an id only if the client sent one, or for its log line: to make and add one
# takes as long as the look-up.
application = request_log.with_request_ids(application, only_given=not settings.LOG_REQUESTS)

if settings.TRUSTED_PROXIES:
    application = client_ip.apply_forwarded_headers(
        application, proxies=settings.TRUSTED_PROXIES, header=settings.CLIENT_IP_HEADER
    )

if settings.METRICS:
    application = request_metrics.measure(application)

# Outermost: it needs the address of the connection.
application = long_responses.bound(application)
