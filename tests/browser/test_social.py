"""Login with Google and GitHub: success, every failure, and account takeover.

The servers of tests/providers.py replace the real ones.
"""

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, expect

from tests import providers
from tests.browser.conftest import log_in, log_out
from tests.factories import PASSWORD
from tests.platforms import Folder, Platform, clear_limits, serving
from tests.providers import Address, GitHub, Google, Person, Provider

KEYS = "Your ComfyUI API Keys"
REFUSED = "Login failed"

# Members signed up with a password, and confirmed their e-mail.
_MAKE_MEMBERS = """
import uuid
from allauth.account.models import EmailAddress
from django.contrib.auth.hashers import make_password
from accounts.models import User

password = make_password({password!r})
for _number in range({members}):
    user = User(email=f"member-{{uuid.uuid4().hex[:12]}}@example.org", password=password)
    user.save()
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    print("member:", user.email)
"""

Browse = Callable[..., Page]


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    with providers.google() as running:
        yield running


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    with providers.github() as running:
        yield running


@pytest.fixture(scope="module")
def social(google: Google, github: GitHub, fresh_folder: Folder) -> Iterator[Platform]:
    """Yield a platform with both providers."""
    with serving(fresh_folder(), **google.environment, **github.environment) as running:
        yield running


@pytest.fixture(params=["google", "github"])
def provider(request: pytest.FixtureRequest) -> Provider:
    running: Provider = request.getfixturevalue(request.param)
    return running


@pytest.fixture(autouse=True)
def _no_trouble_left(social: Platform, google: Google, github: GitHub) -> Iterator[None]:
    # All tests have one client IP, with a limit on logins per minute.
    clear_limits(social)
    yield
    google.trouble = github.trouble = None


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], social: Platform) -> dict[str, Any]:
    return {**browser_context_args, "base_url": social.url}


@pytest.fixture
def browse(new_context: Callable[..., BrowserContext]) -> Browse:
    """Return a function that opens a page in a new browser profile."""
    return lambda **options: new_context(**options).new_page()


@pytest.fixture(scope="module")
def members(social: Platform) -> Iterator[str]:
    code = _MAKE_MEMBERS.format(password=PASSWORD, members=20)
    printed = social.manage("shell", "--no-imports", "-c", code)
    return iter(re.findall(r"^member: (.+)$", printed, re.MULTILINE))


# --- Steps -----------------------------------------------------------------------------------


def named(provider: Provider) -> str:
    return type(provider).__name__


def newcomer(provider: Provider, email: str = "", **given: Any) -> Person:
    """Make an account at the provider, with none here."""
    uid = str(uuid4().int % 10**15)
    return provider.person(
        **{"uid": uid, "email": email or f"alice-{uid}@example.org", "name": "Alice", **given}
    )


def email_of(person: Person) -> str:
    return person.addresses[0].email


def set_out(page: Page, provider: Provider, start: str = "/login") -> None:
    page.goto(start)
    page.get_by_role("button", name=f"Continue with {named(provider)}").click()
    expect(page.get_by_role("button", name="Authorize", exact=True)).to_be_visible()


def agree(page: Page, person: Person) -> None:
    """Press the button on the provider's page that leads back."""
    if page.get_by_label("Account").count():
        page.get_by_label("Account").select_option(person.uid)
    else:
        page.get_by_label("Subject", exact=True).fill(person.uid)
    page.get_by_role("button", name="Authorize", exact=True).click()


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
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up", exact=True).click()


def recover(page: Page, social: Platform, email: str) -> None:
    """Log in to an account by its mailbox alone, from the login page."""
    page.get_by_role("link", name="Forgot password?").click()
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_role("main").get_by_role("button").first.click()
    expect(page).to_have_url(re.compile("/account/password/reset/sent$"))
    page.goto(mailed_link(social, email, "/account/password/reset/"))
    for field in page.get_by_label("New password").all():
        field.fill("another horse battery staple")
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_role("button", name="Set password")).to_have_count(0)
    page.goto("/login")
    # Whether a new password logs in at once is not tested here.
    if "/login" in page.url:
        log_in(page, email, "another horse battery staple")
    expect_in(page)


