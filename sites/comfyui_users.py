"""Users of a ComfyUI with --multi-user: one for each account, created when it is first needed.

ComfyUI gives a user an id with a random part, and answers 500 to an id that it has not created. The
name of a user there is the id of the account, so that the user is found again.
"""

import json
import logging
import re
import time
from http.client import HTTPException
from threading import BoundedSemaphore
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from accounts.models import User
from apikeys.cache import invalidation
from sites.models import ComfyUIUser, ProtectedSite

logger = logging.getLogger(__name__)

# Seconds; bytes of a list of users.
_TIMEOUT: Final = 5
_MAX_BODY: Final = 8 * 2**20
# What ComfyUI makes of the name, and a random UUID.
_USER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")


class ComfyUIUnavailable(Exception):  # noqa: N818
    """ComfyUI did not answer as one with --multi-user does."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


# A waiting request may hold a database connection: half of those of a process.
_waiting = BoundedSemaphore(8)
# No proxy of the environment: the URL is of this network.
_opener = build_opener(_NoRedirect, ProxyHandler({}))


def user_id(site: ProtectedSite, owner: User) -> str:
    """Return the id of `owner` in the site's ComfyUI. Raise ComfyUIUnavailable."""
    known = ComfyUIUser.objects.filter(site=site, owner=owner).first()
    if known is not None:
        return known.user_id
    found = _find_or_create(site, owner)
    # A concurrent request may have stored it.
    ComfyUIUser.objects.get_or_create(site=site, owner=owner, defaults={"user_id": found})
    return found


def check(site: ProtectedSite, owner: User) -> None:
    """Ask ComfyUI whether it still knows the user, as after a new `user` folder; else create one.

    Raise ComfyUIUnavailable.
    """
    found = _find_or_create(site, owner)
    known = ComfyUIUser.objects.filter(site=site, owner=owner).first()
    if known is None:
        ComfyUIUser.objects.get_or_create(site=site, owner=owner, defaults={"user_id": found})
    elif known.user_id != found:
        with invalidation.changing_access():
            ComfyUIUser.objects.filter(pk=known.pk).update(user_id=found)


def _find_or_create(site: ProtectedSite, owner: User) -> str:
    name = str(owner.pk)
    if found := _find(site, name):
        return found
    try:
        return _checked(_call(site, {"username": name}))
    except HTTPError:
        # A concurrent request has created it: names are unique there.
        if found := _find(site, name):
            return found
        raise ComfyUIUnavailable from None


def _find(site: ProtectedSite, name: str) -> str | None:
    try:
        users = _call(site)["users"].items()
    except (HTTPError, TypeError, KeyError, AttributeError) as error:
        # Without --multi-user there is no list.
        raise ComfyUIUnavailable from error
    return next((_checked(found) for found, named in users if named == name), None)


def _call(site: ProtectedSite, body: dict[str, str] | None = None) -> Any:
    """Return the JSON that ComfyUI answers. Raise HTTPError, ComfyUIUnavailable."""
    request = Request(  # noqa: S310 (http or https: ProtectedSite.clean_fields)
        f"{site.comfyui_url}/users",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    if not _waiting.acquire(blocking=False):
        raise ComfyUIUnavailable
    try:
        with _opener.open(request, timeout=_TIMEOUT) as response:
            return json.loads(_read(response))
    except HTTPError as error:
        error.close()
        raise
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        logger.warning("ComfyUI at %s does not answer: %s", site.comfyui_url, error)
        raise ComfyUIUnavailable from error
    finally:
        _waiting.release()


def _read(response: Any) -> bytes:
    """Return the body. Raise ValueError if it is too large or late: the timeout is of each part."""
    body, deadline = bytearray(), time.monotonic() + _TIMEOUT
    while data := response.read1(65_536):
        body += data
        if len(body) > _MAX_BODY or time.monotonic() > deadline:
            raise ValueError("The list of users is too large or slow.")
    return bytes(body)


def _checked(found: Any) -> str:
    """Return an id that may be sent in a header. Raise ComfyUIUnavailable."""
    if not isinstance(found, str) or not _USER_ID.fullmatch(found):
        raise ComfyUIUnavailable
    return found
