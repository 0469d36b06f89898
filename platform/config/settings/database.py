"""The database, its PostgreSQL options, and the URLs for migrations and notifications."""

import zlib
from pathlib import Path
from typing import Any

from config.settings.base import PRODUCTION, VAR, env
from core import database_urls

env.section("Database")

_url = env.text(
    "DATABASE_URL",
    required=PRODUCTION,
    default_help="required with `PRODUCTION`; else SQLite in `VAR_DIR`",
    kind="URL",
    help="`sqlite:///path` or `postgres://user:password@host/name`, with "
    "[options](deployment.md#the-database).",
)
_prepared_statements = env.boolean(
    "PREPARED_STATEMENTS",
    default=True,
    help="Let PostgreSQL plan a repeated statement once per connection. Off for a PgBouncer before "
    "1.21 in transaction pooling.",
)


def _set_postgresql_options(options: dict[str, Any], *, connections: int, wait: float) -> None:
    """Add a pool and timeouts. wait: seconds for which a request waits for a connection."""
    from server import postgres_pool

    options.setdefault("connect_timeout", 3)
    options["pool"] = {
        # Connections that the server has closed, as at its restart, are replaced.
        "check": postgres_pool.check,
        # Enforces DB_STATEMENT_TIMEOUT on the client.
        "connection_class": postgres_pool.Connection,
        "min_size": 1,
        "max_size": connections,
        # Then the request is answered 503.
        "timeout": wait,
        # After this many seconds the pool stops its own attempts, whose delay grows, so that the
        # next request connects as soon as the server is back.
        "reconnect_timeout": 1,
    }
    if _prepared_statements:
        options.setdefault("server_side_binding", True)
        options.setdefault("prepare_threshold", 5)
    # In milliseconds. The second ends the transactions of a host that lost its network: its locks
    # on keys would otherwise last until TCP gives up, after two hours.
    options.setdefault(
        "options", "-c lock_timeout=4000 -c idle_in_transaction_session_timeout=10000"
    )
    # As long as for a lock, when the network drops packets.
    options.setdefault("tcp_user_timeout", 4000)


database: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    # In memory only until the missing DATABASE_URL is reported.
    "NAME": ":memory:" if PRODUCTION else str(VAR / "platform.sqlite3"),
    "OPTIONS": {},
}
if _url:
    try:
        database = database_urls.database(_url)
    except ValueError as _error:
        env.add_error("DATABASE_URL", str(_error))
DATABASES: dict[str, dict[str, Any]] = {"default": database}
_options = database["OPTIONS"]
if database["ENGINE"].endswith("sqlite3"):
    database["CONN_MAX_AGE"] = None
    _options.setdefault("timeout", 5)
    _options.update(
        # WAL lets reads continue during a write; IMMEDIATE makes a second writer wait instead of
        # failing.
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        transaction_mode="IMMEDIATE",
    )
    _folder = Path(database["NAME"]).absolute().parent
    if database["NAME"] != ":memory:" and _folder != VAR and not _folder.is_dir():
        env.add_error(
            "DATABASE_URL", f"names a file in {_folder}, which is no folder. Make it first."
        )
elif database["ENGINE"].endswith("postgresql"):
    _set_postgresql_options(_options, connections=16, wait=4)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# A little more than lock_timeout.
DB_STATEMENT_TIMEOUT: float = env.seconds(
    "DB_STATEMENT_TIMEOUT",
    old_name="STORE_WAIT",
    default=5.0,
    least=0.1,
    most=600,
    help="How long PostgreSQL may take for one statement; then it is cancelled, and the request is "
    "answered 503.",
)
DB_RETRY_SECONDS: float = env.seconds(
    "DB_RETRY_SECONDS",
    old_name="STORE_PATIENT_WAIT",
    default=8.0,
    least=0,
    most=600,
    help="How long `POST /customers`, the login of ComfyUI, retries when the database does not "
    "answer. ComfyUI deletes its key after any failure of this request.",
)


