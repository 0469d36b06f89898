"""The WSGI application, as a production server loads it."""

import io
import os
from collections.abc import Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application
from granian.utils.proxies import wrap_wsgi_with_proxy_headers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

_django = get_wsgi_application()

from django.conf import settings  # noqa: E402 (get_wsgi_application sets Django up first)

from config import pool  # noqa: E402
from config.lane import in_front_of  # noqa: E402

# Of this process, which serves requests: a migration may take its time.
pool.Connection.patience = settings.STORE_WAIT


def _with_bodies(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Django, with bodies of no stated length read for it: it sees none of those.

    Chunked bodies, and any of HTTP/2. Where there is no body, reading ends at once.
    """
    if "CONTENT_LENGTH" not in environ and environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
        # One byte more than is allowed is enough to be refused.
        body = environ["wsgi.input"].read(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
    return _django(environ, start_response)


application = in_front_of(_with_bodies) if settings.FAST_LANE else _with_bodies

if settings.TRUSTED_PROXIES:
    # Nobody else's X-Forwarded-For and X-Forwarded-Proto are believed.
    application = wrap_wsgi_with_proxy_headers(application, settings.TRUSTED_PROXIES)
