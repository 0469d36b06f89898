"""comfy-cli, unchanged: our addresses in its environment, a key, and what it then tells people."""

import stat
from pathlib import Path

import pytest

from tests.clients.conftest import ComfyCLI, unknown
from tests.server.conftest import Account
from tests.servers import Platform

pytestmark = pytest.mark.server

GENERATE = ("generate", "flux-pro", "--prompt", "a cat on the moon", "--yes")


def test_a_key_set_once_signs_in(comfy: ComfyCLI, alice: Account, running: Platform) -> None:
    (key, _) = alice.keys
    before = comfy.ask("cloud", "whoami")["data"]
    assert (before["signed_in"], before["base_url"]) == (False, running.url)

    assert comfy.ask("cloud", "set-key", "--key", key.token)["ok"]
    secrets = Path(comfy.environment["HOME"], ".config/comfy-cli/secrets.json")
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600

    after = comfy.ask("cloud", "whoami")["data"]
    assert after == {**before, "signed_in": True, "auth_method": "api_key", **after}
    assert after["api_key_source"] == "store"


def test_status_names_the_person_and_says_that_nothing_is_in_the_way(
    comfy: ComfyCLI, alice: Account
) -> None:
    told = comfy.ask("cloud", "status", COMFY_CLOUD_API_KEY=alice.keys[0].token)
    assert told["ok"], told["error"]
    workspace = told["data"]["cloud_workspace"]
    assert workspace["name"] == alice.email.partition("@")[0]
    assert (workspace["type"], workspace["role"]) == ("personal", "owner")
    assert told["data"]["subscription"]["is_active"] is True
    # Nothing is kept, so nothing is made up.
    assert told["data"]["credit_balance_usd"] is None
    assert told["data"]["upgrade_suggestion"] is None
