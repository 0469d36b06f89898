"""Logging, and the redaction of keys and secrets in it."""

from config.settings.base import PRODUCTION, env

env.section("Logging")

DEFAULT_EXCEPTION_REPORTER = "apikeys.log_redaction.ExceptionReporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "apikeys.log_redaction.ExceptionReporterFilter"
LOG_LEVEL: str = env.text(
    "LOG_LEVEL",
    default="INFO",
    kind="`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`",
    help="The lowest level that is logged.",
).upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    env.add_error("LOG_LEVEL", "must be DEBUG, INFO, WARNING, ERROR or CRITICAL.")
LOG_FORMAT: str = env.text(
    "LOG_FORMAT",
    default="json" if PRODUCTION else "text",
    default_help="`json` with `PRODUCTION`, else `text`",
    choices=["json", "text"],
    help="[The form of log lines](monitoring.md#logs).",
)
LOG_REQUESTS: bool = env.boolean(
    "LOG_REQUESTS",
    default=False,
    help="Log [one line for each request](monitoring.md#requests).",
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "redacting": {
            "()": "apikeys.log_redaction.Formatter",
            "as_json": LOG_FORMAT == "json",
        },
    },
    "filters": {"without_unavailable": {"()": "core.causes.WithoutUnavailable"}},
    "handlers": {
        "terminal": {"class": "apikeys.log_redaction.Handler", "formatter": "redacting"},
        # A logger without handlers falls back to Python's own, which does not redact.
        "nowhere": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["terminal"], "level": LOG_LEVEL},
    # Django's own handlers would write a second copy, unredacted.
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # A warning for each 401 and 404 would let any client fill the disk.
        "django.request": {"level": "ERROR", "filters": ["without_unavailable"]},
        # At DEBUG it logs the context of pages: codes, email addresses, forms.
        "django.template": {"level": "INFO"},
        # At DEBUG they log what a pre-signed URL consists of.
        **{name: {"level": "INFO"} for name in ("boto3", "botocore", "s3transfer", "urllib3")},
        # LOG_REQUESTS decides, not LOG_LEVEL.
        "core.request_log": {"level": "INFO"},
        "django.security.DisallowedHost": {"handlers": ["nowhere"], "propagate": False},
    },
}
