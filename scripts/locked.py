"""The pins in requirements/*.txt: what is installed, and which package requires it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = Path(__file__).parents[1] / "requirements"
# The name of this project in a lock file.
OURSELVES: Final = "comfyui-keys"

_PIN: Final = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; (.+?))? \\")
_WANTED_BY: Final = re.compile(r"    #(?: via|  ) ([\w.-]+)")


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    # The environment marker; empty: installed everywhere.
    marker: str
    wanted_by: tuple[str, ...]


def pins(locked: str) -> list[Pin]:
    """Return the pins of a set such as `runtime`, sorted by name."""
    found: list[Pin] = []
    for line in (REQUIREMENTS / f"{locked}.txt").read_text().splitlines():
        if pin := _PIN.fullmatch(line):
            found.append(Pin(pin[1], pin[2], pin[3] or "", ()))
        elif wanted := _WANTED_BY.match(line):
            last = found[-1]
            by = (*last.wanted_by, wanted[1])
            found[-1] = Pin(last.name, last.version, last.marker, by)
    return found
