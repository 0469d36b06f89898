"""What load balancers and monitors ask: is it up, and is it of use?"""

from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache

from config.errors import safe_methods_only, unavailable

# Applied migrations stay applied: once they all were, that needs no second look.
_migrated = False


@never_cache
@safe_methods_only
def health(request: HttpRequest) -> JsonResponse:
    """The process is up. Looks at nothing else, so that a slow store does not get it restarted."""
    return JsonResponse({"status": "ok"})


@never_cache
@safe_methods_only
def ready(request: HttpRequest) -> HttpResponse:
    """The database answers, and all migrations are applied."""
    global _migrated
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:
            executor = MigrationExecutor(connection)
            _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Error:
        connection.close()
        return unavailable(request, "The database does not answer.")
    if not _migrated:
        return unavailable(request, "Migrations are missing: run `manage.py migrate`.")
    return JsonResponse({"status": "ok"})
