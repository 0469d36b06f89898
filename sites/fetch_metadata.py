"""What a browser says about a request to a site: a navigation or not, and whose page sent it.

Fetch Metadata Request Headers (W3C) and the Origin header, as the site's proxy forwards them.
Scripts can't set any of them. Browsers of before 2023 send no Sec-Fetch-* headers.
"""

from typing import Final

from django.http import HttpRequest

# Paths of ComfyUI that only show something, so that links on any page may lead there.
_LINKABLE: Final = frozenset({"/", "/view", "/api/view"})


def is_navigation(request: HttpRequest) -> bool:
    """Return whether a browser opens a page in a tab, so that a redirect reaches its user.

    A redirected `fetch` would fail without a status that a page can read. A service worker of
    ComfyUI that passes a navigation on empties its destination (Fetch §5.4), and its mode stays.
    """
    mode = request.headers.get("Sec-Fetch-Mode", "navigate")
    target = request.headers.get("Sec-Fetch-Dest", "document")
    return (
        _is_safe(request)
        and mode == "navigate"
        and target in {"document", "empty"}
        and "text/html" in request.headers.get("Accept", "")
    )


def is_own(request: HttpRequest, origin: str) -> bool:
    """Return whether a page at `origin`, the address bar or a link to a page sent the request.

    Cookies of SameSite=Lax are also sent with requests of sibling domains, whatever the method.
    """
    if request.headers.get("Origin") not in {None, origin}:
        return False
    return not is_foreign(request) or (_opens_page(request) and is_linkable(wanted_path(request)))


def is_foreign(request: HttpRequest) -> bool:
    """Return whether a page of another origin is known to have caused the request."""
    return request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none", ""}


def is_linkable(path: str) -> bool:
    """Return whether a link on a page of another origin may lead to this path and query."""
    return path.partition("?")[0] in _LINKABLE


def wanted_path(request: HttpRequest) -> str:
    """Return path and query of the browser's request as the proxy names them; "" if it does not."""
    return request.headers.get("X-Forwarded-Uri", "")


def _opens_page(request: HttpRequest) -> bool:
    # Neither a frame, whose page could be clicked unseen, nor a guess from missing headers.
    mode, target = (request.headers.get(f"Sec-Fetch-{name}") for name in ("Mode", "Dest"))
    return _is_safe(request) and (mode, target) == ("navigate", "document")


def _is_safe(request: HttpRequest) -> bool:
    return request.headers.get("X-Forwarded-Method", request.method or "") in {"GET", "HEAD"}
