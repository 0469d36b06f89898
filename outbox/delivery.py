"""Hands waiting mails to the mail server, from a thread of each process.

At least once: a process that dies between the server's answer and its own note of it leaves a
mail that is sent again. What can't be sent is tried for a day, then given up, and that is logged.
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

from outbox.models import Mail

logger = logging.getLogger(__name__)

# How often a process looks for mails that nobody woke it for: another process's, or late ones.
LOOK_EVERY = timedelta(seconds=30)
FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=1)

_wanted = Event()
_lock = Lock()
_thread: tuple[int, Thread] | None = None


def wake() -> None:
    """There is mail. Starts this process's thread at its first use; a fork needs its own."""
    global _thread
    with _lock:
        if _thread is None or _thread[0] != os.getpid() or not _thread[1].is_alive():
            thread = Thread(target=_deliver_for_ever, name="outbox", daemon=True)
            _thread = (os.getpid(), thread)
            thread.start()
    _wanted.set()


def deliver() -> int:
    """Sends what is due, oldest first, and returns how many mails were taken.

    Stops at the first sign that the server can't be reached: the others would wait for it too.
    """
    sent = 0
    while mail := _claim():
        try:
            _send(mail)
        except (SMTPRecipientsRefused, SMTPSenderRefused, SMTPDataError) as error:
            # This mail alone: the server is there, and may take the next one.
            _refused(mail, error)
        except (OSError, SMTPException) as error:
            _put_back(mail, error)
            break
        except Exception:
            # It can't even be put together, today or tomorrow, and must not keep others waiting.
            logger.exception("Mail %s can't be sent by anybody and is given up.", mail.pk)
            mail.delete()
        else:
            mail.delete()
            sent += 1
    return sent


def _refused(mail: Mail, error: SMTPException) -> None:
    """For good by a code from 500 on (RFC 5321 §4.2.1) for its address; else for now."""
    codes = (
        [code for code, _words in error.recipients.values()]
        if isinstance(error, SMTPRecipientsRefused)
        else []
    )
    if codes and min(codes) >= 500:
        logger.warning("The mail server refuses mail %s's address.", mail.pk)
        mail.delete()
    else:
        _put_back(mail, error)


def _claim() -> Mail | None:
    """The oldest mail that is due, for this process alone until its next try would be due."""
    while mail := Mail.objects.filter(due_at__lte=timezone.now()).first():
        wait = min(FIRST_WAIT * 2**mail.tries, LONGEST_WAIT)
        claimed = Mail.objects.filter(pk=mail.pk, due_at=mail.due_at).update(
            due_at=timezone.now() + wait, tries=F("tries") + 1
        )
        if claimed:
            return mail
    return None


def _send(mail: Mail) -> None:
    message = EmailMultiAlternatives(mail.subject, mail.text, mail.sender, [mail.to])
    if mail.html:
        message.attach_alternative(mail.html, "text/html")
    message.send(using="server")


def _put_back(mail: Mail, error: Exception) -> None:
    if timezone.now() - mail.queued_at < GIVE_UP_AFTER:
        logger.warning("Mail %s could not be sent and is tried again: %s", mail.pk, error)
        return
    logger.error("Mail %s could not be sent for a day and is given up: %s", mail.pk, error)
    mail.delete()


def _deliver_for_ever() -> None:
    while True:
        _wanted.wait(LOOK_EVERY.total_seconds())
        _wanted.clear()
        try:
            deliver()
        except Error:
            logger.warning("The mails that wait can't be read; they are tried again.")
        # This thread has a connection of its own, and nobody else to give it back.
        connection.close()
