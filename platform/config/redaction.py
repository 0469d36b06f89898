"""Keeps keys out of what is written down: log lines and error reports.

The last line of defence, not the first: code that handles a key holds a Token, whose repr shows
no secret. What arrives here is text that others made of a request: headers, local variables.
"""

import logging
import re

from django.utils.safestring import SafeString
from django.views import debug

from apikeys import tokens


class Formatter(logging.Formatter):
    """Formats the whole line, traceback included, and then masks every key in it."""

    def format(self, record: logging.LogRecord) -> str:
        return tokens.redact(super().format(record))


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
