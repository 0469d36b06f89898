"""The units of deploy/systemd, checked by systemd's own tools; no systemd runs here."""

import re
import subprocess
from pathlib import Path

from tests.platforms import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("comfyui-keys*.*"))
PROGRAM = "/opt/comfyui-keys/bin/comfyui-keys"


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [path for path in tmp_path.iterdir() if path.suffix in {".service", ".timer"}]
    assert len(units) == 5
    assert analyze("verify", "--man=no", *units) == ""


def test_the_service_is_hardened() -> None:
    found = analyze("security", "--offline=true", ROOT / "deploy/systemd/comfyui-keys.service")
    level = re.search(r"exposure level for comfyui-keys\.service: ([\d.]+)", found)
    assert level, found
    # Of 10. What is left: the network, and being no unit of a user.
    assert float(level[1]) <= 1.5
