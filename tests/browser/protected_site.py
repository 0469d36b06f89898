"""A ComfyUI behind nginx with the file of deploy/, and who may enter it.

Its origin is another than the platform's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser.conftest import COMFYUI_HOST, Person
from tests.gateways.conftest import Certificates, HasPort, ReverseProxy, site_proxy
from tests.platforms import Platform, shell

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


@contextmanager
def protected(
    platform: Platform,
    comfyui: HasPort,
    certificates: Certificates,
    folder: Path,
    *,
    has_users: bool = True,
) -> Iterator[ReverseProxy]:
    """Yield the proxy of a site that the platform lists. has_users: with ComfyUI's --multi-user."""
    with site_proxy(
        "nginx",
        folder / "of-its-own",
        certificates,
        site=f"{COMFYUI_HOST}:PORT",
        keys=platform.url.removeprefix("http://"),
        comfyui=comfyui,
    ) as started:
        url = f"http://127.0.0.1:{comfyui.port}" if has_users else ""
        shell(platform, _LIST, origin=origin_of(started), url=url)
        yield started


def origin_of(proxy: ReverseProxy) -> str:
    return f"https://{COMFYUI_HOST}:{proxy.port}"


def admit_to(platform: Platform, origin: str, person: Person) -> None:
    """Let a person enter the site."""
    shell(platform, _ADMIT, origin=origin, email=person.email)


@pytest.fixture
def another(_accounts: Iterator[Person]) -> Callable[[], Person]:
    """Return a function that returns an account that no other test uses."""
    return lambda: next(_accounts)


@pytest.fixture
def admit(site: Platform, origin: str) -> Callable[[Person], Person]:
    """Return a function that lets a person enter the site, and returns the person."""

    def add(person: Person) -> Person:
        admit_to(site, origin, person)
        return person

    return add
