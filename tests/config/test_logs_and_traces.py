"""The form of log lines by environment, and OpenTelemetry, which is imported if it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.test_environment import errors, start

ROOT = Path(__file__).parents[2]
COLLECTOR = "http://127.0.0.1:4318"

LOADS = """
import sys
import config.wsgi
from django.conf import settings
ours = ("opentelemetry.exporter", "opentelemetry.instrumentation", "server.tracing")
mine = [name for name in sys.modules if name.startswith(ours)]
print(mine, [name for name in settings.MIDDLEWARE if "opentelemetry" in name])
"""
# As if the extra was not installed: redis-py imports it where it is.
HIDDEN = "import sys; sys.modules['opentelemetry'] = None\n"


def loaded(tmp_path: Path, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env={"VAR_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "config.settings", **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("variables", "form"),
    [({}, "text"), ({"LOG_FORMAT": "json"}, "json"), ({"LOG_FORMAT": "text"}, "text")],
)
def test_lines_are_text_unless_asked(tmp_path, variables, form):
    started = start(
        tmp_path, "LOG_FORMAT", 'LOGGING["formatters"]["redacting"]["as_json"]', **variables
    )
    assert started.stdout.split() == [form, str(form == "json")]


def test_lines_are_json_in_production_unless_asked(tmp_path):
    from tests.config.test_asvs_environment import production

    for given, form in (({}, "json"), ({"LOG_FORMAT": "text"}, "text")):
        started = start(tmp_path, "LOG_FORMAT", **production(tmp_path, **given))
        assert started.stdout.split() == [form], started.stderr


def test_without_a_collector_nothing_of_opentelemetry_is_imported(tmp_path):
    for program in (LOADS, HIDDEN + LOADS):
        assert loaded(tmp_path, program).stdout == "[] []\n"


def test_with_a_collector_it_is_imported(tmp_path):
    imported, middleware = eval(  # noqa: S307 (printed by this test)
        loaded(tmp_path, LOADS, OTEL_EXPORTER_OTLP_ENDPOINT=COLLECTOR).stdout.replace("] [", "], [")
    )
    assert "server.tracing" in imported
    assert len(middleware) == 1


def test_without_the_extra_a_collector_is_an_error(tmp_path):
    ended = loaded(tmp_path, HIDDEN + LOADS, OTEL_EXPORTER_OTLP_ENDPOINT=COLLECTOR)
    assert ended.returncode != 0
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in ended.stderr
    assert "extra `tracing`" in ended.stderr


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "None"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, f"{COLLECTOR}/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{COLLECTOR}/"}, f"{COLLECTOR}/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{COLLECTOR}/a"}, f"{COLLECTOR}/a"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_TRACES_EXPORTER": "none"},
            "None",
        ),
    ],
)
def test_the_url_of_spans_follows_the_standard_variables(tmp_path, variables, url):
    started = start(tmp_path, "TRACES_URL", **variables)
    assert started.stdout == f"{url}\n", started.stderr


def test_in_production_a_remote_collector_needs_tls(tmp_path):
    from tests.config.test_asvs_environment import production

    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    remote = production(tmp_path, **{name: "http://collector.example:4318"})
    assert "without verified TLS" in errors(tmp_path, **remote)[name]
    for allowed in (
        {"ALLOW_UNVERIFIED_TLS": name},
        {name: "https://collector.example:4318"},
        {name: COLLECTOR},
    ):
        started = start(tmp_path, "TRACES_URL", **{**remote, **allowed})
        assert started.stdout.endswith("/v1/traces\n"), started.stderr
