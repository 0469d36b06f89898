"""Simultaneous guesses over many connections, against two worker processes.

A count per process, or one that is read before others are written, allows too many guesses.
"""

import itertools
import re
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from allauth.mfa.totp.internal.auth import hotp_value

from tests.factories import PASSWORD
from tests.live.conftest import TOKEN, Account, Answer, Browser, Request, at_once, shell, validate
from tests.platforms import Platform, Pool

WRONG = {"app": "000000", "recovery": "00000000"}
FACTOR = "/account/reauthenticate/factor"
BY_MAIL = "/account/reauthenticate/mail"
APPROVE = "/account/email/approve"

_MEMBER = """
import base64
from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.core.cache import cache
from accounts.models import User
from apikeys import services

# Each test starts with nothing counted: they all come from one address.
cache.clear()
user = User.objects.create_user(given["email"], given["password"])
EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
secret, recovery = "", []
if given["factors"]:
    secret = generate_totp_secret()
    TOTP.activate(user, secret)
    recovery = RecoveryCodes.activate(user).get_unused_codes()
key, token = services.issue(owner=user, name="studio")
answer = [secret, recovery, token.reveal()]
"""

_SESSION = """
import time
from importlib import import_module
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from accounts.models import User

user = User.objects.get(email=given["email"])
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session["account_authentication_methods"] = [
    {"method": "password", "at": time.time() - given["ago"]}
]
session["account_authentication_methods_user"] = str(user.pk)
session.create()
UserSession.objects.create(user=user, session_key=session.session_key, ip="127.0.0.1")
answer = [settings.SESSION_COOKIE_NAME, session.session_key]
"""

_MAILS = """
from outbox.models import Mail
answer = [[mail.to, mail.text] for mail in Mail.objects.order_by("pk")]
Mail.objects.all().delete()
"""


@dataclass(frozen=True)
class Member:
    email: str
    secret: str = field(repr=False)
    recovery: list[str] = field(repr=False)
    key: str = field(repr=False)


@pytest.fixture(scope="module")
def running(pool: Pool, database_kind: str) -> Platform:
    # No mail server listens there: e-mails stay in the outbox, where the tests read them.
    return pool(database_kind, WORKERS="2", EMAIL_URL="smtp://127.0.0.1:1")


@pytest.fixture
def member(running: Platform) -> Member:
    return new_member(running, factors=True)


def new_member(running: Platform, *, factors: bool = False) -> Member:
    email = f"alice-{uuid4().hex[:12]}@example.org"
    made = shell(running, _MEMBER, email=email, password=PASSWORD, factors=factors)
    return Member(email, *made)


def session_of(running: Platform, member: Member, *, ago: int = 0) -> Browser:
    """Return a browser that `member` logged in `ago` seconds ago."""
    name, key = shell(running, _SESSION, email=member.email, ago=ago)
    return Browser(running, Account(member.email, (name, key), []))


def mails(running: Platform) -> list[tuple[str, str]]:
    return [tuple(mail) for mail in shell(running, _MAILS)]


def code_in(text: str) -> str:
    found = re.search(r"^([A-Z]{4}-[A-Z]{4})$", text, re.MULTILINE)
    assert found
    return found[1]


def app_code(secret: str) -> str:
    return f"{hotp_value(secret, int(time.time()) // 30):06}"


