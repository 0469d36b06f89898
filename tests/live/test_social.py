"""Login with Google and GitHub over HTTP: which account it opens, failures, and account takeover.

tests/browser/test_social.py has what depends on a browser: the pages, redirects between origins,
and login without scripts.
"""

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests

from tests.factories import PASSWORD
from tests.live.pages import Page
from tests.platforms import Platform
from tests.providers import Address, GitHub, Google, Person, Provider
from tests.social import (
    email_of,
    github,
    google,
    members,
    named,
    newcomer,
    no_trouble_left,
    provider,
    social,
)

__all__ = ["github", "google", "members", "no_trouble_left", "provider", "social"]

pytestmark = pytest.mark.usefixtures("no_trouble_left")

NEW_PASSWORD = "another horse battery staple"
LOGIN = "Log in to your account"
REFUSED = "Login failed"

Browse = Callable[[], Page]


@pytest.fixture
def browse(social: Platform) -> Browse:
    """Return a function that opens a new browser profile."""
    return lambda: Page(social.url)


@pytest.fixture
def page(browse: Browse) -> Page:
    return browse()


# --- Steps -----------------------------------------------------------------------------------


def set_out(page: Page, provider: Provider, start: str = "/login") -> None:
    page.goto(start)
    page.press(f"Continue with {named(provider)}")
    assert page.url.startswith(provider.url), page.text


def agree(page: Page, person: Person) -> None:
    """Press the button on the provider's page that leads back."""
    page.post(page.url, {"sub": person.uid, "account": person.uid, "answer": "authorize"})


def continue_with(provider: Provider, page: Page, person: Person, start: str = "/login") -> None:
    set_out(page, provider, start)
    agree(page, person)


def way_back(page: Page, person: Person) -> str:
    """Return the URL that "Authorize" redirects to, with code and state, without following it."""
    form = {"sub": person.uid, "account": person.uid, "answer": "authorize"}
    answer = requests.post(page.url, data=form, allow_redirects=False, timeout=10)
    return str(answer.headers["Location"])


