"""Notify an account by mail of security events and of changes to its keys."""

import logging
from typing import Any

from django.db import Error
from django.utils import timezone

from accounts import mail
from accounts.models import User

logger = logging.getLogger(__name__)


def notify(
    user: User,
    template: str,
    context: dict[str, Any],
    *,
    is_security: bool,
    reason: mail.MailReason | None = None,
) -> None:
    """Notify `user` by mail of a change. Errors are logged, since the change is already done.

    template: path without `_subject.txt` and `_message.txt`.
    is_security: whether the mail is also sent to users who turned optional mails off.
    reason: MailReason.OWNER for what `user` did while logged in. By default SECURITY or NOTICE,
    depending on is_security.
    """
    if not is_security and user.notices == User.Notices.SECURITY:
        return
    context = {"user": user, "timestamp": timezone.now(), **context}
    if reason is None:
        reason = mail.MailReason.SECURITY if is_security else mail.MailReason.NOTICE
    try:
        mail.send(template, user.email, context, reason=reason, account=user)
    except (OSError, Error):
        logger.exception("A notice could not be sent (%s).", template)
