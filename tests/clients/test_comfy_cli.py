"""comfy-cli, unchanged: it uses the platform by the URLs in its environment and a key."""

import json
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import ComfyCLI
from tests.gateways.conftest import with_scopes
from tests.live.conftest import Account
from tests.platforms import Platform

# `--yes`: comfy-cli asks, because a generation may cost money.
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


def test_status_reports_an_active_subscription_and_no_balance(
    comfy: ComfyCLI, alice: Account
) -> None:
    result = comfy.ask("cloud", "status", "--plans", COMFY_CLOUD_API_KEY=alice.keys[0].token)
    assert result["ok"], result["error"]
    workspace = result["data"]["cloud_workspace"]
    assert workspace["name"] == alice.email.partition("@")[0]
    assert result["data"]["subscription"]["is_active"] is True
    assert result["data"]["credit_balance_usd"] is None
    assert result["data"]["balance_confirmed"] is False
    assert result["data"]["plans"] == []
    assert result["data"]["upgrade_suggestion"] is None


def test_the_url_can_be_set_once(comfy: ComfyCLI, alice: Account, running: Platform) -> None:
    del comfy.environment["COMFY_CLOUD_BASE_URL"]
    assert comfy.ask("cloud", "set-base-url", running.url)["ok"]
    result = comfy.ask("cloud", "status", COMFY_CLOUD_API_KEY=alice.keys[0].token)
    assert result["ok"], result["error"]
    assert result["data"]["manage_url"].startswith(running.url)


@pytest.mark.parametrize("why", WRONG)
def test_an_invalid_key_is_refused_and_reported(
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


def test_an_unsupported_function_is_reported(comfy: ComfyCLI, alice: Account) -> None:
    seen = comfy.run(*GENERATE, COMFY_API_KEY=alice.keys[0].token)
    assert seen.returncode == 1
    assert "404" in seen.stdout
    assert "No gateway is set up at this URL" in seen.stdout


def test_a_file_is_uploaded_and_can_be_downloaded(
    comfy: ComfyCLI, alice: Account, tls: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "猫 picture.png"
    # More than the server reads of other bodies.
    picture.write_bytes(b"a picture" * 400_000)
    upload = ("generate", "upload", str(picture), "--json")
    seen = comfy.run(*upload, COMFY_API_KEY=alice.keys[0].token)
    assert seen.returncode == 0, seen.stdout
    result = json.loads(seen.stdout)
    assert result["existing_file"] is False
    assert datetime.fromisoformat(result["expires_at"]) > datetime.now(UTC)
    trusted = ssl.create_default_context(cafile=tls / "bundle.pem")
    answer = httpx.get(result["url"], verify=trusted, trust_env=False, timeout=60)
    assert answer.content == picture.read_bytes()
    assert answer.headers["Content-Type"] == "image/png"


def test_a_key_for_signing_in_alone_uploads_nothing(
    comfy: ComfyCLI, alice: Account, running: Platform, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"a picture")
    token = with_scopes(running, alice.email, "customers:read")
    seen = comfy.run("generate", "upload", str(picture), COMFY_API_KEY=token)
    assert seen.returncode == 1
    assert '"error": "INSUFFICIENT_SCOPE"' in seen.stdout


def test_a_workflow_sent_to_the_platform_is_refused_with_advice(
    comfy: ComfyCLI, alice: Account, tmp_path: Path
) -> None:
    """With a key and the platform's URL set, `comfy run` uses the platform by default."""
    workflow = tmp_path / "workflow.json"
    workflow.write_text('{"1": {"class_type": "PreviewAny", "inputs": {"source": "a"}}}')
    run = ("run", "--workflow", str(workflow))
    result = comfy.ask(*run, COMFY_CLOUD_API_KEY=alice.keys[0].token)
    assert result["ok"] is False
    assert result["error"]["details"]["status"] == 404
    assert "comfy run --where local" in result["error"]["details"]["body"]