def sign_up(page: Page, email: str) -> None:
    page.goto("/signup")
    page.press("Sign up", email=email, password1=PASSWORD)


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Submit the login form on `page`."""
    page.press("Log in", login=email, password=password)


def recover(page: Page, social: Platform, email: str) -> None:
    """Log in to an account by its mailbox alone."""
    page.goto("/account/password/reset")
    page.press("Send link", email=email)
    assert page.path == "/account/password/reset/sent"
    page.goto(mailed_link(social, email, "/account/password/reset/"))
    page.press("Set password", password1=NEW_PASSWORD, password2=NEW_PASSWORD)
    assert "Set password" not in page.text
    page.goto("/login")
    # Whether a new password logs in at once is not tested here.
    if page.path.startswith("/login"):
        log_in(page, email, NEW_PASSWORD)
    assert_in(page)


def mailed_link(social: Platform, email: str, path: str) -> str:
    """Return the newest link mailed to `email`. Without a mail server e-mails are printed."""
    deadline = time.monotonic() + 10
    while True:
        mails = social.printed().split(f"To: {email}\n")[1:]
        found = [re.findall(rf"{social.url}{path}\S+", mail[:2000]) for mail in mails]
        if links := [link for some in found for link in some]:
            return str(links[-1])
        assert time.monotonic() < deadline, "No mail was printed"
        time.sleep(0.05)


def assert_in(page: Page) -> None:
    assert (page.path, page.status) == ("/keys/", 200), page.text


def assert_out(page: Page) -> None:
    page.goto("/keys/")
    assert page.path == "/login?next=/keys/"


def assert_refused(page: Page) -> None:
    """Check that the page reports the failure and offers a next step, logged out."""
    assert REFUSED in page.headings, page.text
    assert "Back to login" in page.text
    assert_out(page)


def assert_account(page: Page, *, name: str, email: str) -> None:
    page.goto("/account/")
    assert f"Hello, {name}" in page.headings
    assert email in page.text


def test_the_next_login_finds_the_account_by_its_id_at_the_provider(
    provider: Provider, browse: Browse
) -> None:
    person = newcomer(provider)
    page = browse()
    continue_with(provider, page, person)
    assert_in(page)
    provider.person(uid=person.uid, email=f"new-{person.uid}@example.org", name="Alice Hargreaves")
    page = browse()
    continue_with(provider, page, person)
    assert_in(page)
    # The name here is changed here only.
    assert_account(page, name="Alice", email=email_of(person))


@pytest.mark.parametrize(
    ("name", "given_name", "family_name"),
    [("Alice Liddell", "Alice", "Liddell"), ("山田 太郎", "太郎", "山田"), ("Alice", "", "")],
)
def test_an_account_has_the_name_of_the_google_account(
    name: str, given_name: str, family_name: str, google: Google, page: Page
) -> None:
    person = newcomer(google, name=name, given_name=given_name, family_name=family_name)
    continue_with(google, page, person)
    assert_in(page)
    assert_account(page, name=name, email=email_of(person))


def test_a_reassigned_email_makes_another_account(google: Google, browse: Browse) -> None:
    alice = newcomer(google)
    page = browse()
    continue_with(google, page, alice)
    assert_in(page)
    # Alice left, and her employer gave the e-mail to mallory.
    mallory = newcomer(google, email=email_of(alice), name="Mallory")
    page = browse()
    continue_with(google, page, mallory)
    assert LOGIN in page.headings
    assert_out(page)


def test_state_nonce_and_pkce_bind_each_step(
    provider: Provider, browse: Browse, social: Platform
) -> None:
    person = newcomer(provider)
    for _login in range(2):
        continue_with(provider, page := browse(), person)
        assert_in(page)
    once, asked = provider.asked["authorize"][-2:]
    exchanged = provider.asked["token"][-1]
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    digest = sha256(exchanged["code_verifier"].encode()).digest()
    assert asked["code_challenge"] == urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert exchanged["redirect_uri"] == asked["redirect_uri"]
    here = f"{social.url}/account/logins/{named(provider).lower()}/login/callback/"
    assert asked["redirect_uri"] == here
    for fresh in ("state", "code_challenge", *(["nonce"] if named(provider) == "Google" else [])):
        assert len(asked[fresh]) >= 16
        assert asked[fresh] != once[fresh]
    assert "client_secret" not in asked
    assert set(asked["scope"].split()) == (
        {"openid", "profile", "email"} if named(provider) == "Google" else {"user:email"}
    )


def test_another_site_can_not_start_a_login(provider: Provider, social: Platform) -> None:
    start = f"{social.url}/account/logins/{named(provider).lower()}/login/"
    asked = requests.get(start, allow_redirects=False, timeout=10)
    assert asked.status_code == 200
    sent = requests.post(start, headers={"Origin": "https://evil.example"}, timeout=10)
    assert sent.status_code == 403


def test_without_a_verified_email_there_is_no_account(provider: Provider, page: Page) -> None:
    person = newcomer(provider, verified=False)
    continue_with(provider, page, person)
    assert "Not logged in" in page.headings
    assert f"Confirm your email at {named(provider)} and try again, or sign up here" in page.text
    assert "Back to login" in page.text
    assert_out(page)
    # The e-mail is free, so no account was made.
    sign_up(page, email_of(person))
    assert_in(page)


def test_of_several_emails_the_account_gets_a_verified_one(github: GitHub, page: Page) -> None:
    uid = str(uuid4().int % 10**15)
    proved = f"proved-{uid}@example.org"
    person = newcomer(
        github,
        uid=uid,
        verified=False,
        others=(Address(f"other-{uid}@example.org", verified=False), Address(proved)),
        public_email=f"other-{uid}@example.org",
    )
    continue_with(github, page, person)
    assert_in(page)
    assert_account(page, name="Alice", email=proved)


def test_a_verified_email_opens_no_account_before_its_owner_logged_in(
    provider: Provider, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    person = newcomer(provider, email=email)
    page = browse()
    continue_with(provider, page, person)
    assert f"An account with the email {email} already exists." in page.text
    waiting = page.url
    assert_out(page)
    # The provider alone never suffices, however often it is tried.
    page = browse()
    continue_with(provider, page, person)
    assert page.url == waiting
    log_in(page, email)
    assert_in(page)
    assert f"Your {named(provider)} account is connected" in page.text
    page = browse()
    continue_with(provider, page, person)
    assert_in(page)
    assert_account(page, name=email.partition("@")[0], email=email)


def test_a_pending_connection_is_not_given_to_another_account(
    google: Google, browse: Browse, members: Iterator[str]
) -> None:
    mallory, alice = next(members), next(members)
    page = browse()
    continue_with(google, page, newcomer(google, email=mallory))
    assert f"An account with the email {mallory}" in page.text
    log_in(page, alice)
    assert_in(page)
    page.goto("/account/logins")
    assert "No connected logins" in page.text


def test_an_account_with_an_unconfirmed_email_is_never_joined(
    provider: Provider, browse: Browse, social: Platform
) -> None:
    email = f"victim-{uuid4().hex[:12]}@example.org"
    sign_up(mallory := browse(), email)
    assert_in(mallory)

    person = newcomer(provider, email=email)
    page = browse()
    for _try in range(2):
        continue_with(provider, page, person)
        assert "Not logged in" in page.headings
        assert "its email was never confirmed" in page.text
        assert_out(page)
    mallory.goto("/account/logins")
    assert "No connected logins" in mallory.text

    # The next step that the page offers logs the owner in, and ends mallory's sessions.
    page.goto("/login")
    recover(page, social, email)
    assert_out(mallory)
    mallory.goto("/login")
    log_in(mallory, email)
    assert "The email or password is incorrect." in mallory.text
    continue_with(provider, page, person, start="/account/logins")
    assert named(provider) in page.headings
    page = browse()
    continue_with(provider, page, person)
    assert_in(page)


def test_connected_logins_are_removed_when_the_owner_resets_the_password(
    github: GitHub, browse: Browse, social: Platform
) -> None:
    email = f"victim-{uuid4().hex[:12]}@example.org"
    mallory = newcomer(github, name="Mallory")
    page = browse()
    sign_up(page, email)
    assert_in(page)
    continue_with(github, page, mallory, start="/account/logins")
    assert named(github) in page.headings

    page = browse()
    page.goto("/login")
    recover(page, social, email)
    page.goto("/account/logins")
    assert "No connected logins" in page.text
    page = browse()
    continue_with(github, page, mallory)
    assert_in(page)
    page.goto("/account/")
    assert email_of(mallory) in page.text
    assert email not in page.text


def test_a_failing_provider_is_reported_soon(
    provider: Provider, page: Page, social: Platform
) -> None:
    person = newcomer(provider)
    logged = len(social.printed())
    for trouble in ("error", "down", "garbage", "slow"):
        set_out(page, provider)
        provider.trouble = trouble
        begun = time.monotonic()
        agree(page, person)
        assert REFUSED in page.headings
        assert time.monotonic() - begun < 10
        assert f"{named(provider)} sent an unexpected response" in page.text
        assert "Traceback" not in page.text
        assert_refused(page)
    said = social.printed()[logged:]
    assert "Traceback" not in said
    assert provider.client_secret not in said
    assert provider.asked["token"][-1]["code"] not in said
    # After the fault the login works.
    provider.trouble = None
    continue_with(provider, page, person)
    assert_in(page)


def test_an_invalid_id_token_is_refused(google: Google, browse: Browse) -> None:
    person = newcomer(google)
    page = browse()
    continue_with(google, page, person)
    assert_in(page)
    page = browse()
    for trouble in ("wrong-nonce", "wrong-audience", "wrong-issuer"):
        google.trouble = None
        set_out(page, google)
        google.trouble = trouble
        agree(page, person)
        assert_refused(page)


def test_a_callback_works_once(provider: Provider, page: Page) -> None:
    set_out(page, provider)
    used = way_back(page, newcomer(provider))
    page.goto(used)
    assert_in(page)
    exchanges = len(provider.asked["token"])
    page.goto(used)
    assert REFUSED in page.headings
    # The failed reuse does not log out.
    page.goto("/keys/")
    assert_in(page)
    page.press("Log out")
    assert LOGIN in page.headings
    page.goto(used)
    assert_refused(page)
    assert len(provider.asked["token"]) == exchanges


def test_a_code_works_once_with_any_state(provider: Provider, page: Page) -> None:
    person = newcomer(provider)
    set_out(page, provider)
    used = way_back(page, person)
    page.goto(used)
    assert_in(page)
    page.press("Log out")
    set_out(page, provider)
    fresh = way_back(page, person)
    code, state = (
        re.search(pattern, where)
        for pattern, where in ((r"code=[^&]+", used), (r"state=[^&]+", fresh))
    )
    assert code
    assert state
    page.goto(f"{used.partition('?')[0]}?{code[0]}&{state[0]}")
    assert_refused(page)


@pytest.mark.parametrize(("begun_at", "ended_at"), [("google", "github"), ("github", "google")])
def test_a_login_started_at_one_provider_does_not_end_at_the_other(
    begun_at: str, ended_at: str, request: pytest.FixtureRequest, page: Page
) -> None:
    begun: Provider = request.getfixturevalue(begun_at)
    ended: Provider = request.getfixturevalue(ended_at)
    set_out(page, begun)
    query = urlsplit(way_back(page, newcomer(begun))).query
    exchanges = len(ended.asked["token"])
    page.goto(f"/account/logins/{ended_at}/login/callback/?{query}")
    assert_refused(page)
    assert len(ended.asked["token"]) == exchanges


def test_a_callback_does_nothing_in_another_browser(provider: Provider, browse: Browse) -> None:
    mallory, alice = browse(), browse()
    set_out(mallory, provider)
    link = way_back(mallory, newcomer(provider, name="Mallory"))
    exchanges = len(provider.asked["token"])
    alice.goto(link)
    assert_refused(alice)
    # Nor while she has a login of her own under way.
    set_out(alice, provider)
    alice.goto(link)
    assert_refused(alice)
    assert len(provider.asked["token"]) == exchanges


def test_a_callback_that_lacks_something_is_refused(provider: Provider, social: Platform) -> None:
    callback = f"{social.url}/account/logins/{named(provider).lower()}/login/callback/"
    for query in ("", "?code=1", "?state=1", "?error=server_error&state=1", "?code=%00&state=%00"):
        answer = requests.get(f"{callback}{query}", timeout=10)
        assert answer.status_code == 401
        assert REFUSED in answer.text


def test_a_disconnected_login_no_longer_works(
    google: Google, github: GitHub, browse: Browse
) -> None:
    alice, alice_there = newcomer(google), newcomer(github, name="Alice There")
    page = browse()
    continue_with(google, page, alice)
    assert_in(page)
    continue_with(github, page, alice_there, start="/account/logins")
    page.press("Disconnect", below=named(github))
    assert named(github) not in page.headings
    assert named(google) in page.headings
    page = browse()
    continue_with(github, page, alice_there)
    assert_in(page)
    # A new account: its e-mail was not used here.
    assert_account(page, name="Alice There", email=email_of(alice_there))


def test_with_a_password_the_last_connected_login_may_be_removed(
    google: Google, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    assert_in(page)
    continue_with(google, page, newcomer(google), start="/account/logins")
    page.press("Disconnect", below=named(google))
    assert "No connected logins" in page.text


def test_a_connected_login_can_not_be_connected_to_another_account(
    github: GitHub, browse: Browse, members: Iterator[str]
) -> None:
    alice = newcomer(github)
    page = browse()
    continue_with(github, page, alice)
    assert_in(page)
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    assert_in(page)
    continue_with(github, page, alice, start="/account/logins")
    assert "already connected to another account" in page.text
    assert "No connected logins" in page.text
