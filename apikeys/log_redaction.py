"""Mask keys in log lines and error reports.

A second line of defence, for texts with request headers or local variables: the repr of a Token
shows no secret.
"""

import logging
import re
import time

from django.utils.safestring import SafeString
from django.views import debug

from apikeys import tokens

# Log injection: line feeds in URLs and names would forge lines, escapes would control terminals.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Formatter(logging.Formatter):
    """Format a record with its traceback and mask every key in it.

    Times are UTC. Further lines are indented, so that a traceback can't forge a record.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        return tokens.redact(
            "\n    ".join([first, *(_CONTROLS.sub(_escaped, line) for line in rest)])
        )

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return _CONTROLS.sub(_escaped, super().formatMessage(record))


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
