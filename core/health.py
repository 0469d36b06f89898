"""Endpoints for monitors: /health, /ready, and RFC 9116's /.well-known/security.txt.

Why not django-health-check: docs/adr/0026-libraries-considered.md.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from core.causes import Cause, cause_of, log_unavailable
from core.error_views import RETRY_AFTER, no_metrics_secret, safe_methods_only, unavailable
from core.monitor_access import has_secret

logger = logging.getLogger(__name__)

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
    """Readiness probe: the database answers, and all migrations are applied.

    With METRICS_SECRET: also what is degraded. A degraded platform is ready.
    """
    if settings.METRICS_SECRET and "Authorization" in request.headers:
        if not has_secret(request):
            return no_metrics_secret(request)
        return _details()
    obstacle = _obstacle()
    if obstacle is None:
        return JsonResponse({"status": "ok"})
    return unavailable(request, obstacle.message, obstacle.cause, obstacle.error)


class _Obstacle(NamedTuple):
    """Why the platform is not ready."""

    cause: Cause
    message: str
    error: Error | None = None


def _obstacle() -> _Obstacle | None:
    global _migrated
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:
            executor = MigrationExecutor(connection)
            _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Error as error:
        connection.close()
        return _Obstacle(cause_of(error), "The database does not answer.", error)
    if not _migrated:
        message = "Migrations are missing: run `manage.py migrate`."
        return _Obstacle(Cause.MIGRATIONS_MISSING, message)
    return None


class _Check(NamedTuple):
    is_degraded: Callable[[], bool]
    needs_database: bool


_checks: dict[str, _Check] = {}


def register_check(
    code: str, is_degraded: Callable[[], bool], *, needs_database: bool = False
) -> None:
    """Have /ready list `code` while `is_degraded()`.

    needs_database: it is not called while the platform is not ready.
    """
    _checks[code] = _Check(is_degraded, needs_database)


def _details() -> JsonResponse:
    obstacle = _obstacle()
    degraded = [] if obstacle is None else [obstacle.cause.value]
    for code, check in _checks.items():
        if check.needs_database and obstacle:
            continue
        try:
            is_degraded = check.is_degraded()
        except Exception:
            # Any exception: what can't be checked does not work, and the other checks matter.
            logger.exception("The check %s failed.", code)
            is_degraded = True
        if is_degraded:
            degraded.append(code)
    response = JsonResponse({"ready": obstacle is None, "degraded": sorted(degraded)})
    if obstacle:
        log_unavailable(obstacle.cause, obstacle.error)
        response.status_code = 503
        response["Retry-After"] = str(RETRY_AFTER)
    return response


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
