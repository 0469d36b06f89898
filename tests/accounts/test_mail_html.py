"""The HTML part of mails: head, buttons, boxes, dates."""

from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.utils import timezone, translation

from accounts import mail
from accounts.mail import MailReason

NEW_DEVICE = "accounts/email/new_device"
CONTEXT = {
    "timestamp": datetime(2031, 5, 14, 12, 30, tzinfo=UTC),
    "device": "Firefox on Windows",
    "ip": "203.0.113.9",
}


def html_of(message) -> str:
    ((html, _kind),) = message.alternatives
    return html


def test_the_head_has_the_name_of_the_site_and_no_image(settings):
    settings.SITE_NAME = "Pixel <b>Forge</b>"
    message = mail.compose(NEW_DEVICE, "alice@example.org", CONTEXT)
    html = html_of(message)
    assert html.count("Pixel &lt;b&gt;Forge&lt;/b&gt;") == 2, "in the head and below"
    assert "Pixel <b>Forge</b>, http" in message.body
    for remote in ("<img", "url(", "<link", "@import", "src="):
        assert remote not in html


def test_a_button_has_the_label_of_the_line_above_its_url():
    message = mail.compose(NEW_DEVICE, "alice@example.org", CONTEXT)
    url = f"{settings.PUBLIC_URL}/account/sessions"
    assert f"\n\nReview active sessions\n{url}\n" in message.body
    assert ">Review active sessions</a>" in html_of(message)
    assert html_of(message).count(f'href="{url}"') == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Delete this key\n{url}/keys/", "link"),
        ("Delete this key\n{url}.evil.example/", "words"),
        ("Delete this key\nhttps://evil.example/", "words"),
        ("Delete this key\n{url}/keys/ or not", "words"),
        ("Delete\nthis key\n{url}/keys/", "words"),
        ("  {url}/keys/", "box"),
        ("  Device: Firefox\n  IP address: ::1", "box"),
        ("  Device: Firefox\nIP address: ::1", "words"),
        ("  BCDF-GHJK", "box"),
        ("BCDF-GHJK", "code"),
        ("Enter this code:", "words"),
    ],
)
def test_a_paragraph_is_a_button_a_box_a_code_or_words(text, kind):
    paragraph = mail._paragraph(text.replace("{url}", settings.PUBLIC_URL))
    assert next(iter(paragraph)) == kind


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (MailReason.OWNER, "May 14, 2031, 2:30 p.m. CEST"),
        # The zone of the request is that of an administrator, or of an attacker.
        (MailReason.SECURITY, "May 14, 2031, 12:30 p.m. UTC"),
        (MailReason.NOTICE, "May 14, 2031, 12:30 p.m. UTC"),
    ],
)
def test_a_date_is_in_the_time_zone_of_the_recipient_if_it_is_known(
    alice, mailoutbox, reason, expected
):
    with timezone.override("Europe/Berlin"):
        mail.send(NEW_DEVICE, alice.email, CONTEXT, reason=reason)
    assert f"Time: {expected}\n" in mailoutbox[0].body


def test_a_date_is_in_the_language_of_the_recipient(alice, mailoutbox):
    mail.send(NEW_DEVICE, alice.email, CONTEXT, reason=MailReason.NOTICE, language="ja")
    assert "2031年5月14日12:30 UTC" in mailoutbox[0].body


def test_a_mail_in_a_right_to_left_language_says_so():
    with translation.override("ar"):
        html = html_of(mail.compose(NEW_DEVICE, "alice@example.org", CONTEXT))
    assert '<html lang="ar" dir="rtl">' in html
    assert '<div dir="rtl"' in html
