"""The WSGI application, as a production server loads it."""

import os
from collections.abc import Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application
from granian.utils.proxies import wrap_wsgi_with_proxy_headers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

_django = get_wsgi_application()

from django.conf import settings  # noqa: E402 (get_wsgi_application sets Django up first)

from config import bodies, pool, threads  # noqa: E402
from config.lane import in_front_of  # noqa: E402

# Of this process, which serves requests: a migration may take its time.
pool.Connection.patience = settings.STORE_WAIT


def _with_bodies(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if bodies.is_unclear(environ):
        return bodies.refuse(start_response)
    bodies.fetched_when_needed(environ)
    return _django(environ, start_response)


application = threads.behind(_with_bodies)
if settings.FAST_LANE:
    application = in_front_of(application)

if settings.TRUSTED_PROXIES:
    # Nobody else's X-Forwarded-For and X-Forwarded-Proto are believed.
    application = wrap_wsgi_with_proxy_headers(application, settings.TRUSTED_PROXIES)
