"""`comfy cloud login`, unchanged, with a browser that is logged in and allows it."""

import json
import re
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from tests.clients.conftest import ComfyCLI, revoke
from tests.live.conftest import TOKEN, Account, shell
from tests.platforms import Platform


class Person:
    """A logged-in browser: it opens a URL and presses a button."""

    def __init__(self, account: Account, tls: Path) -> None:
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = str(tls / "bundle.pem")
        name, value = account.cookie
        self.http.cookies.set(name, value, domain="127.0.0.1", path="/")

    def press(self, url: str, decision: str) -> requests.Response:
        page = self.http.get(url, timeout=60)
        assert page.status_code == 200, page.text
        action = re.search(r'<form method="post" action="([^"]*/oauth/authorize[^"]*)"', page.text)
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
        name = re.search(r'name="name" value="([^"]*)"', page.text)
        assert action, page.text
        assert name, page.text
        fields = {**hidden, "name": name[1], "expires": "90", "decision": decision}
        return self.http.post(
            urljoin(url, unescape(action[1])),
            data=fields,
            headers={"Referer": url},
            timeout=60,
        )


@pytest.fixture
def logging_in(comfy: ComfyCLI) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield comfy-cli, waiting for its browser, and the URL that it wants opened."""
    process = comfy.start("--json", "cloud", "login", "--no-browser", "--timeout", "60")
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    reader = Thread(target=lambda: lines.put(process.stdout.readline()))  # type: ignore[union-attr]
    reader.start()
    try:
        outcome = json.loads(lines.get(timeout=50))
        assert outcome["type"] == "login_url", outcome
        yield process, outcome["url"]
    finally:
        process.kill()
        process.communicate()
        reader.join()


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _complained = process.communicate(timeout=60)
    last: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return last


def test_login_through_the_browser_gives_comfy_cli_a_key(
    comfy: ComfyCLI,
    alice: Account,
    running: Platform,
    tls: Path,
    logging_in: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = logging_in
    assert address.startswith(f"{running.url}/oauth/authorize?")
    came_back = Person(alice, tls).press(address, "allow")
    assert came_back.status_code == 200
    assert "Signed in" in came_back.text, "comfy-cli's own page"
    outcome = result(process)
    assert outcome["ok"], outcome
    assert not TOKEN.search(json.dumps(outcome))

    who = comfy.ask("cloud", "whoami")["data"]
    assert (who["signed_in"], who["base_url"]) == (True, running.url)
    assert who["auth_method"] == "oauth"
    status = comfy.run("cloud", "status")
    assert status.returncode == 0, status.stdout
    assert f"{alice.email.partition('@')[0]}  (personal)  · owner" in status.stdout

    kept = Path(comfy.environment["HOME"], ".config/comfy-cli/secrets.json").read_text()
    [token] = set(TOKEN.findall(kept))
    names = shell(
        running,
        "from apikeys.models import APIKey\n"
        "answer = [[key.name, list(key.granted), key.public_id] for key in"
        " APIKey.objects.filter(owner__email=given['email'], name='comfy-cli')]",
        email=alice.email,
    )
    assert names == [["comfy-cli", ["customers:read", "proxy:*"], token[8:20]]]
    assert token[20:56] not in running.printed()

    revoke(running, token[8:20])
    refused = comfy.ask("cloud", "status")
    assert refused["error"]["code"] == "cloud_unauthorized"


def test_a_cancelled_login_is_reported(
    alice: Account, running: Platform, tls: Path, logging_in: tuple[subprocess.Popen[str], str]
) -> None:
    process, address = logging_in
    came_back = Person(alice, tls).press(address, "cancel")
    assert came_back.status_code == 400
    outcome = result(process)
    assert not outcome["ok"]
    assert "access_denied" in json.dumps(outcome["error"])
