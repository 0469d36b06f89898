"""Django e-mail backend that stores e-mails in the outbox instead of sending them.

A slow mail server delays no request, its failure fails no sign-up and loses no e-mail, and the
response time does not reveal which emails have an account.
"""

from collections.abc import Sequence
from datetime import datetime

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import EmailMessage, EmailMultiAlternatives
from django.db import transaction

from outbox import delivery
from outbox.models import Mail


class OutboxBackend(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            for recipient in message.recipients():
                mail = Mail(
                    to=recipient,
                    sender=message.from_email,
                    subject=str(message.subject),
                    **_schedule(message),
                )
                mail.text, mail.html = str(message.body), _html(message)
                mail.save()
        transaction.on_commit(delivery.wake)
        return len(email_messages)


def _schedule(message: EmailMessage) -> dict[str, datetime]:
    """Return the times of a delayed e-mail, from the attribute `due_at` of the message."""
    due_at = getattr(message, "due_at", None)
    # GIVE_UP_AFTER counts from queued_at.
    return {"queued_at": due_at, "due_at": due_at} if due_at else {}


def _html(message: EmailMessage) -> str:
    if not isinstance(message, EmailMultiAlternatives):
        return ""
    return next((str(text) for text, kind in message.alternatives if kind == "text/html"), "")
