"""Keeps keys out of what is written down: log lines and error reports.

The last line of defence, not the first: code that handles a key holds a Token, whose repr shows
no secret. What arrives here is text that others made of a request: headers, local variables.
"""

import logging
import re
import time

from django.utils.safestring import SafeString
from django.views import debug

from apikeys import tokens

# A line feed in a message would begin a line that we never wrote; an escape moves the cursor of who
# reads it. Both come in addresses and names.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Formatter(logging.Formatter):
    """Formats the whole line, traceback included, and then masks every key in it.

    Times are UTC. What follows a first line is indented: whatever text an error carries, it can't
    be taken for another line.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        return tokens.redact(
            "\n    ".join([first, *(_CONTROLS.sub(_shown, line) for line in rest)])
        )

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return _CONTROLS.sub(_shown, super().formatMessage(record))


def _shown(control: re.Match[str]) -> str:
    return ascii(control[0])[1:-1]


class ExceptionReporterFilter(debug.SafeExceptionReporterFilter):
    """Django's list of settings that are not shown, and those of ours that hold passwords."""

    hidden_settings = re.compile(
        debug.SafeExceptionReporterFilter.hidden_settings.pattern
        + "|CACHE|DATABASE|MAILER|PEPPER|_URL|^env$",
        flags=re.IGNORECASE,
    )


class ExceptionReporter(debug.ExceptionReporter):
    """Django's error report (the page with DEBUG on, and the mail to admins) with keys masked.

    Django hides variables by their names; a key can be in a variable of any name.
    """

    def get_traceback_html(self) -> SafeString:
        # Masking adds no markup: what was safe stays safe.
        return SafeString(tokens.redact(super().get_traceback_html()))

    def get_traceback_text(self) -> SafeString:
        return SafeString(tokens.redact(super().get_traceback_text()))
