"""An unmodified ComfyUI server with --multi-user, behind nginx and the login of a real platform.

`make test-comfyui COMFYUI=/path/to/a/checkout` runs these tests, and no other target does.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.browser.conftest import (
    COMFYUI_HOST,
    Person,
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
from tests.gateways.conftest import (
    Certificates,
    ReverseProxy,
    authority,
    certificates,
    site_proxy,
)
from tests.platforms import ROOT, Platform, free_port, shell

__all__ = [
    "_accounts",
    "_browsers",
    "accounts",
    "alice",
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
_LIST = """
from sites.models import ProtectedSite
site = ProtectedSite(origin=given["origin"], access="chosen", comfyui_url=given["url"])
site.full_clean()
site.save()
answer = True
"""
_ADMIT = """
from accounts.models import User
from sites.models import ProtectedSite
site = ProtectedSite.objects.get(origin=given["origin"])
site.accounts.add(User.objects.get(email=given["email"]))
answer = True
"""
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
    folder = tmp_path_factory.mktemp("proxy") / "of-its-own"
    with site_proxy(
        "nginx",
        folder,
        certificates,
        site=f"{COMFYUI_HOST}:PORT",
        keys=site.url.removeprefix("http://"),
        comfyui=comfyui,
    ) as started:
        url = f"http://127.0.0.1:{comfyui.port}"
        shell(site, _LIST, origin=f"https://{COMFYUI_HOST}:{started.port}", url=url)
        yield started


@pytest.fixture(scope="session")
def origin(proxy: ReverseProxy) -> str:
    return f"https://{COMFYUI_HOST}:{proxy.port}"


@pytest.fixture
def another(_accounts: Iterator[Person]) -> Callable[[], Person]:
    """Return a function that returns an account that no other test uses."""
    return lambda: next(_accounts)


@pytest.fixture
def admit(site: Platform, origin: str) -> Callable[[Person], Person]:
    def add(person: Person) -> Person:
        shell(site, _ADMIT, origin=origin, email=person.email)
        return person

    return add