def mailed_link(social: Platform, email: str, path: str) -> str:
    """Return the newest link mailed to `email`. Without a mail server e-mails are printed."""
    mails = social.printed().split(f"To: {email}\n")[1:]
    links = [link for mail in mails for link in re.findall(rf"{social.url}{path}\S+", mail[:2000])]
    return str(links[-1])


def login_panel(page: Page, provider: Provider) -> Any:
    """Return the panel of a connected login on the page that lists them."""
    heading = page.get_by_role("heading", name=named(provider), exact=True)
    return page.locator("section.panel").filter(has=heading)


def expect_in(page: Page) -> None:
    expect(page.get_by_role("heading", name=KEYS)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/keys/$"))


def expect_account(page: Page, *, name: str, email: str) -> None:
    page.goto("/account/")
    expect(page.get_by_role("heading", name=f"Hello, {name}", exact=True)).to_be_visible()
    expect(page.get_by_role("main").get_by_text(email)).to_be_visible()


def expect_out(page: Page) -> None:
    page.goto("/keys/")
    expect(page).to_have_url(re.compile(r"/login\?next=/keys/$"))


def expect_refusal(page: Page) -> None:
    """Expect a page that reports the failure and offers a next step, logged out."""
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    page.get_by_role("link", name="Back to login").click()
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    expect_out(page)


# --- Login -----------------------------------------------------------------------------------


def test_the_first_login_makes_an_account(provider: Provider, page: Page) -> None:
    person = newcomer(provider, name="Alice Liddell")
    continue_with(provider, page, person)
    expect_in(page)
    expect_account(page, name="Alice Liddell", email=email_of(person))


def test_the_next_login_finds_the_account_by_its_id_at_the_provider(
    provider: Provider, browse: Browse
) -> None:
    person = newcomer(provider)
    page = browse()
    continue_with(provider, page, person)
    expect_in(page)
    provider.person(uid=person.uid, email=f"new-{person.uid}@example.org", name="Alice Hargreaves")
    page = browse()
    continue_with(provider, page, person)
    expect_in(page)
    # The name here is changed here only.
    expect_account(page, name="Alice", email=email_of(person))


@pytest.mark.parametrize(
    ("name", "given_name", "family_name"),
    [("Alice Liddell", "Alice", "Liddell"), ("山田 太郎", "太郎", "山田"), ("Alice", "", "")],
)
def test_an_account_has_the_name_of_the_google_account(
    name: str, given_name: str, family_name: str, google: Google, page: Page
) -> None:
    person = newcomer(google, name=name, given_name=given_name, family_name=family_name)
    continue_with(google, page, person)
    expect_in(page)
    expect_account(page, name=name, email=email_of(person))


def test_a_reassigned_email_makes_another_account(google: Google, browse: Browse) -> None:
    alice = newcomer(google)
    page = browse()
    continue_with(google, page, alice)
    expect_in(page)
    # Alice left, and her employer gave the e-mail to mallory.
    mallory = newcomer(google, email=email_of(alice), name="Mallory")
    page = browse()
    continue_with(google, page, mallory)
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    expect_out(page)


def test_state_nonce_and_pkce_bind_each_step(
    provider: Provider, browse: Browse, social: Platform
) -> None:
    person = newcomer(provider)
    for _login in range(2):
        continue_with(provider, page := browse(), person)
        expect_in(page)
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


def test_login_redirects_to_the_requested_page(github: GitHub, page: Page) -> None:
    continue_with(github, page, newcomer(github), start="/usage/")
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_login_never_redirects_to_another_site(google: Google, page: Page) -> None:
    elsewhere = urlencode({"next": "//evil.example/"})
    continue_with(google, page, newcomer(google), start=f"/login?{elsewhere}")
    expect_in(page)


def test_the_sign_up_page_has_the_buttons(google: Google, page: Page) -> None:
    continue_with(google, page, newcomer(google), start="/signup")
    expect_in(page)


def test_login_works_without_scripts(github: GitHub, browse: Browse) -> None:
    page = browse(java_script_enabled=False)
    continue_with(github, page, newcomer(github))
    expect_in(page)


def test_without_providers_there_are_no_buttons(page: Page, site: Platform) -> None:
    for path in ("/login", "/signup"):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Google|GitHub"))).to_have_count(0)
    for name in ("google", "github"):
        for end in ("", "callback/?code=1&state=2"):
            answer = requests.get(f"{site.url}/account/logins/{name}/login/{end}", timeout=10)
            assert answer.status_code == 404


def test_another_site_can_not_start_a_login(provider: Provider, social: Platform) -> None:
    start = f"{social.url}/account/logins/{named(provider).lower()}/login/"
    asked = requests.get(start, allow_redirects=False, timeout=10)
    assert asked.status_code == 200
    sent = requests.post(start, headers={"Origin": "https://evil.example"}, timeout=10)
    assert sent.status_code == 403


# --- Which account ---------------------------------------------------------------------------


def test_without_a_verified_email_there_is_no_account(provider: Provider, page: Page) -> None:
    person = newcomer(provider, verified=False)
    continue_with(provider, page, person)
    expect(page.get_by_role("heading", name="Not logged in")).to_be_visible()
    expect(
        page.get_by_text(
            f"Confirm your email at {named(provider)} and try again, or sign up here with an email."
        )
    ).to_be_visible()
    page.get_by_role("link", name="Back to login").click()
    expect_out(page)
    # The e-mail is free, so no account was made.
    sign_up(page, email_of(person))
    expect_in(page)


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
    expect_in(page)
    expect_account(page, name="Alice", email=proved)


def test_a_verified_email_opens_no_account_before_its_owner_logged_in(
    provider: Provider, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    person = newcomer(provider, email=email)
    page = browse()
    continue_with(provider, page, person)
    expect(page.get_by_text(f"An account with the email {email} already exists.")).to_be_visible()
    waiting = page.url
    expect_out(page)
    # The provider alone never suffices, however often it is tried.
    page = browse()
    continue_with(provider, page, person)
    expect(page).to_have_url(waiting)
    log_in(page, email)
    expect_in(page)
    expect(page.get_by_text(f"Your {named(provider)} account is connected")).to_be_visible()
    page = browse()
    continue_with(provider, page, person)
    expect_in(page)
    expect_account(page, name=email.partition("@")[0], email=email)


def test_a_pending_connection_is_not_given_to_another_account(
    google: Google, browse: Browse, members: Iterator[str]
) -> None:
    mallory, alice = next(members), next(members)
    page = browse()
    continue_with(google, page, newcomer(google, email=mallory))
    expect(page.get_by_text(f"An account with the email {mallory}")).to_be_visible()
    log_in(page, alice)
    expect_in(page)
    page.goto("/account/logins")
    expect(page.get_by_text("No connected logins")).to_be_visible()


def test_an_account_with_an_unconfirmed_email_is_never_joined(
    provider: Provider, browse: Browse, social: Platform
) -> None:
    email = f"victim-{uuid4().hex[:12]}@example.org"
    sign_up(mallory := browse(), email)
    expect_in(mallory)

    person = newcomer(provider, email=email)
    page = browse()
    for _try in range(2):
        continue_with(provider, page, person)
        expect(page.get_by_role("heading", name="Not logged in")).to_be_visible()
        expect(page.get_by_text("its email was never confirmed")).to_be_visible()
        expect_out(page)
    mallory.goto("/account/logins")
    expect(mallory.get_by_text("No connected logins")).to_be_visible()

    # The next step that the page offers logs the owner in, and ends mallory's sessions.
    page.goto("/login")
    recover(page, social, email)
    expect_out(mallory)
    mallory.goto("/login")
    log_in(mallory, email)
    expect(mallory.get_by_text("The email or password is incorrect.")).to_be_visible()
    continue_with(provider, page, person, start="/account/logins")
    expect(login_panel(page, provider)).to_be_visible()
    page = browse()
    continue_with(provider, page, person)
    expect_in(page)


def test_connected_logins_are_removed_when_the_owner_resets_the_password(
    github: GitHub, browse: Browse, social: Platform
) -> None:
    email = f"victim-{uuid4().hex[:12]}@example.org"
    mallory = newcomer(github, name="Mallory")
    page = browse()
    sign_up(page, email)
    expect_in(page)
    continue_with(github, page, mallory, start="/account/logins")
    expect(login_panel(page, github)).to_be_visible()

    page = browse()
    page.goto("/login")
    recover(page, social, email)
    page.goto("/account/logins")
    expect(page.get_by_text("No connected logins")).to_be_visible()
    page = browse()
    continue_with(github, page, mallory)
    expect_in(page)
    page.goto("/account/")
    expect(page.get_by_role("main").get_by_text(email_of(mallory))).to_be_visible()
    expect(page.get_by_text(email)).to_have_count(0)


# --- Failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["Cancel", "Deny access"])
def test_a_cancelled_login_shows_a_message_and_alternatives(
    answer: str, google: Google, github: GitHub, page: Page
) -> None:
    provider: Provider = github if answer == "Cancel" else google
    set_out(page, provider)
    page.get_by_role("button", name=answer).click()
    expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()
    expect(page.get_by_text("You cancelled the login.")).to_be_visible()
    expect_out(page)
    page.goto("/account/logins/cancelled")
    page.get_by_role("link", name="Back to login").click()
    continue_with(provider, page, newcomer(provider))
    expect_in(page)


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
        expect(page.get_by_role("heading", name=REFUSED)).to_be_visible(timeout=10_000)
        assert time.monotonic() - begun < 10
        expect(page.get_by_text(f"{named(provider)} sent an unexpected response")).to_be_visible()
        assert "Traceback" not in page.content()
        expect_refusal(page)
    said = social.printed()[logged:]
    assert "Traceback" not in said
    assert provider.client_secret not in said
    assert provider.asked["token"][-1]["code"] not in said
    # After the fault the login works.
    provider.trouble = None
    continue_with(provider, page, person)
    expect_in(page)


def test_an_invalid_id_token_is_refused(google: Google, browse: Browse) -> None:
    person = newcomer(google)
    page = browse()
    continue_with(google, page, person)
    expect_in(page)
    page = browse()
    for trouble in ("wrong-nonce", "wrong-audience", "wrong-issuer"):
        google.trouble = None
        set_out(page, google)
        google.trouble = trouble
        agree(page, person)
        expect_refusal(page)


def test_a_callback_works_once(provider: Provider, page: Page) -> None:
    set_out(page, provider)
    used = way_back(page, newcomer(provider))
    page.goto(used)
    expect_in(page)
    exchanges = len(provider.asked["token"])
    page.goto(used)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    # The failed reuse does not log out.
    page.goto("/keys/")
    expect_in(page)
    log_out(page)
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    page.goto(used)
    expect_refusal(page)
    assert len(provider.asked["token"]) == exchanges


def test_a_code_works_once_with_any_state(provider: Provider, page: Page) -> None:
    person = newcomer(provider)
    set_out(page, provider)
    used = way_back(page, person)
    page.goto(used)
    expect_in(page)
    log_out(page)
    set_out(page, provider)
    fresh = way_back(page, person)
    code, state = (
        re.search(pattern, where)
        for pattern, where in ((r"code=[^&]+", used), (r"state=[^&]+", fresh))
    )
    assert code
    assert state
    page.goto(f"{used.partition('?')[0]}?{code[0]}&{state[0]}")
    expect_refusal(page)


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
    expect_refusal(page)
    assert len(ended.asked["token"]) == exchanges


def test_a_callback_does_nothing_in_another_browser(provider: Provider, browse: Browse) -> None:
    mallory, alice = browse(), browse()
    set_out(mallory, provider)
    link = way_back(mallory, newcomer(provider, name="Mallory"))
    exchanges = len(provider.asked["token"])
    alice.goto(link)
    expect_refusal(alice)
    # Nor while she has a login of her own under way.
    set_out(alice, provider)
    alice.goto(link)
    expect_refusal(alice)
    assert len(provider.asked["token"]) == exchanges


def test_a_callback_that_lacks_something_is_refused(provider: Provider, social: Platform) -> None:
    callback = f"{social.url}/account/logins/{named(provider).lower()}/login/callback/"
    for query in ("", "?code=1", "?state=1", "?error=server_error&state=1", "?code=%00&state=%00"):
        answer = requests.get(f"{callback}{query}", timeout=10)
        assert answer.status_code == 401
        assert REFUSED in answer.text


# --- Connected logins ------------------------------------------------------------------------


def test_a_second_provider_is_connected_and_opens_the_same_account(
    google: Google, github: GitHub, browse: Browse
) -> None:
    alice = newcomer(google)
    # Another e-mail than the account's: connecting does not compare them.
    alice_there = newcomer(github)
    page = browse()
    continue_with(google, page, alice)
    expect_in(page)
    continue_with(github, page, alice_there, start="/account/logins")
    expect(login_panel(page, github)).to_be_visible()
    expect(login_panel(page, google)).to_be_visible()
    page = browse()
    continue_with(github, page, alice_there)
    expect_in(page)
    expect_account(page, name="Alice", email=email_of(alice))


def test_a_disconnected_login_no_longer_works(
    google: Google, github: GitHub, browse: Browse
) -> None:
    alice, alice_there = newcomer(google), newcomer(github, name="Alice There")
    page = browse()
    continue_with(google, page, alice)
    expect_in(page)
    continue_with(github, page, alice_there, start="/account/logins")
    login_panel(page, github).get_by_role("button", name="Disconnect").click()
    expect(login_panel(page, github)).to_have_count(0)
    expect(login_panel(page, google)).to_be_visible()
    page = browse()
    continue_with(github, page, alice_there)
    expect_in(page)
    # A new account: its e-mail was not used here.
    expect_account(page, name="Alice There", email=email_of(alice_there))


def test_the_last_login_method_can_not_be_removed(
    google: Google, github: GitHub, page: Page
) -> None:
    continue_with(google, page, newcomer(google))
    expect_in(page)
    page.goto("/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("This is your only way to log in.")).to_be_visible()
    expect(login_panel(page, google)).to_be_visible()
    # With a second login the first may be removed, and the second is the last one then.
    continue_with(github, page, newcomer(github), start="/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(login_panel(page, google)).to_have_count(0)
    login_panel(page, github).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("This is your only way to log in.")).to_be_visible()
    expect(login_panel(page, github)).to_be_visible()


def test_with_a_password_the_last_connected_login_may_be_removed(
    google: Google, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    expect_in(page)
    continue_with(google, page, newcomer(google), start="/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("No connected logins")).to_be_visible()


def test_a_connected_login_can_not_be_connected_to_another_account(
    github: GitHub, browse: Browse, members: Iterator[str]
) -> None:
    alice = newcomer(github)
    page = browse()
    continue_with(github, page, alice)
    expect_in(page)
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    expect_in(page)
    continue_with(github, page, alice, start="/account/logins")
    expect(page.get_by_text("already connected to another account")).to_be_visible()
    expect(page.get_by_text("No connected logins")).to_be_visible()


def test_connecting_can_be_cancelled(
    github: GitHub, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    expect_in(page)
    set_out(page, github, start="/account/logins")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("You cancelled the login.")).to_be_visible()
    person = newcomer(github)
    set_out(page, github, start="/account/logins")
    github.trouble = "error"
    agree(page, person)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    page.goto("/account/logins")
    expect(page.get_by_text("No connected logins")).to_be_visible()
