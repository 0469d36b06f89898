"""ComfyUI itself with a login: people in browsers, scripts with keys, and sessions that end."""

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Enter, Person, log_in, log_out
from tests.comfyui.conftest import ComfyUI
from tests.gateways.conftest import ReverseProxy
from tests.platforms import Platform, shell

# Loading takes long on a busy machine.
_SLOW = 120_000
_ISSUE = """
from accounts.models import User
from apikeys import services
key, token = services.issue(owner=User.objects.get(email=given["email"]), name="script")
answer = [key.public_id, token.reveal()]
"""
_FETCH = """async ([path, options]) => {
  const response = await fetch(path, options);
  return [response.status, await response.text()];
}"""


def fetch(page: Page, path: str, **options: Any) -> tuple[int, str]:
    """Send a request as ComfyUI's page; return status and body."""
    status, body = page.evaluate(_FETCH, [path, options])
    return status, body


def open_comfyui(page: Page, origin: str) -> None:
    page.goto(origin)
    expect(page).to_have_url(re.compile(re.escape(f"{origin}/")), timeout=_SLOW)
    expect(page.get_by_role("button", name="Settings").first).to_be_visible(timeout=_SLOW)


def test_two_people_have_workflows_of_their_own_and_a_third_gets_a_page(
    enter: Enter, another: Callable[[], Person], admit: Any, origin: str
) -> None:
    """The login arrives from another domain, which ComfyUI would refuse without the proxy."""
    people = [admit(another()) for _person in range(2)]
    pages = [enter(person, ignore_https_errors=True, locale="en-US") for person in people]
    for page, person in zip(pages, people, strict=True):
        open_comfyui(page, origin)
        saved = fetch(
            page,
            f"/api/userdata/workflows%2F{person.email}.json?overwrite=false",
            method="POST",
            body="{}",
        )
        assert saved[0] == 200
    for page, person in zip(pages, people, strict=True):
        status, listed = fetch(page, "/api/userdata?dir=workflows&recurse=true")
        assert (status, json.loads(listed)) == (200, [f"{person.email}.json"])
        page.reload()
        page.keyboard.press("w")
        expect(page.get_by_text(person.email).first).to_be_visible(timeout=_SLOW)
    third = enter(another(), ignore_https_errors=True)
    refused = third.goto(origin)
    assert refused is not None
    assert refused.status == 403
    expect(third.get_by_role("heading", name="You don't have access")).to_be_visible()


def test_a_script_uses_the_api_with_a_key_until_it_is_deleted(
    site: Platform, proxy: ReverseProxy, comfyui: ComfyUI, alice: Person, admit: Any
) -> None:
    admit(alice)
    public_id, token = shell(site, _ISSUE, email=alice.email)
    assert proxy.ask("/system_stats", key=token).json()["system"]["comfyui_version"]
    # ComfyUI's own answer to a graph without an output.
    sent = proxy.ask("/prompt", key=token, method="POST", body=b'{"prompt": {}}')
    assert (sent.status, "error" in sent.json()) == (400, True)
    saved = proxy.ask("/userdata/a.json", key=token, method="POST", body=b"{}")
    assert saved.status == 200
    lines = [
        "GET /ws?clientId=script HTTP/1.1",
        f"Host: 127.0.0.1:{proxy.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"X-API-Key: {token}",
    ]
    with proxy.socket() as connection, connection.makefile("rb") as received:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert b" 101 " in received.readline()
        while received.readline().strip():
            pass
        assert b'"status"' in received.read1(4096)
        site.manage("revoke_key", public_id)
        assert proxy.ask("/system_stats", key=token).status == 401
        # As docs/sites.md says, it stays open: a ping (RFC 6455 §5.5.2) is answered.
        connection.sendall(bytes([0x89, 0x80, 0, 0, 0, 0]))
        came = b""
        while bytes([0x8A, 0]) not in came:
            came += (piece := received.read1(4096))
            assert piece, "it was closed"


def test_the_log_out_here_ends_the_page_there(
    enter: Enter, alice: Person, admit: Any, origin: str, base_url: str
) -> None:
    admit(alice)
    page = enter(ignore_https_errors=True, locale="en-US")
    open_comfyui(page, origin)
    other = page.context.new_page()
    other.goto(f"{base_url}/keys/")
    log_out(other)
    expect(other).to_have_url(f"{base_url}/login")
    # The extension of deploy/comfyui reloads the page.
    page.evaluate("() => { window.comfyAPI.api.api.fetchApi('/queue') }")
    expect(page).to_have_url(re.compile(re.escape(f"{base_url}/login?next=")), timeout=_SLOW)
    log_in(page, alice.email)
    expect(page).to_have_url(re.compile(re.escape(f"{origin}/")), timeout=_SLOW)
    assert fetch(page, "/api/queue")[0] == 200


def test_nobody_lists_or_chooses_users(
    enter: Enter, alice: Person, admit: Any, origin: str
) -> None:
    admit(alice)
    page = enter(ignore_https_errors=True, locale="en-US")
    open_comfyui(page, origin)
    assert json.loads(fetch(page, "/api/users")[1]) == {"storage": "server", "migrated": True}
    theirs = {"Comfy-User": "default"}
    assert fetch(page, "/api/settings", headers=theirs) == fetch(page, "/api/settings")
