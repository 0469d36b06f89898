"""Traces by OpenTelemetry, if a collector is configured. The worker processes send them."""

from importlib.util import find_spec

from config.parsers import collector_url_problem
from config.settings.base import env

env.section("Traces")

_endpoint = env.text(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    kind="URL",
    help="The collector that [traces](monitoring.md#traces) are sent to, by OTLP over HTTP. Needs "
    "the extra `tracing`. Its other variables (`OTEL_…`) are those of OpenTelemetry.",
)
_traces_endpoint = env.text(
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    kind="URL",
    default_help="`OTEL_EXPORTER_OTLP_ENDPOINT` and `/v1/traces`",
    help="The same with the whole path.",
)
env.text(
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    default="http/protobuf",
    choices=["http/protobuf"],
    help="The only supported protocol.",
)
_exporter = env.text(
    "OTEL_TRACES_EXPORTER",
    default="otlp",
    choices=["otlp", "none"],
    help="`none`: no traces, also with a collector.",
)
for _name, _url in {
    "OTEL_EXPORTER_OTLP_ENDPOINT": _endpoint,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": _traces_endpoint,
}.items():
    if _url is not None and (_problem := collector_url_problem(_url)):
        env.add_error(_name, _problem)

# The URL that spans are posted to, or None: nothing of OpenTelemetry is imported.
TRACES_URL: str | None = None
if _exporter != "none":
    _base = f"{_endpoint.rstrip('/')}/v1/traces" if _endpoint else None
    TRACES_URL = _traces_endpoint or _base


def _is_installed() -> bool:
    try:
        return all(
            find_spec(f"opentelemetry.{name}")
            for name in (
                "sdk.trace",
                "exporter.otlp.proto.http",
                "instrumentation.django",
                "instrumentation.psycopg",
                "instrumentation.redis",
            )
        )
    except ModuleNotFoundError:
        return False


if TRACES_URL is not None and not _is_installed():
    env.add_error(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "needs the extra `tracing`, which is not installed: docs/monitoring.md, Traces.",
    )
