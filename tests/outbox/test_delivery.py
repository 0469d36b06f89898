"""Mail on its way out: written down with what it tells of, then handed to a mail server."""

import logging
import os
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage as Received
from types import SimpleNamespace

import pytest
from allauth.account.models import EmailAddress
from django.apps import apps
from django.contrib.sessions.models import Session
from django.core.mail import EmailMultiAlternatives, mailers
from django.db import OperationalError, connection, connections, transaction

from outbox import delivery
from outbox.models import Mail
from tests.accounts.test_signing_in import code_in, mail_server
from tests.conftest import show_who
from tests.servers import free_port

ADMIN = "/admin/outbox/mail/"
BODY = "The words of the mail, which are for one person: K3Y-C0DE"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

Reach = Callable[[str], None]


class Clock:
    """Stands still until a test moves it."""

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
    """Mails wait until a test delivers them: no thread of ours outlives it."""
    calls: list[bool] = []
    monkeypatch.setattr(delivery, "wake", lambda: calls.append(True))
    return calls


@pytest.fixture(autouse=True)
def reach(settings) -> Reach:
    """Mails go through the outbox, to the mail server at this address; at first to none."""

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


class _Refusing(socketserver.StreamRequestHandler):
    """A mail server that takes nothing for the addresses it does not like."""

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip().upper():
            if line.startswith("QUIT"):
                self._say("221 bye")
                return
            refused = line.startswith("RCPT") and "ALICE" in line
            if line == "DATA":
                self._say("354 go on")
                while self.rfile.readline() not in {b".\r\n", b""}:
                    pass
                self.server.taken += 1
            self._say(self.server.refusal if refused else "250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def refusing_alice(refusal: str) -> Iterator[tuple[str, socketserver.TCPServer]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Refusing) as server:
        server.daemon_threads = True
        server.refusal, server.taken = refusal, 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.server_address[1]}", server
        finally:
            server.shutdown()
            thread.join()


def queue(to: str = "alice@example.org", *, subject: str = "A subject", **given: object) -> None:
    message = EmailMultiAlternatives(subject, BODY, "Keys <keys@example.org>", [to], **given)
    message.attach_alternative(f"<p>{BODY}</p>", "text/html")
    message.send()


@pytest.fixture
def a_mail(db, clock) -> Mail:
    """One that waits since noon."""
    queue()
    Mail.objects.update(queued_at=NOON, due_at=NOON)
    return Mail.objects.get()


def received(raw: bytes) -> Received:
    return message_from_bytes(raw, policy=policy.default)


# --- Written down ----------------------------------------------------------------------------


def test_a_mail_waits_in_the_transaction_of_what_it_tells_of(transactional_db, woken):
    with transaction.atomic():
        queue()
        assert not woken, "nobody may look for it before it can be seen"
    assert woken == [True]
    waiting = Mail.objects.get()
    assert (waiting.to, waiting.subject, waiting.tries) == ("alice@example.org", "A subject", 0)
    assert (waiting.text, waiting.html) == (BODY, f"<p>{BODY}</p>")


def test_what_is_undone_takes_its_mail_along(transactional_db, woken):
    with transaction.atomic():
        queue()
        assert Mail.objects.exists()
        transaction.set_rollback(True)
    assert not Mail.objects.exists()
    assert not woken


def test_a_mail_to_two_people_is_two_mails(db):
    queue(cc=["bob@example.org"], bcc=["sam@example.org"])
    assert {mail.to for mail in Mail.objects.all()} == {
        "alice@example.org",
        "bob@example.org",
        "sam@example.org",
    }


def test_writing_down_says_how_many_mails_there_were(db):
    messages = [EmailMultiAlternatives("s", "t", None, ["alice@example.org"]) for _ in range(2)]
    assert mailers["default"].send_messages(messages) == 2


# --- Delivered -------------------------------------------------------------------------------


def test_a_mail_arrives_as_text_and_as_html_and_its_row_is_gone(db, reach):
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


def test_a_mail_without_html_arrives_as_text(db, reach):
    EmailMultiAlternatives("s", BODY, "keys@example.org", ["alice@example.org"]).send()
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 1
    assert received(mails[0]).get_content_type() == "text/plain"


def test_the_oldest_mail_goes_first(db, reach):
    for number in range(3):
        queue(subject=f"number {number}")
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 3
        assert delivery.deliver() == 0
    assert [received(raw)["Subject"] for raw in mails] == ["number 0", "number 1", "number 2"]


# --- Not delivered ---------------------------------------------------------------------------


