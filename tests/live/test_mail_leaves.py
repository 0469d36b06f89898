"""The outbox: requests do not wait for a mail server, and e-mails are sent once there is one."""

import socket
import sqlite3
import time
from contextlib import closing
from email import message_from_bytes, policy
from pathlib import Path

from tests.accounts.test_signing_in import CONFIRM
from tests.conftest import PASSWORD
from tests.live.conftest import Folder, serving, shell, until
from tests.mail_server import Browser, code_in, mail_server
from tests.platforms import Platform, free_port

# Seconds: far less than the timeout of a mail server.
AT_ONCE = 5

TRIES = """
from outbox.models import Mail
answer = dict(Mail.objects.values_list("to", "tries"))
"""
IT_IS_TIME = """
from django.utils import timezone
from outbox.models import Mail
Mail.objects.update(due_at=timezone.now())
"""


def sign_up(running: Platform, name: str) -> Browser:
    browser = Browser(running.url)
    began = time.monotonic()
    status, location, _page = browser.post(
        "/signup", "/signup", email=f"{name}@example.org", password1=PASSWORD
    )
    assert time.monotonic() - began < AT_ONCE
    assert (status, location) == (302, CONFIRM)
    status, _location, page = browser.get(CONFIRM)
    assert status == 200
    assert f"{name}@example.org" in page
    return browser


def was_tried(running: Platform, name: str) -> bool:
    return until(lambda: shell(running, TRIES).get(f"{name}@example.org") == 1)


def mails_to(name: str, mails: list[bytes]) -> list[str]:
    """Return the texts of the e-mails to this person."""
    return [
        mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
        for mail in (message_from_bytes(raw, policy=policy.default) for raw in mails)
        if mail["To"] == f"{name}@example.org"
    ]


def test_mail_is_sent_when_the_mail_server_is_back(
    fresh_folder: Folder,
) -> None:
    port = free_port()
    with serving(fresh_folder(), EMAIL_URL=f"smtp://127.0.0.1:{port}") as running:
        nora = sign_up(running, "nora")
        assert was_tried(running, "nora"), "it was tried, or this proves nothing"
        with mail_server(port) as (_url, mails):
            # A minute later; another e-mail makes the outbox send at once.
            shell(running, f"{IT_IS_TIME}\nanswer = None")
            sign_up(running, "bob")
            assert until(lambda: mails_to("nora", mails) and mails_to("bob", mails))
            assert until(lambda: shell(running, TRIES) == {})
            (body,) = mails_to("nora", mails)
        # The code is still valid.
        status, location, _page = nora.post(CONFIRM, CONFIRM, code=code_in(body))
        assert (status, location) == (302, "/keys/")
        printed = running.printed()
    assert "is tried again" in printed
    assert code_in(body) not in printed
    assert "Traceback" not in printed


def test_pending_mail_is_sent_after_a_restart(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    with serving(folder, EMAIL_URL=f"smtp://127.0.0.1:{free_port()}") as running:
        sign_up(running, "nora")
        assert was_tried(running, "nora")
    make_due(folder)
    with mail_server() as (url, mails), serving(folder, EMAIL_URL=url) as running:
        # No page is requested and no e-mail is queued.
        assert until(lambda: mails_to("nora", mails), seconds=10)
        assert until(lambda: shell(running, TRIES) == {})
        time.sleep(0.5)
    # Each worker looks into the outbox at its start.
    assert len(mails) == 1


def make_due(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
        database.execute("UPDATE outbox_mail SET due_at = queued_at")
        database.commit()


def test_a_hanging_mail_server_delays_neither_requests_nor_the_stop(
    fresh_folder: Folder,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        with serving(fresh_folder(), EMAIL_URL=url) as running:
            for name in ("nora", "bob", "olga"):
                sign_up(running, name)
            assert until(lambda: 1 in shell(running, TRIES).values())
            began = time.monotonic()
        assert time.monotonic() - began < AT_ONCE
    assert "Traceback" not in running.printed()
