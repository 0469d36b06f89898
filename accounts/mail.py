"""Send mails to users, in their language, as text and HTML, within limits per recipient.

The HTML is made from the text (`_paragraph`), so that both have the same content. URLs use
PUBLIC_URL only.
"""

import logging
import re
from datetime import UTC, timedelta
from enum import Enum
from types import SimpleNamespace
from typing import Any, Final

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, mailers
from django.template.loader import render_to_string
from django.utils import timezone, translation

from accounts.models import User
from core import theme
from core.ratelimit import SlidingWindowRateLimiter
from outbox.backend import OutboxBackend

logger = logging.getLogger(__name__)

# As --accent in static/css/site.css.
_ACCENT: Final = "#c5e435"
_HOUR: Final = 60 * 60
_DAY: Final = 24 * _HOUR
# All mails to one recipient, except those of the reasons OWNER, SECURITY and REMINDER.
RECIPIENT_LIMIT: Final = SlidingWindowRateLimiter("mails", ((5, _HOUR), (10, _DAY)))
# Mails of MailReason.SECURITY to one recipient, separately for each template.
SECURITY_NOTICE_LIMIT: Final = SlidingWindowRateLimiter("security-mails", ((5, _HOUR), (10, _DAY)))
# Mails of MailReason.REMINDER to one recipient.
REMINDER_LIMIT: Final = SlidingWindowRateLimiter("reminders", ((5, _HOUR), (10, _DAY)))
# "You have no account here", to recipients without an account.
UNKNOWN_RECIPIENT_LIMIT: Final = SlidingWindowRateLimiter("mails-to-strangers", ((1, _DAY),))

# A code is a paragraph by itself in allauth's mails.
_CODE = re.compile(r"[A-Z0-9]{2,8}(-[A-Z0-9]{2,8})*")
_SIGNATURE = "-- \n"


class MailReason(Enum):
    """What caused a mail, and so what happens to it when its recipient's limit is exceeded."""

    # Requested by an unauthenticated client: not sent.
    REQUEST = "request"
    # Requested for an email without an account: sent once a day, then not sent.
    UNKNOWN_RECIPIENT = "unknown recipient"
    # Notifies of an event: sent later, or dropped after a day.
    NOTICE = "notice"
    # An urgent notice, such as a leaked key or a login from a new device. It has its own limit for
    # each template, so that requests for other mails can't delay it.
    SECURITY = "security"
    # A periodic notice, such as of a key that expires soon. It has a limit of its own, so that it
    # delays no other mail. Sent later, or dropped after a day.
    REMINDER = "reminder"
    # Requested or caused by the account's owner while logged in: always sent.
    OWNER = "owner"


def send(
    template: str,
    to: str,
    context: dict[str, Any],
    *,
    reason: MailReason,
    language: str = "",
    account: User | None = None,
) -> None:
    """Send `{template}_subject.txt` and `{template}_message.txt` to the email `to`.

    reason: decides what happens when the limit of `to` is exceeded.
    language: a language code; by default that of the account with this email, else the active one.
    account: the account with this email, if the caller has already loaded it.
    """
    delay = _delay(to, reason, template)
    if delay is None:
        # Without the recipient: emails are not logged.
        logger.warning("A mail (%s) was not sent: its recipient has had too many.", template)
        return
    if not language:
        if account is None:
            accounts = User.objects.filter(email=to.lower())
            account = accounts.only("language", "browser_language").first()
        # Without an account, the language of the request is the best guess.
        language = (
            (account.mail_language if account else "")
            or translation.get_language()
            or settings.LANGUAGE_CODE
        )
    # The time zone of a request is the recipient's only if they sent it.
    zone = timezone.get_current_timezone() if reason is MailReason.OWNER else UTC
    with translation.override(language), timezone.override(zone):
        message = compose(template, to, context)
    if delay:
        message.due_at = timezone.now() + timedelta(seconds=delay)  # type: ignore[attr-defined]  # for the outbox
    message.send()


def _delay(to: str, reason: MailReason, template: str) -> float | None:
    """Return the seconds until a mail may be sent to `to`, usually 0; None if never."""
    recipient = to.lower()
    if reason is MailReason.OWNER:
        return 0
    if reason is MailReason.UNKNOWN_RECIPIENT:
        # All tags of a mailbox (name+tag@domain) share one limit, since tags can be invented.
        local, _at, domain = recipient.rpartition("@")
        mailbox = f"{local.partition('+')[0]}@{domain}"
        if UNKNOWN_RECIPIENT_LIMIT.reserve(mailbox) is None:
            return None
    # Only the outbox supports delayed delivery.
    is_notice = reason in {MailReason.NOTICE, MailReason.SECURITY, MailReason.REMINDER}
    within = _DAY if is_notice and isinstance(mailers.default, OutboxBackend) else 0
    if reason is MailReason.SECURITY:
        return SECURITY_NOTICE_LIMIT.reserve(f"{template} {recipient}", within=within)
    limit = REMINDER_LIMIT if reason is MailReason.REMINDER else RECIPIENT_LIMIT
    return limit.reserve(recipient, within=within)


def compose(template: str, to: str, context: dict[str, Any]) -> EmailMultiAlternatives:
    """Return the mail in the active language, with a text and an HTML part."""
    host = settings.PUBLIC_URL.partition("://")[2]
    context = {
        "email": to,
        "site_name": settings.SITE_NAME,
        "public_url": settings.PUBLIC_URL,
        "current_site": SimpleNamespace(name=settings.PUBLIC_URL, domain=host),
        **context,
    }
    subject = " ".join(render_to_string(f"{template}_subject.txt", context).split())
    text = render_to_string(f"{template}_message.txt", context).strip()
    message = EmailMultiAlternatives(subject, text, settings.DEFAULT_FROM_EMAIL, [to])
    message.attach_alternative(_as_html(subject, text), "text/html")
    return message


def _as_html(subject: str, text: str) -> str:
    body, _rule, signature = text.partition(_SIGNATURE)
    # The indentation of a first line is kept: it makes a box.
    paragraphs = re.split(r"\n\s*\n", body.strip())
    colors = theme.palette(settings.ACCENT_COLOR or _ACCENT)
    return render_to_string(
        "mail.html",
        {
            "subject": subject,
            "paragraphs": [_paragraph(paragraph) for paragraph in paragraphs],
            "signature": signature.strip(),
            "language": translation.get_language(),
            "direction": "rtl" if translation.get_language_bidi() else "ltr",
            "site_name": settings.SITE_NAME,
            "accent": colors.accent,
            "on_accent": colors.on_accent,
        },
    )


def _paragraph(text: str) -> dict[str, str]:
    """Return a paragraph as `{"link": …, "label": …}`, `{"code": …}`, `{"box": …}` or a text.

    A link is a line with its label and a line with the URL. Only URLs of this site become links,
    since mails may contain text that others chose. The lines of a box begin with two spaces.
    """
    lines = text.splitlines()
    if all(line.startswith("  ") for line in lines):
        return {"box": "\n".join(line.strip() for line in lines)}
    label, _break, url = text.strip().partition("\n")
    if url.startswith(f"{settings.PUBLIC_URL}/") and not re.search(r"\s", url):
        return {"link": url, "label": label}
    if _CODE.fullmatch(text.strip()):
        return {"code": text.strip()}
    return {"words": text.strip()}