def test_a_mail_is_kept_while_the_server_is_down(a_mail, caplog):
    with caplog.at_level(logging.WARNING):
        assert delivery.deliver() == 0
    a_mail.refresh_from_db()
    assert (a_mail.tries, a_mail.due_at) == (1, NOON + MINUTE)
    (line,) = caplog.messages
    assert f"Mail {a_mail.pk}" in line
    assert "K3Y" not in caplog.text


def test_it_is_not_tried_before_its_time(a_mail, clock, reach):
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


def test_the_waits_between_the_tries_grow_up_to_an_hour(a_mail, clock):
    waits = []
    for _ in range(9):
        delivery.deliver()
        a_mail.refresh_from_db()
        waits.append((a_mail.due_at - clock.time) // MINUTE)
        clock.time = a_mail.due_at
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_mail_is_given_up_after_a_day_and_that_is_an_error(a_mail, clock, caplog):
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
    # A server is not asked every minute of that day.
    assert tries < 40


def test_the_others_do_not_stand_in_line_for_a_server_that_is_down(db, clock):
    for number in range(3):
        queue(f"person{number}@example.org")
    Mail.objects.update(queued_at=NOON, due_at=NOON)
    delivery.deliver()
    assert sorted(Mail.objects.values_list("tries", flat=True)) == [0, 0, 1]


def test_an_address_that_is_refused_for_good_is_dropped_and_the_others_get_theirs(
    db, reach, caplog
):
    queue("alice@example.org")
    queue("bob@example.org")
    refused = Mail.objects.get(to="alice@example.org")
    with refusing_alice("550 5.1.1 no such mailbox") as (url, server):
        reach(url)
        with caplog.at_level(logging.DEBUG):
            assert delivery.deliver() == 1
        assert server.taken == 1
    assert not Mail.objects.exists()
    (record,) = [record for record in caplog.records if record.name == "outbox.delivery"]
    assert record.levelname == "WARNING"
    assert f"mail {refused.pk}" in record.getMessage()
    assert "K3Y" not in caplog.text


@pytest.mark.parametrize(
    "refusal",
    ["450 4.2.0 greylisted, come back later", "451 4.3.0 local error", "452 4.2.2 mailbox full"],
)
def test_an_address_that_is_refused_for_now_is_tried_again(a_mail, clock, reach, refusal):
    """A code that begins with 4 means "later" (RFC 5321 §4.2.1): greylisting answers so."""
    with refusing_alice(refusal) as (url, _server):
        reach(url)
        assert delivery.deliver() == 0
    assert Mail.objects.filter(pk=a_mail.pk).exists()
    clock.time += MINUTE
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 1
        assert len(mails) == 1


def test_a_mail_that_cannot_be_put_together_keeps_no_other_from_leaving(db, reach):
    """make_staff takes any address, and SMTP has no way of writing this one."""
    queue("müller@example.org")
    queue("bob@example.org")
    with mail_server() as (url, mails):
        reach(url)
        for _ in range(2):
            delivery.deliver()
        assert [received(raw)["To"] for raw in mails] == ["bob@example.org"]


# --- Several processes -----------------------------------------------------------------------


def test_two_processes_never_send_the_same_mail(transactional_db, reach, woken):
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


def test_a_mail_that_another_process_takes_first_is_left_to_it(a_mail, monkeypatch):
    """Between the look and the claim: the one moment in which two have seen the same mail."""
    looks: list[datetime] = []

    def now() -> datetime:
        looks.append(NOON)
        if len(looks) == 2:
            Mail.objects.update(due_at=NOON + MINUTE, tries=1)
        return NOON

    monkeypatch.setattr(delivery, "timezone", SimpleNamespace(now=now))
    assert delivery._claim() is None
    a_mail.refresh_from_db()
    assert a_mail.tries == 1


def test_a_mail_whose_process_died_is_sent_by_another_one(a_mail, clock, reach):
    assert delivery._claim() == a_mail
    with mail_server() as (url, mails):
        reach(url)
        assert delivery.deliver() == 0, "the first may still be at it"
        clock.time += MINUTE
        assert delivery.deliver() == 1
        assert len(mails) == 1


# --- The thread ------------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch) -> Iterator[list[threading.Thread]]:
    """The threads that waking starts; they deliver nothing, and end with the test."""
    monkeypatch.undo()
    monkeypatch.setattr(delivery, "_thread", None)
    monkeypatch.setattr(delivery, "_wanted", threading.Event())
    started: list[threading.Thread] = []
    over = threading.Event()

    def deliver_for_ever() -> None:
        started.append(threading.current_thread())
        over.wait(30)

    monkeypatch.setattr(delivery, "_deliver_for_ever", deliver_for_ever)
    yield started
    over.set()
    for thread in started:
        thread.join(10)


def test_waking_starts_one_thread_however_many_wake_it_at_once(threads):
    wakers = [threading.Thread(target=delivery.wake) for _ in range(8)]
    for waker in wakers:
        waker.start()
    for waker in wakers:
        waker.join(10)
    delivery.wake()
    (thread,) = threads
    # A process that ends does not wait for it.
    assert thread.daemon
    assert delivery._wanted.is_set()


def test_a_forked_process_starts_a_thread_of_its_own(threads, monkeypatch):
    delivery.wake()
    monkeypatch.setattr(delivery, "_thread", (os.getppid(), threads[0]))
    delivery.wake()
    assert len(threads) == 2


def test_the_thread_goes_on_when_the_store_is_away(db, monkeypatch, caplog):
    class Ended(BaseException):
        """The one way out of a loop for ever."""

    looks: list[str] = []

    def deliver() -> int:
        looks.append("look")
        if len(looks) == 1:
            raise OperationalError("the database is away")
        return 0

    class Wanted:
        def wait(self, seconds: float) -> None:
            assert seconds == 30
            if len(looks) == 2:
                raise Ended

        def clear(self) -> None:
            pass

    monkeypatch.setattr(delivery, "deliver", deliver)
    monkeypatch.setattr(delivery, "_wanted", Wanted())

    def run() -> None:
        # A thread of its own: it closes its connection, which must not be the test's.
        with suppress(Ended):
            delivery._deliver_for_ever()

    thread = threading.Thread(target=run)
    with caplog.at_level(logging.WARNING):
        thread.start()
        thread.join(10)
    assert looks == ["look", "look"]
    assert "tried again" in caplog.text


# --- Where a mail's words are not ------------------------------------------------------------


def test_staff_see_that_a_mail_waits_and_not_what_it_says(signed_in, sam, a_mail):
    client = signed_in(sam)
    pages = [
        client.get(address)
        for address in (
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
    # Searching must not tell, letter by letter, what can't be read.
    assert client.get(ADMIN, {"q": "K3Y"}).context["cl"].result_count == 0


def test_staff_neither_write_nor_change_nor_drop_a_mail(signed_in, sam, a_mail):
    client = signed_in(sam)
    before = Mail.objects.values().get()
    assert client.post(f"{ADMIN}add/", {"to": "x@example.org"}).status_code == 403
    for what in ("change", "delete"):
        address = f"{ADMIN}{a_mail.pk}/{what}/"
        assert client.post(address, {"to": "x@example.org", "post": "yes"}).status_code == 403
    client.post(ADMIN, {"action": "delete_selected", "_selected_action": a_mail.pk, "post": "yes"})
    assert Mail.objects.values().get() == before


def test_mallory_sees_no_mails_at_all(signed_in, mallory, a_mail):
    client = signed_in(mallory)
    for address in (ADMIN, f"{ADMIN}{a_mail.pk}/change/"):
        assert "alice" not in client.get(address, follow=True).text


def test_a_code_is_nowhere_once_it_is_sent(client, alice, settings, reach, caplog):
    settings.HAS_MAIL_SERVER = True
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    client.force_login(alice)
    show_who(client, alice, ago=timedelta(hours=1))
    with caplog.at_level(logging.DEBUG), mail_server() as (url, mails):
        reach(url)
        client.post("/account/reauthenticate/mail", {"send": "1"})
        waiting = Mail.objects.get()
        code = code_in(waiting.text)
        assert code in "\n".join(everything_kept()), "or this looks in the wrong places"
        assert delivery.deliver() == 1
        (raw,) = mails
        assert code in raw.decode()
    kept = "\n".join(everything_kept())
    assert alice.email in kept
    for written in (code, code.replace("-", "")):
        assert written not in kept
        assert written not in caplog.text
    # It was not in the subject either, which staff see and programs show on locked screens.
    assert written not in re.sub(r"\W", "", waiting.subject)
    answer = client.post("/account/reauthenticate/mail", {"code": code})
    assert answer.status_code == 302, "and yet it is known again"


def everything_kept() -> Iterator[str]:
    """Every value in every table, and what is packed up in sessions."""
    for model in apps.get_models():
        for row in model._default_manager.values_list():
            yield repr(row)
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM cache")
        for row in cursor.fetchall():
            yield repr(row)
    for session in Session.objects.all():
        yield repr(session.get_decoded())
