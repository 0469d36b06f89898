"""comfy-cli, unchanged: our addresses in its environment, a key, and what it then tells people."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import ComfyCLI
from tests.server.conftest import Account
from tests.servers import Platform

pytestmark = pytest.mark.server

# `--yes`: a generation may cost its owner money, and comfy-cli asks.
GENERATE = ("generate", "flux-pro", "--prompt", "a cat on the moon", "--yes")
WRONG = ["mistyped", "of another platform", "deleted"]


def test_a_key_set_once_signs_in(comfy: ComfyCLI, alice: Account, running: Platform) -> None:
    before = comfy.ask("cloud", "whoami")["data"]
    assert (before["signed_in"], before["base_url"]) == (False, running.url)
    assert comfy.ask("cloud", "status")["error"]["code"] == "cloud_not_configured"

    assert comfy.ask("cloud", "set-key", "--key", alice.keys[0].token)["ok"]
    kept = Path(comfy.environment["HOME"], ".config/comfy-cli/secrets.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    after = comfy.ask("cloud", "whoami")["data"]
    assert (after["signed_in"], after["base_url"]) == (True, running.url)
    assert (after["auth_method"], after["api_key_source"]) == ("api_key", "store")
    status = comfy.run("cloud", "status")
    assert status.returncode == 0
    assert f"{alice.email.partition('@')[0]}  (personal)  · owner" in status.stdout


def test_status_says_that_nothing_is_in_the_way_and_makes_up_no_money(
    comfy: ComfyCLI, alice: Account
) -> None:
    told = comfy.ask("cloud", "status", "--plans", COMFY_CLOUD_API_KEY=alice.keys[0].token)
    assert told["ok"], told["error"]
    workspace = told["data"]["cloud_workspace"]
    assert workspace["name"] == alice.email.partition("@")[0]
    assert told["data"]["subscription"]["is_active"] is True
    assert told["data"]["credit_balance_usd"] is None
    assert told["data"]["balance_confirmed"] is False
    assert told["data"]["plans"] == []
    assert told["data"]["upgrade_suggestion"] is None


def test_the_address_can_be_set_once_as_well(
    comfy: ComfyCLI, alice: Account, running: Platform
) -> None:
    del comfy.environment["COMFY_CLOUD_BASE_URL"]
    assert comfy.ask("cloud", "set-base-url", running.url)["ok"]
    told = comfy.ask("cloud", "status", COMFY_CLOUD_API_KEY=alice.keys[0].token)
    assert told["ok"], told["error"]
    assert told["data"]["manage_url"].startswith(running.url)


@pytest.mark.parametrize("why", WRONG)
def test_a_wrong_key_is_refused_and_shown_as_such(
    comfy: ComfyCLI, wrong: Callable[[str], tuple[str, str]], why: str, tmp_path: Path
) -> None:
    token, code = wrong(why)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"a picture")

    status = comfy.ask("cloud", "status", COMFY_CLOUD_API_KEY=token)
    assert status["error"]["code"] == "cloud_unauthorized"
    assert "HTTP 401" in status["error"]["message"]

    for arguments in (GENERATE, ("generate", "upload", str(picture))):
        seen = comfy.run(*arguments, COMFY_API_KEY=token)
        assert seen.returncode == 1
        assert "401" in seen.stdout
        assert f'"error": "{code}"' in seen.stdout
        assert '"message": "' in seen.stdout
        assert token not in seen.stdout + seen.stderr


def test_a_good_key_hears_that_there_is_no_gateway(
    comfy: ComfyCLI, alice: Account, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"a picture")
    for arguments in (GENERATE, ("generate", "upload", str(picture))):
        seen = comfy.run(*arguments, COMFY_API_KEY=alice.keys[0].token)
        assert seen.returncode == 1
        assert "404" in seen.stdout
        assert "No gateway is set up at this address" in seen.stdout
