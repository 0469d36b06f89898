"""Prints docs/licences.md: under which licence each part of the platform comes.

From what is installed, so from the makers' own words; put into SPDX's where they use others.
"""

import re
from importlib.metadata import PackageNotFoundError, metadata
from typing import Final

from scripts.locked import pins

# What may come along with a program under MIT, unchanged and as packages of their own.
ACCEPTED: Final = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC",
    "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0",
}  # fmt: skip
# Read in the package's own files: its metadata names a family, or nothing at all.
READ: Final = {
    "drf-spectacular-sidecar": "BSD-3-Clause AND Apache-2.0 AND MIT",  # Swagger UI, ReDoc
    "editables": "MIT",
    "fido2": "BSD-2-Clause AND Apache-2.0 AND MPL-2.0",
    "pathspec": "MPL-2.0",
    "qrcode": "BSD-3-Clause AND MIT",
    "sqlparse": "BSD-3-Clause",
    "trove-classifiers": "Apache-2.0",
    # On Windows alone.
    "colorama": "BSD-3-Clause",
    "tzdata": "Apache-2.0",
}
_HEAD: Final = """\
# Licences

Made by `make licences`: what `make run` installs, locked by hash in `requirements/runtime.txt`.

The platform is under MIT and copies none of these: they are installed as packages of their own,
unchanged. MPL-2.0 and LGPL-3.0 ask for no more in that case; whoever changes such a package and
hands it on has to hand on their changes. `docs/sbom.json` says the same for programs.

| package | version | licence | wanted by |
|---|---|---|---|
"""


def licence(name: str) -> str:
    """An SPDX expression. Raises ValueError where nobody has read what a package says."""
    if name in READ:
        return READ[name]
    try:
        told = metadata(name)
    except PackageNotFoundError:
        raise ValueError(f"{name} is not installed here: read its licence, and say it.") from None
    said = told.get("License-Expression") or told.get("License") or ""
    said = said.replace("BSD 3-Clause", "BSD-3-Clause").replace("Apache 2.0", "Apache-2.0")
    if not all(one in ACCEPTED for one in named(said)):
        raise ValueError(f"{name} says {said[:60]!r}: read its licence, and judge it.")
    return said


def named(expression: str) -> list[str]:
    """The licences that an expression names."""
    return re.split(r" (?:AND|OR) ", expression)


def page() -> str:
    rows = [
        f"| {pin.name} | {pin.version} | {licence(pin.name)} | {', '.join(pin.wanted_by)} |\n"
        for pin in pins("runtime")
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 (that is what it is for)
