"""Print docs/licences.md: the licence of each installed package.

From the metadata of the packages, converted to SPDX expressions.
"""

import re
from importlib.metadata import PackageNotFoundError, metadata
from typing import Final

from scripts.locked import pins

# Licences of separate, unchanged packages that a program under MIT may depend on.
ACCEPTED: Final = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC",
    "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0",
}  # fmt: skip
# From the files of the package: its metadata names a family of licences, or none.
READ: Final = {
    "drf-spectacular-sidecar": "BSD-3-Clause AND Apache-2.0 AND MIT",  # Swagger UI, ReDoc
    "editables": "MIT",
    "fido2": "BSD-2-Clause AND Apache-2.0 AND MPL-2.0",
    "pathspec": "MPL-2.0",
    "protobuf": "BSD-3-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "qrcode": "BSD-3-Clause AND MIT",
    "sqlparse": "BSD-3-Clause",
    "trove-classifiers": "Apache-2.0",
    # On Windows only.
    "colorama": "BSD-3-Clause",
    "tzdata": "Apache-2.0",
}
_HEAD: Final = """\
# Licences

Written by `make licences`: what `make run` installs, locked by hash in `requirements/runtime.txt`.

The platform is under MIT and copies none of these: they are installed as separate packages,
unchanged. MPL-2.0 and LGPL-3.0 require nothing else in that case; anyone who changes such a
package and distributes it has to distribute the changes. `docs/sbom.json` is the same for programs.

| package | version | licence | wanted by |
|---|---|---|---|
"""


def licence(name: str) -> str:
    """Return the SPDX expression of a package. Raise ValueError for a licence to be reviewed."""
    if name in READ:
        return READ[name]
    try:
        found = metadata(name)
    except PackageNotFoundError:
        raise ValueError(f"{name} is not installed: review its licence, add it to READ.") from None
    stated = found.get("License-Expression") or found.get("License") or ""
    stated = stated.replace("BSD 3-Clause", "BSD-3-Clause").replace("Apache 2.0", "Apache-2.0")
    stated = stated.replace("Apache License 2.0", "Apache-2.0")
    if not all(each in ACCEPTED for each in named(stated)):
        raise ValueError(f"{name} states {stated[:60]!r}: review its licence, add it to READ.")
    return stated


def named(expression: str) -> list[str]:
    """Return the licences in an SPDX expression."""
    return re.split(r" (?:AND|OR) ", expression)


def page() -> str:
    rows = [
        f"| {pin.name} | {pin.version} | {licence(pin.name)} | {', '.join(pin.wanted_by)} |\n"
        for pin in pins("runtime")
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 (that is what it is for)
