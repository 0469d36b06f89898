"""comfy-key stores a key over https where comfy-cli, unchanged, reads it."""

import json
from pathlib import Path

from tests.clients.conftest import ComfyCLI
from tests.live.comfy_keys.conftest import code_of, command, decide
from tests.live.conftest import Account
from tests.platforms import Platform


def test_comfy_cli_finds_the_key_of_comfy_key(
    comfy: ComfyCLI, alice: Account, running: Platform
) -> None:
    home = Path(comfy.environment["HOME"])
    # Other content of the store is kept.
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

    result = comfy.ask("cloud", "whoami")["data"]
    assert (result["signed_in"], result["api_key_source"]) == (True, "store")
    assert comfy.ask("cloud", "status")["ok"]
    kept = json.loads((home / ".config/comfy-cli/secrets.json").read_text())
    assert kept["providers"].keys() == {"civitai", "comfy-cloud-api-key"}
    assert kept["providers"]["comfy-cloud-api-key"]["key"][20:] not in said


def test_without_the_platforms_certificate_nothing_is_sent(
    comfy: ComfyCLI, running: Platform
) -> None:
    with command(Path(comfy.environment["HOME"])) as machine:
        result = machine.run("login", "--url", running.url)
    assert (result.returncode, result.stdout) == (3, "")
    assert "certificate verify failed" in result.stderr