def press(browser: Browser, page: str, to: str | None = None, **fields: str) -> Request:
    """Return the request of submitting the form on `page`, for `at_once`."""
    hidden = browser.hidden(page)
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.session.cookies)
    headers = {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"}
    token = {"csrfmiddlewaretoken": hidden["csrfmiddlewaretoken"]}
    return ("POST", to or page, headers, urlencode({**token, **fields}))


def send_at_once(running: Platform, presses: list[Request]) -> list[Answer]:
    """Send all requests at the same moment, from two processes."""
    answers = at_once(running, presses[::2], presses[1::2])
    assert {answer.status for answer in answers} <= {200, 302, 400, 403, 404, 409, 429, 503}, [
        answer.body for answer in answers if answer.status >= 500
    ]
    for answer in answers:
        assert answer.status != 429 or int(answer.headers["retry-after"]) > 0
    return answers


def count_saying(answers: list[Answer], words: str) -> int:
    return sum(words in answer.body for answer in answers)


def is_fresh(browser: Browser) -> bool:
    return browser.get("/account/data", allow_redirects=False).status_code == 200


def is_reauthenticated(answer: Answer) -> bool:
    """Return whether the response redirects past reauthentication."""
    where = answer.headers.get("location", "")
    return answer.status == 302 and not where.startswith("/account/reauthenticate")


def is_logged_in(browser: Browser) -> bool:
    return browser.get("/keys/", allow_redirects=False).status_code == 200


def test_password_guesses_are_counted_across_processes(running: Platform, member: Member) -> None:
    browser = Browser(running)
    guesses = [
        press(browser, "/login", login=member.email, password=f"guess {number}")
        for number in range(24)
    ]

    answers = send_at_once(running, guesses)

    assert 1 <= count_saying(answers, "is incorrect") <= 5
    for _ in range(4):
        # On separate connections, so that both processes answer.
        late = Browser(running)
        answer = Answer.of(
            late.post("/login", **late.hidden("/login"), login=member.email, password=PASSWORD)
        )
        assert "Too many attempts" in answer.body
        assert not is_logged_in(late)


@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_mfa_guesses_are_counted_across_processes(
    running: Platform, member: Member, kind: str
) -> None:
    guesses = [
        press(session_of(running, member, ago=3600), FACTOR, code=WRONG[kind]) for _ in range(16)
    ]

    answers = send_at_once(running, guesses)

    assert 1 <= count_saying(answers, "Incorrect code") <= 5
    late = session_of(running, member, ago=3600)
    right = app_code(member.secret) if kind == "app" else member.recovery[0]
    send_at_once(running, [press(late, FACTOR, code=right)])
    assert not is_fresh(late)


@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_an_mfa_code_works_once_when_many_use_it_at_once(
    running: Platform, member: Member, kind: str
) -> None:
    browsers = [session_of(running, member, ago=3600) for _ in range(4)]
    presses = [press(browser, FACTOR, code="-") for browser in browsers]
    right = app_code(member.secret) if kind == "app" else member.recovery[0]
    presses = [
        (method, path, headers, body.replace("code=-", f"code={right}"))
        for method, path, headers, body in presses
    ]

    answers = send_at_once(running, presses)

    # Reauthentication changes the session key, and the former one is not valid.
    assert [is_reauthenticated(answer) for answer in answers].count(True) == 1
    assert not any(is_fresh(browser) for browser in browsers)


def test_few_login_codes_are_sent_when_many_ask_at_once(running: Platform, member: Member) -> None:
    mails(running)
    presses = [press(Browser(running), "/login/code", email=member.email) for _ in range(16)]

    send_at_once(running, presses)

    assert 1 <= len(mails(running)) <= 3


def test_few_reauthentication_codes_are_sent_when_many_ask_at_once(
    running: Platform, member: Member
) -> None:
    mails(running)
    presses = [press(session_of(running, member, ago=3600), BY_MAIL, send="1") for _ in range(16)]

    send_at_once(running, presses)

    assert 1 <= len(mails(running)) <= 6


def test_simultaneous_guesses_at_a_reauthentication_code_are_limited(
    running: Platform, member: Member
) -> None:
    browser = session_of(running, member, ago=3600)
    send_at_once(running, [press(browser, BY_MAIL, send="1")])
    code = code_in(mails(running)[-1][1])
    wrong = "BBBB-BBBB" if code != "BBBB-BBBB" else "CCCC-CCCC"
    guess = press(browser, BY_MAIL, code=wrong)

    answers = send_at_once(running, [guess] * 40)

    assert 1 <= count_saying(answers, "This is not the code") <= 10
    (answer,) = send_at_once(running, [press(browser, BY_MAIL, code=code)])
    assert not is_reauthenticated(answer)
    assert not is_fresh(browser)


def test_simultaneous_guesses_at_an_email_change_code_are_limited(
    running: Platform, member: Member
) -> None:
    browser = session_of(running, member)
    new = f"new-{uuid4().hex[:8]}@example.org"
    send_at_once(running, [press(browser, "/account/email", email=new, action_add="1")])
    code = code_in(mails(running)[-1][1])
    wrong = "BBBB-BBBB" if code != "BBBB-BBBB" else "CCCC-CCCC"
    guess = press(browser, APPROVE, code=wrong)

    answers = send_at_once(running, [guess] * 40)

    assert 1 <= count_saying(answers, "This is not the code") <= 10


def test_an_email_change_approved_twice_at_once_sends_one_confirmation(
    running: Platform, member: Member
) -> None:
    browser = session_of(running, member)
    new = f"new-{uuid4().hex[:8]}@example.org"
    send_at_once(running, [press(browser, "/account/email", email=new, action_add="1")])
    code = code_in(mails(running)[-1][1])

    send_at_once(running, [press(browser, APPROVE, code=code)] * 4)

    assert [to for to, _text in mails(running)] == [new]


def test_an_account_deleted_many_times_at_once_is_deleted_once(
    running: Platform,
) -> None:
    """Other sessions create keys meanwhile, on the page and by API."""
    for _ in range(3):
        alice = new_member(running)
        mails(running)
        browsers = [session_of(running, alice) for _ in range(4)]
        deletions = [press(browser, "/account/delete", email=alice.email) for browser in browsers]
        makers = [session_of(running, alice) for _ in range(4)]
        keys = [
            press(
                maker,
                "/keys/?new=1",
                "/keys/generate",
                name=f"key {n}",
                description="",
                nonce=str(uuid4()),
            )
            for n, maker in enumerate(makers)
        ]

        both = zip(deletions, keys, strict=True)
        answers = send_at_once(running, list(itertools.chain.from_iterable(both)))

        for key in {alice.key, *TOKEN.findall("".join(answer.body for answer in answers))}:
            assert validate(running, key).status == 401
        assert not any(is_logged_in(browser) for browser in browsers + makers)
        left = shell(
            running,
            "from accounts.models import User\n"
            "from apikeys.models import APIKey\nfrom audit.models import Event\n"
            "mail = given['email']\n"
            "answer = [User.objects.filter(email=mail).count(), "
            "APIKey.objects.filter(owner__email=mail).count(), "
            "APIKey.objects.exclude(owner__in=User.objects.all()).count()]",
            email=alice.email,
        )
        assert left == [0, 0, 0]
        farewells = [
            text for to, text in mails(running) if to == alice.email and "were deleted" in text
        ]
        assert len(farewells) == 1
