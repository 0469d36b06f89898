"""The WSGI application, as a production server loads it."""

import os

from django.core.wsgi import get_wsgi_application
from granian.utils.proxies import wrap_wsgi_with_proxy_headers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()

from django.conf import settings  # noqa: E402 (get_wsgi_application sets Django up first)

if settings.TRUSTED_PROXIES:
    # Nobody else's X-Forwarded-For and X-Forwarded-Proto are believed.
    application = wrap_wsgi_with_proxy_headers(application, settings.TRUSTED_PROXIES)
