"""A new key is shown once: it can be copied, and nothing of it stays in the browser."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

HEADING = "Your ComfyUI API Keys"

# The content of a cached page as it is restored, read before the page's own listeners run.
WITNESS = """
addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    const fields = [...document.querySelectorAll("input")].map((field) => field.value);
    sawAgain(document.documentElement.outerHTML + fields.join("\\n"));
}, {capture: true});
"""

# The page without its protection against the back/forward cache.
CARELESS = """
const listen = window.addEventListener;
window.addEventListener = function (name, ...rest) {
    if (name !== "pagehide" && name !== "pageshow") listen.call(this, name, ...rest);
};
"""


def answer_questions(page: Page, *, stay: bool = False) -> list[str]:
    """Answer each question whether to leave; return the questions as they come."""
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        if stay:
            dialog.dismiss()
        else:
            dialog.accept()

    page.on("dialog", answer)
    return asked


def watch_for_the_cache(page: Page) -> list[str]:
    """Return the content of each page restored from the cache, as they come."""
    seen: list[str] = []

    def note(held: str) -> None:
        seen.append(held)

    page.expose_function("sawAgain", note)
    page.add_init_script(WITNESS)
    return seen


def keep_pages_whole(page: Page) -> None:
    """Make the browser keep the page with the key in the back/forward cache, despite no-store.

    Chromium drops such a page when a cookie changes, and every page renews one. Other browsers may
    not, so the page must not depend on it.
    """

    def storable(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={"Content-Type": answer.headers["content-type"]})

    page.route("**/keys/generate", storable)


def click_close(page: Page, _elsewhere: str) -> None:
    page.get_by_role("link", name="Close").click()


def click_usage(page: Page, _elsewhere: str) -> None:
    # The dialog blocks the mouse; a screen reader's list of links may still offer this one.
    page.get_by_role("link", name="Usage", include_hidden=True).evaluate("link => link.click()")


def go_elsewhere(page: Page, elsewhere: str) -> None:
    page.goto(elsewhere)


@pytest.mark.parametrize("leave", [click_close, click_usage, go_elsewhere])
def test_back_and_forward_never_bring_the_key_back(
    leave: Callable[[Page, str], None],
    enter: Callable[..., Page],
    generate: Callable[..., str],
    remains: Callable[[Page], str],
    elsewhere: str,
) -> None:
    page = enter()
    answer_questions(page)
    seen = watch_for_the_cache(page)
    key = generate(page)
    leave(page, elsewhere)
    expect(page.locator("#plaintext")).to_have_count(0)
    for go in (page.go_back, page.go_forward, page.go_back):
        go(wait_until="commit")
        expect(page.locator("#plaintext")).to_have_count(0)
        assert key not in remains(page)
    assert key not in "".join(seen)


@pytest.mark.chromium
def test_a_page_that_the_browser_kept_whole_comes_back_without_the_key(
    enter: Callable[..., Page], generate: Callable[..., str], elsewhere: str
) -> None:
    page = enter()
    answer_questions(page)
    seen = watch_for_the_cache(page)
    keep_pages_whole(page)
    key = generate(page)
    page.goto(elsewhere)
    page.go_back(wait_until="commit")
    # The page replaces itself with a fresh list.
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("row", name="studio")).to_be_visible()
    (kept,) = seen
    assert 'id="plaintext"' in kept
    assert key not in kept


@pytest.mark.chromium
def test_without_protection_the_page_would_come_back_with_the_key(
    enter: Callable[..., Page], generate: Callable[..., str], elsewhere: str
) -> None:
    # The control of the test above: it shows that the browser restores pages from the cache.
    page = enter()
    answer_questions(page)
    seen = watch_for_the_cache(page)
    page.add_init_script(CARELESS)
    keep_pages_whole(page)
    key = generate(page)
    page.goto(elsewhere)
    page.go_back(wait_until="commit")
    expect(page.locator("#plaintext")).to_have_value(key)
    (kept,) = seen
    assert key in kept


def test_reload_shows_the_list_and_sends_no_form_again(
    enter: Callable[..., Page], generate: Callable[..., str], remains: Callable[[Page], str]
) -> None:
    page = enter()
    answer_questions(page)
    key = generate(page)
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.method))
    response = page.reload()
    assert response is not None
    assert response.request.method == "GET"
    assert response.status == 200
    assert "POST" not in posts
    expect(page.locator("table.keys tbody tr")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert key not in remains(page)


def test_a_double_click_on_generate_makes_one_key_and_shows_it(enter: Callable[..., Page]) -> None:
    page = enter()
    answer_questions(page)
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("studio")
    page.get_by_role("button", name="Generate").dblclick()
    expect(page.locator("#plaintext")).to_have_value(re.compile("^comfyui-[0-9a-f]{64}$"))
    page.reload()
    expect(page.locator("table.keys tbody tr")).to_have_count(1)


def test_two_submissions_of_one_form_make_one_key(
    enter: Callable[..., Page], base_url: str
) -> None:
    page = enter()
    answer_questions(page)
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("studio")
    # Without the page's listeners, as an extension or a network retry does.
    with page.expect_navigation(wait_until="load"):
        page.locator("#new-key form").evaluate("form => { form.submit(); form.submit(); }")
    page.goto("/keys/")
    expect(page.locator("table.keys tbody tr")).to_have_count(1)


def test_the_same_form_sent_twice_at_once_makes_one_key_and_says_so(
    enter: Callable[..., Page],
) -> None:
    page = enter()
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("studio")
    statuses = page.locator("#new-key form").evaluate(
        """async (form) => {
            const body = new URLSearchParams(new FormData(form));
            const send = () => fetch(form.action, {method: "POST", body});
            return (await Promise.all([send(), send(), send()])).map((answer) => answer.status);
        }"""
    )
    assert sorted(statuses) == [200, 409, 409]
    page.reload()
    expect(page.locator("table.keys tbody tr")).to_have_count(1)


def test_back_to_the_form_and_generate_makes_another_key(
    enter: Callable[..., Page], keep: Callable[..., str], generate: Callable[..., str]
) -> None:
    page = enter()
    answer_questions(page)
    first = keep(page, "one")
    page.go_back(wait_until="commit")
    second = generate(page, "two")
    assert first != second
    page.reload()
    expect(page.locator("table.keys tbody tr")).to_have_count(2)


def test_leaving_before_copying_asks_and_staying_keeps_the_key(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    asked = answer_questions(page, stay=True)
    key = generate(page)
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert asked == ["beforeunload"]
    expect(page.locator("#plaintext")).to_have_value(key)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")


def test_leaving_after_copy_asks_nothing_and_the_clipboard_has_the_key(
    enter: Callable[..., Page],
    generate: Callable[..., str],
    clipboard: Callable[[Page], str],
) -> None:
    page = enter(permissions=["clipboard-read", "clipboard-write"])
    asked = answer_questions(page)
    key = generate(page)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    is_copied = clipboard(page) == key
    assert is_copied
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("row", name="studio")).to_be_visible()
    assert asked == []


def test_copying_by_hand_counts(
    enter: Callable[..., Page],
    generate: Callable[..., str],
    clipboard: Callable[[Page], str],
) -> None:
    page = enter(permissions=["clipboard-read", "clipboard-write"])
    asked = answer_questions(page)
    key = generate(page)
    page.locator("#plaintext").focus()
    page.keyboard.press("Control+C")
    expect(page.get_by_role("status")).to_have_text("Copied")
    is_copied = clipboard(page) == key
    assert is_copied
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked == []


def test_copying_a_part_of_the_key_does_not_count(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    asked = answer_questions(page)
    generate(page)
    page.locator("#plaintext").focus()
    page.locator("#plaintext").evaluate("field => field.setSelectionRange(0, 20)")
    page.keyboard.press("Control+C")
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked == ["beforeunload"]


def test_escape_never_hides_a_key_that_is_still_in_the_page(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    answer_questions(page)
    generate(page)
    # A browser lets a page cancel one Escape; the next one always closes the dialog.
    for _press in range(4):
        page.keyboard.press("Escape")
    # The key is visible or removed, perhaps after a moment.
    page.wait_for_function(
        """() => {
            const field = document.getElementById("plaintext");
            return !field?.value || field.closest("dialog").open;
        }""",
        timeout=5_000,
    )


def on_the_lan(page: Page, lan: str) -> None:
    page.goto(f"{lan}/signup")
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(f"{uuid4().hex[:12]}@example.org")
    page.get_by_label("Password").fill("correct horse battery staple")
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("heading", name=HEADING)).to_be_visible()
    assert page.evaluate("[isSecureContext, 'clipboard' in navigator]") == [False, False]


def test_copy_works_on_a_plain_http_lan(
    new_context: Callable[..., Any], lan: str, elsewhere: str, generate: Callable[..., str]
) -> None:
    context = new_context()
    page = context.new_page()
    asked = answer_questions(page)
    on_the_lan(page, lan)
    key = generate(page)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked == []
    # Only a secure page may read the clipboard, so this one reads it.
    context.grant_permissions(["clipboard-read"], origin=elsewhere)
    reader = context.new_page()
    reader.goto(elsewhere)
    is_copied = reader.evaluate("navigator.clipboard.readText()") == key
    assert is_copied


def test_without_a_clipboard_the_key_is_selected_and_the_shortcut_named(
    new_context: Callable[..., Any], lan: str, generate: Callable[..., str]
) -> None:
    page = new_context().new_page()
    asked = answer_questions(page)
    page.add_init_script("document.execCommand = () => false")
    on_the_lan(page, lan)
    key = generate(page)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_contain_text("Ctrl+C")
    selected = page.locator("#plaintext").evaluate(
        "field => field.value.slice(field.selectionStart, field.selectionEnd)"
    )
    assert selected == key
    # The instructions work from the current focus.
    page.keyboard.press("Control+C")
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked == []


# --- Other traces in the browser ----------------------------------------------------------------


def parts(key: str) -> list[str]:
    """Return the secret as a whole, and parts of it as truncation or wrapping leaves them."""
    return [key[20:56], key[20:38], key[38:56]]


def has(text: str, key: str) -> bool:
    return any(part in text for part in parts(key))


def test_no_url_title_or_state_in_the_history_has_the_key(
    enter: Callable[..., Page], generate: Callable[..., str], base_url: str
) -> None:
    page = enter()
    answer_questions(page)
    key = generate(page)
    assert page.title() == "API Keys · ComfyUI keys"
    # The URL of a submitted form is not in the history.
    assert page.url == f"{base_url}/keys/"
    assert page.evaluate("history.state") is None
    history = page.context.new_cdp_session(page).send("Page.getNavigationHistory")
    assert len(history["entries"]) >= 2
    is_current = has(str(history), key)
    assert not is_current


def test_no_request_but_the_answer_carries_the_key(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    answer_questions(page)
    sent: list[str] = []
    page.on(
        "request",
        lambda request: sent.append(
            f"{request.method} {request.url} {request.all_headers()} {request.post_data}"
        ),
    )
    key = generate(page)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("row", name="studio")).to_be_visible()
    assert any(one.startswith("POST") for one in sent)
    are_clean = not any(has(one, key) for one in sent)
    assert are_clean


def test_nothing_fills_in_keeps_corrects_or_sends_the_field_with_the_key(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    answer_questions(page)
    generate(page)
    field = page.locator("#plaintext")
    # In no form and without a name: the browser has nothing to offer to save.
    assert field.evaluate("field => [field.form, field.name, field.type]") == [None, "", "textarea"]
    for attribute, value in (
        ("autocomplete", "off"),
        ("autocapitalize", "off"),
        # A spelling checker may send text to a server.
        ("spellcheck", "false"),
        # Attributes for password managers.
        ("data-1p-ignore", ""),
        ("data-lpignore", "true"),
    ):
        expect(field).to_have_attribute(attribute, value)
    expect(field).not_to_be_editable()
    assert page.locator("input[type=password]").count() == 0


@pytest.mark.chromium
def test_a_screen_reader_announces_the_key_once(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    answer_questions(page)
    key = generate(page)
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)

    page.expose_function("said", note)
    live = "[role=status], [role=alert], [role=log], [aria-live]"
    page.evaluate(
        """(live) => {
            for (const region of document.querySelectorAll(live))
                new MutationObserver(() => said(region.textContent)).observe(
                    region, {childList: true, characterData: true, subtree: true});
        }""",
        live,
    )
    assert page.locator("#plaintext").evaluate("(field, live) => field.closest(live)", live) is None
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.wait_for_function("() => true")
    assert said == ["Copied"]
    # By its role it is one field of a named dialog; no other element contains the key.
    dialog = page.get_by_role("dialog", name="API key created")
    expect(dialog.get_by_role("textbox", name="Your key “studio”")).to_have_value(key)
    snapshot = page.locator("body").aria_snapshot()
    once = snapshot.count(key) == 1
    assert once
    rest = page.evaluate(
        """() => {
            document.getElementById("plaintext").remove();
            return document.documentElement.outerHTML;
        }"""
    )
    is_elsewhere = has(rest, key)
    assert not is_elsewhere


@pytest.mark.parametrize("persisted", [True, False], ids=["kept whole", "ended"])
def test_the_field_is_cleared_on_pagehide(
    enter: Callable[..., Page], generate: Callable[..., str], persisted: bool
) -> None:
    page = enter()
    answer_questions(page)
    key = generate(page)
    held = """field => [field.value, field.textContent, field.defaultValue]"""
    assert page.locator("#plaintext").evaluate(f"field => ({held})(field).every(Boolean)")
    page.evaluate(
        "persisted => dispatchEvent(new PageTransitionEvent('pagehide', {persisted}))", persisted
    )
    assert page.locator("#plaintext").evaluate(held) == ["", "", ""]
    is_current = has(page.content(), key)
    assert not is_current
