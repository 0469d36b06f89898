"""Private names of granian. Imported by processes of the server only: it loads the server."""

import inspect
from collections.abc import Callable
from typing import Any

from granian.server import mp


def can_replace_wsgi_call() -> bool:
    """Return whether this granian calls a WSGI application through `_wsgi_call_wrap`."""
    worker = getattr(mp.MPServer, "_spawn_wsgi_worker", None)
    return (
        worker is not None
        and hasattr(mp, "_wsgi_call_wrap")
        and "_wsgi_call_wrap" in inspect.unwrap(worker).__code__.co_names
    )


def replace_wsgi_call(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace `_wsgi_call_wrap` in this process by what `make` returns for it.

    The function takes a WSGI application and options, and returns a function that answers one
    request. Raises AttributeError if this granian has no such function.
    """
    mp._wsgi_call_wrap = make(mp._wsgi_call_wrap)  # type: ignore[attr-defined]
