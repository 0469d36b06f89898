"""Mails to people: in their language, as text and as HTML, with addresses by PUBLIC_URL alone.

One source of words: the HTML is made from the text, so that the two never say different things.
"""

import re
from types import SimpleNamespace
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.utils import translation

from accounts.models import User

# A code stands alone in its paragraph, as allauth's mails have it.
_CODE = re.compile(r"[A-Z0-9]{2,8}(-[A-Z0-9]{2,8})*")
_SIGNATURE = "-- \n"


def send(template: str, to: str, context: dict[str, Any], *, language: str = "") -> None:
    """Sends `{template}_subject.txt` and `{template}_message.txt` to the address `to`.

    language: what to write in (default: what the account with this address chose).
    """
    if not language:
        chosen = User.objects.filter(email=to.lower()).values_list("language", flat=True)
        # To somebody we don't know, the language of whoever asked is the best guess there is.
        language = chosen.first() or translation.get_language() or settings.LANGUAGE_CODE
    with translation.override(language):
        compose(template, to, context).send()


def compose(template: str, to: str, context: dict[str, Any]) -> EmailMultiAlternatives:
    """The mail, in the language that is active."""
    host = settings.PUBLIC_URL.partition("://")[2]
    context = {
        "email": to,
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
    words, _rule, signature = text.partition(_SIGNATURE)
    paragraphs = re.split(r"\n\s*\n", words.strip())
    return render_to_string(
        "mail.html",
        {
            "subject": subject,
            "paragraphs": [_paragraph(paragraph.strip()) for paragraph in paragraphs],
            "signature": signature.strip(),
            "language": translation.get_language(),
        },
    )


def _paragraph(text: str) -> dict[str, str]:
    """What a paragraph is: a way to press, a code to type, or words.

    Only our own addresses become links: a mail of ours must lead nowhere else, whoever chose the
    words in it.
    """
    if text.startswith(f"{settings.PUBLIC_URL}/") and not re.search(r"\s", text):
        return {"link": text}
    if _CODE.fullmatch(text):
        return {"code": text}
    return {"words": text}
