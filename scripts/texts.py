"""Extract the texts for users from code and templates, as xgettext does."""

import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from babel.messages.extract import extract
from django.utils.translation.template import templatize

ROOT = Path(__file__).parents[1]
KEYWORDS = {
    "gettext": None,
    "gettext_lazy": None,
    "gettext_noop": None,
    "_": None,
    "ngettext": (1, 2),
    "ngettext_lazy": (1, 2),
    "pgettext": ((1, "c"), 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
    "npgettext_lazy": ((1, "c"), 2, 3),
}
_NO_TEXTS = ("tests/", "bench/", "scripts/", "clients/", "docs/")


class Text(NamedTuple):
    """A text that is passed to gettext. plural: "" without one. context: of pgettext, or ""."""

    path: str
    line: int
    singular: str
    plural: str = ""
    context: str = ""


def texts() -> Iterator[Text]:
    """Return all texts for users of the tracked files."""
    listed = subprocess.run(
        ["git", "ls-files", "--", "*.py", "templates/*.html", "templates/*.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if not name.startswith(_NO_TEXTS) and "/migrations/" not in name:
            yield from texts_of(name, (ROOT / name).read_text())


def texts_of(name: str, source: str) -> Iterator[Text]:
    """Return the texts for users in the source of a Python file or a template."""
    if not name.endswith(".py"):
        # In brackets, where indentation is ignored: the output of templatize is no valid program.
        source = f"({templatize(source, origin=name)})"
    options = {"encoding": "utf-8"}
    found = extract("python", BytesIO(source.encode()), KEYWORDS, (), options)
    for line, message, _comments, context in found:
        parts = (message,) if isinstance(message, str) else tuple(message)
        yield Text(name, line, parts[0], parts[1] if len(parts) > 1 else "", context or "")
