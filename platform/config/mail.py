"""Mail without a mail server: printed where the platform runs, for a person to read."""

import sys
from collections.abc import Sequence
from threading import Lock
from typing import Any

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import EmailMessage

_RULE = "─" * 72
_lock = Lock()


class TerminalBackend(BaseEmailBackend):
    """Prints what a person needs of a mail, as text.

    Django's console backend prints the message as it would travel, where a long link is cut in
    two by quoted-printable's line breaks and can't be followed.
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
            # One write, so that two workers' mails don't mix; and not among what a command prints
            # for other programs to read, such as a new key.
            with _lock:
                sys.stderr.write("\n".join(["", *lines, ""]))
                sys.stderr.flush()
        return len(email_messages)
