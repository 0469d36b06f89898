"""Delivery of pending e-mails to the mail server, by one thread per process, with retries.

At-least-once delivery: an e-mail is sent again if the process dies between the server's response
and the deletion of the row. An e-mail that cannot be sent for a day is deleted and logged.

Why not django-post-office: docs/adr/0026-libraries-considered.md.
"""

import logging
import os
from datetime import timedelta
from smtplib import SMTPDataError, SMTPException, SMTPRecipientsRefused, SMTPSenderRefused
from threading import Event, Lock, Thread

from django.core.mail import EmailMultiAlternatives
from django.db import Error, connection
from django.db.models import F
from django.utils import timezone

from core import metrics
from outbox.encryption import DecryptionError
from outbox.models import Mail

logger = logging.getLogger(__name__)

# Between queries for delayed e-mails, and for those of processes that died.
POLL_INTERVAL = timedelta(seconds=30)
FIRST_RETRY_DELAY = timedelta(minutes=1)
MAX_RETRY_DELAY = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=1)

_wakeup = Event()
_lock = Lock()
_thread: tuple[int, Thread] | None = None


def wake() -> None:
    """Wake the delivery thread of this process, and start it if there is none, as after a fork."""
    global _thread
    with _lock:
        if _thread is None or _thread[0] != os.getpid() or not _thread[1].is_alive():
            thread = Thread(target=_deliver_forever, name="outbox", daemon=True)
            _thread = (os.getpid(), thread)
            thread.start()
    _wakeup.set()


def deliver() -> int:
    """Send the e-mails that are due, oldest first. Return how many the server accepted.

    Stops when the server cannot be reached: the other e-mails would fail too.
    """
    sent = 0
    while mail := _claim():
        try:
            _send(mail)
        except (SMTPRecipientsRefused, SMTPSenderRefused, SMTPDataError) as error:
            # The server works and rejects this e-mail; it may accept the next one.
            _handle_rejection(mail, error)
        except (OSError, SMTPException) as error:
            _retry_later(mail, error)
            break
        except DecryptionError:
            _retry_later(mail, "its SECRET_KEY was replaced and is not in SECRET_KEY_FALLBACKS")
        except Exception:
            # The message cannot be built, which no retry changes, and must not block the others.
            logger.exception("Mail %s can't be built and is given up.", mail.pk)
            _give_up(mail)
        else:
            mail.delete()
            metrics.EMAILS.inc("sent")
            sent += 1
    return sent


def _handle_rejection(mail: Mail, error: SMTPException) -> None:
    """Delete the e-mail if its recipient got a permanent error (5xx, RFC 5321 §4.2.1)."""
    codes = (
        [code for code, _words in error.recipients.values()]
        if isinstance(error, SMTPRecipientsRefused)
        else []
    )
    if codes and min(codes) >= 500:
        logger.warning("The mail server refuses mail %s's address.", mail.pk)
        _give_up(mail)
    else:
        _retry_later(mail, error)


def _claim() -> Mail | None:
    """Return the oldest e-mail that is due, claimed for this process until its next retry."""
    while mail := Mail.objects.filter(due_at__lte=timezone.now()).first():
        delay = min(FIRST_RETRY_DELAY * 2**mail.tries, MAX_RETRY_DELAY)
        # Compare and set: of several processes, one updates the row.
        claimed = Mail.objects.filter(pk=mail.pk, due_at=mail.due_at).update(
            due_at=timezone.now() + delay, tries=F("tries") + 1
        )
        if claimed:
            return mail
    return None


def _send(mail: Mail) -> None:
    message = EmailMultiAlternatives(mail.subject, mail.text, mail.sender, [mail.to])
    if mail.html:
        message.attach_alternative(mail.html, "text/html")
    message.send(using="server")


def _retry_later(mail: Mail, error: Exception | str) -> None:
    """Log the failure; the claim has set the time of the retry. Give up after a day."""
    if timezone.now() - mail.queued_at < GIVE_UP_AFTER:
        logger.warning("Mail %s could not be sent and is tried again: %s", mail.pk, error)
        metrics.EMAILS.inc("retried")
        return
    logger.error("Mail %s could not be sent for a day and is given up: %s", mail.pk, error)
    _give_up(mail)


def _give_up(mail: Mail) -> None:
    mail.delete()
    metrics.EMAILS.inc("given_up")


def _deliver_forever() -> None:
    while True:
        _wakeup.wait(POLL_INTERVAL.total_seconds())
        _wakeup.clear()
        try:
            deliver()
        except Error:
            logger.warning("Pending mails can't be read; they are tried again.")
        # Django closes connections at the end of requests, and this thread serves none.
        connection.close()
