"""The outbox: storing, delivering, retrying, concurrency, and secrecy of e-mails."""

import logging
import os
import re
import socketserver
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage as Received
from types import SimpleNamespace
from unittest import mock

import pytest
from allauth.account.models import EmailAddress
from django.apps import apps
from django.contrib.sessions.models import Session
from django.core import signing
from django.core.mail import EmailMultiAlternatives, mailers
from django.db import OperationalError, connection, connections, transaction

from outbox import delivery
from outbox.encryption import DecryptionError
from outbox.models import Mail
from tests.conftest import show_who
from tests.mail_server import code_in, mail_server
from tests.platforms import free_port

ADMIN = "/admin/outbox/mail/"
BODY = "The words of the mail, which are for one person: K3Y-C0DE"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

Reach = Callable[[str], None]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(delivery, "timezone", clock)
    return clock


@pytest.fixture(autouse=True)
def woken(monkeypatch) -> list[bool]:
    """Calls of wake, which starts no thread: tests call deliver."""
    calls: list[bool] = []
    monkeypatch.setattr(delivery, "wake", lambda: calls.append(True))
    return calls


@pytest.fixture(autouse=True)
def reach(settings) -> Reach:
    """A function that sets the mail server's URL; before its call, none can be reached."""

    def use(url: str) -> None:
        host, port = url.removeprefix("smtp://").split(":")
        settings.MAILERS = {
            "default": {"BACKEND": "outbox.backend.OutboxBackend"},
            "server": {
                "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "OPTIONS": {"host": host, "port": int(port), "timeout": 5},
            },
        }

    use(f"smtp://127.0.0.1:{free_port()}")
    return use


