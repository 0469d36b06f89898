"""Django's way of sending a mail, which here means: write it down, and let the request go on.

Nobody waits for a mail server, so none that is slow or down can fail a sign-up, tell by its time
which addresses have an account, or lose what has been promised.
"""

from collections.abc import Sequence

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import EmailMessage, EmailMultiAlternatives
from django.db import transaction

from outbox import delivery
from outbox.models import Mail


class OutboxBackend(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            for address in message.recipients():
                Mail.objects.create(
                    to=address,
                    sender=message.from_email,
                    subject=str(message.subject),
                    text=str(message.body),
                    html=_html(message),
                )
        transaction.on_commit(delivery.wake)
        return len(email_messages)


def _html(message: EmailMessage) -> str:
    if not isinstance(message, EmailMultiAlternatives):
        return ""
    return next((str(text) for text, kind in message.alternatives if kind == "text/html"), "")
