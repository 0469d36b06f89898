"""From sign-up to logout with one key, and the key in use."""

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import log_out, wait_for_count

LOOKS = {
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "phone": {
        "color_scheme": "dark",
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}

# The requests of the ComfyUI frontend at sign-in and at each page load.
SIGN_IN = """async ([platform, key]) => {
    const answer = await fetch(platform + "/customers", {
        method: "POST",
        headers: {"X-API-KEY": key, "Content-Type": "application/json"},
        body: JSON.stringify({signup_source: "comfyui"}),
    });
    const type = answer.headers.get("Content-Type");
    return {status: answer.status, type, body: await answer.json()};
}"""


class ComfyUI:
    """A page of another origin in the same browser, and the preflights that it caused."""

    def __init__(self, context: BrowserContext, address: str, platform: str) -> None:
        self.platform = platform
        self.page = context.new_page()
        self.page.goto(address)
        self.preflights: list[str] = []
        # Page events omit preflights; the Chrome DevTools Protocol has them.
        protocol = context.new_cdp_session(self.page)
        protocol.on("Network.requestWillBeSent", self._note)
        protocol.send("Network.enable")

    def _note(self, event: dict[str, Any]) -> None:
        if event["initiator"]["type"] == "preflight":
            self.preflights.append(f"{event['request']['method']} {event['request']['url']}")

    def sign_in(self, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.page.evaluate(SIGN_IN, [self.platform, key])
        return answer


@pytest.mark.parametrize("look", LOOKS)
def test_alice_signs_up_creates_uses_and_deletes_a_key_and_logs_out(
    look: str,
    new_context: Callable[..., BrowserContext],
    base_url: str,
    elsewhere: str,
    shoot: Callable[[Page, str], None],
    remains: Callable[[Page], str],
) -> None:
    context = new_context(**LOOKS[look])
    page = context.new_page()
    # With the animations that other tests do without.
    page.emulate_media(reduced_motion="no-preference")
    email = f"alice-{uuid4().hex[:8]}@example.org"

    page.goto("/")
    expect(page).to_have_url(re.compile(r"/login\?next=/keys/$"))
    shoot(page, f"{look}-01-login")
    page.get_by_role("link", name="Sign up").click()
    shoot(page, f"{look}-02-signup")
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_label("Password").fill("correct horse battery staple")
    page.get_by_role("button", name="Sign up").click()

    expect(page).to_have_url(f"{base_url}/keys/")
    expect(page.get_by_role("heading", name="Your ComfyUI API Keys")).to_be_visible()
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()
    shoot(page, f"{look}-03-no-keys")

    page.get_by_role("button", name="+ New").click()
    dialog = page.get_by_role("dialog", name="Generate New API Key")
    expect(dialog.get_by_label("API Key name")).to_be_focused()
    dialog.get_by_label("API Key name").fill("studio-pc")
    dialog.get_by_label("Description").fill("The render box under the stairs")
    shoot(page, f"{look}-04-dialog")
    dialog.get_by_role("button", name="Generate").click()

    reveal = page.get_by_role("dialog", name="API key created")
    key = reveal.get_by_role("textbox").input_value()
    assert re.fullmatch(r"comfyui-[0-9a-f]{64}", key)
    assert len(key) == 72
    expect(reveal.get_by_text("will only be shown once")).to_be_visible()
    reveal.locator("#copy").click()
    expect(reveal.get_by_role("status")).to_have_text("Copied")
    shoot(page, f"{look}-05-reveal")

    comfyui = ComfyUI(context, elsewhere, base_url)
    answer = comfyui.sign_in(key)
    assert comfyui.preflights == [f"OPTIONS {base_url}/customers"]
    assert answer["status"] == 200
    assert answer["body"]["email"] == email
    assert answer["body"]["name"] == email.partition("@")[0]
    assert answer["body"]["id"]

    page.reload()
    expect(page.get_by_role("row", name="studio-pc")).to_be_visible()
    assert key not in remains(page)
    shoot(page, f"{look}-06-list")
    page.go_back(wait_until="commit")
    expect(page.get_by_role("heading", name="Your ComfyUI API Keys")).to_be_visible()
    assert key not in remains(page)
    page.go_forward(wait_until="commit")
    expect(page.get_by_role("row", name="studio-pc")).to_be_visible()
    assert key not in remains(page)

    wait_for_count(page, "API calls: 1.")
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("row", name="studio-pc")).to_contain_text("1")
    shoot(page, f"{look}-07-usage")
    page.get_by_role("link", name="Account").click()
    expect(page.get_by_role("heading", name="Hello, alice-")).to_be_visible()
    shoot(page, f"{look}-08-user")

    page.get_by_role("link", name="API Keys", exact=True).click()
    row = page.get_by_role("row", name="studio-pc")
    expect(row).to_contain_text("comfyui-" + key[8:20] + "…")
    row.get_by_role("button", name="Delete").click()
    ask = page.get_by_role("dialog", name="Delete “studio-pc”?")
    shoot(page, f"{look}-09-delete")
    ask.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("“studio-pc” was deleted. It no longer works.")).to_be_visible()
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()

    refused = comfyui.sign_in(key)
    assert refused["status"] == 401
    assert refused["type"] == "application/json"
    assert refused["body"]["error"]
    assert refused["body"]["message"]
    assert key not in json.dumps(refused["body"])

    log_out(page)
    expect(page).to_have_url(f"{base_url}/login")
    page.goto("/keys/")
    expect(page).to_have_url(f"{base_url}/login?next=/keys/")


@pytest.mark.parametrize("path", ["/keys/", "/usage/", "/account/", "/account/email"])
def test_back_after_log_out_shows_no_account_page(
    path: str,
    enter: Callable[..., Page],
    alice: Any,
    base_url: str,
    issue: Callable[..., str],
    remains: Callable[[Page], str],
) -> None:
    issue("alices-own")
    page = enter()
    page.goto(path)
    log_out(page)
    expect(page).to_have_url(f"{base_url}/login")
    page.go_back(wait_until="commit")
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    assert alice.email not in remains(page)
    assert "alices-own" not in remains(page)


# Pixels by which content is higher than each block of commands, and the distance of the ring that
# shows the wait from the number that it is around.
_OVERFLOW = """() => [...document.querySelectorAll("pre")].filter(shown => shown.checkVisibility())
    .map(shown => shown.scrollHeight - shown.clientHeight)"""
_RING = """() => {
    const [number, ring] = ["::before", "::after"].map(
        part => getComputedStyle(document.querySelector(".first-use"), part).insetBlockStart);
    return [number, ring];
}"""


@pytest.mark.parametrize("look", LOOKS)
def test_the_next_steps_show_whole_commands_and_a_ring_around_the_number(
    look: str, enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter(**LOOKS[look])
    page.emulate_media(reduced_motion="no-preference")
    # The page asks before one leaves without a copy.
    page.on("dialog", lambda dialog: dialog.accept())
    generate(page)
    expect(page.locator(".reveal .first-use.is-waiting")).to_be_visible()
    assert max(page.evaluate(_OVERFLOW)) <= 0
    number, ring = page.evaluate(_RING)
    assert number == ring
    page.goto("/keys/")
    assert max(page.evaluate(_OVERFLOW)) <= 0
