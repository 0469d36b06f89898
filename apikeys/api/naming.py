"""Unknown names in a request: how errors repeat them, and which known name is similar."""

import re
from collections.abc import Collection
from difflib import get_close_matches

from django.utils.translation import gettext as _

from apikeys import tokens

_MAX_LENGTH = 80


def shown(text: str) -> str:
    """Return `text` for a response: keys masked, truncated, valid Unicode."""
    return tokens.redact(text).encode("utf-8", "replace").decode()[:_MAX_LENGTH]


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the most similar name of `known`, or None."""
    folded = {_fold(one): one for one in sorted(known)}
    wanted = _fold(name)[:_MAX_LENGTH]
    if wanted in folded:
        return folded[wanted]
    if len(wanted) >= 3:
        longer = [one for one in folded if one.startswith(wanted) or wanted.startswith(one)]
        if longer:
            return folded[min(longer, key=len)]
    close = get_close_matches(wanted, folded, n=1)
    return folded[close[0]] if close else None


def suggestion(name: str, known: Collection[str]) -> str:
    """Return a sentence that suggests a known name, or lists them."""
    if near := nearest(name, known):
        return _("Did you mean %(name)s?") % {"name": near}
    if not known:
        return _("None are accepted.")
    return _("Accepted names: %(names)s.") % {"names": ", ".join(sorted(known))}


def _fold(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).casefold()
