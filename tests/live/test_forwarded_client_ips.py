"""Client IPs in a trusted proxy's X-Forwarded-For, in every form that proxies write."""

from uuid import uuid4

import pytest

from tests.live.conftest import Browser, join, shell
from tests.platforms import Platform, Pool

# Formats of Azure's gateway, IIS and others; and values that are not an IP.
WRITTEN = {
    "192.0.2.7:4711": "192.0.2.7",
    "203.0.113.1, 192.0.2.8:80": "192.0.2.8",
    "[2001:db8::7]": "2001:db8::7",
    "[2001:db8:1::7]:4711": "2001:db8:1::7",
    "fe80::1%eth0": "fe80::1",
    "::ffff:192.0.2.9": "192.0.2.9",
    "unknown": "127.0.0.1",
    "_hidden": "127.0.0.1",
    "192.0.2.7, nonsense": "127.0.0.1",
    "192.0.2.7:99999": "127.0.0.1",
}
PASSWORD = "a sufficiently long passphrase"


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(TRUSTED_PROXIES="127.0.0.1", PROXIES_DROP_UNDERSCORES="1")


@pytest.mark.parametrize("forwarded", WRITTEN)
def test_every_format_of_a_client_ip_is_accepted(running: Platform, forwarded: str) -> None:
    account = join(running)
    anonymous, owner = Browser(running), Browser(running, account)
    for browser in (anonymous, owner):
        browser.session.headers["X-Forwarded-For"] = forwarded

    # Failed logins are counted by e-mail too.
    email = f"new-{uuid4().hex}@example.org"
    failed = anonymous.post("/login", **anonymous.hidden("/login"), login=email, password=PASSWORD)
    assert failed.status_code == 200
    assert "is incorrect" in failed.text

    begun = anonymous.post("/oauth/device/code", client_id="comfy-key")
    assert begun.status_code == 200, begun.text

    joined = anonymous.post(
        "/signup", **anonymous.hidden("/signup"), email=email, password1=PASSWORD
    )
    assert joined.status_code == 302, joined.text

    hidden = owner.hidden("/keys/?new=1")
    made = owner.post("/keys/generate", **hidden, name="made behind a proxy", description="")
    assert made.status_code == 200
    seen = shell(
        running,
        "from audit.models import Event\n"
        "answer = Event.objects.filter(action='key.issued').latest('at').address",
    )
    assert seen == WRITTEN[forwarded]
