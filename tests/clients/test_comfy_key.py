"""comfy-key gives a machine its key over https, and comfy-cli, unchanged, takes it from there."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import ComfyCLI
from tests.comfy_keys.conftest import code_of, command, decide
from tests.server.conftest import Account
from tests.servers import Platform

pytestmark = pytest.mark.server


def test_comfy_cli_finds_the_key_that_comfy_key_fetched(
    comfy: ComfyCLI, alice: Account, running: Platform
) -> None:
    home = Path(comfy.environment["HOME"])
    # Whatever comfy-cli keeps there already stays.
    assert comfy.ask("auth", "set", "civitai", "--key", "of-another-provider")["ok"]
    assert not comfy.ask("cloud", "whoami")["data"]["signed_in"]

    authority = comfy.environment["SSL_CERT_FILE"]
    with command(home, SSL_CERT_FILE=authority) as machine:
        process = machine.start("login", "--url", running.url, "--comfy-cli")
        code = code_of(process)
        decide(running, alice, code, "confirm", name="render box", trusting=authority)
        printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, ""), said
    assert f"export COMFY_CLOUD_BASE_URL={running.url}\n" in said

    told = comfy.ask("cloud", "whoami")["data"]
    assert (told["signed_in"], told["api_key_source"]) == (True, "store")
    assert comfy.ask("cloud", "status")["ok"]
    kept = json.loads((home / ".config/comfy-cli/secrets.json").read_text())
    assert kept["providers"].keys() == {"civitai", "comfy-cloud-api-key"}
    assert kept["providers"]["comfy-cloud-api-key"]["key"][20:] not in said


def test_without_the_platforms_certificate_nothing_is_sent(
    comfy: ComfyCLI, running: Platform
) -> None:
    with command(Path(comfy.environment["HOME"])) as machine:
        told = machine.run("login", "--url", running.url)
    assert (told.returncode, told.stdout) == (3, "")
    assert "certificate verify failed" in told.stderr