def _client_url(
    name: str, *, default_help: str, help: str
) -> tuple[str | None, dict[str, Any] | None]:
    """Return a second URL of the PostgreSQL database, and its parameters for psycopg."""
    url = env.text(name, kind="URL", default_help=default_help, help=help)
    try:
        return url, database_urls.listener(url) if url else None
    except ValueError as error:
        env.add_error(name, str(error))
        return url, None


MIGRATION_DATABASE_URL, migration_parameters = _client_url(
    "MIGRATION_DATABASE_URL",
    default_help="`LISTEN_DATABASE_URL`, or `DATABASE_URL`",
    help="PostgreSQL's URL for migrations, with a role that may change tables where that of "
    "`DATABASE_URL` may not ([two roles](deployment.md#two-roles)).",
)
if MIGRATION_DATABASE_URL and not database["ENGINE"].endswith("postgresql"):
    env.add_error("MIGRATION_DATABASE_URL", "needs a DATABASE_URL that leads to PostgreSQL.")
MIGRATION_WAIT: float = env.seconds(
    "MIGRATION_WAIT",
    default=600.0,
    least=1,
    most=86_400,
    help="How long a start waits while another host migrates, and a migration for a lock; then it "
    "ends with exit code 1.",
)
LISTEN_DATABASE_URL, listener_parameters = _client_url(
    "LISTEN_DATABASE_URL",
    default_help="`DATABASE_URL`",
    help="PostgreSQL's URL for LISTEN, if `DATABASE_URL` leads to a "
    "[pooler](deployment.md#pgbouncer), which does not support it.",
)

_replica_url = env.text(
    "REPLICA_URL",
    kind="URL",
    default_help="`DATABASE_URL`",
    help="PostgreSQL's URL of a streaming replica, for "
    "[pages that may lag](cluster.md#the-replica): usage, activity, and lists of the staff pages.",
)
replica: dict[str, Any] | None = None
if _replica_url:
    try:
        replica = database_urls.database(_replica_url)
    except ValueError as _error:
        env.add_error("REPLICA_URL", str(_error))
    else:
        if not replica["ENGINE"].endswith("postgresql"):
            env.add_error("REPLICA_URL", "must lead to PostgreSQL, whose replica it names.")
        elif not database["ENGINE"].endswith("postgresql"):
            env.add_error("REPLICA_URL", "needs a DATABASE_URL that leads to PostgreSQL.")
        else:
            # A page does not wait long, because the primary has the same.
            _set_postgresql_options(replica["OPTIONS"], connections=8, wait=1)
            replica["OPTIONS"]["options"] += " -c default_transaction_read_only=on"
            DATABASES["replica"] = replica
REPLICA_MAX_LAG: float = env.seconds(
    "REPLICA_MAX_LAG",
    default=10.0,
    least=1,
    most=3600,
    help="How old the data of the replica may be. The pages of a user who has just changed "
    "something read the primary for as long.",
)
# Nothing is routed without a replica.
DATABASE_ROUTERS: list[str] = ["core.replica.ReplicaRouter"] if replica else []

# Whether several hosts may share the database. SQLite is shared by the processes of one.
MULTI_HOST: bool = database["ENGINE"].endswith("postgresql")
_database_id = zlib.crc32(
    repr(
        [database.get("HOST"), database.get("PORT"), database["NAME"], _options.get("host")]
    ).encode()
)
_has_file = database["ENGINE"].endswith("sqlite3") and database["NAME"] != ":memory:"
# Beside the database file, so that every process that opens it finds the same table. Otherwise one
# per database: changes of another database do not count.
VERSION_TABLE_FILE: Path = (
    Path(f"{Path(database['NAME']).resolve()}.epochs")
    if _has_file
    else VAR / f"epochs-{_database_id:08x}"
)
# Locked by platforms while they run on this database (core.running).
RUNNING_FILE: Path = (
    VERSION_TABLE_FILE.with_suffix(".running") if _has_file else VAR / f"running-{_database_id:08x}"
)
TOMBSTONES_FILE: Path | None = env.file_path(
    "TOMBSTONES_FILE",
    default=VAR / "tombstones",
    default_help="`VAR_DIR/tombstones`",
    help="The log of revoked and deleted keys and of deleted accounts, which a restore applies. "
    "Best on another disk than the database ([runbook.md](runbook.md)).",
)