class _RejectingHandler(socketserver.StreamRequestHandler):
    """An SMTP server that rejects alice as a recipient."""

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip().upper():
            if line.startswith("QUIT"):
                self._say("221 bye")
                return
            rejected = line.startswith("RCPT") and "ALICE" in line
            if line == "DATA":
                self._say("354 go on")
                while self.rfile.readline() not in {b".\r\n", b""}:
                    pass
                self.server.accepted += 1
            self._say(self.server.rejection if rejected else "250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def rejecting_alice(reply: str) -> Iterator[tuple[str, socketserver.TCPServer]]:
    """Run an SMTP server that sends `reply` for alice. Yield its URL, and the server."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _RejectingHandler) as server:
        server.daemon_threads = True
        server.rejection, server.accepted = reply, 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.server_address[1]}", server
        finally:
            server.shutdown()
            thread.join()


def queue(to: str = "alice@example.org", *, subject: str = "A subject", **kwargs: object) -> None:
    message = EmailMultiAlternatives(subject, BODY, "Keys <keys@example.org>", [to], **kwargs)
    message.attach_alternative(f"<p>{BODY}</p>", "text/html")
    message.send()


@pytest.fixture
def a_mail(db, clock) -> Mail:
    """An e-mail that is due since noon."""
    queue()
    Mail.objects.update(queued_at=NOON, due_at=NOON)
    return Mail.objects.get()


def received(raw: bytes) -> Received:
    return message_from_bytes(raw, policy=policy.default)


# --- Storing ---------------------------------------------------------------------------------


def test_an_email_is_stored_in_the_transaction_of_its_cause(transactional_db, woken):
    with transaction.atomic():
        queue()
        assert not woken, "the thread is woken after the commit"
    assert woken == [True]
    waiting = Mail.objects.get()
    assert (waiting.to, waiting.subject, waiting.tries) == ("alice@example.org", "A subject", 0)
    assert (waiting.text, waiting.html) == (BODY, f"<p>{BODY}</p>")


def test_a_rollback_removes_the_email(transactional_db, woken):
    with transaction.atomic():
        queue()
        assert Mail.objects.exists()
        transaction.set_rollback(True)
    assert not Mail.objects.exists()
    assert not woken


def test_each_recipient_gets_an_email_of_their_own(db):
    queue(cc=["bob@example.org"], bcc=["sam@example.org"])
    assert {mail.to for mail in Mail.objects.all()} == {
        "alice@example.org",
        "bob@example.org",
        "sam@example.org",
    }


def test_the_backend_returns_the_number_of_messages(db):
    messages = [EmailMultiAlternatives("s", "t", None, ["alice@example.org"]) for _ in range(2)]
    assert mailers["default"].send_messages(messages) == 2


# --- Delivering ------------------------------------------------------------------------------


def test_a_delivered_email_has_text_and_html_and_its_row_is_deleted(db, reach):
    queue(subject="日本語 “quoted”")
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 1
    assert not Mail.objects.exists()
    (raw,) = mails
    mail = received(raw)
    assert mail["To"] == "alice@example.org"
    assert mail["From"] == "Keys <keys@example.org>"
    assert mail["Subject"] == "日本語 “quoted”"
    kinds = {part.get_content_type(): part for part in mail.walk()}
    assert mail.get_content_type() == "multipart/alternative"
    assert kinds["text/plain"].get_content().strip() == BODY
    assert kinds["text/html"].get_content().strip() == f"<p>{BODY}</p>"


def test_an_email_without_html_is_delivered_as_text(db, reach):
    EmailMultiAlternatives("s", BODY, "keys@example.org", ["alice@example.org"]).send()
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 1
    assert received(mails[0]).get_content_type() == "text/plain"


def test_the_oldest_email_is_sent_first(db, reach):
    for number in range(3):
        queue(subject=f"number {number}")
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 3
        assert delivery.deliver() == 0
    assert [received(raw)["Subject"] for raw in mails] == ["number 0", "number 1", "number 2"]


# --- Retrying --------------------------------------------------------------------------------


def test_an_email_is_kept_while_the_server_is_down(a_mail, caplog):
    with caplog.at_level(logging.WARNING):
        assert delivery.deliver() == 0
    a_mail.refresh_from_db()
    assert (a_mail.tries, a_mail.due_at) == (1, NOON + MINUTE)
    (line,) = caplog.messages
    assert f"Mail {a_mail.pk}" in line
    assert "K3Y" not in caplog.text


def test_an_email_is_not_retried_before_it_is_due(a_mail, clock, reach):
    delivery.deliver()
    clock.time = NOON + MINUTE - timedelta(seconds=1)
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 0
        assert not mails
        clock.time = NOON + MINUTE
        assert delivery.deliver() == 1
        assert len(mails) == 1
    assert not Mail.objects.exists()


def test_the_delay_between_retries_doubles_up_to_an_hour(a_mail, clock):
    waits = []
    for _ in range(9):
        delivery.deliver()
        a_mail.refresh_from_db()
        waits.append((a_mail.due_at - clock.time) // MINUTE)
        clock.time = a_mail.due_at
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_email_is_given_up_after_a_day_with_an_error(a_mail, clock, caplog):
    tries = 0
    while Mail.objects.exists():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            delivery.deliver()
        tries += 1
        assert tries < 100
        given_up_at = clock.time
        if waiting := Mail.objects.first():
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            clock.time = waiting.due_at
    assert timedelta(days=1) <= given_up_at - NOON <= timedelta(days=1, hours=1)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"Mail {a_mail.pk}" in record.getMessage()
    assert "given up" in record.getMessage()
    assert "K3Y" not in caplog.text
    # Fewer attempts than one per minute.
    assert tries < 40


def test_one_email_per_pass_is_tried_while_the_server_is_down(db, clock):
    for number in range(3):
        queue(f"person{number}@example.org")
    Mail.objects.update(queued_at=NOON, due_at=NOON)
    delivery.deliver()
    assert sorted(Mail.objects.values_list("tries", flat=True)) == [0, 0, 1]


def test_a_permanently_rejected_email_is_deleted_and_others_are_sent(db, reach, caplog):
    queue("alice@example.org")
    queue("bob@example.org")
    rejected = Mail.objects.get(to="alice@example.org")
    with rejecting_alice("550 5.1.1 no such mailbox") as (url, server):
        reach(url)
        with caplog.at_level(logging.DEBUG):
            assert delivery.deliver() == 1
        assert server.accepted == 1
    assert not Mail.objects.exists()
    (record,) = [record for record in caplog.records if record.name == "outbox.delivery"]
    assert record.levelname == "WARNING"
    assert f"mail {rejected.pk}" in record.getMessage()
    assert "K3Y" not in caplog.text


@pytest.mark.parametrize(
    "reply",
    ["450 4.2.0 greylisted, come back later", "451 4.3.0 local error", "452 4.2.2 mailbox full"],
)
def test_a_temporarily_rejected_email_is_retried(a_mail, clock, reach, reply):
    """4xx is a temporary error (RFC 5321 §4.2.1), as of greylisting."""
    with rejecting_alice(reply) as (url, _server):
        reach(url)
        assert delivery.deliver() == 0
    assert Mail.objects.filter(pk=a_mail.pk).exists()
    clock.time += MINUTE
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 1
        assert len(mails) == 1


def test_an_email_that_cannot_be_built_blocks_no_other(db, reach):
    """make_staff accepts any email, and SMTP cannot encode this one."""
    queue("müller@example.org")
    queue("bob@example.org")
    with mail_server() as (url, mails):
        reach(url)
        for _ in range(2):
            delivery.deliver()
        assert [received(raw)["To"] for raw in mails] == ["bob@example.org"]


# --- Several processes -----------------------------------------------------------------------


def test_several_processes_send_each_email_once(transactional_db, reach, woken):
    count = 12
    for number in range(count):
        queue(subject=f"number {number}")
    start = threading.Barrier(4)
    sent: list[int] = []

    def process() -> None:
        try:
            start.wait(10)
            sent.append(delivery.deliver())
        finally:
            connections.close_all()

    with mail_server() as (url, mails):
        reach(url)
        processes = [threading.Thread(target=process) for _ in range(4)]
        for thread in processes:
            thread.start()
        for thread in processes:
            thread.join(30)
    assert sum(sent) == count
    subjects = [received(raw)["Subject"] for raw in mails]
    assert sorted(subjects) == sorted(f"number {number}" for number in range(count))
    assert not Mail.objects.exists()


def test_an_email_that_another_process_claims_first_is_not_sent(a_mail, monkeypatch):
    """Another process claims the e-mail between this process's query and its claim."""
    looks: list[datetime] = []

    def now() -> datetime:
        looks.append(NOON)
        if len(looks) == 2:
            Mail.objects.update(due_at=NOON + MINUTE, tries=1)
        return NOON

    monkeypatch.setattr(delivery, "timezone", SimpleNamespace(now=now))
    assert delivery.deliver() == 0
    a_mail.refresh_from_db()
    assert a_mail.tries == 1


def test_the_claim_of_a_dead_process_expires(a_mail, clock, reach):
    with (
        mock.patch.object(EmailMultiAlternatives, "send", side_effect=SystemExit),
        pytest.raises(SystemExit),
    ):
        delivery.deliver()
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 0, "the claim of the dead process is still valid"
        clock.time += MINUTE
        assert delivery.deliver() == 1
        assert len(mails) == 1


# --- The delivery thread ---------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch) -> Iterator[list[threading.Thread]]:
    """The threads that wake starts; they deliver nothing and end with the test."""
    monkeypatch.undo()
    monkeypatch.setattr(delivery, "_thread", None)
    monkeypatch.setattr(delivery, "_wakeup", threading.Event())
    started: list[threading.Thread] = []
    end = threading.Event()

    def deliver_forever() -> None:
        started.append(threading.current_thread())
        end.wait(30)

    monkeypatch.setattr(delivery, "_deliver_forever", deliver_forever)
    yield started
    end.set()
    for thread in started:
        thread.join(10)


def test_concurrent_wakes_start_one_thread(threads):
    wakers = [threading.Thread(target=delivery.wake) for _ in range(8)]
    for waker in wakers:
        waker.start()
    for waker in wakers:
        waker.join(10)
    delivery.wake()
    (thread,) = threads
    # A daemon thread does not delay the end of the process.
    assert thread.daemon
    assert delivery._wakeup.is_set()


def test_a_forked_process_starts_another_thread(threads, monkeypatch):
    delivery.wake()
    monkeypatch.setattr(delivery, "_thread", (os.getppid(), threads[0]))
    delivery.wake()
    assert len(threads) == 2


def test_the_thread_survives_a_database_failure(db, monkeypatch, caplog):
    class Ended(BaseException):
        """Ends the endless loop."""

    calls: list[str] = []

    def deliver() -> int:
        calls.append("deliver")
        if len(calls) == 1:
            raise OperationalError("the database is down")
        return 0

    class Wakeup:
        def wait(self, seconds: float) -> None:
            assert seconds == 30
            if len(calls) == 2:
                raise Ended

        def clear(self) -> None:
            pass

    monkeypatch.setattr(delivery, "deliver", deliver)
    monkeypatch.setattr(delivery, "_wakeup", Wakeup())

    def run() -> None:
        # In another thread: the loop closes the thread's database connection.
        with suppress(Ended):
            delivery._deliver_forever()

    thread = threading.Thread(target=run)
    with caplog.at_level(logging.WARNING):
        thread.start()
        thread.join(10)
    assert calls == ["deliver", "deliver"]
    assert "tried again" in caplog.text


# --- Secrecy ---------------------------------------------------------------------------------


def test_staff_see_pending_emails_without_their_bodies(signed_in, sam, a_mail):
    client = signed_in(sam)
    pages = [
        client.get(url)
        for url in (
            "/admin/",
            "/admin/outbox/",
            ADMIN,
            f"{ADMIN}?q=alice",
            f"{ADMIN}{a_mail.pk}/change/",
            f"{ADMIN}{a_mail.pk}/history/",
        )
    ]
    for page in pages:
        assert page.status_code == 200, page.request["PATH_INFO"]
        assert "K3Y" not in page.text, page.request["PATH_INFO"]
        assert "The words" not in page.text, page.request["PATH_INFO"]
    for page in pages[2:]:
        assert "alice@example.org" in page.text, page.request["PATH_INFO"]
    # A search in the body would reveal it letter by letter.
    assert client.get(ADMIN, {"q": "K3Y"}).context["cl"].result_count == 0


def test_staff_cannot_add_change_or_delete_emails(signed_in, sam, a_mail):
    client = signed_in(sam)
    before = Mail.objects.values().get()
    assert client.post(f"{ADMIN}add/", {"to": "x@example.org"}).status_code == 403
    for view in ("change", "delete"):
        url = f"{ADMIN}{a_mail.pk}/{view}/"
        assert client.post(url, {"to": "x@example.org", "post": "yes"}).status_code == 403
    client.post(ADMIN, {"action": "delete_selected", "_selected_action": a_mail.pk, "post": "yes"})
    assert Mail.objects.values().get() == before


def test_users_without_staff_access_see_no_emails(signed_in, mallory, a_mail):
    client = signed_in(mallory)
    for url in (ADMIN, f"{ADMIN}{a_mail.pk}/change/"):
        assert "alice" not in client.get(url, follow=True).text


def test_an_emailed_code_is_stored_and_logged_nowhere(client, alice, settings, reach, caplog):
    settings.HAS_MAIL_SERVER = True
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    client.force_login(alice)
    show_who(client, alice, ago=timedelta(hours=1))
    with caplog.at_level(logging.DEBUG), mail_server() as (url, mails):
        reach(url)
        client.post("/account/reauthenticate/mail", {"send": "1"})
        waiting = Mail.objects.get()
        code = code_in(waiting.text)
        stored = "\n".join(all_stored_values())
        assert waiting.sealed_text in stored, "all_stored_values misses a table"
        assert code not in stored
        assert delivery.deliver() == 1
        (raw,) = mails
        assert code in raw.decode()
    stored = "\n".join(all_stored_values())
    assert alice.email in stored
    for written in (code, code.replace("-", "")):
        assert written not in stored
        assert written not in caplog.text
    # Staff see the subject, and phones show it on locked screens.
    assert written not in re.sub(r"\W", "", waiting.subject)
    answer = client.post("/account/reauthenticate/mail", {"code": code})
    assert answer.status_code == 302, "the code is accepted"


def test_a_database_dump_has_no_code_and_no_link(client, alice, settings):
    """Pending e-mails, and sessions that hold the codes, are encrypted."""
    settings.HAS_MAIL_SERVER = True
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    client.post("/login/code", {"email": alice.email})
    client.post("/account/password/reset", {"email": alice.email})
    texts = [mail.text for mail in Mail.objects.order_by("pk")]
    assert len(texts) == 2
    code = code_in(texts[0])
    link = re.search(r"/password/reset/([\w-]+)", texts[1])[1]
    dumped = dump()
    assert alice.email in dumped
    for written in (code, code.replace("-", ""), link):
        assert written not in dumped


def dump() -> str:
    """Return all values of all tables, and the decompressed sessions."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
            found += [str(value) for row in cursor.fetchall() for value in row]
    for session in Session.objects.values_list("session_data", flat=True):
        packed = signing.b64_decode(session.split(":")[0].lstrip(".").encode())
        found.append(zlib.decompress(packed).decode() if session[0] == "." else packed.decode())
    return "\n".join(found)


def test_an_email_can_be_decrypted_with_a_fallback_key(settings, a_mail, caplog):
    settings.SECRET_KEY, former = "another " * 5, settings.SECRET_KEY
    settings.SECRET_KEY_FALLBACKS = [former]
    assert Mail.objects.get().text == BODY
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(DecryptionError):
        _ = Mail.objects.get().text


def test_an_email_with_a_missing_secret_key_is_kept_and_blocks_no_other(
    settings, a_mail, reach, caplog
):
    settings.SECRET_KEY, former = "another " * 5, settings.SECRET_KEY
    other = {"to": "bob@example.org", "sender": "us@example.org", "subject": "Hi", "text": "Hi"}
    Mail.objects.create(due_at=NOON, **other)
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 1
        assert len(mails) == 1
        assert "SECRET_KEY_FALLBACKS" in caplog.text
        # The operator adds the former key.
        settings.SECRET_KEY_FALLBACKS = [former]
        Mail.objects.update(due_at=NOON)
        assert delivery.deliver() == 1
        assert BODY in mails[1].decode()


def all_stored_values() -> Iterator[str]:
    """Yield all values of all tables, and the decoded sessions."""
    for model in apps.get_models():
        for row in model._default_manager.values_list():
            yield repr(row)
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM cache")
        for row in cursor.fetchall():
            yield repr(row)
    for session in Session.objects.all():
        yield repr(session.get_decoded())
