"""An unmodified ComfyUI server with --multi-user, behind nginx and the login of a real platform.

`make test-comfyui COMFYUI=/path/to/a/checkout` runs these tests, and no other target does.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.browser.conftest import (
    _accounts,
    _browsers,
    accounts,
    alice,
    base_url,
    browser,
    browser_type_launch_args,
    enter,
    site,
)
from tests.browser.protected_site import admit, another, origin_of, protected
from tests.gateways.conftest import (
    Certificates,
    ReverseProxy,
    authority,
    certificates,
)
from tests.platforms import ROOT, Platform, free_port

__all__ = [
    "_accounts",
    "_browsers",
    "accounts",
    "admit",
    "alice",
    "another",
    "authority",
    "base_url",
    "browser",
    "browser_type_launch_args",
    "certificates",
    "enter",
    "site",
]

# Seconds until ComfyUI, which loads PyTorch, serves.
_START = 300
# Without the environment's proxies: the servers are on this machine.
_opener = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class ComfyUI:
    """A running ComfyUI server."""

    port: int
    version: str


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """Yield ComfyUI, with the extension of deploy/comfyui as its only one."""
    checkout = Path(os.environ["COMFYUI"]).resolve()
    folder = tmp_path_factory.mktemp("comfyui")
    extension = ROOT / "deploy" / "comfyui" / "platform_login"
    (folder / "custom_nodes").mkdir()
    (folder / "custom_nodes" / extension.name).symlink_to(extension)
    port = free_port()
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                ROOT / "var" / "clients" / "comfyui" / "bin" / "python",
                checkout / "main.py",
                "--cpu",
                "--multi-user",
                *("--listen", "127.0.0.1", "--port", str(port)),
                *("--base-directory", str(folder)),
                *("--database-url", f"sqlite:///{folder}/comfyui.db"),
                "--disable-auto-launch",
            ],
            cwd=checkout,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START
        while True:
            with (
                suppress(OSError),
                _opener.open(f"http://127.0.0.1:{port}/system_stats", timeout=5) as answer,
            ):
                version = json.loads(answer.read())["system"]["comfyui_version"]
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield ComfyUI(port, version)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def proxy(
    site: Platform,
    comfyui: ComfyUI,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ReverseProxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with protected(site, comfyui, certificates, folder) as started:
        yield started


@pytest.fixture(scope="session")
def origin(proxy: ReverseProxy) -> str:
    return origin_of(proxy)
