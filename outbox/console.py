"""E-mail backends without a mail server: print e-mails to stderr, or drop them."""

import sys
from collections.abc import Sequence
from threading import Lock
from typing import Any

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import EmailMessage

_RULE = "─" * 72
_lock = Lock()


class TerminalBackend(BaseEmailBackend):
    """Prints recipient, subject and text of e-mails.

    Django's console backend prints the encoded message, in which quoted-printable breaks long
    links into lines.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            lines = [
                _RULE,
                "No mail server is set up (EMAIL_URL), so here is the mail:",
                f"To: {', '.join(message.to)}",
                f"Subject: {message.subject}",
                "",
                str(message.body).strip(),
                _RULE,
            ]
            # One write, so that the output of two workers does not mix. Not to stdout, where
            # commands print what other programs read, such as a new key.
            with _lock:
                sys.stderr.write("\n".join(["", *lines, ""]))
                sys.stderr.flush()
        return len(email_messages)


class NoBackend(BaseEmailBackend):
    """Drops e-mails without logging them, for EMAIL_URL=none."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        return len(email_messages)
