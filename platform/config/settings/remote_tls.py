"""Verified TLS for connections to other hosts, which production requires."""

from config.settings.base import PRODUCTION, env
from config.settings.caches import CACHE_URL
from config.settings.database import database, listener_parameters, migration_parameters, replica
from config.settings.mail import mail_options
from config.settings.traces import TRACES_URL
from config.settings.uploads import IS_S3_SAFE
from core import database_urls

env.section("Network")

_is_safe = {
    "DATABASE_URL": database_urls.is_database_safe(database),
    "LISTEN_DATABASE_URL": (
        listener_parameters is None or database_urls.is_listener_safe(listener_parameters)
    ),
    "MIGRATION_DATABASE_URL": (
        migration_parameters is None or database_urls.is_listener_safe(migration_parameters)
    ),
    "REPLICA_URL": replica is None or database_urls.is_database_safe(replica),
    "CACHE_URL": CACHE_URL is None or database_urls.is_cache_safe(CACHE_URL),
    "EMAIL_URL": mail_options is None or database_urls.is_mail_safe(mail_options),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        TRACES_URL is None or database_urls.is_collector_safe(TRACES_URL)
    ),
    "S3_ENDPOINT_URL": IS_S3_SAFE,
}
_solutions = {
    "DATABASE_URL": "add ?sslmode=verify-full&sslrootcert=system, or the file of your authority",
    "LISTEN_DATABASE_URL": "add ?sslmode=verify-full, as for DATABASE_URL",
    "MIGRATION_DATABASE_URL": "add ?sslmode=verify-full, as for DATABASE_URL",
    "REPLICA_URL": "add ?sslmode=verify-full, as for DATABASE_URL",
    "CACHE_URL": "use rediss://, without turning its checks off",
    "EMAIL_URL": "use submission://, or smtp:// with ?ssl=on",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "use https://",
    "S3_ENDPOINT_URL": "use https://",
}

# By name, so that a second connection is not exempted by accident.
ALLOW_UNVERIFIED_TLS: list[str] = env.strings(
    "ALLOW_UNVERIFIED_TLS",
    kind="list of variable names",
    help="Which of `DATABASE_URL`, `LISTEN_DATABASE_URL`, `MIGRATION_DATABASE_URL`, `REPLICA_URL`, "
    "`CACHE_URL`, `EMAIL_URL`, `OTEL_EXPORTER_OTLP_ENDPOINT` and `S3_ENDPOINT_URL` may lead to "
    "another host [without verified TLS](deployment.md#tls-to-other-machines) in production.",
)
for _given in ALLOW_UNVERIFIED_TLS:
    if _given not in _is_safe:
        env.add_error("ALLOW_UNVERIFIED_TLS", f"has {_given!r}: it may name {', '.join(_is_safe)}.")
if PRODUCTION:
    for _name, _safe in _is_safe.items():
        if not _safe and _name not in ALLOW_UNVERIFIED_TLS:
            env.add_error(
                _name,
                f"leads to another machine without verified TLS: {_solutions[_name]}. Where the "
                "network between is yours alone, allow it by name: "
                f"ALLOW_UNVERIFIED_TLS={_name}",
            )
