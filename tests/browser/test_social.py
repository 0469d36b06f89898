"""Signing in with Google and GitHub: the way in, each way it can fail, and who must not get in.

The servers of tests/providers.py stand in for the two, so every step here is a real one.
"""

import re
import shutil
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, expect

from tests import providers
from tests.providers import Address, GitHub, Google, Person, Provider
from tests.servers import Platform, platform

pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery staple"
KEYS = "Your ComfyUI API Keys"
REFUSED = "That did not work"

# People who signed up here with a password, and proved their address.
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
def social(
    site: Platform, google: Google, github: GitHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A platform that knows both providers."""
    folder = tmp_path_factory.mktemp("social")
    # Hashing and compressing static files takes seconds, and they are the same ones.
    collected = Path(site.environment["VAR_DIR"])
    shutil.copytree(collected / "static", folder / "static")
    shutil.copy2(collected / ".static-stamp", folder)
    with platform(folder, **google.environment, **github.environment) as running:
        yield running


@pytest.fixture(params=["google", "github"])
def provider(request: pytest.FixtureRequest) -> Provider:
    running: Provider = request.getfixturevalue(request.param)
    return running


@pytest.fixture(autouse=True)
def _no_trouble_left(google: Google, github: GitHub) -> Iterator[None]:
    yield
    google.trouble = github.trouble = None


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], social: Platform) -> dict[str, Any]:
    return {**browser_context_args, "base_url": social.url}


@pytest.fixture
def browse(new_context: Callable[..., BrowserContext]) -> Browse:
    """Opens a page in a browser that was never here before."""
    return lambda **options: new_context(**options).new_page()


@pytest.fixture(scope="module")
def members(social: Platform) -> Iterator[str]:
    code = _MAKE_MEMBERS.format(password=PASSWORD, members=20)
    printed = social.manage("shell", "--no-imports", "-c", code)
    return iter(re.findall(r"^member: (.+)$", printed, re.MULTILINE))


# --- What people do --------------------------------------------------------------------------


def named(provider: Provider) -> str:
    return type(provider).__name__


def newcomer(provider: Provider, email: str = "", **given: Any) -> Person:
    """Somebody with an account at the provider, and none here."""
    uid = str(uuid4().int % 10**15)
    return provider.person(
        **{"uid": uid, "email": email or f"alice-{uid}@example.org", "name": "Alice", **given}
    )


def address_of(person: Person) -> str:
    return person.addresses[0].email


def set_out(page: Page, provider: Provider, start: str = "/login") -> None:
    page.goto(start)
    page.get_by_role("button", name=f"Continue with {named(provider)}").click()
    expect(page.get_by_role("button", name="Authorize", exact=True)).to_be_visible()


def agree(page: Page, person: Person) -> None:
    """Presses what leads back from the provider's page."""
    if page.get_by_label("Account").count():
        page.get_by_label("Account").select_option(person.uid)
    else:
        page.get_by_label("Subject", exact=True).fill(person.uid)
    page.get_by_role("button", name="Authorize", exact=True).click()


def continue_with(provider: Provider, page: Page, person: Person, start: str = "/login") -> None:
    set_out(page, provider, start)
    agree(page, person)


def way_back(page: Page, person: Person) -> str:
    """The address that "Authorize" leads back to, with its code and state, not yet followed."""
    form = {"sub": person.uid, "account": person.uid, "answer": "authorize"}
    answer = requests.post(page.url, data=form, allow_redirects=False, timeout=10)
    return str(answer.headers["Location"])


def sign_up(page: Page, email: str) -> None:
    page.goto("/signup")
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up", exact=True).click()


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def recover(page: Page, social: Platform, email: str) -> None:
    """Gets into an account by its mailbox alone, from the log-in page."""
    page.get_by_role("link", name="Forgot password?").click()
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_role("main").get_by_role("button").first.click()
    expect(page).to_have_url(re.compile("/account/password/reset/sent$"))
    page.goto(mailed_link(social, email, "/account/password/reset/"))
    for field in page.get_by_label("New password").all():
        field.fill("another horse battery staple")
    page.get_by_role("button", name="Set the password").click()
    expect(page.get_by_role("button", name="Set the password")).to_have_count(0)
    page.goto("/login")
    # Whether a new password logs in at once is not this room's business.
    if "/login" in page.url:
        log_in(page, email, "another horse battery staple")
    expect_in(page)


def mailed_link(social: Platform, email: str, path: str) -> str:
    """The newest link of the mails to `email`. Without a mail server they are printed."""
    mails = social.printed().split(f"To: {email}\n")[1:]
    links = [link for mail in mails for link in re.findall(rf"{social.url}{path}\S+", mail[:2000])]
    return str(links[-1])


def login_panel(page: Page, provider: Provider) -> Any:
    """The panel of a connected login on the page that lists them."""
    heading = page.get_by_role("heading", name=named(provider), exact=True)
    return page.locator("section.panel").filter(has=heading)


def expect_in(page: Page) -> None:
    expect(page.get_by_role("heading", name=KEYS)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/keys/$"))


def expect_account(page: Page, *, name: str, email: str) -> None:
    page.goto("/account/")
    expect(page.get_by_role("heading", name=f"Hello, {name}", exact=True)).to_be_visible()
    expect(page.get_by_text(email)).to_be_visible()


def expect_out(page: Page) -> None:
    page.goto("/keys/")
    expect(page).to_have_url(re.compile(r"/login\?next=/keys/$"))


def expect_refusal(page: Page) -> None:
    """A page of ours says that it did not work, and how to go on; nobody got in."""
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    page.get_by_role("link", name="Back to log in").click()
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    expect_out(page)


# --- The way in ------------------------------------------------------------------------------


def test_the_first_login_makes_an_account(provider: Provider, page: Page) -> None:
    person = newcomer(provider, name="Alice Liddell")
    continue_with(provider, page, person)
    expect_in(page)
    expect_account(page, name="Alice Liddell", email=address_of(person))


def test_the_next_login_finds_the_account_whatever_has_changed_at_the_provider(
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
    # What she is called here is hers to change, here.
    expect_account(page, name="Alice", email=address_of(person))


@pytest.mark.parametrize(
    ("name", "given_name", "family_name"),
    [("Alice Liddell", "Alice", "Liddell"), ("山田 太郎", "太郎", "山田"), ("Alice", "", "")],
)
def test_people_are_called_what_they_are_called_at_google(
    name: str, given_name: str, family_name: str, google: Google, page: Page
) -> None:
    person = newcomer(google, name=name, given_name=given_name, family_name=family_name)
    continue_with(google, page, person)
    expect_in(page)
    expect_account(page, name=name, email=address_of(person))


def test_somebody_who_takes_over_a_former_address_is_somebody_else(
    google: Google, browse: Browse
) -> None:
    alice = newcomer(google)
    page = browse()
    continue_with(google, page, alice)
    expect_in(page)
    # Alice left, and her employer gave the address to mallory.
    mallory = newcomer(google, email=address_of(alice), name="Mallory")
    page = browse()
    continue_with(google, page, mallory)
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    expect_out(page)


def test_what_is_sent_on_the_way_ties_each_step_to_the_one_before(
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


def test_it_leads_where_one_wanted_to_go(github: GitHub, page: Page) -> None:
    continue_with(github, page, newcomer(github), start="/usage/")
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_it_never_leads_to_another_site(google: Google, page: Page) -> None:
    elsewhere = urlencode({"next": "//evil.example/"})
    continue_with(google, page, newcomer(google), start=f"/login?{elsewhere}")
    expect_in(page)


def test_the_sign_up_page_has_the_same_way_in(google: Google, page: Page) -> None:
    continue_with(google, page, newcomer(google), start="/signup")
    expect_in(page)


def test_it_works_without_scripts(github: GitHub, browse: Browse) -> None:
    page = browse(java_script_enabled=False)
    continue_with(github, page, newcomer(github))
    expect_in(page)


def test_there_are_no_buttons_where_no_provider_is_set_up(page: Page, site: Platform) -> None:
    for path in ("/login", "/signup"):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Google|GitHub"))).to_have_count(0)
    for name in ("google", "github"):
        for end in ("", "callback/?code=1&state=2"):
            answer = requests.get(f"{site.url}/account/logins/{name}/login/{end}", timeout=10)
            assert answer.status_code == 404


def test_no_other_site_can_send_a_person_off_to_sign_in(
    provider: Provider, social: Platform
) -> None:
    start = f"{social.url}/account/logins/{named(provider).lower()}/login/"
    asked = requests.get(start, allow_redirects=False, timeout=10)
    assert asked.status_code == 200
    sent = requests.post(start, headers={"Origin": "https://evil.example"}, timeout=10)
    assert sent.status_code == 403


# --- Whose account ---------------------------------------------------------------------------


def test_whoever_has_proved_no_address_is_told_what_to_do_and_gets_no_account(
    provider: Provider, page: Page
) -> None:
    person = newcomer(provider, verified=False)
    continue_with(provider, page, person)
    expect(page.get_by_role("heading", name="Not logged in")).to_be_visible()
    expect(
        page.get_by_text(
            f"Confirm your address at {named(provider)} and try again, "
            "or sign up with an email address here."
        )
    ).to_be_visible()
    page.get_by_role("link", name="Back to log in").click()
    expect_out(page)
    # The address is free, so nothing was made of it.
    sign_up(page, address_of(person))
    expect_in(page)


def test_of_several_addresses_the_account_gets_one_that_is_proved(
    github: GitHub, page: Page
) -> None:
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


def test_a_proved_address_opens_no_account_until_its_owner_has_logged_in(
    provider: Provider, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    person = newcomer(provider, email=email)
    page = browse()
    continue_with(provider, page, person)
    expect(
        page.get_by_text(f"There is an account with the address {email} already.")
    ).to_be_visible()
    waiting = page.url
    expect_out(page)
    # The provider alone never does, however often it is tried.
    page = browse()
    continue_with(provider, page, person)
    expect(page).to_have_url(waiting)
    log_in(page, email)
    expect_in(page)
    expect(page.get_by_text(f"Your {named(provider)} login is connected")).to_be_visible()
    page = browse()
    continue_with(provider, page, person)
    expect_in(page)
    expect_account(page, name=email.partition("@")[0], email=email)


def test_a_login_that_waits_for_its_owner_is_not_given_to_whoever_logs_in_next(
    google: Google, browse: Browse, members: Iterator[str]
) -> None:
    mallory, alice = next(members), next(members)
    page = browse()
    continue_with(google, page, newcomer(google, email=mallory))
    expect(page.get_by_text(f"There is an account with the address {mallory}")).to_be_visible()
    log_in(page, alice)
    expect_in(page)
    page.goto("/account/logins")
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_an_account_that_was_begun_with_somebody_elses_address_is_never_joined(
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
        expect(page.get_by_text("the address was never confirmed")).to_be_visible()
        expect_out(page)
    mallory.goto("/account/logins")
    expect(mallory.get_by_text("None yet.")).to_be_visible()

    # The way on that the page tells of: it leads in, and mallory out.
    page.goto("/login")
    recover(page, social, email)
    expect_out(mallory)
    mallory.goto("/login")
    log_in(mallory, email)
    expect(mallory.get_by_text("The email address or the password is not right.")).to_be_visible()
    continue_with(provider, page, person, start="/account/logins")
    expect(login_panel(page, provider)).to_be_visible()
    page = browse()
    continue_with(provider, page, person)
    expect_in(page)


def test_what_mallory_connected_to_an_account_of_anothers_address_is_gone_with_her_password(
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
    expect(page.get_by_text("None yet.")).to_be_visible()
    page = browse()
    continue_with(github, page, mallory)
    expect_in(page)
    page.goto("/account/")
    expect(page.get_by_text(address_of(mallory))).to_be_visible()
    expect(page.get_by_text(email)).to_have_count(0)


# --- What goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["Cancel", "Deny access"])
def test_who_cancels_is_told_so_and_finds_a_way_on(
    answer: str, google: Google, github: GitHub, page: Page
) -> None:
    provider: Provider = github if answer == "Cancel" else google
    set_out(page, provider)
    page.get_by_role("button", name=answer).click()
    expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()
    expect(page.get_by_text("You stopped on the way.")).to_be_visible()
    expect_out(page)
    page.goto("/account/logins/cancelled")
    page.get_by_role("link", name="Back to log in").click()
    continue_with(provider, page, newcomer(provider))
    expect_in(page)


def test_a_provider_in_trouble_is_said_in_words_and_soon(
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
        expect(page.get_by_text(f"{named(provider)} did not answer as it should")).to_be_visible()
        assert "Traceback" not in page.content()
        expect_refusal(page)
    said = social.printed()[logged:]
    assert "Traceback" not in said
    assert provider.client_secret not in said
    assert provider.asked["token"][-1]["code"] not in said
    # It passes, and so does the person.
    provider.trouble = None
    continue_with(provider, page, person)
    expect_in(page)


def test_an_id_token_that_was_made_for_something_else_is_refused(
    google: Google, browse: Browse
) -> None:
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


def test_a_callback_that_was_used_is_good_for_nothing(provider: Provider, page: Page) -> None:
    set_out(page, provider)
    used = way_back(page, newcomer(provider))
    page.goto(used)
    expect_in(page)
    exchanges = len(provider.asked["token"])
    page.goto(used)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    # That undoes nothing either.
    page.goto("/keys/")
    expect_in(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    page.goto(used)
    expect_refusal(page)
    assert len(provider.asked["token"]) == exchanges


def test_a_code_is_good_once_whatever_state_comes_with_it(provider: Provider, page: Page) -> None:
    person = newcomer(provider)
    set_out(page, provider)
    used = way_back(page, person)
    page.goto(used)
    expect_in(page)
    page.get_by_role("button", name="Log out").click()
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
def test_what_began_at_one_provider_does_not_end_at_the_other(
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


def test_a_callback_does_nothing_in_a_browser_that_did_not_ask_for_it(
    provider: Provider, browse: Browse
) -> None:
    mallory, alice = browse(), browse()
    set_out(mallory, provider)
    link = way_back(mallory, newcomer(provider, name="Mallory"))
    exchanges = len(provider.asked["token"])
    alice.goto(link)
    expect_refusal(alice)
    # Nor while she is on her own way.
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
    # Another address than the account's: to connect, it is no matter whose that one is.
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
    expect_account(page, name="Alice", email=address_of(alice))


def test_a_disconnected_login_opens_the_account_no_more(
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
    # A new account: its address was nobody's here.
    expect_account(page, name="Alice There", email=address_of(alice_there))


def test_the_last_way_in_stays(google: Google, github: GitHub, page: Page) -> None:
    continue_with(google, page, newcomer(google))
    expect_in(page)
    page.goto("/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("This is your last way in.")).to_be_visible()
    expect(login_panel(page, google)).to_be_visible()
    # With another one it may go, and that one is the last, then.
    continue_with(github, page, newcomer(github), start="/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(login_panel(page, google)).to_have_count(0)
    login_panel(page, github).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("This is your last way in.")).to_be_visible()
    expect(login_panel(page, github)).to_be_visible()


def test_with_a_password_the_last_connected_login_may_go(
    google: Google, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    expect_in(page)
    continue_with(google, page, newcomer(google), start="/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_a_login_that_opens_one_account_can_not_be_connected_to_another(
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
    expect(page.get_by_text("already connected to a different account")).to_be_visible()
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_connecting_can_be_cancelled_and_fails_as_gently(
    github: GitHub, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    expect_in(page)
    set_out(page, github, start="/account/logins")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("You stopped on the way.")).to_be_visible()
    person = newcomer(github)
    set_out(page, github, start="/account/logins")
    github.trouble = "error"
    agree(page, person)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    page.goto("/account/logins")
    expect(page.get_by_text("None yet.")).to_be_visible()
