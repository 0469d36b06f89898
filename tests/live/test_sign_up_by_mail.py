"""Sign-up on a real server with a real mail server."""

import re
import smtplib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from tests.accounts.test_signing_in import CONFIRM
from tests.conftest import PASSWORD
from tests.mail_server import Browser, arrived, code_in, mail_server
from tests.platforms import platform


def test_signing_up_on_a_platform_with_a_mail_server(tmp_path: Path):
    password = {"password1": PASSWORD}
    with (
        mail_server() as (email_url, mails),
        platform(
            tmp_path, EMAIL_URL=email_url, EMAIL="sam@example.org", PASSWORD=PASSWORD
        ) as running,
    ):
        nora = Browser(running.url)
        status, location, _page = nora.post(
            "/signup", "/signup", email="Nora@example.org", **password
        )
        assert (status, location) == (302, CONFIRM)
        status, _location, asked = nora.get(CONFIRM)
        assert status == 200
        body = arrived(mails, "nora@example.org")
        assert running.url in body

        assert nora.get("/keys/")[:2] == (302, "/login?next=/keys/")
        status, _location, refused = nora.post(CONFIRM, CONFIRM, code="WRONG1")
        assert status == 200
        assert "Incorrect code" in refused

        assert nora.post(CONFIRM, CONFIRM, code=code_in(body))[:2] == (302, "/keys/")
        _status, _location, keys = nora.get("/keys/?new=1")
        nonce = re.search(r'name="nonce" value="([^"]+)"', keys)[1]
        status, _location, shown = nora.post(
            "/keys/generate", "/keys/?new=1", name="first", description="", nonce=nonce
        )
        assert status == 200
        key = re.search(r"comfyui-[0-9a-f]{64}", shown)[0]
        answer = build_opener().open(
            Request(f"{running.url}/customers", b"", {"X-API-Key": key}), timeout=20
        )
        with answer:
            assert answer.status == 200

        # Again, with an e-mail that is taken.
        running.manage("make_staff")
        mallory = Browser(running.url)
        status, location, _page = mallory.post(
            "/signup", "/signup", email="sam@example.org", **password
        )
        assert (status, location) == (302, CONFIRM)
        status, _location, second = mallory.get(CONFIRM)
        assert status == 200
        assert _still(second, "sam@example.org") == _still(asked, "nora@example.org")
        assert "already has an account" in arrived(mails, "sam@example.org")
        # With a mail server, e-mails are not printed.
        assert "No mail server" not in running.printed()


def _still(page: str, email: str) -> str:
    page = re.sub(r'name="csrfmiddlewaretoken" value="[^"]*"|nonce="[^"]*"', "", page)
    return page.replace(email, "")


def test_the_test_mail_server_receives_mail():
    """E-mails that the test above expects to be absent would arrive if they were sent."""
    with mail_server() as (url, mails):
        parts = urlsplit(url)
        with smtplib.SMTP(parts.hostname, parts.port, timeout=10) as connection:
            connection.sendmail("a@example.org", ["b@example.org"], "Subject: x\r\n\r\n..dots\r\n")
        assert b"Subject: x\r\n\r\n..dots\r\n" in mails
