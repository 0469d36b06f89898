"""The content security policy blocks scripts and requests of injected markup."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

# Each way to run a script or to send data from a page of the platform.
ATTEMPTS = {
    "an inline script": """() => {
        const tag = document.createElement("script");
        tag.append("window.ran = true");
        document.head.append(tag);
    }""",
    "a file of ours without a nonce": """() => {
        const tag = document.createElement("script");
        tag.setAttribute("src", document.querySelector("script[src]").src);
        tag.onload = () => { window.ran = true };
        document.head.append(tag);
    }""",
    "a handler in markup": """() => {
        const button = document.createElement("button");
        button.setAttribute("onclick", "window.ran = true");
        document.body.append(button);
        button.click();
    }""",
    "text that becomes markup": """() => {
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran = true'>");
    }""",
    "a frame": """() => {
        const frame = document.createElement("iframe");
        frame.src = "/health";
        frame.onload = () => { window.ran = frame.contentDocument !== null || undefined };
        document.body.append(frame);
    }""",
    "another place's picture": """(elsewhere) => {
        const picture = new Image();
        picture.onload = () => { window.ran = true };
        picture.src = `${elsewhere}picture.png`;
    }""",
    "a word to another place": """(elsewhere) => {
        fetch(elsewhere, {mode: "no-cors"}).then(() => { window.ran = true }).catch(() => {});
    }""",
    "a form to another place": """(elsewhere) => {
        const form = document.createElement("form");
        form.action = elsewhere;
        document.body.append(form);
        form.submit();
    }""",
    "another base for our links": """(elsewhere) => {
        const base = document.createElement("base");
        base.href = elsewhere;
        document.head.append(base);
        window.ran = document.baseURI === elsewhere || undefined;
    }""",
}

WATCH = """() => {
    window.refused = [];
    addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
}"""


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_injected_markup_does_nothing(
    enter: Callable[..., Page], elsewhere: str, attempt: str
) -> None:
    page = enter()
    page.evaluate(WATCH)
    page.evaluate(
        f"(elsewhere) => {{ try {{ ({ATTEMPTS[attempt]})(elsewhere) }} catch (error) {{}} }}",
        elsewhere,
    )
    # The browser reports the attempt, so it was made; a while later it still has no effect.
    page.wait_for_function("() => refused.length > 0", polling=50)
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert page.evaluate("location.pathname") == "/keys/"


def test_our_scripts_run_without_violations(enter: Callable[..., Page]) -> None:
    page = enter()
    page.evaluate(WATCH)
    page.get_by_role("button", name="+ New").click()
    # In place: without scripts this would be a separate page.
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("refused") == []


def test_another_site_can_not_frame_our_pages(page: Page, elsewhere: str, base_url: str) -> None:
    page.goto(elsewhere)
    page.evaluate(
        """(url) => new Promise((done) => {
            const frame = document.createElement("iframe");
            frame.src = url;
            frame.onload = done;
            document.body.append(frame);
        })""",
        f"{base_url}/login",
    )
    assert page.frames[-1].url == "chrome-error://chromewebdata/"


def test_another_site_reads_the_api_and_uses_none_of_our_files(
    page: Page, elsewhere: str, base_url: str
) -> None:
    page.goto(elsewhere)
    status = "(url) => fetch(url, {method: 'POST'}).then(a => a.status).catch(() => 'refused')"
    assert page.evaluate(status, f"{base_url}/customers") == 401
    assert page.evaluate(status, f"{base_url}/login") == "refused"
    loads = """(url) => new Promise((done) => {
        const picture = new Image();
        picture.onload = () => done("loaded");
        picture.onerror = () => done("refused");
        picture.src = url;
    })"""
    page.goto(f"{base_url}/login")
    icon = page.locator("link[rel=icon]").get_attribute("href")
    assert page.evaluate(loads, icon) == "loaded"
    # A page of another site, not only of another origin: a different port is the same site.
    page.goto(elsewhere)
    assert page.evaluate(loads, f"{base_url}{icon}") == "refused"
