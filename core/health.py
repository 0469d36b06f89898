"""Endpoints for monitors: /health, /ready, and RFC 9116's /.well-known/security.txt.

Why not django-health-check: docs/adr/0026-libraries-considered.md.
"""

from datetime import timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from core.causes import Cause, cause_of
from core.error_views import safe_methods_only, unavailable

# Applied migrations stay applied, so the check runs until it succeeds once.
_migrated = False


@never_cache
@safe_methods_only
def health(request: HttpRequest) -> JsonResponse:
    """Liveness probe: no database, so that a slow one does not get the process restarted."""
    return JsonResponse({"status": "ok"})


@never_cache
@safe_methods_only
def ready(request: HttpRequest) -> HttpResponse:
    """Readiness probe: the database answers, and all migrations are applied."""
    global _migrated
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:
            executor = MigrationExecutor(connection)
            _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Error as error:
        connection.close()
        return unavailable(request, "The database does not answer.", cause_of(error), error)
    if not _migrated:
        return unavailable(
            request, "Migrations are missing: run `manage.py migrate`.", Cause.MIGRATIONS_MISSING
        )
    return JsonResponse({"status": "ok"})


# RFC 9116 §2.5.5 recommends less than a year.
_VALID_FOR = timedelta(days=180)


@safe_methods_only
def security_txt(request: HttpRequest) -> HttpResponse:
    """Security contacts (RFC 9116), or 404 if the operator has set none."""
    if not settings.SECURITY_CONTACT:
        raise Http404
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    lines = [
        *(f"Contact: {contact}" for contact in settings.SECURITY_CONTACT),
        f"Expires: {midnight + _VALID_FOR:%Y-%m-%dT%H:%M:%SZ}",
        "Preferred-Languages: en",
    ]
    # "Web URIs MUST begin with 'https://'" (RFC 9116 §2.5.2).
    if settings.HTTPS:
        lines.append(f"Canonical: {settings.PUBLIC_URL}/.well-known/security.txt")
    return HttpResponse("\n".join([*lines, ""]), content_type="text/plain; charset=utf-8")
