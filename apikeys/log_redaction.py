"""Format log lines as text or JSON, and mask keys in them and in error reports.

A second line of defence, for texts with request headers or local variables: the repr of a Token
shows no secret.
"""

import json
import logging
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import structlog
from django.utils.safestring import SafeString
from django.views import debug
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, Processor

from apikeys import tokens
from core import request_log

# Log injection: line feeds in URLs and names would forge lines, escapes would control terminals.
_CONTROLS: Final = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
# All lines of a traceback after the first.
_INDENT: Final = "\n    "


class Formatter(ProcessorFormatter):
    """Format a record with its fields and its traceback, and mask every key in it.

    as_json: one JSON object per line, with `timestamp`, `level`, `logger` and `event`. Otherwise
    text; further lines are indented, so that a traceback can't forge a record.

    Times are UTC. Of the attributes that a record has besides its message only those in
    core.request_log.FIELDS are written: Django adds requests with their headers to its records.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        render: Processor = _as_json if as_json else _as_text
        super().__init__(
            processors=[
                ExtraAdder(allow=request_log.FIELDS),
                _describe,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                ProcessorFormatter.remove_processors_meta,
                _redact_fields,
                render,
            ]
        )

    def format(self, record: logging.LogRecord) -> str:
        # The whole line again, whatever the processors have made of it.
        return tokens.redact(super().format(record))


class Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error. A line that can't be formatted is reported without its arguments.

    Python would print them as they are.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        kind = sys.exc_info()[0]
        failure = logging.LogRecord(
            record.name,
            logging.ERROR,
            record.pathname,
            record.lineno,
            "A log line could not be written (%s): %s, line %d.",
            (kind and kind.__name__, record.pathname, record.lineno),
            None,
        )
        # The stream may be what fails.
        with suppress(Exception):
            self.stream.write(self.format(failure) + self.terminator)


def _describe(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Put time, level, logger and message first, and add the id of the request."""
    record: logging.LogRecord = event["_record"]
    at = datetime.fromtimestamp(record.created, UTC)
    described: dict[str, Any] = {
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        "level": record.levelname,
        "logger": record.name,
        "event": event.pop("event"),
    }
    if request_id := request_log.request_id():
        described["request_id"] = request_id
    return {**described, **event}


def _redact_fields(_logger: object, _method: str, event: EventDict) -> EventDict:
    # Before JSON escapes characters: an escape that ends in a letter must not hide a key.
    return {
        name: tokens.redact(value) if isinstance(value, str) else value
        for name, value in event.items()
    }


def _as_json(_logger: object, _method: str, event: EventDict) -> str:
    # ASCII only, so that no character can end the line or control a terminal.
    return json.dumps(event, default=str)


def _as_text(_logger: object, _method: str, event: EventDict) -> str:
    first = "{timestamp} {level} {logger}: {event}".format_map(event)
    fields = [
        f" {name}={'-' if event[name] is None else event[name]}"
        for name in request_log.FIELDS
        if name in event
    ]
    if "request_id" in event:
        fields.append(f" request_id={event['request_id']}")
    rest = [event[name] for name in ("exception", "stack") if event.get(name)]
    lines = "\n".join(rest).split("\n") if rest else []
    return _INDENT.join(
        _CONTROLS.sub(_escaped, line) for line in ["".join([first, *fields]), *lines]
    )


def _escaped(control: re.Match[str]) -> str:
    return ascii(control[0])[1:-1]


class ExceptionReporterFilter(debug.SafeExceptionReporterFilter):
    """Hide the settings of this project that contain passwords, besides those that Django hides."""

    hidden_settings = re.compile(
        debug.SafeExceptionReporterFilter.hidden_settings.pattern
        + "|CACHE|DATABASE|MAILER|PEPPER|_URL|^env$",
        flags=re.IGNORECASE,
    )


class ExceptionReporter(debug.ExceptionReporter):
    """Mask keys in Django's error reports (the page with DEBUG on, and the mail to admins).

    Django hides variables by name; a key can be in a variable of any name.
    """

    def get_traceback_html(self) -> SafeString:
        # Safe, since masking adds no markup.
        return SafeString(tokens.redact(super().get_traceback_html()))

    def get_traceback_text(self) -> SafeString:
        return SafeString(tokens.redact(super().get_traceback_text()))
