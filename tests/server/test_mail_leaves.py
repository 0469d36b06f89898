"""Nobody waits for a mail server, and what was promised leaves once there is one."""

import socket
import socketserver
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.accounts.test_signing_in import _SMTP, CONFIRM, Browser, code_in, mail_server
from tests.conftest import PASSWORD
from tests.server.conftest import Folder, serving, shell, until
from tests.servers import Platform, free_port

pytestmark = pytest.mark.server

# Seconds: far less than a mail server may take to answer, or not to.
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


@contextmanager
def mail_server_at(port: int) -> Iterator[list[bytes]]:
    """The tests' mail server, at an address that was known before it was there."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), _SMTP) as server:
        server.daemon_threads = True
        server.mails = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.mails
        finally:
            server.shutdown()
            thread.join()


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
    """The texts of the mails that this person got."""
    return [
        mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
        for mail in (message_from_bytes(raw, policy=policy.default) for raw in mails)
        if mail["To"] == f"{name}@example.org"
    ]


def test_a_mail_waits_for_a_mail_server_that_is_down_and_nobody_else_does(
    fresh_folder: Folder,
) -> None:
    port = free_port()
    with serving(fresh_folder(), EMAIL_URL=f"smtp://127.0.0.1:{port}") as running:
        nora = sign_up(running, "nora")
        assert was_tried(running, "nora"), "it was tried, or this proves nothing"
        with mail_server_at(port) as mails:
            # A minute later; and another mail comes along, so that nobody waits for the next look.
            shell(running, f"{IT_IS_TIME}\nanswer = None")
            sign_up(running, "bob")
            assert until(lambda: mails_to("nora", mails) and mails_to("bob", mails))
            assert until(lambda: shell(running, TRIES) == {})
            (body,) = mails_to("nora", mails)
        # The code has been good all the while.
        status, location, _page = nora.post(CONFIRM, CONFIRM, code=code_in(body))
        assert (status, location) == (302, "/keys/")
        printed = running.printed()
    assert "is tried again" in printed
    assert code_in(body) not in printed
    assert "Traceback" not in printed


def test_mail_that_waited_leaves_when_the_platform_is_started_again(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    with serving(folder, EMAIL_URL=f"smtp://127.0.0.1:{free_port()}") as running:
        sign_up(running, "nora")
        assert was_tried(running, "nora")
    the_night_passes(folder)
    with mail_server() as (url, mails), serving(folder, EMAIL_URL=url) as running:
        # Nobody does anything here: no page is called, no mail is queued.
        assert until(lambda: mails_to("nora", mails), seconds=10)
        assert until(lambda: shell(running, TRIES) == {})
        time.sleep(0.5)
    # Every worker looks at its start.
    assert len(mails) == 1


def the_night_passes(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
        database.execute("UPDATE outbox_mail SET due_at = queued_at")
        database.commit()


def test_a_mail_server_that_never_answers_holds_up_neither_people_nor_the_end(
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
